# SPDX-License-Identifier: Apache-2.0
"""train.py and the scripts as a user runs them, with a small network."""
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import programs
import pytest
from conftest import ROOT
from programs import event, events, finish

pytest.importorskip('tensorflow', '2.6')
FOLDER = os.path.join(ROOT, 'cutmix_ID2502_for_TensorFlow2.X')
sys.path.insert(0, FOLDER)
import train  # noqa: E402

SCRIPT = os.path.join(FOLDER, 'test', 'train_full_1p.sh')
TINY = ['--batch_size=16', '--log_every=1', '--eval_every=1', '--learning_rate=0.01', '--optimizer=sgd', '--alpha=1',
        '--cutmix_probability=0.5', '--crop_and_flip', '--schedule=cosine', '--warmup_steps=2']
SHORT = TINY + ['--train_steps=4']


@pytest.fixture(scope='module')
def run(few_cifar10, tmp_path_factory):
    """(exit code, what was shown, run folder) of the script on a terminal, called from elsewhere: two epochs."""
    folder = tmp_path_factory.mktemp('script')
    ended, shown = programs.on_terminal(['bash', SCRIPT, '--data_path=%s' % few_cifar10, '--output_path=run'] + SHORT,
                                        cwd=str(folder))
    return ended, shown, folder / 'run'


def state(folder):
    """{name: array} of a checkpoint folder: weights, statistics and the optimizer's variables."""
    found = of_h5(folder / 'model.h5')
    with np.load(str(folder / 'model.optimizer.npz')) as stored:
        found.update({name: stored[name] for name in stored.files})
    return found


def of_h5(path):
    """{name: array} of an hdf5 file."""
    import h5py
    found = {}
    with h5py.File(str(path), 'r') as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


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
    assert [train.parse_args([word]).augment for word in ('--augment=True', '--augment=False', '--no_augment')] == [
        'cutmix', 'none', 'none']
    evaluated = train.parse_args(['--mode=evaluate'])
    assert os.path.basename(evaluated.checkpoint_dir) == '0'
    assert evaluated.output_path != evaluated.checkpoint_dir  # a launcher's log must not go into the run


def test_importing_has_no_effect_and_help_needs_no_tensorflow():
    code = ('import sys, train, predict, export_model; '
            'print([name for name in ("tensorflow", "npu_device", "keras") if name in sys.modules])')
    assert finish([sys.executable, '-c', code], cwd=FOLDER)[1].strip().endswith('[]')
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
def test_the_script_shows_and_leaves_what_is_documented(run):
    ended, shown, folder = run
    programs.check_shown(shown, ended)
    programs.check_left(folder, 'cutmix_ID2502_for_TensorFlow2.X_bs16_1p_acc', 4)
    for name in ('export/model.h5', 'export/model.weights.h5', 'export/saved_model/saved_model.pb',
                 'ckpt/step-00000004/model.h5'):
        assert (folder / name).exists(), name


def test_the_script_evaluates_and_draws_what_is_taken_for_what(run, few_cifar10, tmp_path):
    code, said = finish(['bash', SCRIPT, '--mode=evaluate',
                         '--checkpoint_dir=%s' % run[2], '--confusion_png=new/confusion.png',
                         '--data_path=%s' % few_cifar10, '--output_path=log'], cwd=str(tmp_path))
    assert code == 0 and len(events(said, 'eval')) == len(events(said, 'done')) == 1, said
    assert (tmp_path / 'new' / 'confusion.png').read_bytes()[:4] == b'\x89PNG'
    rows = [row.split() for row in said.split('top1\n')[1].splitlines()[:10]]
    assert [row[1] for row in rows] == ['10'] * 10 and rows[0][0] == 'disc'
    assert sum(float(row[2]) for row in rows) / 10 == pytest.approx(float(event(said, 'eval')['top1']))


