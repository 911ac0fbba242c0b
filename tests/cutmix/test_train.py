# SPDX-License-Identifier: Apache-2.0
"""train.py and the scripts as a user runs them."""
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

pytest.importorskip('tensorflow', '2.6')
FOLDER = os.path.join(ROOT, 'cutmix_ID2502_for_TensorFlow2.X')
sys.path.insert(0, FOLDER)
import train  # noqa: E402

TINY = ['--batch_size=8', '--log_every=1', '--eval_every=0', '--learning_rate=0.01', '--optimizer=sgd', '--alpha=1',
        '--cutmix_probability=0.5', '--crop_and_flip', '--schedule=cosine', '--warmup_steps=2']


def start(command, **kwargs):
    environment = dict(os.environ, PYTHON=sys.executable)
    for name in ('ASCEND_DEVICE_ID', 'RANK_ID', 'RANK_SIZE', 'PYTHONPATH', 'CALLED_FROM'):
        environment.pop(name, None)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            **kwargs)


def finish(command, **kwargs):
    process = start(command, **kwargs)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def train_command(data, output, *words):
    return [sys.executable, '-u', 'train.py', '--data_path=%s' % data, '--output_path=%s' % output] + TINY + list(words)


def interrupt(process, after, number):
    """Sends a signal once a line of the process holds `after`; returns all it said."""
    said = ''
    for line in process.stdout:
        said += line
        if after in line:
            process.send_signal(number)
            break
    return said + process.communicate(timeout=120)[0]


def state(folder):
    """{name: array} of a checkpoint folder: weights, statistics and the optimizer's variables."""
    import h5py
    found = {}
    with h5py.File(str(folder / 'model.h5'), 'r') as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    with np.load(str(folder / 'model.optimizer.npz')) as stored:
        found.update({name: stored[name] for name in stored.files})
    return found


def lines_of(said, event):
    return [line for line in said.splitlines() if '[%s]' % event in line]


def test_the_documented_defaults():
    parsed = train.parse_args([])
    assert (parsed.epochs, parsed.batch_size, parsed.learning_rate, parsed.optimizer) == (15, 32, 1e-3, 'adam')
    assert parsed.output_path == os.path.join(FOLDER, 'test', 'output', os.environ.get('ASCEND_DEVICE_ID', '0'))
    assert parsed.precision_mode == 'allow_mix_precision' and parsed.augment == 'cutmix'
    assert os.path.isfile(parsed.mixlist_file)


def test_every_documented_flag_is_accepted(tmp_path):
    words = ['--data_dir=%s' % tmp_path, '--epochs=3', '--batch_size=4', '--eval_static=True']
    parsed = train.parse_args(words)
    assert (parsed.data_path, parsed.epochs, parsed.batch_size, parsed.eval_static) == (str(tmp_path), 3, 4, True)
    assert train.parse_args(['--eval_static', 'False']).eval_static is False
    evaluated = train.parse_args(['--mode=evaluate'])
    assert os.path.basename(evaluated.checkpoint_dir) == '0'
    assert evaluated.output_path != evaluated.checkpoint_dir  # a launcher's log must not go into the run


def test_importing_has_no_effect_and_help_needs_no_tensorflow():
    code = 'import sys, train, preview; print([m for m in ("tensorflow", "npu_device", "keras") if m in sys.modules])'
    assert finish([sys.executable, '-c', code], cwd=FOLDER)[1].strip().endswith('[]')
    everything = 'import cutmix, evaluation, input_pipeline, layers, model_files, resnet, train; print("imported")'
    imported = finish([sys.executable, '-c', 'import sys; sys.path.insert(0, ".."); ' + everything], cwd=FOLDER)[1]
    assert imported.strip().endswith('imported')
    code, said = finish([sys.executable, 'train.py', '--help'], cwd=FOLDER)
    assert code == 0 and all(flag in said for flag in ('--data_path', '--eval_static', '--alpha', '--checkpoint_dir'))


@pytest.mark.parametrize('words, said', [
    (['--alpha=0'], "--alpha: found '0', expected a number above 0"), (['--alpha=-1'], '--alpha'),
    (['--cutmix_probability=1.5'], '--cutmix_probability'), (['--augment=mixup'], '--augment'),
    (['--mode=test'], '--mode'), (['--batch_size=0'], '--batch_size'), (['--eval_static=maybe'], '--eval_static'),
    (['--aplha=1'], "did you mean '--alpha'"), (['--checkpoint_dir=x'], '--mode=evaluate'),
    (['--confusion_png=x.png'], '--mode=evaluate')])
