# SPDX-License-Identifier: Apache-2.0
"""Average precision against a hand-worked case, plain loops and pycocotools; COCO's; result files, table, curves."""
import os
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow'))

import infer  # noqa: E402
import pascal_summary  # noqa: E402
from average_precision import (  # noqa: E402
    FALSE,
    IGNORED,
    TRUE,
    AveragePrecision,
    CocoPrecision,
    CocoResult,
    area,
    eleven_point,
    judge,
)

pytestmark = pytest.mark.smoke
NOTHING = (np.zeros((0, 4)), [], [])


def boxes(*lefts):
    """Boxes of 10 x 10, side by side at these places."""
    return np.array([[left, 0, left + 10, 10] for left in lefts], float).reshape(-1, 4)


def test_a_case_worked_by_hand():
    ap = AveragePrecision(2)
    # Image 1: objects at 0 and 100, a difficult one at 200. Image 2: objects at 0 and 100.
    ap.add(boxes(1, 2, 200, 50), [0] * 4, [0.9, 0.6, 0.5, 0.8], boxes(0, 100, 200), [0] * 3, [False, False, True])
    ap.add(boxes(100), [0], [0.7], boxes(0, 100), [0, 0], [False, False])
    result = ap.result()
    # By confidence: 0.9 true, 0.8 false, 0.7 true, 0.6 false (found before), 0.5 difficult: does not count.
    # Recall 1/4, 1/4, 2/4, 2/4; precision 1, 1/2, 2/3, 2/4.
    assert result.ap_area[0] == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    assert result.ap_11_point[0] == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)  # at 0, 0.1, 0.2; at 0.3, 0.4, 0.5
    assert result.objects.tolist() == [4, 0] and np.isnan(result.ap_area[1]) and np.isnan(result.ap_11_point[1])
    assert result.map_area == result.ap_area[0] and result.map_11_point == result.ap_11_point[0]


def test_a_verdict_for_every_detection_and_object_of_an_image():
    verdicts, found = judge(boxes(200, 1, 50, 2), [0, 0, 0, 1], [0.5, 0.6, 0.8, 0.9], boxes(0, 100, 200, 1),
                            [0, 0, 0, 1], [False, False, True, False])
    assert verdicts.tolist() == [IGNORED, TRUE, FALSE, TRUE] and found.tolist() == [True, False, True, True]
    verdicts, found = judge(boxes(3, 1), [0, 0], [0.5, 0.5], boxes(0), [0], [False])  # of equal ones the first counts
    assert verdicts.tolist() == [TRUE, FALSE] and found.tolist() == [True]
    assert [part.tolist() for part in judge(*NOTHING, boxes(0), [0], [False])] == [[], [False]]
    assert [part.tolist() for part in judge(boxes(0), [0], [0.5], *NOTHING)] == [[FALSE], []]


def test_an_overlap_of_exactly_half_finds_the_object():
    for right, found in ((5, 1.0), (4.999, 0.0)):
        ap = AveragePrecision(1)
        ap.add(np.array([[0, 0, right, 10.]]), [0], [0.5], boxes(0), [0], [False])
        assert ap.result().map_area == found


def test_a_second_detection_of_the_object_it_overlaps_most_is_false():
    ap = AveragePrecision(1)
    # Both are nearest to the object at 0. The kit does not pass the second on to the object at 4.
    ap.add(boxes(0, 1), [0, 0], [0.9, 0.8], boxes(0, 4), [0, 0], [False, False])
    assert ap.result().map_area == pytest.approx(0.5)


def test_detections_of_another_class_or_image_find_nothing():
    ap = AveragePrecision(2)
    ap.add(boxes(0), [1], [0.9], boxes(0), [0], [False])
    ap.add(boxes(0), [0], [0.9], *NOTHING)
    ap.add(*NOTHING, boxes(0), [1], [False])
    result = ap.result()
    assert result.ap_area.tolist() == [0, 0] and result.map_11_point == 0 and result.objects.tolist() == [1, 1]


def test_classes_without_objects_do_not_count():
    ap = AveragePrecision(3)
    ap.add(boxes(0, 100, 200), [0, 1, 2], [0.9, 0.9, 0.9], boxes(0, 200), [0, 2], [False, True])
    result = ap.result()
    assert result.ap_area[0] == result.map_area == 1 and np.isnan(result.ap_area[1:]).all()
    assert np.isnan(AveragePrecision(3).result().map_area)


def test_both_rules_on_a_curve():
    # Ten objects; true at ranks 1, 3, 4: recall 0.1, 0.1, 0.2, 0.3 and precision 1, 1/2, 2/3, 3/4.
    recall, precision = np.array([1, 1, 2, 3]) / 10, np.array([1, 1 / 2, 2 / 3, 3 / 4])
    assert area(recall, precision) == pytest.approx(0.1 * 1 + 0.2 * 3 / 4)
    assert eleven_point(recall, precision) == pytest.approx((1 + 1 + 0.75 + 0.75) / 11)
    assert area(np.zeros(0), np.zeros(0)) == eleven_point(np.zeros(0), np.zeros(0)) == 0


