# SPDX-License-Identifier: Apache-2.0
"""Picture files as users have them, read one way for training and for prediction; contact sheets of what was read.

Upright (EXIF), RGB, 8 bits: grey, CMYK, palettes and 16 bits are converted, alpha is dropped, of an animation the
first picture counts.
"""
import contextlib
import io
import os

from common.files import DataError, walk
from common.lazy import np

IMAGE_ENDINGS = (".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
_JPEG_FORMATS = ("JPEG", "MPO")
_JPEG_QUALITY = 95
_TILE_PX, _LABEL_LENGTH = 120, 23  # of a contact sheet: longest side of an image, letters that fit above it
_ORIENTATION_TAG = 0x0112
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation -> PIL.Image.Transpose that makes it upright


class BadImage(Exception):
    """An image that cannot be used; str() is the reason in a few words."""


def read_rgb(data, at_least_px=None):
    """The pixels of a picture file.

    Args:
      data: bytes of the file.
      at_least_px: what the shorter side is wanted for: a large JPEG is then decoded at a fraction of its size, which
        is quicker, never below twice this; None for the whole size.
    Returns:
      uint8 [H, W, 3], RGB, upright.
    Raises:
      BadImage: it cannot be decoded whole.
    """
    with _opened(data) as image:
        if at_least_px and image.mode == "RGB":
            image.draft("RGB", (2 * at_least_px, 2 * at_least_px))
        image.load()
        return np.array(_upright(image))


def square(data, side_px):
    """A picture as networks of small square images see it: its central square, resized (bicubic, antialiased).

    Args:
      data: bytes of the file.
      side_px: int.
    Returns:
      uint8 [side_px, side_px, 3], RGB, upright. Of a picture of this size it has the very pixels.
    Raises:
      BadImage: it cannot be decoded whole.
    """
    from PIL import Image
    pixels = read_rgb(data, side_px)
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    centre = Image.fromarray(np.ascontiguousarray(pixels[top:top + side, left:left + side]))
    return np.array(centre.resize((side_px, side_px), Image.Resampling.BICUBIC))


def usable_jpeg(data):
    """The bytes to store for an image file.

    Args:
      data: bytes of the file.
    Returns:
      (bytes of an upright RGB JPEG, list of what had to be changed; [] means that they are the file's own bytes).
    Raises:
      BadImage: it cannot be decoded whole.
    """
    with _opened(data) as image:
        repairs = _repairs(image)
        _decode(image, whole_size=bool(repairs))
        if not repairs:
            return data, []
        converted = io.BytesIO()
        _upright(image).save(converted, "JPEG", quality=_JPEG_QUALITY)
        return converted.getvalue(), repairs


@contextlib.contextmanager
def _opened(data):
    """The PIL.Image in these bytes; whatever goes wrong with it is BadImage."""
    from PIL import Image
    if not data:
        raise BadImage("empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except BadImage:
        raise
    except Exception as error:  # an image library has many ways to say no, and every file is somebody else's
        raise BadImage(_reason(error)) from None


def _upright(image):
    """A decoded image in mode RGB, turned as its EXIF says."""
    rgb = _to_rgb(image)
    turned = orientation(image) != 1 and image.format != "TIFF"  # which Pillow turns itself
    return rgb.transpose(_TURNS[orientation(image)]) if turned else rgb


def check_header(path):
    """What an image file looks like by its first and last bytes.

    Returns:
      list of what usable_jpeg() will change.
    Raises:
      BadImage: it cannot be used.
    """
    from PIL import Image
    try:
        size = os.path.getsize(path)
        if not size:
            raise BadImage("empty")
        with open(path, "rb") as file, Image.open(file) as image:
            repairs = _repairs(image)
            file.seek(max(0, size - 4096))
            # A motion photo ends with its video.
            if image.format in _JPEG_FORMATS and b"\xff\xd9" not in file.read():
                _decode(image, whole_size=False)
            return repairs
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(_reason(error)) from None


def stored_size(path):
    """((width_px, height_px) of an image file as it is stored, its EXIF orientation)."""
    from PIL import Image
    with Image.open(path) as image:
        return image.size, orientation(image)


def orientation(image):
    """EXIF orientation of an opened image, 1 (upright) to 8; of one that has none, or a damaged EXIF, 1."""
    try:
        number = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # Pillow's parser stumbles over ill-typed tags in as many ways as there are tags
        return 1
    return number if isinstance(number, int) and number in _TURNS else 1


def _repairs(image):
    repairs = [] if image.format in _JPEG_FORMATS else ["not_jpeg_but_%s" % str(image.format).lower()]
    if image.mode != "RGB":
        repairs.append("grayscale" if image.mode == "L" else image.mode.lower())
    if orientation(image) != 1:
        repairs.append("exif_rotated")
    return repairs


def _decode(image, whole_size):
    if not whole_size:
        image.draft("RGB", (1, 1))  # an eighth of the size: reads the whole file, costs a third
    image.load()


def _to_rgb(image):
    """A decoded image in mode RGB: alpha is dropped, more than 8 bits are scaled."""
    from PIL import Image
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image.convert("RGB")
    values = np.asarray(image)
    white = 65535
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        # Nobody agreed on a white for these: the lowest of the usual ones that no value exceeds.
        usual = [white for white in (1, 255, 65535) if values.max() <= white and (white > 1 or image.mode == "F")]
        if not usual or not values.min() >= 0:
            raise BadImage("values from %g to %g" % (values.min(), values.max()))
        white = usual[0]
    grey = values >> 8 if white == 65535 and image.mode != "F" else np.rint(values * np.float32(255 / white))
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _reason(error):
    from PIL import UnidentifiedImageError
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    text = " ".join(str(error).split())
    return "truncated" if "truncated" in text else text or type(error).__name__


def find(words):
    """The picture files that a user means.

    Args:
      words: paths of files, taken whatever their names, and of folders, of which every picture below counts (by
        IMAGE_ENDINGS).
    Returns:
      list of paths, in the order given, those of a folder by name.
    Raises:
      DataError: nothing is at a path, or no picture in a folder.
    """
    found = []
    for word in words:
        if os.path.isdir(word):
            below = [os.path.join(folder, name) for folder, names in walk(word) for name in names if is_picture(name)]
            if not below:
                raise DataError(word, "pictures (%s)" % " ".join(IMAGE_ENDINGS), "none in this folder",
                                "give a folder that has some, or the files themselves")
            found += below
        elif os.path.exists(word):
            found.append(word)
        else:
            raise DataError(word, "a picture or a folder of pictures", "no such file or folder", "correct the path")
    return found


def is_picture(name):
    """Whether a file's name has one of IMAGE_ENDINGS and is not hidden (a Mac leaves ._photo.jpg on foreign disks)."""
    return name.lower().endswith(IMAGE_ENDINGS) and not name.startswith(".")


def read_file(path):
    """The bytes of a picture file; BadImage where the system refuses them."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadImage(error.strerror or str(error)) from None


def contact_sheet(picture, images, labels, columns=8, most=64):
    """Writes a PNG grid of images, each under its label.

    Args:
      picture: path of the PNG; its folder is made.
      images: list or array of uint8 [H, W, 3], RGB; small ones are shown enlarged, pixel by pixel.
      labels: list of str, one an image, of one line or several.
      columns: of the grid; most: images that are shown, the first ones.
    Raises:
      DataError: matplotlib is not installed.
    """
    from common.confusion import check_can_draw
    check_can_draw(picture, "leave the picture out")
    import warnings

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image
    images, labels = images[:most], ["\n".join(line if len(line) <= _LABEL_LENGTH else line[:_LABEL_LENGTH - 2] + ".."
                                              for line in label.split("\n")) for label in labels[:most]]
    columns = min(columns, len(images))
    rows, lines = -(-len(images) // columns), max(label.count("\n") + 1 for label in labels)
    cell_width_px, cell_height_px = _TILE_PX + 12, _TILE_PX + 6 + 12 * lines
    sheet = np.full([rows * cell_height_px, columns * cell_width_px, 3], 255, np.uint8)
    figure = Figure(figsize=(sheet.shape[1] / 100, sheet.shape[0] / 100), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for place, (image, label) in enumerate(zip(images, labels)):
        height_px, width_px = image.shape[:2]
        scale = _TILE_PX / max(height_px, width_px)
        size = max(1, round(width_px * scale)), max(1, round(height_px * scale))
        kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
        tile = np.asarray(Image.fromarray(image).resize(size, kind))
        top, left = place // columns * cell_height_px + 12 * lines, place % columns * cell_width_px + 6
        sheet[top:top + tile.shape[0], left:left + tile.shape[1]] = tile
        # A class name's $ is no formula.
        axes.text(left, top - 3, label.replace("$", r"\$"), fontsize=6.5, va="bottom", linespacing=1.1)
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    os.makedirs(os.path.dirname(os.path.abspath(picture)), exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class's name may have letters that the font lacks
        figure.savefig(picture, format="png")