def test_a_bad_flag_is_named(capsys, words, said):
    with pytest.raises(SystemExit) as exit:
        train.parse_args(words)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and said in error and error.count('\n') == 1


@pytest.mark.smoke
def test_the_scripts_evaluate_and_draw_what_is_taken_for_what(sample_cifar10, tmp_path):
    script = os.path.join(FOLDER, 'test', 'train_full_1p.sh')
    words = ['--data_path=%s' % sample_cifar10, '--output_path=run']
    assert finish(['bash', script, '--train_steps=2'] + words + TINY, cwd=str(tmp_path))[0] == 0
    code, said = finish(['bash', script, '--mode=evaluate', '--checkpoint_dir=run', '--confusion_png=new/confusion.png',
                         words[0], '--output_path=log'], cwd=str(tmp_path))
    assert code == 0 and len(lines_of(said, 'eval')) == len(lines_of(said, 'done')) == 1, said
    assert (tmp_path / 'new' / 'confusion.png').read_bytes()[:4] == b'\x89PNG'
    rows = [row.split() for row in said.split('top1\n')[1].splitlines()[:10]]
    assert [row[1] for row in rows] == ['10'] * 10 and rows[0][0] == 'disc'
    top1 = float(lines_of(said, 'eval')[0].split(' top1=')[1].split()[0])
    assert sum(float(row[2]) for row in rows) / 10 == pytest.approx(top1)


def test_a_class_is_taken_for_the_one_that_scores_highest(sample_cifar10, tmp_path, capsys, monkeypatch):
    import model_files
    from common import cifar10, confusion
    labels = cifar10.load_cifar10(sample_cifar10).test_labels
    taken_for = np.where(np.arange(len(labels)) == np.flatnonzero(labels == 3)[0], 7, labels)
    scores = np.eye(10, dtype=np.float32)[np.concatenate([taken_for, np.zeros(256 - len(labels), int)])]
    monkeypatch.setattr(model_files, 'find_scores', lambda *words: (lambda images: scores, 'it', 5))
    drawn = []
    monkeypatch.setattr(confusion, 'draw', lambda *words: drawn.extend(words))
    evaluated = evaluation_of(capsys, sample_cifar10, '--confusion_png=%s' % (tmp_path / 'it.png'))
    assert 'step=5 ' in evaluated and ' top1=0.9900 ' in evaluated
    counts = np.eye(10, 11, dtype=int) * 10  # in the last column none
    counts[3, 3], counts[3, 7] = 9, 1
    assert drawn[0].tolist() == counts.tolist() and drawn[2] == str(tmp_path / 'it.png')


def evaluation_of(capsys, data, *words):
    assert train.main(['--mode=evaluate', '--data_path=%s' % data] + list(words)) == 0
    line, = lines_of(capsys.readouterr().out, 'eval')
    return line.split('[eval] ')[1]


@pytest.mark.smoke
def test_the_script_from_anywhere_then_evaluation(sample_cifar10, tmp_path, capsys):
    output = tmp_path / 'run'
    code, said = finish(['bash', os.path.join(FOLDER, 'test', 'train_full_1p.sh'), '--data_path=%s' % sample_cifar10,
                         '--output_path=run', '--train_steps=3'] + TINY, cwd=str(tmp_path))
    assert code == 0, said
    for line in ('Final Performance images/sec : ', 'Final Performance sec/step : ', 'E2E Training Duration sec : ',
                 'Final Train Accuracy : 0.'):
        assert line in said
    case = 'cutmix_ID2502_for_TensorFlow2.X_bs8_1p_acc'
    for name in ('train_0.log', 'metrics.jsonl', 'flags.json', 'ckpt/checkpoint', 'report.md', 'curves.png',
                 case + '.log', 'train_%s_loss.txt' % case, 'export/model.h5', 'export/model.weights.h5',
                 'export/saved_model/saved_model.pb', 'ckpt/step-00000003/model.h5'):
        assert (output / name).exists(), name
    assert len((output / ('train_%s_loss.txt' % case)).read_text().split()) == 3
    assert [name for name in os.listdir(str(output / 'tb')) if 'tfevents' in name]
    top1 = said.split('Final Train Accuracy : ')[1].split()[0]
    in_training, = lines_of(said, 'eval')
    expected = evaluation_of(capsys, sample_cifar10, '--checkpoint_dir=%s' % output)
    assert 'images=100 ' in expected and 'top1=%s ' % top1 in expected and 'top5=' in expected
    assert expected.split('images=')[1] == in_training.split('images=')[1]
    for path in ('ckpt', 'ckpt/step-00000003', 'ckpt/step-00000003/model', 'export/model.h5', 'export/model.weights.h5',
                 'export/saved_model'):
        for static in ('True', 'False'):
            found = evaluation_of(capsys, sample_cifar10, '--checkpoint_dir=%s' % (output / path),
                                  '--eval_static=%s' % static)
            assert found.split('images=')[1] == expected.split('images=')[1], path


