# SPDX-License-Identifier: Apache-2.0
"""Image files as users have them -> upright RGB JPEGs, the same for shards and for prediction."""
import io
import os

import numpy as np

IMAGE_ENDINGS = (".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
_JPEG_FORMATS = ("JPEG", "MPO")
_JPEG_QUALITY = 95
_ORIENTATION_TAG = 0x0112
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation -> PIL.Image.Transpose that makes it upright


class BadImage(Exception):
    """An image that cannot be used; str() is the reason in a few words."""


def usable_jpeg(data):
    """The bytes to store for an image file; of an animation its first picture.

    Args:
      data: bytes of the file.
    Returns:
      (bytes of an upright RGB JPEG, list of what had to be changed; [] means that they are the file's own bytes).
    Raises:
      BadImage: it cannot be decoded whole.
    """
    from PIL import Image
    if not data:
        raise BadImage("empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            repairs = _repairs(image)
            _decode(image, whole_size=bool(repairs))
            if not repairs:
                return data, []
            upright = _to_rgb(image)
            if orientation(image) != 1 and image.format != "TIFF":  # which Pillow turns itself
                upright = upright.transpose(_TURNS[orientation(image)])
            converted = io.BytesIO()
            upright.save(converted, "JPEG", quality=_JPEG_QUALITY)
            return converted.getvalue(), repairs
    except BadImage:
        raise
    except Exception as error:  # an image library has many ways to say no, and every file is somebody else's
        raise BadImage(_reason(error)) from None


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