def test_a_class_is_taken_for_the_one_that_scores_highest(few_cifar10, tmp_path, here, monkeypatch):
    import model_files
    from common import cifar10, confusion
    labels = cifar10.load_cifar10(few_cifar10).test_labels
    taken_for = np.where(np.arange(len(labels)) == np.flatnonzero(labels == 3)[0], 7, labels)
    scores = np.eye(10, dtype=np.float32)[np.concatenate([taken_for, np.zeros(256 - len(labels), int)])]
    monkeypatch.setattr(model_files, 'find_scores', lambda *words: lambda images: scores)
    monkeypatch.setattr(model_files, 'find_file', lambda path: ('it', {'step': 5}))
    drawn = []
    monkeypatch.setattr(confusion, 'draw', lambda *words: drawn.extend(words))
    evaluated = evaluation_of(here, few_cifar10, '--confusion_png=%s' % (tmp_path / 'it.png'))
    assert evaluated['step'] == '5' and evaluated['top1'] == '0.9900'
    counts = np.eye(10, 11, dtype=int) * 10  # in the last column none
    counts[3, 3], counts[3, 7] = 9, 1
    assert drawn[0].tolist() == counts.tolist() and drawn[2] == str(tmp_path / 'it.png')


def evaluation_of(here, data, *words):
    """Fields of the [eval] line."""
    code, said = here(train, '--mode=evaluate', '--data_path=%s' % data, *words)
    assert code == 0, said
    return event(said, 'eval')


@pytest.mark.smoke
def test_every_file_that_a_run_leaves_evaluates_as_in_training(run, few_cifar10, here):
    _, shown, folder = run
    expected = {name: value for name, value in event(shown, 'eval').items() if name not in ('step', 'epoch')}
    assert sorted(expected) == ['images', 'loss', 'top1', 'top5'] and expected['images'] == '100'
    assert shown.split('Final Train Accuracy : ')[1].split()[0] == expected['top1']
    for path, static in (('', 'True'), ('ckpt', 'False'), ('ckpt/step-00000004', 'True'),
                         ('ckpt/step-00000004/model', 'False'), ('export/model.h5', 'True'),
                         ('export/model.weights.h5', 'False'), ('export/saved_model', 'True'),
                         ('export/saved_model', 'False')):
        found = evaluation_of(here, few_cifar10, '--checkpoint_dir=%s' % (folder / path), '--eval_static=' + static)
        assert {name: found[name] for name in expected} == expected, path


def test_the_performance_scripts_run_without_data_and_evaluate_in_both_forms(tmp_path):
    code, said = finish(['bash', 'train_performance_1p_dynamic_eval.sh', '--synthetic', '--train_steps=7',
                         '--output_path=%s' % tmp_path, '--batch_size=8'], cwd=os.path.join(FOLDER, 'test'))
    assert code == 0 and 'Final Performance images/sec : ' in said and 'not measured' not in said, said
    assert '"eval_static": false' in (tmp_path / 'flags.json').read_text()
    for name in ('train_performance_1p.sh', 'train_performance_1p_static_eval.sh'):
        assert train.parse_args(programs.script_flags(os.path.join(FOLDER, 'test', name))).eval_static is True


@pytest.mark.smoke
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
    whole, resumed = (state(folder / 'ckpt' / 'step-00000004') for folder in (run[2], tmp_path / 'run'))
    assert sorted(whole) == sorted(resumed) and len(whole) > 40
    assert any(name.startswith('arr_') and np.abs(value).max() > 0 and value.ndim == 4 for name, value in whole.items())
    different = [name for name in whole if not np.array_equal(whole[name], resumed[name])]
    assert not different, different[:5]


