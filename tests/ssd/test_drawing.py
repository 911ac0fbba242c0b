# SPDX-License-Identifier: Apache-2.0
"""Boxes and captions on pictures."""
import os
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow'))
pytest.importorskip('cv2')
pytest.importorskip('defusedxml')

import ssdutils  # noqa: E402
from utils import annotated, class_colours, font_path  # noqa: E402

pytestmark = pytest.mark.smoke


def test_boxes_are_drawn_where_they_are():
    image = np.full((400, 300, 3), 90, np.uint8)
    drawn = annotated(image, np.array([[50.2, 60, 150, 160], [-5, -5, 400, 500]]), ['', ''], [(0, 0, 255), (0, 255, 0)])
    assert (drawn[60, 50:150] == (0, 0, 255)).all() and (drawn[60:160, 149] == (0, 0, 255)).all()
    assert (drawn[0] == (0, 255, 0)).all() and (drawn[:, 299] == (0, 255, 0)).all()
    assert (drawn[64:156, 54:146] == 90).all() and (image == 90).all()
    assert (annotated(image, np.zeros((0, 4)), [], []) == image).all()
    colours = class_colours(20)
    assert len(set(colours)) == 20 and all(0 <= part <= 255 for colour in colours for part in colour)


@pytest.mark.parametrize('width, height', [(100, 75), (75, 100), (500, 375), (4000, 3000), (1, 1), (20, 4000)])
def test_captions_can_be_read_at_any_size(width, height):
    image, fills = np.zeros((height, width, 3), np.uint8), [(255, 0, 1), (0, 255, 2), (3, 0, 255), (4, 255, 255)]
    boxes = np.array([[0.3, 0.5, 0.6, 0.9], [0.3, 0.5, 0.6, 0.9], [0, 0, 1, 1], [0.9, 0, 1, 0.1]])
    boxes_px = boxes * ([width, height] * 2)
    plain = annotated(image, boxes_px, [''] * 4, fills)
    drawn = annotated(image, boxes_px, ['dog 0.97', 'dog 0.97', 'of a hundred letters' * 5, 'cow'], fills)
    short = min(drawn.shape[:2])
    assert plain.shape == drawn.shape and drawn.shape[0] * width == drawn.shape[1] * height
    assert drawn.shape == image.shape if min(width, height) > 240 or max(width, height) > 900 else short >= 240
    labels = []
    for fill in fills:
        rows, columns = np.nonzero((drawn == fill).all(-1) & (plain != fill).any(-1))
        labels.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    if short >= 240:
        for left, top, right, bottom in labels[:2] + labels[3:]:
            assert short / 40 < bottom - top < short / 12 and right - left < drawn.shape[1] / 2
        assert not (ssdutils.iou(np.float64(labels), np.float64(labels)) - np.eye(4)).any()
        assert labels[0][3] == round(boxes[0, 1] * drawn.shape[0]) and labels[2][2] <= drawn.shape[1]


def test_a_font_is_found_for_letters_of_other_scripts():
    assert font_path('cat 0.5').endswith('DejaVuSans.ttf') == font_path('Ж').endswith('DejaVuSans.ttf')
    assert os.path.exists(font_path('螺母')) and os.path.exists(font_path('\U0010fffd'))  # no font has the last