def random_images(seed, images=40, classes=4):
    """Per image (boxes, class_ids, confidences, truth boxes, truth class ids, difficult), in pixels of 500 x 375."""
    random = np.random.RandomState(seed)

    def some(count):
        sides = random.uniform(40, 150, (count, 2))
        low = random.uniform(0, 1, (count, 2)) * ([500, 375] - sides)
        return np.concatenate([low, low + sides], 1)

    result = []
    for _ in range(images):
        truth = some(random.randint(0, 6))
        class_ids, difficult = random.randint(0, classes, len(truth)), random.rand(len(truth)) < 0.2
        near = np.repeat(truth, 3, 0) + random.normal(0, 12, (3 * len(truth), 4))  # duplicates and misses
        far = some(random.randint(0, 4))
        found = np.concatenate([near, far])
        ids = np.where(random.rand(len(found)) < 0.8, np.concatenate([np.repeat(class_ids, 3), random.randint(
            0, classes, len(far))]), random.randint(0, classes, len(found)))
        scores = random.permutation(len(found)) / 100 + random.rand() / 100
        result.append((found, ids, scores, truth, class_ids, difficult))
    return result


def plain_average_precision(images, class_id):
    """The kit's loop over all detections of all images, by falling confidence."""
    detections = sorted(((score, number, box) for number, (found, ids, scores, _, _, _) in enumerate(images)
                         for box, one, score in zip(found, ids, scores) if one == class_id), key=lambda d: -d[0])
    objects = sum(int(((ids == class_id) & ~hard).sum()) for _, _, _, _, ids, hard in images)
    taken, verdicts = set(), []
    for _, number, box in detections:
        _, _, _, truth, ids, hard = images[number]
        best, chosen = -1.0, None
        for one in range(len(truth)):
            if ids[one] == class_id:
                width = min(box[2], truth[one][2]) - max(box[0], truth[one][0])
                height = min(box[3], truth[one][3]) - max(box[1], truth[one][1])
                if width > 0 and height > 0:
                    union = ((box[2] - box[0]) * (box[3] - box[1]) + (truth[one][2] - truth[one][0])
                             * (truth[one][3] - truth[one][1]) - width * height)
                    if width * height / union > best:
                        best, chosen = width * height / union, one
        if best >= 0.5:
            if not hard[chosen]:
                verdicts.append((number, chosen) not in taken)
                taken.add((number, chosen))
        else:
            verdicts.append(False)
    points, true = [], 0
    for rank, verdict in enumerate(verdicts, 1):
        true += verdict
        points.append((true / objects, true / rank))
    eleven = sum(max([p for r, p in points if r >= t / 10 - 1e-12] or [0]) for t in range(11)) / 11
    under, before = 0.0, 0.0
    for number, (recall, _) in enumerate(points):
        under += (recall - before) * max(p for _, p in points[number:])
        before = recall
    return under, eleven


@pytest.mark.parametrize('seed', range(4))
def test_plain_loops_agree(seed):
    images = random_images(seed)
    ap = AveragePrecision(4)
    for image in images:
        ap.add(*image)
    result = ap.result()
    expected = np.array([plain_average_precision(images, class_id) for class_id in range(4)])
    np.testing.assert_allclose(np.stack([result.ap_area, result.ap_11_point], 1), expected, atol=1e-12)
    assert 0.2 < result.map_area < 0.98
    backwards = AveragePrecision(4)
    for image in images[::-1]:
        backwards.add(*image)
    assert backwards.result().map_area == pytest.approx(result.map_area)


def test_pycocotools_agrees():
    """AP50 of the COCO tools.

    They read the falling curve at 101 recalls, 0 to 1, instead of integrating it: an AP may be larger by one step of
    recall, 0.01, times the fall of precision. They have no `difficult`; and where objects overlap they hand a second
    detection on to the other object, so truths are kept apart here.
    """
    pytest.importorskip('pycocotools')
    ap, coco = AveragePrecision(4), CocoPrecision(4)
    for found, ids, scores, truths, truth_ids, _ in random_images(9, images=60):
        apart = [one for one in range(len(truths)) if not any(
            max(truths[one][0], truths[other][0]) < min(truths[one][2], truths[other][2])
            and max(truths[one][1], truths[other][1]) < min(truths[one][3], truths[other][3]) for other in range(one))]
        objects = truths[apart], truth_ids[apart], np.zeros(len(apart), bool)
        ap.add(found, ids, scores, *objects)
        coco.add((1, 1), found, ids, scores, *objects)
    ours, theirs = ap.result(), coco.result()
    assert 0.3 < ours.map_area < 0.98
    assert ours.map_area == pytest.approx(theirs.ap_50, abs=0.01) and theirs.ap_75 < theirs.ap_50
    assert theirs.ap == pytest.approx(theirs.ap_by_class.mean()) and 0 < theirs.ap < theirs.ap_50


