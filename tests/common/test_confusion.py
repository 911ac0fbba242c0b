# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix: counts, table, picture; top-1 of the folders' metrics is its accuracy."""
import importlib.util
import os

import numpy as np
import pytest
from conftest import ROOT

from common import confusion
from common.files import DataError

pytestmark = pytest.mark.smoke


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, in place of what is written."""
    figure = pytest.importorskip('matplotlib.figure')
    figures = []
    save = figure.Figure.savefig

    def watched(self, *words, **named):
        figures.append(self)
        return save(self, *words, **named)

    monkeypatch.setattr(figure.Figure, 'savefig', watched)
    return figures


def labels_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_counts_by_hand():
    assert confusion.count(np.array([0, 2, 2, -1]), np.array([0, 1, 1, 1], np.int32), 3).tolist() == [
        [1, 0, 0, 0], [0, 0, 2, 1], [0, 0, 0, 0]]


METRICS = ['CSPNet_ID0840_for_TensorFlow/utils.py', 'cutmix_ID2502_for_TensorFlow2.X/evaluation.py']


def metrics_of(path, scores, labels):
    spec = importlib.util.spec_from_file_location('metrics_under_test', os.path.join(ROOT, path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.metrics(scores, labels)


@pytest.mark.parametrize('path', METRICS)
@pytest.mark.filterwarnings('ignore:invalid value')
def test_top1_is_the_accuracy_of_the_confusion_matrix(path):
    random = np.random.RandomState(0)
    scores = random.randint(0, 3, (4000, 10)).astype(np.float32)  # many ties
    labels = random.randint(0, 10, 4000)
    for value, rows in ((np.nan, slice(0, 500)), (np.inf, slice(400, 900)), (-np.inf, slice(800, 1300))):
        scores[rows][random.rand(500, 10) < 0.2] = value
    scores[1300:1400] = np.nan
    scores[1400:1500] = 3e38 * random.randint(-1, 2, (100, 10))
    counts = confusion.count(confusion.first_guess(scores), labels, 10)
    result = metrics_of(path, scores, labels)
    assert result['top1'] == counts.trace() / 4000 and counts.sum() == 4000
    order = np.argsort(-scores, 1, kind='stable')  # NaN last, the lower index first among equals
    within_five = (order[:, :5] == labels[:, None]).any(1) & ~np.isnan(scores).any(1)
    assert result['top5'] == within_five.mean() and 0 < result['top1'] < result['top5'] < 1


@pytest.mark.parametrize('path', METRICS)
@pytest.mark.filterwarnings('ignore:invalid value')
def test_scores_that_say_nothing_are_not_right(path):
    labels = np.arange(10)
    constant = metrics_of(path, np.zeros((10, 10), np.float32), labels)
    assert constant['top1'] == 0.1 and constant['top5'] == 0.5 and constant['loss'] == pytest.approx(np.log(10))
    without = metrics_of(path, np.full((10, 10), np.nan, np.float32), labels)
    assert without['top1'] == without['top5'] == 0 and np.isnan(without['loss'])


def test_the_table_has_the_accuracy_of_every_class():
    counts = confusion.count([0, 2, 1, 1], [0, 1, 1, 1], 3)
    assert confusion.table(counts, ['cat', 'a very long name', 'dog']).splitlines() == [
        'class            images   top1', 'cat                   1 1.0000', 'a very long name      3 0.6667',
        'dog                   0      -']


def test_of_very_many_classes_the_table_has_the_worst():
    labels = np.arange(1, 1000).repeat(2)  # of class 0 there are no images
    taken_for = np.where(np.isin(labels, (7, 500)), labels - 1, labels)
    taken_for[2 * (30 - 1)] = 0
    counts = confusion.count(taken_for, labels, 1000)
    lines = confusion.table(counts, ['class %d' % n for n in range(1000)]).splitlines()
    assert lines[0].startswith('worst 20 of 1000 classes') and len(lines) == 21
    assert [line.split()[1::2] for line in lines[1:5]] == [['7', '0.0000'], ['500', '0.0000'], ['30', '0.5000'],
                                                           ['1', '1.0000']]
    assert confusion.table(np.zeros((200, 200), np.int64), ['x'] * 200).count('\n') == 0


def test_ten_classes_are_drawn_with_names_counts_and_accuracies(tmp_path, drawn, capsys):
    counts = np.diag([3] * 9 + [0])
    counts[2, 5] = 1
    names = ['cat', 'dog'] + ['class %d' % n for n in range(2, 9)] + ['n' * 40]
    confusion.tell(counts, names, str(tmp_path / 'new' / 'picture.of.it'))
    assert (tmp_path / 'new' / 'picture.of.it').read_bytes()[:4] == b'\x89PNG'
    assert 'confusion matrix: ' in capsys.readouterr().out
    axes, right = drawn[0].axes
    assert labels_of(axes.xaxis) == labels_of(axes.yaxis) == names[:9] + ['n' * 25 + '...']
    assert labels_of(right.yaxis) == ['100.0 %'] * 2 + ['75.0 %'] + ['100.0 %'] * 6 + ['-']
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(texts) == 100 and texts[(5, 2)] == '1' and texts[(2, 5)] == '' and texts[(0, 0)] == '3'
    assert axes.get_title() == 'top-1 %.4f of 28 images' % (27 / 28)


def test_images_without_a_guess_count_as_wrong_and_are_said(tmp_path, drawn):
    counts = confusion.count([0, -1, 1, -1], [0, 0, 1, 1], 2)
    confusion.draw(counts, ['cat', 'dog'], str(tmp_path / 'it.png'))
    axes, right = drawn[0].axes
    assert axes.get_title() == 'top-1 0.5000 of 4 images, 2 with NaN' and labels_of(right.yaxis) == ['50.0 %'] * 2
    lines = confusion.table(counts, ['cat', 'dog']).splitlines()[1:]
    assert [line.split() for line in lines] == [['cat', '2', '0.5000'], ['dog', '2', '0.5000']]


@pytest.mark.parametrize('classes, named', [(60, True), (1000, False)])
def test_a_cell_of_many_classes_is_at_least_a_pixel(classes, named, tmp_path, drawn):
    confusion.draw(np.eye(classes, dtype=np.int64), ['c%d' % n for n in range(classes)], str(tmp_path / 'it.png'))
    axes = drawn[0].axes[0]
    box = axes.get_window_extent()
    assert min(box.width, box.height) >= classes and not axes.texts
    assert (labels_of(axes.yaxis)[:1] == ['c0']) == named


def test_a_missing_matplotlib_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(confusion.importlib.util, 'find_spec', lambda name: None)
    for call in (confusion.check_can_draw, lambda: confusion.draw(np.eye(2), ['a', 'b'], str(tmp_path / 'it.png'))):
        with pytest.raises(DataError, match='--confusion_png: expected matplotlib.*pip install matplotlib'):
            call()
