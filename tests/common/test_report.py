# SPDX-License-Identifier: Apache-2.0
"""Several runs compared."""
import json
import os
import sys

import pytest

from common import runlog
from tools import report

pytestmark = pytest.mark.smoke


def write_run(folder, model='CSPNet', steps_per_epoch=10, epochs=2, done=True, accuracy=None, images_per_sec=100.0,
              **recorded):
    """Writes the files of a run folder; `recorded` are its flags."""
    folder.mkdir(parents=True)
    log = runlog.RunLog(str(folder))
    log.event(runlog.RUN, model=model, device='cpu', batch_size=64, ranks=1, commit=recorded.pop('commit', 'abc'))
    for step in range(1, steps_per_epoch * epochs + 1):
        log.event(runlog.TRAIN, step=step, epoch=step / steps_per_epoch, loss=2.0 / step, images_per_sec=images_per_sec)
    log.event(runlog.EVAL, step=step, epoch=float(epochs), loss=0.5, **(accuracy or {'top1': 0.75}))
    if done:
        log.event(runlog.DONE, step=step, images_per_sec=images_per_sec, wall_sec=90.0, status='ok')
    log.close()
    (folder / 'flags.json').write_text(json.dumps(dict(recorded, output_path=str(folder))))
    return str(folder)


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


def cells(line):
    return [cell.strip() for cell in line.strip().strip('|').split(' | ')]


def test_a_comparison_is_a_table_and_a_picture_and_leaves_the_runs_alone(tmp_path, capsys, drawn):
    one = write_run(tmp_path / 'run' / '0', lr=0.1, seed=0, data_dump_step='1|2')
    other = write_run(tmp_path / 'run' / '0.1', lr=0.2, seed=0, data_dump_step='3', done=False, commit='def')
    before = {path: sorted(os.listdir(path)) for path in (one, other)}
    assert report.main([one, other + os.sep, '--output=%s' % (tmp_path / 'new' / 'there')]) == 0
    said = capsys.readouterr().out
    text = (tmp_path / 'new' / 'there' / 'comparison.md').read_text()
    assert (tmp_path / 'new' / 'there' / 'comparison.png').read_bytes()[:4] == b'\x89PNG'
    assert before == {path: sorted(os.listdir(path)) for path in (one, other)}
    for row in ('| 0 | CSPNet | cpu | 64 x 1 | 100.0 | 0.7500 | 1.5 |',
                '| 0.1 | CSPNet | cpu | 64 x 1 | - | 0.7500 | unfinished |',
                '| --lr | 0.1 | 0.2 |', '| --data_dump_step | 1\\|2 | 3 |', '| commit | abc | def |',
                '- 0.1: ' + other):
        assert row in said and row in text, row
    assert '--seed' not in text and 'output_path' not in text
    figure, = drawn
    assert [axes.get_title() for axes in figure.axes] == ['loss', 'top-1', 'images / s']
    assert {axes.get_xlabel() for axes in figure.axes} == {'step'}
    assert [line.get_text() for line in figure.legends[0].get_texts()] == ['0', '0.1', 'train', 'evaluation']
    colours = {line.get_color() for line in figure.axes[0].lines}
    assert len(colours) == 2


def test_the_report_shows_a_confusion_matrix_that_is_in_the_folder(tmp_path):
    run = write_run(tmp_path / 'run')
    report.write_report(run)
    assert 'confusion' not in (tmp_path / 'run' / 'report.md').read_text()
    (tmp_path / 'run' / 'confusion.png').write_bytes(b'')
    report.write_report(run)
    assert '![confusion matrix](confusion.png)' in (tmp_path / 'run' / 'report.md').read_text()


def test_curves_that_cannot_be_written_leave_the_old_ones(tmp_path, monkeypatch):
    from matplotlib.figure import Figure
    run = tmp_path / 'run'
    write_run(run)
    report.write_report(str(run))
    before = sorted(os.listdir(str(run))), (run / 'curves.png').read_bytes()

    def half(figure, path):
        with open(path, 'wb') as file:
            file.write(b'half')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Figure, 'savefig', half)
    with pytest.raises(OSError):
        report.write_report(str(run))
    assert (sorted(os.listdir(str(run))), (run / 'curves.png').read_bytes()) == before