def test_cocos_ap_of_cases_worked_by_hand():
    pytest.importorskip('pycocotools')
    nothing = np.zeros((0, 4)), [], []
    objects = np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1], [0, 0, 0.1, 0.1]]), [0, 1, 2], [False, False, True]

    def result(*detections):
        coco = CocoPrecision(3)
        coco.add((100, 80), *detections, *objects)
        coco.add((100, 80), *nothing, *nothing)
        return coco.result()
    one = result(np.array([[0, 0, 0.5, 0.77]]), [0], [0.9])  # an overlap of 0.77 is enough six times of ten
    assert one.ap_by_class.tolist()[:2] == [pytest.approx(0.6), 0] and one.ap == pytest.approx(0.3)
    assert (one.ap_50, one.ap_75) == (pytest.approx(0.5), pytest.approx(0.5))
    assert one.ap_medium == pytest.approx(0.3) and np.isnan([one.ap_by_class[2], one.ap_small, one.ap_large]).all()
    assert result(*nothing).ap == 0  # without one detection


def test_curves_are_drawn_also_with_names_that_are_markup(tmp_path):
    pytest.importorskip('matplotlib')
    from PIL import Image
    ap = AveragePrecision(30)
    for class_id in range(30):
        ap.add(boxes(0, 100), [class_id] * 2, [0.9, 0.4], boxes(0), [class_id], [False])
    pascal_summary.draw_curves(['$a^', '螺母_$'] + ['class %d' % number for number in range(28)], ap.result(), 0.5,
                               str(tmp_path / 'curves.png'))
    pascal_summary.draw_curves(['cat'], AveragePrecision(1).result(), 0.5, str(tmp_path / 'empty.png'))
    assert Image.open(str(tmp_path / 'curves.png')).size[0] > 800 and Image.open(str(tmp_path / 'empty.png')).size


def test_the_kits_files_hold_what_was_detected(tmp_path):
    summary = pascal_summary.PascalSummary(['cat', 'dog'])
    summary.add('000012', (500, 375), np.array([[0, 0, 1, 1], [0.2, 0.4, 0.5, 0.6]]), [0, 0], [0.25, 0.875])
    summary.add('2008_000003', (100, 200), np.array([[0.1, 0.1, 0.2, 0.2]]), [0], [0.5])
    paths = summary.write(str(tmp_path / 'results'))
    assert [os.path.basename(path) for path in paths] == ['comp4_det_test_cat.txt', 'comp4_det_test_dog.txt']
    # The whole image is 1, 1, W, H in the kit's pixels.
    assert open(paths[0]).read() == (
        '000012 0.250000 1.000 1.000 500.000 375.000\n000012 0.875000 101.000 151.000 250.000 225.000\n'
        '2008_000003 0.500000 11.000 21.000 20.000 40.000\n')
    assert open(paths[1]).read() == '' and sorted(os.listdir(str(tmp_path / 'results'))) == [
        'comp4_det_test_cat.txt', 'comp4_det_test_dog.txt']


def test_a_class_name_is_no_path(tmp_path):
    paths = pascal_summary.PascalSummary(['a/b', '../c', '工地']).write(str(tmp_path / 'results'))
    assert [os.path.basename(path) for path in paths] == [
        'comp4_det_test_a%2Fb.txt', 'comp4_det_test_..%2Fc.txt', 'comp4_det_test_工地.txt']
    assert sorted(os.listdir(str(tmp_path / 'results'))) == sorted(map(os.path.basename, paths))


def test_the_table_names_every_class():
    ap = AveragePrecision(2)
    ap.add(boxes(0), [0], [0.9], boxes(0, 100), [0, 0], [False, False])
    lines = pascal_summary.table(('cat', 'diningtable'), ap.result()).split('\n')
    assert [line.split() for line in lines[1:]] == [
        ['cat', '2', '0.5000', '0.5455'], ['diningtable', '0', '-', '-'], ['mAP', '2', '0.5000', '0.5455']]
    coco = CocoResult(0.25, np.array([0.25, np.nan]), *[0.0] * 5)
    lines = pascal_summary.table(('cat', 'diningtable'), ap.result(), coco).split('\n')
    assert [line.split()[4:] for line in lines] == [['AP', '(11-point)', 'AP', '(COCO)'], ['0.2500'], ['-'], ['0.2500']]


def test_detections_of_two_ranks_come_together_in_the_order_of_the_images():
    random = np.random.RandomState(0)

    def detected(index):
        count = [3, 0, 200, 1, 7][index]
        return (index, random.uniform(size=[count, 4]).astype(np.float32),
                random.randint(0, 20, count).astype(np.int32), random.uniform(0.01, 1, count).astype(np.float32))
    everything = [detected(index) for index in range(5)]

    class Rank:
        """A rank that adds what the other one sent."""
        def __init__(self, others=0.0):
            self.ranks, self.others, self.sent = 2, others, None

        def all_sum(self, table):
            self.sent = table
            return table + self.others
    second = Rank()
    infer.of_all_ranks(everything[3:], 5, second)
    found = infer.of_all_ranks(everything[:3], 5, Rank(second.sent))
    for (index, *arrays), (expected, *originals) in zip(found, everything):
        assert index == expected
        for array, original in zip(arrays, originals):
            np.testing.assert_array_equal(array, original)
            assert array.dtype == original.dtype
