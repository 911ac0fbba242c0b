# SPDX-License-Identifier: Apache-2.0
"""Event lines, what is read back from them, and the throughput meter."""
import json
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from common import logparse, runlog
from tools import report

pytestmark = pytest.mark.smoke


def test_what_is_printed_can_be_read_back(capsys, tmp_path):
    log = runlog.RunLog(str(tmp_path))
    log.event(runlog.TRAIN, step=500, loss=1.23456, lr=0.015, images_per_sec=143.14)
    log.warn('no "AVX512_BF16" here')
    first, second = capsys.readouterr().out.splitlines()
    assert logparse.parse_line(first) == ('train', {'step': '500', 'loss': '1.2346', 'lr': '0.015',
                                                    'images_per_sec': '143.1'})
    assert logparse.parse_line(second) == ('warn', {'message': 'no "AVX512_BF16" here'})
    recorded = [json.loads(line) for line in (tmp_path / runlog.METRICS_FILE).read_text().splitlines()]
    assert recorded[0]['loss'] == 1.23456 and recorded[1]['event'] == 'warn'


@pytest.mark.parametrize('noise', ['  7%|## | 3/40\r', 'W tensorflow/core] chatter ', '10:15:41 '])
def test_noise_before_an_event_does_no_harm(noise):
    assert logparse.parse_line(noise + '[eval] step=3 top1=0.5\n') == ('eval', {'step': '3', 'top1': '0.5'})


@pytest.mark.parametrize('line', ['', '[train]', 'loss=3', '[other] a=b', 'Epoch 1 [train] nothing'])
def test_other_lines_are_no_events(line):
    assert logparse.parse_line(line) is None


def test_other_ranks_say_only_fail(capsys, tmp_path):
    log = runlog.RunLog(str(tmp_path), rank=1)
    log.event(runlog.TRAIN, step=1, loss=1.0)
    log.event(runlog.FAIL, message='x')
    assert '[fail]' in capsys.readouterr().out
    assert not (tmp_path / runlog.METRICS_FILE).exists()


def test_throughput_leaves_out_warm_up_and_pauses(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, 'perf_counter', lambda: clock[0])
    meter = runlog.Throughput(images_per_step=10, warmup_steps=1)
    for seconds in (100.0, 1.0, 1.0):  # the first step compiles
        clock[0] += seconds
        meter.step(data_wait_sec=0.25)
    with meter.paused():
        clock[0] += 1000.0
    assert meter.recent(3) == {'images_per_sec': 10.0, 'data_wait': 0.25, 'eta_sec': 3.0}
    assert meter.recent(3) == {}
    clock[0] += 3.0
    meter.step()
    assert meter.recent(3)['eta_sec'] == pytest.approx(5)
    assert meter.total(2) == {'images_per_sec': 6.0, 'images_per_sec_per_card': 3.0,
                              'ms_per_step': pytest.approx(5000 / 3)}


def test_a_run_that_was_all_warm_up_has_no_speed():
    meter = runlog.Throughput(images_per_step=10, warmup_steps=2)
    meter.step()
    assert meter.recent(1) == {} and meter.total(1) == {}


class FullDisk:
    """A file on a disk with room for some letters; what has no room waits, as in Python's own files."""

    def __init__(self, room):
        self.room, self.waiting, self.text = room, '', ''

    def write(self, text):
        self.waiting += text

    def flush(self):
        fits, self.waiting = self.waiting[:self.room], self.waiting[self.room:]
        self.text, self.room = self.text + fits, self.room - len(fits)
        if self.waiting:
            raise OSError(28, 'No space left on device')

    close = flush


@pytest.mark.parametrize('error', [
    OSError(28, 'No space left on device'), OSError(122, 'Disk quota exceeded'),
    RuntimeError('/run/tb/events.out; No space left on device\n\tFailed to flush 1 events')])