def test_runs_of_different_models_are_drawn_over_epochs(tmp_path, drawn):
    runs = [write_run(tmp_path / model / 'test' / 'output' / '0', model, steps_per_epoch, 3, accuracy=accuracy,
                      images_per_sec=speed)
            for model, steps_per_epoch, accuracy, speed in (('net', 10, {'top1': 0.7}, 100.0),
                                                            ('ssd', 4, {'map': 0.4}, 3.0))]
    assert report.write_comparison(runs, str(tmp_path)) == [str(tmp_path / 'comparison.md'),
                                                            str(tmp_path / 'comparison.png')]
    figure, = drawn
    assert [axes.get_title() for axes in figure.axes] == ['loss', 'top-1', 'mAP', 'images / s']
    assert {axes.get_xlabel() for axes in figure.axes} == {'epoch'}
    assert [max(line.get_xdata()) for line in figure.axes[0].lines] == [3.0] * 4
    assert [axes.get_yscale() for axes in figure.axes] == ['linear', 'linear', 'linear', 'log']
    rows = (tmp_path / 'comparison.md').read_text().splitlines()
    assert cells(rows[4])[:1] + cells(rows[4])[5:7] == ['net', '0.7000', '-']
    assert cells(rows[5])[:1] + cells(rows[5])[5:7] == ['ssd', '-', '0.4000']


@pytest.mark.parametrize('paths, names', [
    (['a/0', 'a/0.1'], ['0', '0.1']), (['a/test/output/0', 'b/test/output/0'], ['a', 'b']),
    (['x/a/0', 'y/a/0', 'y/b/0'], ['x/a', 'y/a', 'b']),
    (['a/test/output/0', 'a/test/output/1', 'b/test/output/0'], ['a/.../0', '1', 'b/.../0']),
    (['a/p/q/0', 'a/r/q/0', 'c/p/q/0', 'c/r/q/0', '1'], ['a/p/q/0', 'a/r/q/0', 'c/p/q/0', 'c/r/q/0', '1']),
    (['0', 'a/0'], None)])
def test_names_are_short_and_differ(paths, names):
    found = report.short_names(['/work/' + path for path in paths])
    assert len(set(found)) == len(paths) and (names is None or found == names)


def test_what_is_no_run_is_one_sentence(tmp_path, capsys):
    good = write_run(tmp_path / 'good')
    (tmp_path / 'empty').mkdir()
    for words, said in (([str(tmp_path / 'empty')], 'found no metrics.jsonl'),
                        ([good, str(tmp_path / 'none')], 'found no metrics.jsonl'),
                        ([good, good + os.sep], 'the same run folder twice'),
                        ([good, '--output=x'], 'two or more runs'), (['--table', good, '--output=x'], '--table')):
        with pytest.raises(SystemExit) as exit:
            report.main(words)
        error = capsys.readouterr().err
        assert exit.value.code == 2 and said in error and error.count('\n') == 1
    (tmp_path / 'empty' / 'metrics.jsonl').write_text('')
    assert report.main([good, str(tmp_path / 'empty'), '--output=%s' % tmp_path]) == 0
    assert '| empty | ? | ? | ? x ? | - | - | unfinished |' in capsys.readouterr().out
    (tmp_path / 'empty' / 'metrics.jsonl').write_text('3\n[]\n{"event": "train"}\n{"event": "new"}\nhalf a l')
    assert report.main([str(tmp_path / 'empty')]) == 0
    said = capsys.readouterr().out
    assert 'report.md' in said and 'curves.png was not drawn' in said
    (tmp_path / 'file').write_text('')
    assert report.main([good, str(tmp_path / 'empty'), '--output=%s' % (tmp_path / 'file')]) == 1
    assert capsys.readouterr().err.count('\n') == 1


def test_without_matplotlib_the_tables_remain(tmp_path, capsys, monkeypatch):
    runs = [write_run(tmp_path / name) for name in 'ab']
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    monkeypatch.setattr(report.importlib.util, 'find_spec', lambda name: None)
    assert report.main(runs + ['--output=%s' % tmp_path]) == 0
    assert 'comparison.png was not drawn: matplotlib is not installed.' in capsys.readouterr().out
    assert 'comparison.png' not in (tmp_path / 'comparison.md').read_text()