@pytest.mark.smoke
def test_averages_are_judged_and_used_and_come_back_after_a_stop(few_cifar10, tmp_path, here, monkeypatch):
    words = ['--data_path=%s' % few_cifar10, '--train_steps=12', '--ema_decay=0.9', '--norm_momentum=0.8',
             '--label_smoothing=0.1', '--flip=alternating', '--crop=reflect', '--tta'] + TINY
    code, said = here(train, '--output_path=%s' % (tmp_path / 'whole'), *words)
    done = event(said, 'done')
    assert code == 0 and {'top1', 'top1_no_ema', 'top1_tta'} <= set(done) & set(event(said, 'eval')), said
    assert event(said, 'run')['flip'] == 'alternating'

    with programs.asked_to_stop(train, monkeypatch, 7):
        assert here(train, '--output_path=%s' % (tmp_path / 'stopped'), *words)[0] == 143
    code, said = here(train, '--output_path=%s' % (tmp_path / 'stopped'), *words)
    assert code == 0 and event(said, 'run')['first_step'] == '7', said
    assert event(said, 'done')['checksum'] == done['checksum']
    saved = state(tmp_path / 'whole' / 'ckpt' / 'step-00000012')
    exported = of_h5(tmp_path / 'stopped' / 'export' / 'model.h5')
    assert len(exported) > 20 and all(np.array_equal(saved[name], value) for name, value in exported.items())
    evaluated = evaluation_of(here, few_cifar10, '--checkpoint_dir=%s' % (tmp_path / 'stopped'), '--tta')
    assert {key: evaluated[key] for key in ('loss', 'top1', 'top1_tta')}.items() <= event(said, 'eval').items()


def test_the_end_of_a_run_mixes_no_images(few_cifar10, tmp_path, here):
    words = SHORT + ['--data_path=%s' % few_cifar10, '--learning_rate=1e-12', '--weight_decay=0',
                     '--cutmix_probability=1']
    losses = {}
    for name, more in (('mixed', []), ('clean', ['--augment=none']), ('half', ['--clean_share=0.5'])):
        code, said = here(train, '--output_path=%s' % (tmp_path / name), *(words + more))
        losses[name] = [fields['loss'] for fields in events(said, 'train')]
        assert code == 0, said
    assert losses['half'] == losses['mixed'][:2] + losses['clean'][2:]
    assert all(mixed != clean for mixed, clean in zip(losses['mixed'], losses['clean']))


def test_a_share_of_the_training_images_can_be_what_is_judged_by(few_cifar10):
    data = train.load_data(train.parse_args(['--data_path=%s' % few_cifar10, '--hold_out=0.25']))
    assert len(data.train_labels) + len(data.test_labels) == 40 and 8 <= len(data.test_labels) <= 12


def test_sigterm_of_a_process_saves(tmp_path):
    process = programs.start([sys.executable, '-u', 'train.py', '--synthetic', '--output_path=%s' % (tmp_path / 'run'),
                              '--train_steps=100000'] + TINY, cwd=FOLDER)
    said = programs.interrupt(process, '[train] step=2', signal.SIGTERM)
    assert process.returncode == 143 and 'Traceback' not in said, said
    saved = int(event(said, 'save')['step'])
    assert saved >= 2 and len(state(tmp_path / 'run' / 'ckpt' / ('step-%08d' % saved))) > 40


def failure(capsys, *words):
    assert train.main(list(words)) == 1
    message = event(capsys.readouterr().out, 'fail')['message']
    assert 'expected' in message and 'found' in message
    return message


def test_bad_data_is_one_sentence(few_cifar10, tmp_path, capsys):
    output = '--output_path=%s' % (tmp_path / 'out')
    assert '--data_path' in failure(capsys, output)
    assert 'cifar-10-batches-py' in failure(capsys, '--data_path=%s' % (tmp_path / 'none'), output)
    shutil.copytree(few_cifar10, str(tmp_path / 'cut'))
    batch = tmp_path / 'cut' / 'cifar-10-batches-py' / 'data_batch_3'
    batch.write_bytes(batch.read_bytes()[:1000])
    assert 'data_batch_3' in failure(capsys, '--data_path=%s' % (tmp_path / 'cut'), output)
    batch.unlink()
    for words in ([output], ['--preview=%s' % (tmp_path / 'x.png')]):
        assert 'data_batch_3' in failure(capsys, '--data_path=%s' % (tmp_path / 'cut'), *words)
    assert 'at most the 40 training images' in failure(
        capsys, '--data_path=%s' % few_cifar10, output, '--batch_size=41')
    (tmp_path / 'file').write_text('x')
    assert str(tmp_path / 'file') in failure(
        capsys, '--data_path=%s' % few_cifar10, '--output_path=%s' % (tmp_path / 'file' / 'out'))


