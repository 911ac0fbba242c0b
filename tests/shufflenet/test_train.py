# SPDX-License-Identifier: Apache-2.0
"""train.py, eval.py and the scripts as a user runs them, with a small network."""
import json
import os
import shutil
import signal
import sys

import numpy as np
import programs
import pytest
from conftest import ROOT
from programs import event, events, finish

FOLDER = os.path.join(ROOT, 'ShufflenetV2_ID0371_For_Tensorflow')
sys.path.insert(0, FOLDER)
import arguments  # noqa: E402
import eval as evaluation  # noqa: E402
import predict  # noqa: E402
import train  # noqa: E402

smoke = pytest.mark.smoke
SCRIPT = os.path.join(FOLDER, 'test', 'train_full_1p.sh')
TINY = ['--batch_size=20', '--save_summary_steps=1', '--lr=0.01', '--warmup_epochs=0']
SHORT = TINY + ['--mode=train_and_evaluate', '--colour_jitter=0.2', '--max_train_steps=4']


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
    published = train.parse_args('--train_batch_size=4 --num_epochs=3 --initial_learning_rate=0.1 --model_dir=o '
                                 '--train_data_dir=d'.split())
    assert (published.batch_size, published.epochs, published.lr, published.output_path, published.data_path) == (
        4, 3, 0.1, os.path.abspath('o'), os.path.abspath('d'))


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
        for mode, images in (('evaluate', []), ('predict', ['a.jpg']), ('export', [])):
            parsed = arguments.parse_args(['--mode=' + mode] + words + images)
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
    code = ('import sys, train, eval, predict, pretrained, arguments, prepare, records, input_pipeline, '
            'create_tfrecords, explore_imagenet; '
            'print([m for m in ("tensorflow", "npu_bridge", "PIL") if m in sys.modules])')
    assert finish([sys.executable, '-c', code], cwd=FOLDER)[1].strip().endswith('[]')
    for script in ('train.py', 'eval.py', 'predict.py', 'create_tfrecords.py', 'data/create_tfrecords.py',
                   'explore_imagenet.py', 'data/explore_imagenet.py'):
        code, said = finish([sys.executable, script, '--help'], cwd=os.path.join(FOLDER, '.'))
        assert code == 0 and '--output' in said, said


# A run and what it leaves

@pytest.fixture(scope='module')
def run(drawn, tmp_path_factory):
    """(exit code, what was shown, run folder, shards) of the script on a terminal: two epochs."""
    folder = tmp_path_factory.mktemp('script')
    model = folder / 'zoo' / 'ShufflenetV2_ID0371_For_Tensorflow'  # a copy: --prepare writes below the model folder
    for package in ('common', 'launcher', 'tools'):
        shutil.copytree(os.path.join(ROOT, package), str(folder / 'zoo' / package))
    shutil.copytree(FOLDER, str(model), ignore=shutil.ignore_patterns('output*', 'prepared'))
    ended, shown = programs.on_terminal(
        ['bash', str(model / 'test' / 'train_full_1p.sh'), '--data_dir=%s' % drawn, '--prepare', '--log_dir=run']
        + SHORT, cwd=str(folder))
    prepared = model / 'data' / 'prepared'
    return ended, shown, folder / 'run', prepared / os.listdir(str(prepared))[0]


@smoke
def test_the_script_shows_and_leaves_what_is_documented(run):
    ended, shown, folder, _ = run
    programs.check_shown(shown, ended)
    assert 'prepared ' in shown and event(shown, 'eval')['images'] == '20'
    assert sorted(event(shown, 'eval')) == ['epoch', 'images', 'loss', 'step', 'top1', 'top1_no_ema', 'top5',
                                            'top5_no_ema']
    programs.check_left(folder, 'ShufflenetV2_ID0371_For_Tensorflow_bs20_1p_acc', 4)
    assert (folder / 'alexnet_training.log').read_text().count('[train]') == 4


