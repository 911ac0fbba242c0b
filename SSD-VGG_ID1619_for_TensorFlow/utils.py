# SPDX-License-Identifier: Apache-2.0
"""Pictures read, and boxes drawn on them."""
import colorsys
import contextlib
import functools
import io
import os
import warnings

from common.lazy import cv2, np

_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_LEGIBLE_PX = 240  # the least shorter side of a picture with captions
_MOST_PIXELS = 100 * 1000 * 1000  # several copies of which fit into 2 GB


def read_image(path, upright=False, check_size=True):
    """Reads an image file: the first picture in it, in 8 bits a channel, without its transparency.

    Args:
      path: str.
      upright: whether to turn it as its EXIF says; annotations mostly count pixels as they are stored.
      check_size: whether to look first how large it says it is.
    Returns:
      uint8 [H, W, 3] BGR.
    Raises:
      OSError: the file cannot be read.
      ValueError: it cannot be decoded to its end; the text goes on after "the file".
    """
    content = np.fromfile(path, np.uint8)
    if not len(content):
        raise ValueError("is empty")
    if check_size and _pixels(content) > _MOST_PIXELS:
        raise ValueError("has more than %d million pixels" % (_MOST_PIXELS // 1e6))
    image = None
    try:
        if content[:2].tobytes() != _JPEG:  # OpenCV reads fewer, each version others; a broken PNG may fill the memory
            image = _decode_with_pillow(content, upright)
        else:
            # OpenCV may fill up with grey what is missing, and say nothing. Phones put films behind the end mark.
            if _JPEG_END not in content[-4096:].tobytes():
                _decode_with_pillow(content, False)
            image = cv2.imdecode(content, cv2.IMREAD_COLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION))
    except Exception as error:  # decoders raise anything when they meet a bad file
        if "truncated" in str(error):
            raise ValueError("is truncated") from None
    if image is None:
        raise ValueError("is not an image that can be decoded")
    return image


def _pixels(content):
    """How many a file says that it has; 0 where that cannot be read."""
    from PIL import Image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.prod(Image.open(io.BytesIO(content)).size)
        except Image.DecompressionBombError:
            return np.inf
        except Exception:
            return 0


def _decode_with_pillow(content, upright):
    from PIL import Image, ImageOps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, palettes, metadata: nothing that changes a pixel
        image = Image.open(io.BytesIO(content))
        image.load()
        sixteen_bits = image.mode.startswith("I;16") or image.format == "PNG"  # some versions call a PNG's 16 bits "I"
        if upright:
            with contextlib.suppress(Exception):  # of an EXIF that makes no sense
                image = ImageOps.exif_transpose(image)
        if image.mode in ("RGBa", "La"):  # with colours multiplied by their opacity
            image = image.convert(image.mode.upper())
        if image.mode[0] not in "IF":
            return cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
    values = np.nan_to_num(np.asarray(image, np.float32))
    # 32 bits do not say what is white: the least usual level that nothing exceeds.
    whites = (65535,) if sixteen_bits else (1, 255, 65535) if image.mode == "F" else (255, 65535)
    white = next((level for level in whites if values.max() <= level), values.max())
    grey = np.clip(values * np.float32(255 / white), 0, 255).round().astype(np.uint8)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)


def class_colours(count):
    """`count` colours that are easy to tell apart: list of (blue, green, red), each 0..255."""
    # Steps of the golden ratio around the colour circle: neighbours in the list are far apart, for any count.
    return [tuple(round(255 * part) for part in reversed(colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.85, 0.95)))
            for number in range(count)]


