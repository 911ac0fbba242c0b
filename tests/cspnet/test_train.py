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
    assert (parsed.schedule, parsed.label_smoothing, parsed.flip, parsed.crop, parsed.ema_decay, parsed.norm_momentum,
            parsed.bias_rate, parsed.tta, parsed.hold_out) == ('cosine', 0, 'random', 'zeros', 0, 0.99, 1, False, 0)
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
    assert rates('linear')[55] == pytest.approx(0.25) and rates('linear')[10] == 0.5
    cycle = rates('one-cycle')
    assert cycle[29] == 0.5 == max(cycle) and cycle[14] == pytest.approx(0.25) == cycle[65]


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


RECIPE = ['--label_smoothing=0.1', '--flip=alternating', '--crop=reflect', '--ema_decay=0.9', '--norm_momentum=0.8',
          '--bias_rate=4', '--cutout=8', '--schedule=one-cycle', '--tta', '--train_steps=12']


@pytest.mark.smoke
def test_averages_are_judged_and_used_and_come_back_after_a_stop(few_cifar10, tmp_path, here, monkeypatch):
    words = ['--data_path=%s' % few_cifar10] + TINY + RECIPE
    code, said = here(train, '--output_path=%s' % (tmp_path / 'whole'), *words)
    done = event(said, 'done')
    assert code == 0 and {'top1', 'top1_no_ema', 'top1_tta'} <= set(done) & set(event(said, 'eval')), said
    assert event(said, 'run')['flip'] == 'alternating' and event(said, 'run')['bias_rate'] == '4'

    with programs.asked_to_stop(train, monkeypatch, 7):
        assert here(train, '--output_path=%s' % (tmp_path / 'stopped'), *words)[0] == 143
    code, said = here(train, '--output_path=%s' % (tmp_path / 'stopped'), *words)
    assert code == 0 and event(said, 'run')['first_step'] == '7', said
    assert event(said, 'done')['checksum'] == done['checksum']
    stored = programs.weights(tmp_path / 'stopped' / 'ckpt' / 'step-00000012' / 'model')
    averaged = [name for name in stored if name.endswith('ExponentialMovingAverage')]
    assert len([name for name in averaged if 'moving_variance/' in name]) == len(
        [name for name in stored if name.endswith('moving_variance')]) > 10
    assert all((stored[name] != stored[os.path.dirname(name)]).any() for name in averaged if '/weights/' in name)
    code, evaluated = here(evaluation, '--data_path=%s' % few_cifar10, '--checkpoint=%s' % (tmp_path / 'stopped'),
                           '--tta')
    fields = event(evaluated, 'eval')
    assert {key: fields[key] for key in ('loss', 'top1', 'top1_tta')}.items() <= event(said, 'eval').items()


@pytest.mark.smoke
def test_averages_move_every_fifth_step_and_begin_at_the_weights():
    import tensorflow.compat.v1 as tf
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.train.get_or_create_global_step()
        weights = tf.get_variable('weights', [], initializer=tf.constant_initializer(2.0), use_resource=True)
        average, follow, reset = train.average_weights(tf, 0.9)
        session.run(tf.global_variables_initializer())
        session.run([weights.assign(8.0), step.assign(5)])
        session.run(follow)  # the second, so by 2 / 11 of what was
        assert session.run(average(weights)) == pytest.approx(8 - 6 * 2 / 11)
        session.run(step.assign(5000))
        session.run(follow)
        assert session.run(average(weights)) == pytest.approx(8 - 6 * 2 / 11 * 0.9 ** 5)
        session.run(reset)
        assert session.run(average(weights)) == 8


@pytest.mark.smoke
def test_smoothed_labels_by_hand():
    import tensorflow.compat.v1 as tf
    scores = np.array([[2.0, 0, 0, 1], [0, 0, 3, 0]], np.float32)
    log_shares = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    expected = -np.mean([0.8 * shares[label] + 0.2 * shares.mean() for shares, label in zip(log_shares, (3, 2))])
    with tf.Graph().as_default(), tf.Session() as session:
        loss = train.cross_entropy(tf, tf.constant([3, 2]), tf.constant(scores), 0.2)
        assert session.run(loss) == pytest.approx(expected, rel=1e-6)


def test_the_rate_of_shifts_is_theirs_alone(few_cifar10, tmp_path, here):
    stored = []
    for factor in '1', '4':
        code, said = here(train, '--data_path=%s' % few_cifar10, '--output_path=%s' % (tmp_path / factor), *(
            TINY + ['--train_steps=1', '--bias_rate=' + factor, '--precision_mode=force_fp32']))
        assert code == 0, said
        stored.append(programs.weights(tmp_path / factor / 'ckpt' / 'step-00000001' / 'model'))
    for name, value in stored[0].items():
        if name.endswith('/beta'):
            np.testing.assert_allclose(stored[1][name], 4 * value, rtol=1e-5, atol=1e-9)
        elif 'beta' not in name:
            assert np.array_equal(stored[1][name], value), name
    assert any(np.abs(value).max() > 0 for name, value in stored[0].items() if name.endswith('/beta'))


def test_a_share_of_the_training_images_can_be_what_is_judged_by(few_cifar10, capsys):
    def loaded(*words):
        return train.load_data(train.parse_args(['--data_path=%s' % few_cifar10] + list(words)))
    every, part, again, other = loaded(), loaded('--hold_out=0.25'), loaded('--hold_out=0.25'), loaded(
        '--hold_out=0.25', '--seed=1')
    assert 'of the 40 training images' in capsys.readouterr().out
    assert np.bincount(part.test_labels).tolist() == [max(1, round(count / 4)) for count in np.bincount(
        every.train_labels)]
    together = np.concatenate([part.train_images, part.test_images])
    assert {image.tobytes() for image in together} == {image.tobytes() for image in every.train_images}
    assert len(together) == 40 and (part.test_images == again.test_images).all()
    assert (part.test_images != other.test_images).any()


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