def test_a_full_disk_is_told_in_a_sentence_though_it_cannot_be_written(error, capsys, tmp_path):
    log = runlog.RunLog(str(tmp_path))
    log._file = FullDisk(10)
    log.fail(error)
    log.close()
    line, = capsys.readouterr().out.splitlines()
    assert '[fail] message="the run folder: expected room to write; found a full disk; free some space' in line
    assert log._file.text == '{"time": 1'


def test_lines_after_one_that_was_cut_short_are_whole(tmp_path):
    (tmp_path / runlog.METRICS_FILE).write_text('{"event": "train", "st')
    runlog.RunLog(str(tmp_path)).event(runlog.TRAIN, step=2)
    assert json.loads((tmp_path / runlog.METRICS_FILE).read_text().splitlines()[1])['step'] == 2


def test_what_a_full_disk_has_no_room_for_is_left_out_of_the_log():
    """The lines that follow find room again, and the program's exit code is its own."""
    code = ('import os, sys; from common import runlog\n'
            'full, log = os.open("/dev/full", os.O_WRONLY), os.dup(1)\n'
            'runlog.say("before"); os.dup2(full, 1); runlog.say("lost"); os.dup2(log, 1); runlog.say("after")\n'
            'os.dup2(full, 1); runlog.say("lost"); sys.exit(3)')
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ('before\nafter\n', '', 3)


def test_tensorboard_reads_the_scalars(tmp_path):
    import tensorflow.compat.v1 as tf
    log = runlog.RunLog(str(tmp_path), tensorboard=str(tmp_path / 'tb'))
    log.event(runlog.TRAIN, step=7, loss=1.5, images=3)
    path, = (tmp_path / 'tb').iterdir()
    events = list(tf.train.summary_iterator(str(path)))
    assert path.name.startswith('events.out.tfevents.') and events[0].file_version == 'brain.Event:2'
    assert [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value] == [
        (7, 'train/loss', 1.5)]


LOG = """noise
10:00:00 [run] model=CSPNet device=cpu ranks=2 batch_size=64 first_step=0
10:00:01 [train] step=1 loss=2.5
10:00:02 [eval] step=1 top1=0.125
10:00:02 [train] step=2 loss=2.0
10:00:03 [eval] step=3 top1=0.99
10:00:04 [train] step=4 los
10:00:09 [run] model=CSPNet device=cpu ranks=2 batch_size=64 first_step=1 before_sec=100.5
10:00:10 [train] step=3 loss=1.9
10:00:11 [eval] step=3 top1=0.25 loss=3.0
10:00:12 [done] step=3 images_per_sec=151.04 ms_per_step=423.7 images_per_sec_per_card=75.52 status=ok
10:00:13 [warn] message="not \\json"
"""


def case_rows(folder, summary, wall_sec, *words):
    logparse.write_case_files(str(folder), 'Net_bs64_1p_acc', 'Net', 64, summary, wall_sec, *words)
    return dict(line.split(' = ') for line in (folder / 'Net_bs64_1p_acc.log').read_text().splitlines())


def test_the_documented_block_and_files(tmp_path):
    summary = logparse.summarize(LOG.splitlines())
    assert summary.finished and summary.losses == [(1, 2.5), (3, 1.9)] and summary.before_sec == 100.5
    block = logparse.final_block(summary, 12.4)
    assert 'Final Performance images/sec : 151.04' in block
    assert 'Final Performance sec/step : 0.4237' in block
    assert 'E2E Training Duration sec : 12\n' in block and 'Final Training Duration sec : 12\n' in block
    assert 'Final Train Accuracy : 0.2500' in block
    rows = case_rows(tmp_path, summary, 12.4)
    assert (tmp_path / 'train_Net_bs64_1p_acc_loss.txt').read_text() == '2.5000\n1.9000\n'
    assert list(rows) == ['Network', 'RankSize', 'BatchSize', 'DeviceType', 'CaseName', 'ActualFPS', 'TrainingTime',
                          'ActualLoss', 'E2ETrainingTime', 'TrainAccuracy']
    assert rows['ActualLoss'] == '1.9000' and rows['TrainAccuracy'] == '0.2500' and rows['ActualFPS'] == '151.04'
    assert (rows['TrainingTime'], rows['RankSize'], rows['E2ETrainingTime']) == ('423.70', '2', '12')
    assert case_rows(tmp_path, summary, 12.4, True)['TrainingTime'] == '0.4237'
    assert (tmp_path / 'Net_bs64_1p_acc_loss.txt').read_text() == '2.5000\n1.9000\n'


