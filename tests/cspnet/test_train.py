# SPDX-License-Identifier: Apache-2.0
"""train.py, test.py and the scripts as a user runs them."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

FOLDER = os.path.join(ROOT, 'CSPNet_ID0840_for_TensorFlow')
sys.path.insert(0, FOLDER)
import train  # noqa: E402

TINY = ['--batch_size=8', '--warmup_steps=2', '--DISPLAY_STEP=1', '--VAL_EPOCH=0', '--LEARNING_RATE=0.01']


def start(command, **kwargs):
    environment = dict(os.environ, PYTHON=sys.executable)
    for name in ('ASCEND_DEVICE_ID', 'RANK_ID', 'RANK_SIZE', 'PYTHONPATH'):
        environment.pop(name, None)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            **kwargs)


def finish(command, **kwargs):
    process = start(command, **kwargs)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def train_command(data, output, *words):
    return [sys.executable, '-u', 'train.py', '--data_path=%s' % data, '--output_path=%s' % output] + TINY + list(words)


def weights(prefix):
    import tensorflow.compat.v1 as tf
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def interrupt(process, after, number):
    """Sends a signal once a line of the process holds `after`; returns all it said."""
    said = ''
    for line in process.stdout:
        said += line
        if after in line:
            process.send_signal(number)
            break
    return said + process.communicate(timeout=120)[0]


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


def test_importing_has_no_effect_and_help_needs_no_tensorflow():
    code = 'import sys, train, test, utils; print([m for m in ("tensorflow", "npu_bridge") if m in sys.modules])'
    assert finish([sys.executable, '-c', code], cwd=FOLDER)[1].strip().endswith('[]')
    for script in ('train.py', 'test.py'):
        code, said = finish([sys.executable, script, '--help'], cwd=FOLDER)
        assert code == 0 and '--data_path' in said


@pytest.mark.smoke
def test_the_script_from_anywhere_then_evaluation(sample_cifar10, tmp_path):
    output = tmp_path / 'run'
    code, said = finish(['bash', os.path.join(FOLDER, 'test', 'train_full_1p.sh'), '--data_path=%s' % sample_cifar10,
                         '--output_path=%s' % output, '--train_steps=3'] + TINY, cwd=str(tmp_path))
    assert code == 0, said
    for line in ('Final Performance images/sec : ', 'Final Performance sec/step : ', 'E2E Training Duration sec : ',
                 'Final Train Accuracy : 0.'):
        assert line in said
    case = 'CSPNet_ID0840_for_TensorFlow_bs8_1p_acc'
    for name in ('train_0.log', 'metrics.jsonl', 'flags.json', 'ckpt/checkpoint', 'report.md', 'curves.png',
                 case + '.log', case + '_loss.txt'):
        assert (output / name).exists(), name
    assert len((output / (case + '_loss.txt')).read_text().split()) == 3
    assert [name for name in os.listdir(str(output / 'tb')) if 'tfevents' in name]
    assert (output / 'flags.json').read_text().count('"LEARNING_RATE": 0.01') == 1
    code, table = finish([sys.executable, '-m', 'tools.report', '--table', str(output)], cwd=ROOT)
    assert code == 0 and '| CSPNet | cpu | 8 x 1 |' in table and str(output / 'curves.png') in table
    picture = tmp_path / 'confusion.png'
    code, evaluated = finish([sys.executable, 'test.py', '--data_path=%s' % sample_cifar10, '--checkpoint=%s' % output,
                              '--confusion_png=%s' % picture], cwd=FOLDER)
    assert code == 0, evaluated
    top1 = said.split('Final Train Accuracy : ')[1].split()[0]
    assert 'images=100' in evaluated and 'top1=%s' % top1 in evaluated and 'top5=' in evaluated
    rows = evaluated.split('top1\n')[1].splitlines()[:10]
    assert [len(row.split()) for row in rows] == [3] * 10 and sum(int(row.split()[1]) for row in rows) == 100
    assert picture.read_bytes()[:4] == b'\x89PNG'


def test_four_steps_are_two_and_a_kill_and_two(sample_cifar10, tmp_path):
    code, said = finish(train_command(sample_cifar10, tmp_path / 'whole', '--train_steps=4'), cwd=FOLDER)
    assert code == 0, said
    command = train_command(sample_cifar10, tmp_path / 'killed', '--train_steps=4', '--save_every=2')
    said = interrupt(start(command, cwd=FOLDER), '[save] step=2', signal.SIGKILL)
    assert '[done]' not in said
    code, said = finish(command, cwd=FOLDER)
    assert code == 0 and 'first_step=2' in said, said
    whole = weights(tmp_path / 'whole' / 'ckpt' / 'step-00000004' / 'model')
    resumed = weights(tmp_path / 'killed' / 'ckpt' / 'step-00000004' / 'model')
    assert sorted(whole) == sorted(resumed) and len(whole) > 400
    assert [name for name in whole if name.endswith('Momentum')] and [n for n in whole if n.endswith('moving_mean')]
    different = [name for name in whole if not np.array_equal(whole[name], resumed[name])]
    assert not different, different[:5]


def test_ctrl_c_saves(sample_cifar10, tmp_path):
    process = start(train_command(sample_cifar10, tmp_path / 'run', '--train_steps=100000'), cwd=FOLDER)
    said = interrupt(process, '[train] step=2', signal.SIGINT)
    assert process.returncode == 130 and '[save]' in said and 'Traceback' not in said, said


def test_sigterm_saves_and_other_flags_do_not_continue_it(sample_cifar10, tmp_path):
    command = train_command(sample_cifar10, tmp_path / 'run', '--train_steps=6')
    process = start(command[:-1] + ['--train_steps=100000'], cwd=FOLDER)
    said = interrupt(process, '[train] step=2', signal.SIGTERM)
    assert process.returncode == 143, said
    saved = int(said.split('[save] step=')[-1].split()[0])
    assert saved >= 2 and weights(tmp_path / 'run' / 'ckpt' / ('step-%08d' % saved) / 'model')['global_step'] == saved
    before = sorted(os.listdir(str(tmp_path / 'run' / 'ckpt')))
    code, said = finish(command, cwd=FOLDER)  # another length is another schedule
    assert code == 1 and '[fail]' in said and '--train_steps: expected 100000' in said and 'Traceback' not in said
    assert sorted(os.listdir(str(tmp_path / 'run' / 'ckpt'))) == before


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_checkpoint(sample_cifar10, tmp_path):
    code, said = finish(train_command(sample_cifar10, tmp_path / 'run', '--train_steps=60', '--LEARNING_RATE=1e30',
                                      '--save_every=1'), cwd=FOLDER)
    assert code == 1 and 'loss at step' in said and 'expected a finite number' in said and 'Traceback' not in said
    newest = said.split('last whole checkpoint is ')[1].split(';')[0]
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


def test_another_networks_checkpoint_is_refused(sample_cifar10, tmp_path, capsys):
    import tensorflow.compat.v1 as tf
    folder = tmp_path / 'other' / 'ckpt' / 'step-00000001'
    folder.mkdir(parents=True)
    with tf.Graph().as_default(), tf.Session() as session:
        variable = tf.get_variable('cspdarknet53/classifier/weights', [3, 3])
        session.run(tf.global_variables_initializer())
        tf.train.Saver([variable]).save(session, str(folder / 'model'), write_meta_graph=False)
    files = {name: os.path.getsize(str(folder / name)) for name in os.listdir(str(folder))}
    (folder / 'state.json').write_text(json.dumps({'step': 1, 'files': files}))
    line = failure(capsys, '--data_path=%s' % sample_cifar10, '--output_path=%s' % (tmp_path / 'out'),
                   '--resume=%s' % (tmp_path / 'other'), *TINY)
    assert 'variable' in line and 'checkpoint of this network' in line


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    if subprocess.call(['mount', '-t', 'tmpfs', '-o', 'size=200m', 'tmpfs', str(disk)], stderr=subprocess.DEVNULL):
        pytest.skip('this user may not mount a small disk')
    try:
        code, said = finish([sys.executable, 'train.py', '--synthetic', '--output_path=%s' % (disk / 'run'),
                             '--train_steps=3', '--save_every=1'] + TINY, cwd=FOLDER)
        line, = [line for line in said.splitlines() if '[fail]' in line]
        assert code == 1 and 'found a full disk' in line and 'Traceback' not in said
        assert os.listdir(str(disk / 'run' / 'ckpt' / 'step-00000001'))
        assert weights(disk / 'run' / 'ckpt' / 'step-00000001' / 'model')['global_step'] == 1
    finally:
        subprocess.call(['umount', str(disk)])


def test_no_data_path_says_what_to_give(tmp_path, capsys):
    assert '--data_path' in failure(capsys, '--output_path=%s' % (tmp_path / 'out'))


def test_the_first_line_comes_within_seconds(tmp_path):
    before = time.time()
    process = start([sys.executable, '-u', 'train.py', '--synthetic', '--output_path=%s' % (tmp_path / 'run'),
                     '--train_steps=100000'] + TINY, cwd=FOLDER)
    said = interrupt(process, '[run]', signal.SIGKILL)
    assert '[run]' in said
    assert time.time() - before < 40  # a quiet machine needs about 8