def test_the_performance_scripts_run_without_data(tmp_path):
    for name in ('train_performance_1p.sh', 'train_performance_1p_dynamic_eval.sh'):
        output = tmp_path / name
        code, said = finish(['bash', name, '--synthetic', '--output_path=%s' % output, '--train_steps=7',
                             '--batch_size=8'], cwd=os.path.join(FOLDER, 'test'))
        assert code == 0 and 'Final Performance images/sec : ' in said and 'not measured' not in said, said
        assert ('"eval_static": %s' % str('dynamic' not in name).lower()) in (output / 'flags.json').read_text()


@pytest.mark.smoke
def test_four_steps_are_two_and_a_kill_and_two(sample_cifar10, tmp_path):
    code, said = finish(train_command(sample_cifar10, tmp_path / 'whole', '--train_steps=4'), cwd=FOLDER)
    assert code == 0, said
    command = train_command(sample_cifar10, tmp_path / 'killed', '--train_steps=4', '--save_every=2')
    said = interrupt(start(command, cwd=FOLDER), '[save] step=2', signal.SIGKILL)
    assert '[done]' not in said
    code, said = finish(command, cwd=FOLDER)
    assert code == 0 and 'first_step=2' in said, said
    whole = state(tmp_path / 'whole' / 'ckpt' / 'step-00000004')
    resumed = state(tmp_path / 'killed' / 'ckpt' / 'step-00000004')
    assert sorted(whole) == sorted(resumed) and len(whole) > 150
    assert any(name.startswith('arr_') and np.abs(value).max() > 0 and value.ndim == 4 for name, value in whole.items())
    different = [name for name in whole if not np.array_equal(whole[name], resumed[name])]
    assert not different, different[:5]


def test_sigterm_saves_and_the_next_run_continues_or_refuses(sample_cifar10, tmp_path, capsys):
    command = train_command(sample_cifar10, tmp_path / 'run', '--train_steps=100000')
    process = start(command, cwd=FOLDER)
    said = interrupt(process, '[train] step=2', signal.SIGTERM)
    assert process.returncode == 143, said
    saved = int(said.split('[save] step=')[-1].split()[0])
    folder = tmp_path / 'run' / 'ckpt'
    assert saved >= 2 and len(state(folder / ('step-%08d' % saved))) > 150
    before = sorted(os.listdir(str(folder)))
    assert train.main(command[3:-1] + ['--train_steps=6']) == 1  # another length is another schedule
    line, = lines_of(capsys.readouterr().out, 'fail')
    assert '--train_steps: expected 100000' in line and sorted(os.listdir(str(folder))) == before


def failure(capsys, *words):
    assert train.main(list(words)) == 1
    line, = lines_of(capsys.readouterr().out, 'fail')
    assert 'expected' in line and 'found' in line
    return line


def test_bad_data_is_one_sentence(sample_cifar10, tmp_path, capsys):
    output = '--output_path=%s' % (tmp_path / 'out')
    assert '--data_path' in failure(capsys, output)
    assert 'cifar-10-batches-py' in failure(capsys, '--data_path=%s' % (tmp_path / 'none'), output)
    shutil.copytree(sample_cifar10, str(tmp_path / 'cut'))
    batch = tmp_path / 'cut' / 'cifar-10-batches-py' / 'data_batch_3'
    batch.write_bytes(batch.read_bytes()[:1000])
    assert 'data_batch_3' in failure(capsys, '--data_path=%s' % (tmp_path / 'cut'), output)
    batch.unlink()
    for words in ([output], ['--mode=evaluate'], ['--preview=%s' % (tmp_path / 'x.png')]):
        assert 'data_batch_3' in failure(capsys, '--data_path=%s' % (tmp_path / 'cut'), *words)
    assert 'at most the 500 training images' in failure(
        capsys, '--data_path=%s' % sample_cifar10, output, '--batch_size=501')
    (tmp_path / 'file').write_text('x')
    assert str(tmp_path / 'file') in failure(
        capsys, '--data_path=%s' % sample_cifar10, '--output_path=%s' % (tmp_path / 'file' / 'out'))