@smoke
def test_evaluation_prediction_and_export_agree(run, drawn, tmp_path, here):
    _, shown, output, data = run
    words = ['--data_dir=%s' % data, '--checkpoint_dir=%s' % output]
    expected = event(shown, 'eval')
    names = tmp_path / 'names.json'
    names.write_text(json.dumps({str(n): ['n%08d' % (n + 1), 'name_%d' % n] for n in range(10)}))
    for more in ([], ['--class_names=%s' % names, '--batch_size=7', '--confusion_png=%s' % (
            tmp_path / 'new' / 'confusion.png')]):
        code, said = here(evaluation, *(words + more))
        assert code == 0, said
        for key in ('images', 'top1', 'top5', 'top1_no_ema', 'top5_no_ema'):
            assert event(said, 'eval')[key] == expected[key], (key, said)
    rows = [row.split() for row in said.split('top1\n')[1].splitlines()[:10]]
    assert [row[:2] for row in rows] == [['n%08d' % (n + 1), 'name_%d' % n] for n in range(10)]
    assert sum(int(row[2]) for row in rows) == 20
    right = sum(int(row[2]) * float(row[3]) for row in rows)
    assert right / 20 == pytest.approx(float(expected['top1']), abs=1e-3)
    assert (tmp_path / 'new' / 'confusion.png').read_bytes()[:4] == b'\x89PNG'

    folder = os.path.join(drawn, 'val', 'n00000003')
    empty = tmp_path / 'empty.jpg'
    empty.write_bytes(b'')
    words, found = ['--class_names=%s' % names, folder, str(empty)], []
    for program, more in ((train, ['--mode=predict', '--checkpoint_dir=%s' % output, '--log_dir=%s' % output]),
                          (predict, ['--checkpoint=%s' % output, '--output_path=%s' % (tmp_path / 'predicted')])):
        code, said = here(program, *(more + words))
        assert code == 0 and 'passed over: %s: empty' % empty in said, said
        place = said.split('contact sheet: ')[1].split('\n')[0]
        found.append(json.loads(open(os.path.join(os.path.dirname(place), 'predictions.json')).read()))
        assert open(place, 'rb').read(4) == b'\x89PNG'
    assert found[0]['pictures'] == found[1]['pictures'] and len(found[0]['pictures']) == 2
    assert found[0]['classes'] == ['n%08d name_%d' % (n + 1, n) for n in range(10)] and found[0]['step'] == 4
    assert os.path.dirname(place) == str(tmp_path / 'predicted')

    export = ['--mode=export', '--checkpoint_dir=%s' % output, '--export_dir=%s' % (tmp_path / 'export')]
    code, said = here(evaluation, *export)
    assert code == 0, said
    check_export(tmp_path / 'export', found[0]['pictures'][0])
    code, said = here(predict, '--model=%s' % (tmp_path / 'export'), folder,
                      '--output_path=%s' % (tmp_path / 'exported'))
    assert code == 0, said
    exported = json.loads((tmp_path / 'exported' / 'predictions.json').read_text())
    assert exported['classes'] == ['n%08d' % (n + 1) for n in range(10)]
    for one, other in zip(exported['pictures'], found[0]['pictures']):
        assert [guess['probability'] for guess in one['guesses']] == pytest.approx(
            [guess['probability'] for guess in other['guesses']], abs=2e-6)
    code, said = here(evaluation, *export)
    assert code == 1 and 'expected a new folder' in said and 'Traceback' not in said


def check_export(folder, predicted):
    """Both forms give the probabilities that were predicted; model.json says how to come to them."""
    import tensorflow.compat.v1 as tf
    tf.disable_v2_behavior()
    import input_pipeline
    import model
    import records
    with open(predicted['file'], 'rb') as file:
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
    names = json.loads((folder / 'model.json').read_text())['classes']
    for probabilities, classes in found:
        assert predicted['guesses'][0]['class'].startswith(names[classes[0]] + ' ')
        assert sorted(probabilities[0])[::-1][:5] == pytest.approx(
            [guess['probability'] for guess in predicted['guesses']], abs=1e-5)


def test_four_steps_are_two_a_kill_one_a_sigterm_and_one(run, tmp_path, here, monkeypatch):
    words = programs.script_flags(SCRIPT) + ['--data_dir=%s' % run[3], '--log_dir=%s' % (tmp_path / 'run'),
                                             '--save_checkpoints_steps=2'] + SHORT
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
    code, said = here(train, *(words + ['--label_smoothing=0.2']))
    assert code == 1 and '--label_smoothing: expected 0.1' in event(said, 'fail')['message']
    assert sorted(os.listdir(str(tmp_path / 'run' / 'ckpt'))) == before
    code, said = here(train, *words)
    assert code == 0 and event(said, 'run')['first_step'] == '3', said
    whole, resumed = (programs.weights(folder / 'ckpt' / 'step-00000004' / 'model')
                      for folder in (run[2], tmp_path / 'run'))
    assert sorted(whole) == sorted(resumed) and len(whole) > 70
    for ending in ('Momentum', 'moving_mean', 'ExponentialMovingAverage'):
        assert [name for name in whole if name.endswith(ending)]
    different = [name for name in whole if not np.array_equal(whole[name], resumed[name])]
    assert not different, different[:5]