def annotated(image, boxes_xyxy_px, captions, colours):
    """A picture with boxes on it. A small one is enlarged, so that captions can be read and do not hide it.

    Args:
      image: uint8 [H, W, 3] BGR.
      boxes_xyxy_px: float [G, 4], 0-based, half-open.
      captions: G strings, which are given the free places in this order; "" draws none.
      colours: G tuples (blue, green, red).
    Returns:
      uint8 [k H, k W, 3] BGR, k an integer >= 1.
    """
    larger = max(1, min(-(-_LEGIBLE_PX // min(image.shape[:2])), 4 * _LEGIBLE_PX // max(image.shape[:2])))
    image = cv2.resize(image, None, fx=larger, fy=larger, interpolation=cv2.INTER_CUBIC)
    height_px, width_px = image.shape[:2]
    line_px = max(2, round(min(height_px, width_px) / 200))
    boxes = np.round(np.asarray(boxes_xyxy_px).reshape(-1, 4) * larger).astype(int)
    boxes = np.clip(boxes, 0, [width_px, height_px] * 2)
    edge_px = max(1, line_px // 6)  # dark, on both sides of the line
    for box, colour in zip(boxes, colours):
        _frame(image, box + np.repeat([-edge_px, edge_px], 2), line_px + 2 * edge_px, (0, 0, 0))
        _frame(image, box, line_px, colour)
    taken = []
    for box, caption, colour in zip(boxes.tolist(), captions, colours):  # last, so that no box crosses a text
        if caption:
            label = _label(caption, colour, max(12, min(height_px, width_px) // 36), (width_px, height_px))
            x, y = _free_place(box, label.shape[1::-1], taken, (width_px, height_px))
            image[y:y + label.shape[0], x:x + label.shape[1]] = label
            taken.append((x, y, x + label.shape[1], y + label.shape[0]))
    return image


def _frame(image, box_xyxy, line_px, colour):
    """Fills the border of a box, line_px wide, in place."""
    left, top, right, bottom = np.maximum(box_xyxy, 0)
    inner_right, inner_bottom = max(0, right - line_px), max(0, bottom - line_px)
    image[top:top + line_px, left:right] = image[inner_bottom:bottom, left:right] = colour
    image[top:bottom, left:left + line_px] = image[top:bottom, inner_right:right] = colour


def _label(caption, colour, font_px, at_most_px):
    """A caption on a ground of its colour, no larger than at_most_px (width, height): uint8 [h, w, 3] BGR."""
    from PIL import Image, ImageDraw
    text = " ".join(caption.split())
    font = _font(font_path(text), font_px)
    if font.getlength(text) + font_px > at_most_px[0]:
        font_px = max(8, int(font_px * at_most_px[0] / (font.getlength(text) + font_px)))
        font = _font(font_path(text), font_px)
    while len(text) > 1 and font.getlength(text) + font_px > at_most_px[0]:
        text = text[:-2].rstrip() + "\u2026"
    size = int(font.getlength(text)) + font_px, sum(font.getmetrics()) + font_px // 4
    blue, green, red = colour
    dark = 0.114 * blue + 0.587 * green + 0.299 * red < 140
    label = Image.new("RGB", [min(side, most) for side, most in zip(size, at_most_px)], (red, green, blue))
    ImageDraw.Draw(label).text((font_px // 2, font_px // 8), text, (255,) * 3 if dark else (0,) * 3, font)
    return np.asarray(label)[..., ::-1]


def _free_place(box, size, taken, within):
    """(x, y) for a label where no other one is: above its box, below, or from its top down; above if all is taken."""
    left, top, _, bottom = box
    x = max(0, min(left, within[0] - size[0]))
    for y in [top - size[1], bottom] + list(range(top, within[1], size[1])):
        if 0 <= y <= within[1] - size[1] and not any(
                x < right and x + size[0] > other_left and y < other_bottom and y + size[1] > other_top
                for other_left, other_top, right, other_bottom in taken):
            return x, y
    return x, max(0, min(top - size[1], within[1] - size[1]))


@functools.lru_cache(maxsize=16)
def _font(path, font_px):
    from PIL import ImageFont
    return ImageFont.truetype(path, font_px)


def font_path(text):
    """Path of a font that has the letters of a text: matplotlib's, else one of the machine's, matplotlib's if none."""
    return _font_with("".join(sorted({letter for letter in text if not letter.isspace() and ord(letter) > 127})))


@functools.lru_cache(maxsize=None)
def _font_with(letters):
    import matplotlib
    ours = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    if letters:
        from matplotlib import font_manager, ft2font
        for path in [ours] + sorted(font_manager.findSystemFonts()):
            with contextlib.suppress(RuntimeError, OSError):  # of files that are no fonts
                if {ord(letter) for letter in letters} <= set(ft2font.FT2Font(path).get_charmap()):
                    return path
    return ours
