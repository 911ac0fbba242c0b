# SPDX-License-Identifier: Apache-2.0
"""Pictures read, and boxes drawn on them."""
import colorsys
import contextlib
import io
import warnings

import cv2
import numpy as np

_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
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


def draw_boxes(image, boxes_xyxy_px, captions, colours):
    """Draws boxes with captions onto an image, in place.

    Args:
      image: uint8 [H, W, 3] BGR.
      boxes_xyxy_px: float [G, 4], 0-based, half-open.
      captions: G strings; "" draws none.
      colours: G tuples (blue, green, red).
    """
    height_px, width_px = image.shape[:2]
    line_px = max(2, round(min(height_px, width_px) / 200))
    scale = max(0.42, min(height_px, width_px) / 1000)
    boxes = np.round(np.asarray(boxes_xyxy_px)).astype(int).tolist()
    for (left, top, right, bottom), colour in zip(boxes, colours):
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colour, line_px)
    for (left, top, _, bottom), caption, colour in zip(boxes, captions, colours):  # last, so that no box crosses a text
        if not caption:
            continue
        (text_width, text_height), below = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        tall = text_height + below + 2
        x = max(0, min(left, width_px - text_width - 4))
        if top >= tall:  # above the box, else below it, else inside
            above = top - tall
        else:
            above = bottom if bottom + tall <= height_px else max(0, top) + line_px
        cv2.rectangle(image, (x, above), (x + text_width + 3, above + tall - 1), colour, -1)
        dark = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] < 140
        cv2.putText(image, caption, (x + 2, above + 1 + text_height), cv2.FONT_HERSHEY_SIMPLEX, scale,
                    (255,) * 3 if dark else (0,) * 3, 1, cv2.LINE_AA)