def test_a_run_that_starts_anew_has_nothing_of_the_one_before():
    anew = ['[run] model=CSPNet ranks=1 batch_size=8 first_step=0', '[train] step=2 loss=0.5']
    summary = logparse.summarize(LOG.splitlines() + anew)
    assert (summary.losses, summary.accuracy, summary.before_sec, summary.finished) == ([(2, 0.5)], None, 0, False)
    evaluated = logparse.summarize(LOG.splitlines() + ['[run] model=CutMix mode=evaluate', '[eval] step=3 top1=0.3'])
    assert evaluated.losses == [(1, 2.5), (3, 1.9)] and evaluated.accuracy == 0.3


@pytest.mark.parametrize('line, accuracy', [
    ('[eval] step=3 map=0.7125 map_area=0.73', 0.7125), ('[eval] step=3 map=0 map_area=0', 0.0),
    ('[eval] step=3 loss=1.0', 0.25)])
def test_accuracy_is_the_last_evaluations_top1_or_map(line, accuracy):
    summary = logparse.summarize(LOG.splitlines() + [line])
    assert summary.accuracy == accuracy
    assert 'Final Train Accuracy : %.4f' % accuracy in logparse.final_block(summary, 1)


def test_an_unfinished_log_has_no_result(tmp_path):
    summary = logparse.summarize(LOG.splitlines()[:-2])
    assert not summary.finished and summary.images_per_sec is None
    assert 'Final Performance images/sec : not measured' in logparse.final_block(summary, 1)
    rows = case_rows(tmp_path, summary, 1)
    assert rows['ActualFPS'] == rows['TrainingTime'] == '' and rows['ActualLoss'] == '1.9000'


def test_the_report_tells_each_step_once(tmp_path):
    log = runlog.RunLog(str(tmp_path))
    log.event(runlog.RUN, model='CSPNet', device='cpu', batch_size=64, ranks=1)
    for step, loss in ((1, 3.0), (2, 2.0), (3, 9.0), (3, 1.0), (4, 0.5)):  # step 3 was lost and done again
        log.event(runlog.TRAIN, step=step, loss=loss, images_per_sec=100.0)
    log.event(runlog.EVAL, step=4, loss=1.0, top1=0.75)
    with open(str(tmp_path / runlog.METRICS_FILE), 'a') as file:
        file.write('{"event": "train", "ste')  # a kill in the middle of a line
    events = report.read_metrics(str(tmp_path))
    assert [fields['loss'] for fields in events['train']] == [3.0, 2.0, 1.0, 0.5]
    report.write_report(str(tmp_path))
    text = (tmp_path / 'report.md').read_text()
    assert '| CSPNet | cpu | 64 x 1 |' in text and '0.7500' in text and 'unfinished' in text
    assert (tmp_path / 'curves.png').read_bytes()[:4] == b'\x89PNG'


def test_a_table_has_a_column_for_each_kind_of_accuracy(tmp_path):
    for name, accuracy in (('classifier', {'top1': 0.75}), ('detector', {'map': 0.5})):
        (tmp_path / name).mkdir()
        runlog.RunLog(str(tmp_path / name)).event(runlog.EVAL, step=4, **accuracy)
    rows = report.table([str(tmp_path / 'classifier'), str(tmp_path / 'detector')]).splitlines()
    assert '| top-1 | mAP |' in rows[0] and len({row.count('|') for row in rows}) == 1
    assert '| 0.7500 | - |' in rows[2] and '| - | 0.5000 |' in rows[3]
    alone = report.table([str(tmp_path / 'detector')])
    assert '| mAP |' in alone and 'top-1' not in alone
