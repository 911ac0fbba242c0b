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
    line_px = max(1, round(min(height_px, width_px) / 200))
    scale = max(0.35, min(height_px, width_px) / 1000)
    for box, caption, colour in zip(np.round(np.asarray(boxes_xyxy_px)).astype(int).tolist(), captions, colours):
        left, top, right, bottom = box
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colour, line_px)
        if not caption:
            continue
        (text_width, text_height), below = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        x = max(0, min(left, width_px - text_width))
        y = top - below if top >= text_height + below else top + text_height + line_px
        cv2.rectangle(image, (x, y - text_height), (x + text_width, y + below - 1), colour, -1)
        dark = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] < 140
        cv2.putText(image, caption, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (255,) * 3 if dark else (0,) * 3, 1,
                    cv2.LINE_AA)
