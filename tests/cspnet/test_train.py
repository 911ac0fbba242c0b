# SPDX-License-Identifier: Apache-2.0
"""train.py, test.py and the scripts as a user runs them, with a small network."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import programs
import pytest
from conftest import ROOT
from programs import event, finish

FOLDER = os.path.join(ROOT, 'CSPNet_ID0840_for_TensorFlow')
sys.path.insert(0, FOLDER)
import test as evaluation  # noqa: E402
import train  # noqa: E402

SCRIPT = os.path.join(FOLDER, 'test', 'train_full_1p.sh')
TINY = ['--batch_size=16', '--warmup_steps=2', '--DISPLAY_STEP=1', '--VAL_EPOCH=1', '--LEARNING_RATE=0.01']
SHORT = TINY + ['--train_steps=4']


@pytest.fixture(scope='module')
def run(few_cifar10, tmp_path_factory):
    """(exit code, what was shown, run folder) of the script on a terminal, called from elsewhere: two epochs."""
    folder = tmp_path_factory.mktemp('script')
    ended, shown = programs.on_terminal(['bash', SCRIPT, '--data_path=%s' % few_cifar10, '--output_path=run'] + SHORT,
                                        cwd=str(folder))
    return ended, shown, folder / 'run'


def test_the_documented_defaults():
    parsed = train.parse_args([])
    assert (parsed.epochs, parsed.batch_size, parsed.LEARNING_RATE, parsed.MOMENTUM, parsed.LAMBDA) == (
        50, 64, 1e-3, 0.9, 5e-4)
    assert parsed.output_path == os.path.join(FOLDER, 'test', 'output', os.environ.get('ASCEND_DEVICE_ID', '0'))
    assert parsed.precision_mode == 'allow_mix_precision' and parsed.resume == 'auto'


def test_the_rate_rises_then_falls():
    def rates(schedule, total=100, warmup_steps=10):
        parsed = train.parse_args(['--LEARNING_RATE=0.5', '--schedule=' + schedule])
        return [train.learning_rate(step, total, warmup_steps, parsed) for step in range(total)]
    cosine = rates('cosine')
    assert cosine[0] == pytest.approx(0.05) and cosine[9] == pytest.approx(0.5)
    assert cosine[55] == pytest.approx(0.25) and cosine[99] < 0.001
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    assert rates('constant')[10:] == [0.5] * 90
    assert rates('cosine', 1, 500) == [0.5]  # a run shorter than its warm-up still trains


def test_every_documented_flag_is_accepted():
    parsed = train.parse_args(
        '--MOMENTUM=0.8 --LAMBDA=1e-4 --LEARNING_RATE=0.1 --epochs=3 --batch_size=4 --SUMMARY=s --output_path=o '
        '--data_path=d --DISPLAY_STEP=7 --VAL_EPOCH=2 --resume=False'.split())
    assert (parsed.MOMENTUM, parsed.LAMBDA, parsed.log_every, parsed.eval_every, parsed.resume) == (
        0.8, 1e-4, 7, 2, 'False')
    assert parsed.SUMMARY == os.path.abspath('s')
    published = evaluation.parse_args(['--CKPT_PATH=/c', '--CIFAR_PATH=/d'])
    assert (published.checkpoint, published.data_path) == ('/c', '/d')


def test_importing_has_no_effect_and_help_needs_no_tensorflow():
    code = 'import sys, train, test, utils; print([m for m in ("tensorflow", "npu_bridge") if m in sys.modules])'
    assert finish([sys.executable, '-c', code], cwd=FOLDER)[1].strip().endswith('[]')
    for script in ('train.py', 'test.py'):
        code, said = finish([sys.executable, script, '--help'], cwd=FOLDER)
        assert code == 0 and '--data_path' in said


@pytest.mark.smoke
def test_the_script_shows_and_leaves_what_is_documented(run):
    ended, shown, folder = run
    programs.check_shown(shown, ended)
    assert 'Traceback' not in shown
    programs.check_left(folder, 'CSPNet_ID0840_for_TensorFlow_bs16_1p_acc', 4, losses='%s_loss.txt')
    assert (folder / 'flags.json').read_text().count('"LEARNING_RATE": 0.01') == 1
    code, table = finish([sys.executable, '-m', 'tools.report', '--table', str(folder)], cwd=ROOT)
    assert code == 0 and '| CSPNet | cpu | 16 x 1 |' in table and str(folder / 'curves.png') in table


@pytest.mark.smoke
def test_evaluation_says_what_training_said(run, few_cifar10, tmp_path, here):
    _, shown, folder = run
    picture = tmp_path / 'confusion.png'
    code, said = here(evaluation, '--data_path=%s' % few_cifar10, '--checkpoint=%s' % folder,
                      '--confusion_png=%s' % picture)
    assert code == 0, said
    top1 = shown.split('Final Train Accuracy : ')[1].split()[0]
    assert 'images=100' in said and 'top1=%s' % top1 in said and 'top5=' in said
    rows = said.split('top1\n')[1].splitlines()[:10]
    assert [len(row.split()) for row in rows] == [3] * 10 and sum(int(row.split()[1]) for row in rows) == 100
    assert picture.read_bytes()[:4] == b'\x89PNG'


def test_four_steps_are_two_a_kill_one_a_sigterm_and_one(run, few_cifar10, tmp_path, here, monkeypatch):
    words = programs.script_flags(SCRIPT) + ['--data_path=%s' % few_cifar10, '--output_path=%s' % (tmp_path / 'run'),
                                             '--save_every=2'] + SHORT
    said = programs.interrupt(programs.start([sys.executable, '-u', 'train.py'] + words, cwd=FOLDER), '[save] step=2',
                              signal.SIGKILL)
    assert '[done]' not in said

    def rate_and_request(*words):
        os.kill(os.getpid(), signal.SIGTERM)
        return rate(*words)
    rate = train.learning_rate
    with monkeypatch.context() as asked:
        asked.setattr(train, 'learning_rate', rate_and_request)
        code, said = here(train, *words)
    assert code == 143 and event(said, 'run')['first_step'] == '2' and event(said, 'save')['step'] == '3', said
    before = sorted(os.listdir(str(tmp_path / 'run' / 'ckpt')))
    code, said = here(train, *(words[:-1] + ['--train_steps=6']))  # another length is another schedule
    assert code == 1 and '--train_steps: expected 4' in event(said, 'fail')['message'] and 'Traceback' not in said
    assert sorted(os.listdir(str(tmp_path / 'run' / 'ckpt'))) == before
    code, said = here(train, *words)
    assert code == 0 and event(said, 'run')['first_step'] == '3', said
    whole, resumed = (programs.weights(folder / 'ckpt' / 'step-00000004' / 'model')
                      for folder in (run[2], tmp_path / 'run'))
    assert sorted(whole) == sorted(resumed) and len(whole) > 80
    assert [name for name in whole if name.endswith('Momentum')] and [n for n in whole if n.endswith('moving_mean')]
    different = [name for name in whole if not np.array_equal(whole[name], resumed[name])]
    assert not different, different[:5]


def test_the_first_line_comes_within_seconds_and_ctrl_c_saves(tmp_path):
    started = time.time()
    first_line = []
    process = programs.start([sys.executable, '-u', 'train.py', '--synthetic', '--output_path=%s' % (tmp_path / 'run'),
                              '--train_steps=100000'] + TINY, cwd=FOLDER)
    for line in process.stdout:
        if '[run]' in line:
            first_line.append(time.time() - started)
            break
    said = programs.interrupt(process, '[train] step=2', signal.SIGINT)
    assert process.returncode == 130 and '[save]' in said and 'Traceback' not in said, said
    assert first_line[0] < 40  # a quiet machine needs about 8
    saved = int(event(said, 'save')['step'])
    stored = programs.weights(tmp_path / 'run' / 'ckpt' / ('step-%08d' % saved) / 'model')
    assert saved >= 2 and stored['global_step'] == saved


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_checkpoint(few_cifar10, tmp_path, here):
    code, said = here(train, '--data_path=%s' % few_cifar10, '--output_path=%s' % (tmp_path / 'run'),
                      '--save_every=1', *(TINY + ['--train_steps=60', '--LEARNING_RATE=1e30']))
    message = event(said, 'fail')['message']
    assert code == 1 and message.startswith('loss at step') and 'expected a finite number' in message
    assert 'Traceback' not in said
    newest = message.split('last whole checkpoint is ')[1].split(';')[0]
    assert os.path.exists(newest + '.index')


def failure(capsys, *words):
    assert train.main(list(words)) == 1
    said = capsys.readouterr().out
    line, = [line for line in said.splitlines() if '[fail]' in line]
    assert 'expected' in line and 'found' in line
    return line


def test_bad_data_is_one_sentence(sample_cifar10, tmp_path, capsys):
    output = '--output_path=%s' % (tmp_path / 'out')
    assert 'cifar-10-batches-py' in failure(capsys, '--data_path=%s' % (tmp_path / 'none'), output)
    shutil.copytree(sample_cifar10, str(tmp_path / 'cut'))
    batch = tmp_path / 'cut' / 'cifar-10-batches-py' / 'data_batch_3'
    batch.write_bytes(batch.read_bytes()[:1000])
    assert 'data_batch_3' in failure(capsys, '--data_path=%s' % (tmp_path / 'cut'), output)
    batch.unlink()
    assert 'data_batch_3' in failure(capsys, '--data_path=%s' % (tmp_path / 'cut'), output)
    assert 'at most the 500 training images' in failure(
        capsys, '--data_path=%s' % sample_cifar10, output, '--batch_size=501')
    (tmp_path / 'file').write_text('x')
    assert str(tmp_path / 'file') in failure(
        capsys, '--data_path=%s' % sample_cifar10, '--output_path=%s' % (tmp_path / 'file' / 'out'))
    assert 'no whole checkpoint' in failure(
        capsys, '--data_path=%s' % sample_cifar10, output, '--resume=%s' % (tmp_path / 'cut'))


def test_another_networks_checkpoint_is_refused(few_cifar10, tmp_path, here):
    import tensorflow.compat.v1 as tf
    folder = tmp_path / 'other' / 'ckpt' / 'step-00000001'
    folder.mkdir(parents=True)
    with tf.Graph().as_default(), tf.Session() as session:
        variable = tf.get_variable('cspdarknet53/classifier/weights', [3, 3])
        session.run(tf.global_variables_initializer())
        tf.train.Saver([variable]).save(session, str(folder / 'model'), write_meta_graph=False)
    files = {name: os.path.getsize(str(folder / name)) for name in os.listdir(str(folder))}
    (folder / 'state.json').write_text(json.dumps({'step': 1, 'files': files}))
    code, said = here(train, '--data_path=%s' % few_cifar10, '--output_path=%s' % (tmp_path / 'out'),
                      '--resume=%s' % (tmp_path / 'other'), *SHORT)
    message = event(said, 'fail')['message']
    assert code == 1 and 'variable' in message and 'checkpoint of this network' in message


def test_a_full_disk_keeps_the_last_checkpoint(run, tmp_path, here):
    disk = tmp_path / 'disk'
    disk.mkdir()
    checkpoint = run[2] / 'ckpt' / 'step-00000004'
    size = sum(os.path.getsize(str(checkpoint / name)) for name in os.listdir(str(checkpoint)))
    if subprocess.call(['mount', '-t', 'tmpfs', '-o', 'size=%d' % (1.7 * size), 'tmpfs', str(disk)],
                       stderr=subprocess.DEVNULL):
        pytest.skip('this user may not mount a small disk')
    try:
        code, said = here(train, '--synthetic', '--output_path=%s' % (disk / 'run'), '--save_every=1',
                          '--SUMMARY=%s' % (tmp_path / 'tb'), *SHORT)
        assert code == 1 and 'found a full disk' in event(said, 'fail')['message'] and 'Traceback' not in said, said
        assert os.listdir(str(disk / 'run' / 'ckpt' / 'step-00000001'))
        assert programs.weights(disk / 'run' / 'ckpt' / 'step-00000001' / 'model')['global_step'] == 1
    finally:
        subprocess.call(['umount', '--lazy', str(disk)])  # TensorBoard's file stays open


def test_no_data_path_says_what_to_give(tmp_path, capsys):
    assert '--data_path' in failure(capsys, '--output_path=%s' % (tmp_path / 'out'))