def test_sigterm_of_a_process_saves(shards, tmp_path):
    process = programs.start([sys.executable, '-u', 'train.py', '--data_dir=%s' % shards, '--max_train_steps=100000',
                              '--log_dir=%s' % (tmp_path / 'run')] + TINY, cwd=FOLDER)
    said = programs.interrupt(process, '[train] step=2', signal.SIGTERM)
    assert process.returncode == 143 and 'Traceback' not in said, said
    saved = int(event(said, 'save')['step'])
    stored = programs.weights(tmp_path / 'run' / 'ckpt' / ('step-%08d' % saved) / 'model')
    assert saved >= 2 and stored['global_step'] == saved


def test_synthetic_without_checkpoints(tmp_path, here):
    code, said = here(train, '--synthetic', '--log_dir=%s' % (tmp_path / 'run'), '--do_checkpoint=False',
                      '--train_px=96', '--mode=train_and_evaluate',
                      *(TINY + ['--max_train_steps=12', '--batch_size=4']))
    assert code == 0 and 'data_wait=0.0' in said and '[done]' in said, said
    assert '[save]' not in said and '[eval]' not in said
    assert not (tmp_path / 'run' / 'ckpt').exists()


# Bad input

def failure(capsys, *words):
    assert train.main(list(words)) == 1
    said = capsys.readouterr().out
    line, = [line for line in said.splitlines() if '[fail]' in line]
    assert 'expected' in line and 'found' in line
    return line


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_checkpoint(shards, tmp_path, here):
    code, said = here(train, '--data_dir=%s' % shards, '--log_dir=%s' % (tmp_path / 'run'), '--max_train_steps=60',
                      '--save_checkpoints_steps=1', *(TINY + ['--lr=1e30', '--batch_size=4']))
    message = event(said, 'fail')['message']
    assert code == 1 and message.startswith('loss at step') and 'expected a finite number' in message
    newest = message.split('last whole checkpoint is ')[1].split(';')[0]
    assert newest == 'none yet' or os.path.exists(newest + '.index')


def test_bad_data_is_one_sentence_and_the_run_folder_stays(shards, drawn, tmp_path, capsys):
    output = '--log_dir=%s' % (tmp_path / 'out')
    data = '--data_dir=%s' % shards
    assert '--num_classes: expected 10' in failure(capsys, data, output, '--num_classes=1000')
    assert 'add --prepare' in failure(capsys, '--data_dir=%s' % drawn, output)
    assert 'no folder' in failure(capsys, '--data_dir=%s' % (tmp_path / 'none'), output)
    assert '--rank_size: expected 1, as RANK_SIZE says; found 8' in failure(capsys, data, output, '--rank_size=8')
    assert 'expected a run folder' in failure(capsys, data, '--mode=evaluate', output)
    assert not (tmp_path / 'out').exists()
    assert 'at most the 40 training images' in failure(capsys, data, output, '--batch_size=41')


def test_damaged_records_are_said_and_stop_the_run_beyond_the_limit(shards, tmp_path, here):
    from tools import report
    shutil.copytree(shards, str(tmp_path / 'data'))
    for split in ('train', 'eval'):
        path = tmp_path / 'data' / (split + '_shards') / 'shard-0000.tfrecords'
        content = bytearray(path.read_bytes())
        content[500] ^= 255
        path.write_bytes(bytes(content))
    words = TINY + ['--data_dir=%s' % (tmp_path / 'data'), '--batch_size=4']
    code, said = here(train, '--log_dir=%s' % (tmp_path / 'run'), '--max_train_steps=10', *words)
    problem, = [fields['message'] for fields in events(said, 'warn') if 'passed over' in fields['message']]
    assert code == 0 and 'shard-0000.tfrecords, record 0: a wrong checksum (1 so far)' in problem

    def told(folder):
        """That the run has failed, in its own record of it and in its report."""
        with open(str(folder / 'metrics.jsonl')) as lines:
            last = [json.loads(line) for line in lines][-1]
        report.write_report(str(folder))
        assert last['event'] == 'fail' and last['message'] in (folder / 'report.md').read_text()
        return last['message']
    code, said = here(train, '--max_bad_records=0', '--log_dir=%s' % (tmp_path / 'strict'), '--max_train_steps=10',
                      *words)
    assert code == 1 and 'train_shards: expected at most 0 damaged records' in told(tmp_path / 'strict')
    shutil.rmtree(str(tmp_path / 'data' / 'train_shards'))
    shutil.copytree(os.path.join(shards, 'train_shards'), str(tmp_path / 'data' / 'train_shards'))
    code, said = here(train, '--max_bad_records=0', '--mode=train_and_evaluate', '--max_train_steps=1',
                      '--log_dir=%s' % (tmp_path / 'eval'), *words)
    assert code == 1 and 'eval_shards: expected at most 0 damaged records' in told(tmp_path / 'eval')
