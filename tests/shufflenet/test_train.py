# SPDX-License-Identifier: Apache-2.0
"""train.py, eval.py and the scripts as a user runs them."""
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

FOLDER = os.path.join(ROOT, 'ShufflenetV2_ID0371_For_Tensorflow')
sys.path.insert(0, FOLDER)
import arguments  # noqa: E402
import train  # noqa: E402

smoke = pytest.mark.smoke
TINY = ['--num_classes=10', '--batch_size=4', '--save_summary_steps=1', '--lr=0.01', '--warmup_epochs=0']


def start(command, **kwargs):
    environment = dict(os.environ, PYTHON=sys.executable)
    for name in ('ASCEND_DEVICE_ID', 'RANK_ID', 'RANK_SIZE', 'RANK_TABLE_FILE', 'PYTHONPATH'):
        environment.pop(name, None)
    environment.update(kwargs.pop('env', {}))
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            **kwargs)


def finish(command, **kwargs):
    process = start(command, **kwargs)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def train_command(output, *words):
    return [sys.executable, '-u', 'train.py', '--log_dir=%s' % output] + TINY + list(words)


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


@pytest.fixture(scope='session')
def drawn(tmp_path_factory):
    """A folder of drawn JPEGs in ten classes, 40 + 20."""
    from tools import sampledata
    folder = tmp_path_factory.mktemp('drawn') / 'images'
    sampledata.draw_imagenet(str(folder), train=40, test=20)
    return str(folder)


@pytest.fixture(scope='session')
def shards(drawn, tmp_path_factory):
    """The same as train_shards/ and eval_shards/."""
    import create_tfrecords
    import explore_imagenet
    folder = tmp_path_factory.mktemp('shards')
    explore_imagenet.explore(drawn, str(folder / 'tables'))
    for name in ('training', 'validation'):
        create_tfrecords.create(str(folder / 'tables' / (name + '_metadata.csv')), str(folder),
                                str(folder / 'tables' / 'integer_encoding.json'), num_shards=2)
    return str(folder)


# Flags

@smoke
def test_the_rate_rises_then_falls():
    def rates(decay, total=110, warmup_steps=10):
        parsed = train.parse_args(['--lr=0.5', '--decay=' + decay])
        return [train.learning_rate(step, total, warmup_steps, parsed) for step in range(total)]
    linear, cosine = rates('linear'), rates('cosine')
    assert linear[0] == pytest.approx(0.05) and linear[9] == pytest.approx(0.5)
    assert linear[60] == pytest.approx(0.25, abs=1e-5) and linear[109] == pytest.approx(0.005, abs=1e-5)
    assert cosine[60] == pytest.approx(0.25) and cosine[109] < 0.001 and cosine[30] > linear[30]
    assert rates('cosine', 1, 500) == [0.5]  # a run shorter than its warm-up still trains


@smoke
def test_the_documented_defaults():
    parsed = train.parse_args([])
    assert (parsed.batch_size, parsed.epochs, parsed.num_classes, parsed.lr, parsed.warmup_epochs) == (
        128, 133, 1000, 0.06, 5)
    assert (parsed.weight_decay, parsed.momentum, parsed.label_smoothing, parsed.log_every, parsed.save_every) == (
        4e-5, 0.9, 0.1, 100, 1000)
    assert (parsed.mode, parsed.synthetic, parsed.version, parsed.do_checkpoint, parsed.rank_size,
            parsed.iterations_per_loop) == ('train', False, 'he_uniform', True, 1, 10)
    assert parsed.checkpoint_dir is None and parsed.log_name == 'alexnet_training.log' and parsed.train_steps is None
    assert parsed.output_path == os.path.join(FOLDER, 'test', 'output', os.environ.get('ASCEND_DEVICE_ID', '0'))


