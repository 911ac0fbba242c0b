# SPDX-License-Identifier: Apache-2.0
"""Boxes drawn on pictures."""
import colorsys

import cv2
import numpy as np


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