def test_a_bad_checkpoint_is_one_sentence(few_cifar10, tmp_path, capsys, monkeypatch):
    from tensorflow import keras
    data, output = '--data_path=%s' % few_cifar10, '--output_path=%s' % (tmp_path / 'out')
    with monkeypatch.context() as early:
        early.setitem(sys.modules, 'common.runtime', None)  # which imports TensorFlow
        assert 'found no such file or folder' in failure(capsys, data, '--mode=evaluate',
                                                         '--checkpoint_dir=%s' % (tmp_path / 'none'))
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


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_checkpoint(few_cifar10, tmp_path, here):
    code, said = here(train, '--data_path=%s' % few_cifar10, '--output_path=%s' % (tmp_path / 'run'),
                      '--save_every=1', *(TINY + ['--train_steps=60', '--learning_rate=1e30']))
    message = event(said, 'fail')['message']
    assert code == 1 and message.startswith('loss at step') and 'expected a finite number' in message
    newest = message.split('last whole checkpoint is ')[1].split(';')[0]
    assert os.path.exists(newest + '.h5')


@pytest.mark.smoke
def test_a_full_disk_keeps_the_last_checkpoint(run, tmp_path, here):
    disk = tmp_path / 'disk'
    disk.mkdir()
    checkpoint = run[2] / 'ckpt' / 'step-00000004'
    size = sum(os.path.getsize(str(checkpoint / name)) for name in os.listdir(str(checkpoint)))
    if subprocess.call(['mount', '-t', 'tmpfs', '-o', 'size=%d' % (1e6 + 2.2 * size), 'tmpfs', str(disk)],
                       stderr=subprocess.DEVNULL):
        pytest.skip('this user may not mount a small disk')
    try:
        code, said = here(train, '--synthetic', '--output_path=%s' % (disk / 'run'), '--save_every=1',
                          *(TINY + ['--train_steps=6']))
        assert code == 1 and 'of free disk space' in event(said, 'fail')['message'] and 'Traceback' not in said, said
        assert len(state(disk / 'run' / 'ckpt' / 'step-00000001')) > 40
    finally:
        subprocess.call(['umount', '--lazy', str(disk)])  # TensorBoard's file stays open


@pytest.mark.parametrize('augment', ['cutmix', 'none'])
def test_the_preview_is_a_picture(few_cifar10, tmp_path, capsys, augment):
    from matplotlib import image
    picture = tmp_path / 'preview.png'
    assert train.main(['--data_path=%s' % few_cifar10, '--preview=%s' % picture, '--augment=%s' % augment]) == 0
    assert 'preview: %s' % picture in capsys.readouterr().out
    pixels = image.imread(str(picture))
    assert pixels.shape[0] > 400 and pixels.shape[1] > 1000 and pixels[..., :3].std() > 0.1


def test_the_other_generation_of_keras_trains_and_reads_the_same_files(run, few_cifar10, tmp_path, here):
    python = os.environ.get('TF26_PYTHON')
    if not python:
        pytest.skip('TF26_PYTHON does not name a Python 3.9 with TensorFlow 2.6')
    data, output = '--data_path=%s' % few_cifar10, tmp_path / 'run'
    code, said = finish([python, 'train.py', data, '--output_path=%s' % output] + SHORT, cwd=FOLDER)
    assert code == 0 and event(said, 'run')['tf'].startswith('2.6') and event(said, 'done')['step'] == '4', said
    there = float(event(said, 'eval')['loss'])
    for path in ('', 'export/saved_model'):
        found = evaluation_of(here, few_cifar10, '--checkpoint_dir=%s' % (output / path))
        assert float(found['loss']) == pytest.approx(there, abs=2e-3), path
    code, said = finish([python, 'train.py', '--mode=evaluate', data, '--checkpoint_dir=%s' % run[2]], cwd=FOLDER)
    assert code == 0, said
    assert float(event(said, 'eval')['loss']) == pytest.approx(float(event(run[1], 'eval')['loss']), abs=2e-3)