@smoke
def test_every_documented_flag_is_accepted():
    parsed = train.parse_args(
        '--data_dir=d --num_classes=7 --batch_size=4 --lr=0.1 --max_epochs=3 --warmup_epochs=1 --weight_decay=1e-3 '
        '--momentum=0.8 --label_smoothing=0.2 --save_summary_steps=7 --log_dir=o --log_name=my.log '
        '--save_checkpoints_steps=9 --mode=train_and_evaluate --checkpoint_dir=c --max_train_steps=11 --synthetic=True '
        '--version=he_uniorm --do_checkpoint=False --rank_size=8 --iterations_per_loop=5 '
        '--precision_mode=allow_mix_precision'.split())
    assert (parsed.num_classes, parsed.batch_size, parsed.epochs, parsed.train_steps) == (7, 4, 3, 11)
    assert (parsed.data_path, parsed.output_path, parsed.checkpoint_dir) == tuple(map(os.path.abspath, 'doc'))
    assert (parsed.log_every, parsed.save_every, parsed.log_name, parsed.mode) == (7, 9, 'my.log', 'train_and_evaluate')
    assert (parsed.version, parsed.synthetic, parsed.do_checkpoint, parsed.rank_size) == ('he_uniform', True, False, 8)
    assert train.parse_args(['--data_path=e', '--train-steps=3', '--output_path=p']).train_steps == 3


@pytest.mark.parametrize('words, said', [
    (['--version=zeros'], 'he_uniform, xavier_uniform'), (['--mode=test'], "'train_and_evaluate'"),
    (['--lr=0'], 'above 0'), (['--num_classes=1'], 'at least 2'), (['--log_name=a/b'], '--log_dir'),
    (['--max_epoch=3'], "did you mean '--max_epochs'"), (['--depth_multiplier=3'], "'1.5'")])
