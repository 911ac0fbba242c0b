# SPDX-License-Identifier: Apache-2.0
"""The life of a run: its lines, its checkpoints and its end, with a device that is only played."""
import argparse
import json
import os
import re
import signal
import time

import pytest
from programs import drawn_on_terminal

from common import flags, run, runlog
from common.files import DataError

pytestmark = pytest.mark.smoke


class Device:
    """What Run asks of a backend."""

    def __init__(self, steps_per_run=1):
        self.steps_per_run, self.warnings, self.shared = steps_per_run, ['a word about the device'], 0

    def broadcast_int(self, number):
        return number

    def describe(self, peak_rate):
        return {'device': 'cpu'}

    def mean_and_stop(self, stop, losses):
        return losses

    def share_statistics(self, variables):
        self.shared += 1

    def checksum(self, variables):
        return '0badf00d', True


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setattr(runlog, 'ScalarWriter', lambda folder: None)
    previous = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), previous):
        signal.signal(number, handler)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains 10 images a step of 40; returns Run and the events. `during` is called in each round with the step."""
    def train(*words, steps_per_run=1, during=lambda step: None, losses=lambda step: {'loss': 10 - step},
              evaluate=lambda: {'top1': 0.5}, folder='run', before_done=lambda: None, **begin):
        parser = flags.Parser(prog='train.py')
        flags.add_run_group(parser, epochs=2, batch_size=10, precision_mode='force_fp32')
        parsed = parser.parse_args(['--output_path=%s' % (tmp_path / folder), '--log_every=3'] + list(words))
        device = Device(steps_per_run)
        monkeypatch.setattr('common.runtime.open_runtime', lambda parsed, **words: device)
        with run.Run(parsed, 43) as one:
            one.open_runtime()
            one.begin([], lambda prefix: open(prefix + '.data', 'w').close(), evaluate, 'top1', model='Tiny',
                      at_end=before_done, **begin)
            for step in one.steps():
                during(step)
                one.ended(step, 0.1, **losses(step))
        with open(str(tmp_path / folder / 'metrics.jsonl')) as lines:
            return one, [json.loads(line) for line in lines]
    return train


def told(events, kind, *fields):
    """These fields of the events of one kind."""
    return [tuple(event[field] for field in fields) for event in events if event['event'] == kind]


def test_a_run_from_its_first_line_to_its_last(train):
    ended, events = train()
    assert ended.exit_code == 0 and ended.steps_per_epoch == 4
    assert told(events, 'run', 'steps', 'first_step', 'images') == [(8, 0, 43)]
    assert told(events, 'warn', 'message') == [('a word about the device',)]
    assert told(events, 'train', 'step', 'loss') == [(1, 9), (3, 7.5), (6, 5), (8, 2.5)]
    assert told(events, 'eval', 'step', 'epoch', 'top1') == [(4, 1, 0.5), (8, 2, 0.5)]
    assert told(events, 'save', 'step') == [(4,), (8,)]
    assert told(events, 'done', 'step', 'top1', 'checksum', 'status') == [(8, 0.5, '0badf00d', 'ok')]


def test_the_parts_of_a_loss_add_up(train):
    _, events = train('--train_steps=1', losses=lambda step: {'confidence_loss': 2, 'localisation_loss': 1})
    assert told(events, 'train', 'loss', 'confidence_loss', 'localisation_loss') == [(3, 2, 1)]


def test_a_device_that_loops_is_asked_once_a_loop(train):
    rounds = []
    _, events = train('--train_steps=8', '--save_every=4', steps_per_run=4, during=rounds.append)
    assert rounds == [4, 8]
    assert told(events, 'train', 'step') == [(4,), (8,)] and told(events, 'save', 'step') == [(4,), (8,)]


@pytest.mark.parametrize('name, value, said', [
    ('loss', float('nan'), 'loss at step 5: found nan'),
    ('confidence_loss', float('inf'), 'confidence loss at step 5: found inf')])
def test_a_loss_that_is_no_number_is_named_with_its_own_step(train, name, value, said):
    ended, events = train(look_every=3, losses=lambda step: {name: value if step == 5 else 1.0}, advice='be gentle')
    assert ended.exit_code == 1
    (message,), = told(events, 'fail', 'message')
    assert message.startswith(said) and 'ckpt/step-00000004/model' in message and message.endswith('be gentle')


@pytest.mark.parametrize('error, said', [
    (DataError('a.jpg', 'a picture', 'none', 'look'), 'a.jpg: expected a picture; found none; look.'),
    (OSError(28, 'No space left on device', 'x.json'), 'x.json: expected room to write; found a full disk; free some '
     'space and give the same command again, which goes on from the last whole checkpoint.'),
    (KeyError('x'), "after step 2: KeyError: 'x'")])
def test_a_failure_in_mid_run_is_in_its_metrics_and_the_run_can_go_on(train, error, said):
    def fail(step):
        if step == 3:
            raise error
    ended, events = train('--save_every=1', during=fail)
    assert ended.exit_code == 1 and told(events, 'fail', 'message') == [(said,)]
    ended, events = train('--save_every=1')
    assert ended.exit_code == 0 and told(events, 'run', 'first_step') == [(0,), (2,)]


def test_what_is_refused_at_the_start_touches_nothing(train, tmp_path):
    with pytest.raises(DataError, match='--batch_size: expected at most the 43 training images'):
        train('--batch_size=44')
    assert os.listdir(str(tmp_path)) == []


def test_a_stop_saves_and_the_same_command_goes_on(train):
    ended, events = train(during=lambda step: step == 3 and os.kill(os.getpid(), signal.SIGTERM))
    assert ended.exit_code == 143 and told(events, 'save', 'step') == [(3,)] and not told(events, 'done')
    ended, events = train()
    assert ended.exit_code == 0 and told(events, 'run', 'first_step')[-1] == (3,)
    assert [('before_sec' in event) for event in events if event['event'] == 'run'] == [False, True]


def test_a_stop_in_an_evaluation_saves_without_its_figure(train):
    def evaluate():
        os.kill(os.getpid(), signal.SIGTERM)
    ended, events = train(evaluate=evaluate)
    assert ended.exit_code == 143 and not told(events, 'eval') and told(events, 'save', 'step') == [(4,)]


def test_a_run_that_was_killed_before_its_last_line_evaluates_again(train):
    def killed():
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        train(before_done=killed)
    _, events = train()
    assert told(events, 'run', 'first_step')[-1] == (8,)
    assert [event['event'] for event in events[-3:]] == ['warn', 'eval', 'done']


def test_other_ranks_save_nothing(train, tmp_path, monkeypatch):
    os.makedirs(str(tmp_path / 'run'))
    monkeypatch.setenv('RANK_ID', '1')
    monkeypatch.setenv('RANK_SIZE', '2')
    with pytest.raises(FileNotFoundError):  # no metrics either
        train()
    assert os.listdir(str(tmp_path / 'run')) == []


def test_a_run_that_goes_on_from_another_needs_a_later_end(train, tmp_path):
    train()
    with pytest.raises(DataError, match='a checkpoint before epoch 2'):
        train('--resume=%s' % (tmp_path / 'run'), folder='more')
    _, events = train('--resume=%s' % (tmp_path / 'run'), '--epochs=3', folder='more')
    assert told(events, 'run', 'first_step', 'steps') == [(8, 12)]
    assert sorted(os.listdir(str(tmp_path))) == ['more', 'run']


def test_a_metric_that_is_no_number_makes_no_best(train, tmp_path):
    train(evaluate=lambda: {'top1': float('nan')})
    assert not os.path.exists(str(tmp_path / 'run' / 'ckpt' / 'best.json'))


def test_checkpoints_go_where_the_name_flag_says(tmp_path):
    parsed = argparse.Namespace(batch_size=1, train_steps=1, output_path=str(tmp_path / 'run'), resume='auto', name='p')
    run.Run(parsed, 1)._store.save({'step': 1}, lambda prefix: None)
    assert os.listdir(str(tmp_path / 'run')) == ['p']


def test_a_terminal_sees_loss_speed_and_the_last_accuracy(train):
    with drawn_on_terminal(80) as drawn:
        train('--eval_every=1', during=lambda step: time.sleep(0.3))
    assert any(re.search(r'^ \d\d%\|.+\| [567]/8 steps, loss \S+, \d\d\.\d images/s, top1 0\.500, 00:0\d left$', line)
               for line in drawn), "\n".join(drawn)