def test_a_bad_checkpoint_is_one_sentence(sample_cifar10, tmp_path, capsys):
    from tensorflow import keras
    data, output = '--data_path=%s' % sample_cifar10, '--output_path=%s' % (tmp_path / 'out')
    (tmp_path / 'empty').mkdir()
    assert 'no whole checkpoint' in failure(capsys, data, output, '--resume=%s' % (tmp_path / 'empty'))
    for path in (tmp_path / 'empty', tmp_path / 'none.h5'):
        assert str(path) in failure(capsys, data, '--mode=evaluate', '--checkpoint_dir=%s' % path)
    inputs = keras.Input([8])
    other = keras.Model(inputs, keras.layers.Dense(3, name='scores')(inputs))
    other.save(str(tmp_path / 'other.h5'))
    line = failure(capsys, data, '--mode=evaluate', '--checkpoint_dir=%s' % (tmp_path / 'other.h5'))
    assert 'other.h5' in line and 'variable' in line and 'checkpoint of this network' in line
    (tmp_path / 'served').mkdir()
    (tmp_path / 'served' / 'saved_model.pb').write_text('no SavedModel')
    assert 'served' in failure(capsys, data, '--mode=evaluate', '--checkpoint_dir=%s' % (tmp_path / 'served'))


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_checkpoint(sample_cifar10, tmp_path, capsys):
    words = ['--data_path=%s' % sample_cifar10, '--output_path=%s' % (tmp_path / 'run')] + TINY
    line = failure(capsys, *words, '--train_steps=60', '--learning_rate=1e30', '--save_every=1')
    assert 'loss at step' in line and 'finite number' in line
    newest = line.split('last whole checkpoint is ')[1].split(';')[0]
    assert os.path.exists(newest + '.h5')


@pytest.mark.smoke
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    if subprocess.call(['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', str(disk)], stderr=subprocess.DEVNULL):
        pytest.skip('this user may not mount a small disk')
    try:
        code, said = finish([sys.executable, 'train.py', '--synthetic', '--output_path=%s' % (disk / 'run'),
                             '--train_steps=6', '--save_every=1'] + TINY, cwd=FOLDER)
        line, = lines_of(said, 'fail')
        assert code == 1 and 'of free disk space' in line and 'Traceback' not in said
        assert len(state(disk / 'run' / 'ckpt' / 'step-00000001')) > 150
    finally:
        subprocess.call(['umount', str(disk)])


@pytest.mark.parametrize('augment', ['cutmix', 'none'])
def test_the_preview_is_a_picture(sample_cifar10, tmp_path, capsys, augment):
    from matplotlib import image
    picture = tmp_path / 'preview.png'
    assert train.main(['--data_path=%s' % sample_cifar10, '--preview=%s' % picture, '--augment=%s' % augment]) == 0
    assert 'preview: %s' % picture in capsys.readouterr().out
    pixels = image.imread(str(picture))
    assert pixels.shape[0] > 600 and pixels.shape[1] > 1000 and pixels[..., :3].std() > 0.1


def test_the_other_generation_of_keras_trains_and_reads_the_same_files(sample_cifar10, tmp_path, capsys):
    python = os.environ.get('TF26_PYTHON')
    if not python:
        pytest.skip('TF26_PYTHON does not name a Python 3.9 with TensorFlow 2.6')
    output = tmp_path / 'run'
    command = train_command(sample_cifar10, output, '--train_steps=3')
    code, said = finish([python] + command[1:], cwd=FOLDER)
    assert code == 0 and 'tf=2.6' in said and 'step=3' in lines_of(said, 'done')[0], said
    there, = lines_of(said, 'eval')
    for path in ('', 'export/saved_model'):
        here = evaluation_of(capsys, sample_cifar10, '--checkpoint_dir=%s' % (output / path))
        loss = [float(line.split(' loss=')[1].split()[0]) for line in (here, there)]
        assert loss[0] == pytest.approx(loss[1], abs=2e-3), path
    code, said = finish(train_command(sample_cifar10, tmp_path / 'ours', '--train_steps=3'), cwd=FOLDER)
    assert code == 0, said
    code, evaluated = finish([python, 'train.py', '--mode=evaluate', '--data_path=%s' % sample_cifar10,
                              '--checkpoint_dir=%s' % (tmp_path / 'ours')], cwd=FOLDER)
    assert code == 0, evaluated
    loss = [float(lines_of(text, 'eval')[0].split(' loss=')[1].split()[0]) for text in (said, evaluated)]
    assert loss[0] == pytest.approx(loss[1], abs=2e-3)