def test_a_bad_flag_is_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        train.parse_args(words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count('\n') == 1


def test_evaluating_leaves_the_run_folder_to_the_run(tmp_path, monkeypatch):
    default = os.path.join(FOLDER, 'test', 'output', '7')
    monkeypatch.setenv('ASCEND_DEVICE_ID', '7')
    for words, run_folder in (([], default), (['--log_dir=%s' % (tmp_path / 'run')], str(tmp_path / 'run'))):
        assert arguments.parse_args(words).output_path == run_folder
        for mode in ('evaluate', 'predict', 'export'):
            parsed = arguments.parse_args(['--mode=' + mode] + words)
            assert parsed.checkpoint_dir == run_folder and parsed.export_dir == os.path.join(run_folder, 'export')
            assert parsed.output_path == os.path.join(
                os.path.dirname(run_folder), 'evaluate-' + os.path.basename(run_folder))
    parsed = arguments.parse_args(['--checkpoint_dir=c', '--export_dir=e'], 'evaluate')
    assert (parsed.checkpoint_dir, parsed.export_dir) == (os.path.abspath('c'), os.path.abspath('e'))


@pytest.mark.parametrize('words, mode, said', [
    (['--class_names=missing.json'], 'evaluate', 'found no file'), (['--mode=train'], 'evaluate', "'predict'"),
    (['--class_names=~/missing.json'], 'evaluate', os.path.expanduser('~/missing.json')),
    (['a.jpg'], 'train', "found 'a.jpg'"), (['--mode=export', '--confusion_png=c.png'], 'train', '--mode=evaluate')])
def test_what_is_not_for_a_mode_or_not_there_is_one_line(words, mode, said, capsys):
    with pytest.raises(SystemExit) as end:
        arguments.parse_args(words, mode)
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count('\n') == 1


def test_several_ranks_do_not_evaluate(monkeypatch, capsys):
    monkeypatch.setenv('RANK_SIZE', '8')
    with pytest.raises(SystemExit):
        arguments.parse_args(['--mode=evaluate'])
    assert 'for one card, and RANK_SIZE is 8' in capsys.readouterr().err


@smoke
def test_importing_has_no_effect_and_help_needs_no_tensorflow():
    code = ('import sys, train, eval, arguments, prepare, records, input_pipeline, create_tfrecords, explore_imagenet; '
            'print([m for m in ("tensorflow", "npu_bridge", "PIL") if m in sys.modules])')
    assert finish([sys.executable, '-c', code], cwd=FOLDER)[1].strip().endswith('[]')
    for script in ('train.py', 'eval.py', 'create_tfrecords.py', 'data/create_tfrecords.py', 'explore_imagenet.py',
                   'data/explore_imagenet.py'):
        code, said = finish([sys.executable, script, '--help'], cwd=os.path.join(FOLDER, '.'))
        assert code == 0 and '--output' in said, said


# A run and what it leaves

@smoke
def test_the_script_from_class_folders_to_prediction_and_export(drawn, tmp_path):
    root = tmp_path / 'zoo'  # --prepare writes below the model folder
    root.mkdir()
    folder = root / 'ShufflenetV2_ID0371_For_Tensorflow'
    for package in ('common', 'launcher', 'tools'):
        shutil.copytree(os.path.join(ROOT, package), str(root / package))
    shutil.copytree(FOLDER, str(folder), ignore=shutil.ignore_patterns('output*', 'prepared'))
    output = tmp_path / 'run'
    code, said = finish(['bash', str(folder / 'test' / 'train_full_1p.sh'), '--data_dir=%s' % drawn, '--prepare',
                         '--log_dir=run', '--max_train_steps=3'] + TINY, cwd=str(tmp_path))
    assert code == 0, said
    for line in ('Final Performance images/sec : ', 'Final Performance sec/step : ', 'E2E Training Duration sec : ',
                 'Final Train Accuracy : 0.', 'prepared '):
        assert line in said
    assert 'images=20' in said and 'top1_no_ema=' in said and 'top5=' in said
    case = 'ShufflenetV2_ID0371_For_Tensorflow_bs4_1p_acc'
    for name in ('train_0.log', 'metrics.jsonl', 'flags.json', 'ckpt/checkpoint', 'report.md', 'curves.png',
                 'alexnet_training.log', case + '.log', 'train_%s_loss.txt' % case):
        assert (output / name).exists(), name
    assert (output / 'alexnet_training.log').read_text().count('[train]') == 3
    assert [name for name in os.listdir(str(output / 'tb')) if 'tfevents' in name]
    data = folder / 'data' / 'prepared' / os.listdir(str(folder / 'data' / 'prepared'))[0]

    code, evaluated = finish([sys.executable, 'eval.py', '--data_dir=%s' % data, '--checkpoint_dir=%s' % output],
                             cwd=FOLDER)
    assert code == 0, evaluated
    line, = [line for line in said.splitlines() if '[eval]' in line]
    for key in ('top1', 'top5', 'top1_no_ema', 'top5_no_ema'):
        value = line.split(' %s=' % key)[1].split()[0]
        assert ' %s=%s' % (key, value) in evaluated, (line, evaluated)

    (tmp_path / 'names.json').write_text(json.dumps({str(n): ['n%08d' % (n + 1), 'name_%d' % n] for n in range(10)}))
    code, evaluated = finish([sys.executable, 'eval.py', '--data_dir=%s' % data, '--checkpoint_dir=%s' % output,
                              '--class_names=%s' % (tmp_path / 'names.json'), '--batch_size=7',
                              '--confusion_png=%s' % (tmp_path / 'new' / 'confusion.png')], cwd=FOLDER)
    assert code == 0 and line.split(' loss=')[1].split()[1] in evaluated, evaluated
    rows = [row.split() for row in evaluated.split('top1\n')[1].splitlines()[:10]]
    assert [row[:2] for row in rows] == [['n%08d' % (n + 1), 'name_%d' % n] for n in range(10)]
    images = int(line.split(' images=')[1].split()[0])
    assert sum(int(row[2]) for row in rows) == images
    right = sum(int(row[2]) * float(row[3]) for row in rows)
    assert right / images == pytest.approx(float(line.split(' top1=')[1].split()[0]), abs=1e-3)
    assert (tmp_path / 'new' / 'confusion.png').read_bytes()[:4] == b'\x89PNG'

    image = os.path.join(drawn, 'val', 'n00000003', os.listdir(os.path.join(drawn, 'val', 'n00000003'))[0])
    code, predicted = finish([sys.executable, 'train.py', '--mode=predict', '--checkpoint_dir=%s' % output,
                              '--class_names=%s' % (tmp_path / 'names.json'), image, str(tmp_path / 'none.jpg')],
                             cwd=FOLDER)
    rows = [line.split() for line in predicted.splitlines() if line.startswith('  ')]
    assert code == 1 and 'none.jpg: No such file' in predicted and len(rows) == 5, predicted
    assert all(float(row[0]) <= 1 and row[2] == 'name_%d' % (int(row[1][1:]) - 1) for row in rows)

    code, exported = finish([sys.executable, 'eval.py', '--mode=export', '--checkpoint_dir=%s' % output,
                             '--export_dir=%s' % (tmp_path / 'export')], cwd=FOLDER)
    assert code == 0, exported
    check_export(tmp_path / 'export', image, rows)
    code, again = finish([sys.executable, 'eval.py', '--mode=export', '--checkpoint_dir=%s' % output,
                          '--export_dir=%s' % (tmp_path / 'export')], cwd=FOLDER)
    assert code == 1 and 'expected a new folder' in again and 'Traceback' not in again


def check_export(folder, image, rows):
    """Both forms give the probabilities that predict printed."""
    import tensorflow.compat.v1 as tf
    tf.disable_v2_behavior()
    import input_pipeline
    import model
    import records
    with open(image, 'rb') as file:
        content = file.read()
    with tf.Graph().as_default(), tf.Session() as session:
        pixels = session.run(input_pipeline.decode(tf, tf.constant(content), tf.constant(
            input_pipeline.centre_window(*records.jpeg_size(content)), tf.int32), tf.constant(False)))
    found = []
    with tf.Graph().as_default(), tf.Session() as session:
        loaded = tf.saved_model.loader.load(session, ['serve'], str(folder / 'saved_model'))
        signature = loaded.signature_def['serving_default']
        assert sorted(signature.inputs) == [model.INPUT] and sorted(signature.outputs) == sorted(model.OUTPUTS)
        found.append(session.run([signature.outputs[name].name for name in model.OUTPUTS],
                                 {signature.inputs[model.INPUT].name: np.stack([pixels, pixels])}))
    with tf.Graph().as_default(), tf.Session() as session:
        graph = tf.GraphDef.FromString((folder / 'frozen_graph.pb').read_bytes())
        tf.import_graph_def(graph, name='')
        found.append(session.run([name + ':0' for name in model.OUTPUTS], {model.INPUT + ':0': pixels[None]}))
    for probabilities, classes in found:
        assert 'n%08d' % (classes[0] + 1) == rows[0][1]
        assert sorted(probabilities[0])[::-1][:5] == pytest.approx([float(row[0]) for row in rows], abs=1e-3)


def test_four_steps_are_two_and_a_kill_and_two(shards, tmp_path):
    words = ['--data_dir=%s' % shards, '--max_train_steps=4', '--colour_jitter=0.2']
    code, said = finish(train_command(tmp_path / 'whole', *words), cwd=FOLDER)
    assert code == 0, said
    command = train_command(tmp_path / 'killed', '--save_checkpoints_steps=2', *words)
    said = interrupt(start(command, cwd=FOLDER), '[save] step=2', signal.SIGKILL)
    assert '[done]' not in said
    code, said = finish(command, cwd=FOLDER)
    assert code == 0 and 'first_step=2' in said, said
    whole = weights(tmp_path / 'whole' / 'ckpt' / 'step-00000004' / 'model')
    resumed = weights(tmp_path / 'killed' / 'ckpt' / 'step-00000004' / 'model')
    assert sorted(whole) == sorted(resumed) and len(whole) > 600
    for ending in ('Momentum', 'moving_mean', 'ExponentialMovingAverage'):
        assert [name for name in whole if name.endswith(ending)]
    different = [name for name in whole if not np.array_equal(whole[name], resumed[name])]
    assert not different, different[:5]


def test_sigterm_saves_and_other_flags_do_not_continue_it(shards, tmp_path):
    command = train_command(tmp_path / 'run', '--data_dir=%s' % shards, '--max_train_steps=100000')
    process = start(command, cwd=FOLDER)
    said = interrupt(process, '[train] step=2', signal.SIGTERM)
    assert process.returncode == 143, said
    saved = int(said.split('[save] step=')[-1].split()[0])
    assert saved >= 2 and weights(tmp_path / 'run' / 'ckpt' / ('step-%08d' % saved) / 'model')['global_step'] == saved
    before = sorted(os.listdir(str(tmp_path / 'run' / 'ckpt')))
    assert train.main(command[3:] + ['--label_smoothing=0.2']) == 1
    assert sorted(os.listdir(str(tmp_path / 'run' / 'ckpt'))) == before


def test_synthetic_without_checkpoints(tmp_path, capsys):
    assert train.main(['--synthetic', '--log_dir=%s' % (tmp_path / 'run'), '--max_train_steps=12',
                       '--do_checkpoint=False', '--mode=train_and_evaluate'] + TINY) == 0
    said = capsys.readouterr().out
    assert 'data_wait=0.0' in said and '[done]' in said and '[save]' not in said and '[eval]' not in said
    assert not (tmp_path / 'run' / 'ckpt').exists()


# Bad input

def failure(capsys, *words):
    assert train.main(list(words)) == 1
    said = capsys.readouterr().out
    line, = [line for line in said.splitlines() if '[fail]' in line]
    assert 'expected' in line and 'found' in line
    return line


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_checkpoint(shards, tmp_path, capsys):
    line = failure(capsys, '--data_dir=%s' % shards, '--log_dir=%s' % (tmp_path / 'run'), '--max_train_steps=60',
                   '--save_checkpoints_steps=1', *(TINY + ['--lr=1e30']))
    assert 'loss at step' in line
    newest = line.split('last whole checkpoint is ')[1].split(';')[0]
    assert newest == 'none yet' or os.path.exists(newest + '.index')


def test_bad_data_is_one_sentence_and_the_run_folder_stays(shards, drawn, tmp_path, capsys):
    output = '--log_dir=%s' % (tmp_path / 'out')
    data = '--data_dir=%s' % shards
    assert '--num_classes: expected 10' in failure(capsys, data, output)
    assert 'add --prepare' in failure(capsys, '--data_dir=%s' % drawn, output)
    assert 'no folder' in failure(capsys, '--data_dir=%s' % (tmp_path / 'none'), output)
    assert '--rank_size: expected 1, as RANK_SIZE says; found 8' in failure(capsys, data, output, '--rank_size=8')
    assert 'no whole checkpoint' in failure(capsys, data, '--mode=evaluate', output)
    assert not (tmp_path / 'out').exists()
    assert 'at most the 40 training images' in failure(capsys, data, output, '--num_classes=10', '--batch_size=41')


def test_damaged_records_are_said_and_stop_the_run_beyond_the_limit(shards, tmp_path, capsys):
    shutil.copytree(shards, str(tmp_path / 'data'))
    for split in ('train', 'eval'):
        path = tmp_path / 'data' / (split + '_shards') / 'shard-0000.tfrecords'
        content = bytearray(path.read_bytes())
        content[500] ^= 255
        path.write_bytes(bytes(content))
    words = ['--data_dir=%s' % (tmp_path / 'data'), '--max_train_steps=10'] + TINY
    assert train.main(words + ['--log_dir=%s' % (tmp_path / 'run')]) == 0
    said = capsys.readouterr().out
    assert said.count('[warn]') == 1 and 'shard-0000.tfrecords, record 0: a wrong checksum (1 so far)' in said
    line = failure(capsys, '--max_bad_records=0', '--log_dir=%s' % (tmp_path / 'strict'), *words)
    assert 'train_shards: expected at most 0 damaged records' in line
    shutil.rmtree(str(tmp_path / 'data' / 'train_shards'))
    shutil.copytree(os.path.join(shards, 'train_shards'), str(tmp_path / 'data' / 'train_shards'))
    line = failure(capsys, '--max_bad_records=0', '--mode=train_and_evaluate', '--max_train_steps=1',
                   '--log_dir=%s' % (tmp_path / 'eval'), *words[:1] + TINY)
    assert 'eval_shards: expected at most 0 damaged records' in line
