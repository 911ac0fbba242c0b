# SPDX-License-Identifier: Apache-2.0
"""train.py, infer.py, export_model.py, detect.py and the scripts as a user runs them, with a small network."""
import csv
import glob
import importlib.util
import json
import os
import shlex
import shutil
import signal
import sys

import numpy as np
import programs
import pytest
import small_networks
from conftest import ROOT
from programs import event, events, finish

FOLDER = os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow')
sys.path.insert(0, FOLDER)
import detect  # noqa: E402
import export_model  # noqa: E402
import infer  # noqa: E402
import predict  # noqa: E402
import train  # noqa: E402

smoke = pytest.mark.smoke
SCRIPT = os.path.join(FOLDER, 'test', 'train_full_1p.sh')
TINY = ['--preset=tiny', '--batch_size=4', '--log_every=1', '--num_workers=1']
SHORT = TINY + ['--batch_size=5', '--eval_every=1', '--train_steps=4', '--lr-values=0.0005', '--lr-boundaries=']


def words_of(data, output, *words):
    """Flags for train.py in this process, which makes its batches itself."""
    return ['--data_path=%s' % data, '--output_path=%s' % output] + TINY + ['--num_workers=0'] + list(words)


def processed(tree, folder):
    import process_dataset
    return process_dataset.process(str(tree), str(folder))


@pytest.fixture(scope='session')
def tree(tmp_path_factory):
    """A folder with a drawn VOCdevkit, 10 + 11 images."""
    from tools import sampledata
    folder = tmp_path_factory.mktemp('drawn') / 'voc'
    sampledata.draw_voc(str(folder), train=10, test=11)
    return str(folder)


@pytest.fixture(scope='session')
def data(tree, tmp_path_factory):
    """The same, processed."""
    return processed(tree, tmp_path_factory.mktemp('processed') / 'voc')


@pytest.fixture(scope='module')
def run(tree, tmp_path_factory):
    """(exit code, what was shown, run folder) of the script on a terminal, called from elsewhere: two epochs."""
    folder = tmp_path_factory.mktemp('script')
    model = folder / 'zoo' / 'SSD-VGG_ID1619_for_TensorFlow'  # a copy: a tree is processed below the model folder
    for package in ('common', 'launcher', 'tools'):
        shutil.copytree(os.path.join(ROOT, package), str(folder / 'zoo' / package))
    shutil.copytree(FOLDER, str(model), ignore=shutil.ignore_patterns('output*', 'data'))
    ended, shown = programs.on_terminal(['bash', str(model / 'test' / 'train_full_1p.sh'), '--data_path=%s' % tree,
                                         '--output_path=run'] + SHORT, cwd=str(folder))
    return ended, shown, folder / 'run'


# Flags

@smoke
def test_the_documented_defaults():
    parsed = train.parse_args([])
    assert (parsed.name, parsed.epochs, parsed.batch_size, parsed.save_every) == ('ckpt', 200, 8, 200)
    assert (parsed.lr_values, parsed.lr_boundaries) == ([0.00075, 0.0001, 0.00001], [320000, 400000])
    assert (parsed.momentum, parsed.weight_decay, parsed.resume, parsed.num_workers) == (0.9, 0.0005, 'auto', None)
    assert (parsed.precision_mode, parsed.over_dump, parsed.data_dump_flag, parsed.data_dump_step, parsed.profiling,
            parsed.data_dump_path) == ('allow_fp32_to_fp16', False, False, '10', False, '/home/HwHiAiUser')
    assert (parsed.preset, parsed.optimizer, parsed.schedule, parsed.warmup_steps, parsed.augment) == (
        'vgg300', 'momentum', 'steps', 0, True)
    assert parsed.output_path == os.path.join(FOLDER, 'test', 'output', os.environ.get('ASCEND_DEVICE_ID', '0'))


@smoke
def test_every_documented_flag_is_accepted(tmp_path):
    parsed = train.parse_args(
        ('--data_path=d --name=mine --epochs=3 --batch-size=4 --checkpoint-interval=7 --lr-values=0.1;0.01 '
         '--lr-boundaries=5 --momentum=0.8 --weight-decay=1e-3 --continue-training=True --num-workers=2 '
         '--precision_mode=allow_mix_precision --over_dump=True --data_dump=True --data_dump_step=5 --profiling=True '
         '--dump_path=%s' % tmp_path).split())
    assert (parsed.name, parsed.epochs, parsed.batch_size, parsed.save_every) == ('mine', 3, 4, 7)
    assert (parsed.lr_values, parsed.lr_boundaries) == ([0.1, 0.01], [5])
    assert (parsed.momentum, parsed.weight_decay) == (0.8, 1e-3)
    assert (parsed.resume, parsed.num_workers, parsed.over_dump, parsed.data_dump_flag) == ('True', 2, True, True)
    assert (parsed.data_dump_step, parsed.profiling, parsed.data_dump_path) == ('5', True, str(tmp_path))
    assert train.parse_args(['--continue_training=False', '--data_dump_flag=True']).resume == 'auto'
    assert train.parse_args(['--continue-training']).resume == 'True'
    assert train.parse_args(['--save_every=9', '--no_augment']).save_every == 9
    for words in (['--name=/x/0/mine'], ['--name=/x/0/mine', '--output_path=/x/0']):  # the latter by the launcher
        assert (train.parse_args(words).output_path, train.parse_args(words).name) == ('/x/0', 'mine')
    assert train.parse_args(['--tensorboard-dir=/tb']).SUMMARY == '/tb'


def test_vgg_that_lies_in_the_data_is_where_training_starts(tmp_path):
    data = '--data_path=%s' % tmp_path
    assert train.parse_args([data]).vgg_dir is None
    for name in ('vgg', 'vgg_graph'):  # the published name wins
        (tmp_path / name).mkdir()
        assert train.parse_args([data]).vgg_dir == str(tmp_path / name)
    assert train.parse_args([data, '--vgg-dir=/v']).vgg_dir == '/v'
    assert train.parse_args([data, '--synthetic']).vgg_dir is None


@pytest.mark.parametrize('words, said', [
    (['--norm=batch', '--batch_size=1'], 'expected at least 2 with --norm=batch'),
    (['--lr-values=0.1;0.01'], 'found 2 rates for 2 boundaries'), (['--lr-values=0.1;x;0.01'], "found 'x'"),
    (['--lr-boundaries=400000;320000'], 'found 400000;320000, expected rising'),
    (['--lr-boundaries=0;5'], "found '0'"), (['--name=a/..'], 'the name or the path'),
    (['--name=/a/b', '--output_path=/c'], '--output_path=/c'), (['--momentum=1'], 'below 1'),
    (['--preset=vgg400'], "'vgg300'"), (['--continue-training=maybe'], 'True or False'),
    (['--batchsize=8'], "did you mean '--batch_size'"), (['--optimizer=sgd'], "'momentum'")])
def test_a_bad_flag_is_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        train.parse_args(words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count('\n') == 1


@smoke
def test_importing_has_no_effect_and_help_needs_no_tensorflow():
    code = ('import sys, train, infer, export_model, detect, predict, weights, process_dataset, data_queue; '
            'print([m for m in ("tensorflow", "npu_bridge", "h5py") if m in sys.modules])')
    assert finish([sys.executable, '-c', code], cwd=FOLDER)[1].strip().endswith('[]')
    for script in ('train.py', 'infer.py', 'export_model.py', 'detect.py', 'predict.py', 'process_dataset.py'):
        code, said = finish([sys.executable, script, '--help'], cwd=FOLDER)
        assert code == 0 and 'usage: ' + script in said, said


@smoke
def test_the_rate():
    def rates(words, steps, total=100):
        parsed = train.parse_args(words.split())
        return [train.learning_rate(step, total, parsed.warmup_steps, parsed) for step in steps]
    assert rates('--lr-values=0.3;0.2;0.1 --lr-boundaries=10;20', [0, 9, 10, 19, 20]) == [0.3, 0.3, 0.2, 0.2, 0.1]
    assert rates('', [319999, 320000, 400000]) == [0.00075, 0.0001, 0.00001]
    warmed = rates('--warmup_steps=4 --lr-values=0.4 --lr-boundaries=', [0, 1, 3, 4])
    assert warmed == pytest.approx([0.1, 0.2, 0.4, 0.4])
    cosine = rates('--schedule=cosine --warmup_steps=10 --lr-values=0.4 --lr-boundaries=', [9, 10, 55, 99], 100)
    assert cosine[:3] == pytest.approx([0.4, 0.4, 0.2]) and 0 < cosine[3] < 0.001
    assert rates('--warmup_steps=500 --lr-values=0.4 --lr-boundaries=', [0], 1) == [0.4]  # a short run trains, too


def test_workers_follow_the_cores_that_a_rank_has(monkeypatch):
    monkeypatch.setattr(os, 'cpu_count', lambda: 16)
    for mine, ranks, wanted in ((16, 1, 16), (16, 4, 4), (2, 8, 2), (16, 32, 1)):
        monkeypatch.setattr(os, 'sched_getaffinity', lambda _, mine=mine: set(range(mine)), raising=False)
        assert train.num_workers(train.parse_args([]), ranks) == wanted
    assert train.num_workers(train.parse_args(['--num-workers=0']), 1) == 0


# A run and what it leaves

@smoke
def test_the_script_shows_and_leaves_what_is_documented(run, tree):
    ended, shown, folder = run
    programs.check_shown(shown, ended)
    assert 'learns from scratch' in shown
    assert shown.split('Final Train Accuracy : ')[1].split()[0] == '%.4f' % float(event(shown, 'eval')['map'])
    programs.check_left(folder, 'SSD-VGG_ID1619_for_TensorFlow_bs5_1p_acc', 4)
    assert os.listdir(str(folder / '..' / 'zoo' / 'SSD-VGG_ID1619_for_TensorFlow' / 'data' / 'prepared'))
    assert sorted(os.listdir(tree)) == ['.whole.json', 'VOCdevkit']
    stored = programs.weights(folder / 'ckpt' / 'step-00000004' / 'model')
    assert int(event(shown, 'run')['parameters']) == sum(
        value.size for name, value in stored.items() if not name.endswith(('Momentum', 'step')))


@smoke
@pytest.mark.parametrize('asked', ['training', 'float32'])
def test_evaluations_before_the_last_take_the_precision_that_is_asked_for(data, tmp_path, here, asked):
    code, said = here(train, *words_of(data, tmp_path / 'run', '--precision_mode=allow_mix_precision', '--epochs=2',
                                       '--batch_size=5', '--eval_every=1', '--eval_precision=' + asked))
    assert code == 0, said
    of_training = event(said, 'run')['compute_dtype']
    assert [fields['precision'] for fields in events(said, 'eval')] == [
        of_training if asked == 'training' else asked, 'float32']


@smoke
def test_from_a_checkpoint_to_figures_export_and_detections(data, run, tmp_path, here):
    _, shown, folder = run
    wanted = event(shown, 'eval')
    described = json.load(open(os.path.join(data, 'dataset.json')))
    counts = described['splits']['valid']['per_class']
    assert wanted['images'] == '11' and wanted['confidence'] == '0.01' and wanted['set'] == 'valid'
    assert wanted['precision'] == 'float32'
    assert int(wanted['objects']) == sum(counts['objects']) - sum(counts['difficult'])
    assert event(shown, 'train')['confidence_loss'] and event(shown, 'train')['localisation_loss']
    assert event(shown, 'done')['map'] == wanted['map'] and int(event(shown, 'done')['peak_rss_mb']) > 0

    # 3 divides 11 as little as 8 does: every image counts once, whatever the last batch is filled up with.
    code, found = here(infer, '--checkpoint=%s' % folder, '--data_path=%s' % data, '--batch_size=3',
                      '--pictures=2', '--confidence=0.01', '--output_path=%s' % (tmp_path / 'infer'),
                      *['--coco'] * bool(importlib.util.find_spec('pycocotools')))
    assert code == 0, found
    again = event(found, 'eval')
    for key in ('step', 'images', 'objects'):
        assert again[key] == wanted[key]
    for key in ('map', 'map_area'):
        assert float(again[key]) == pytest.approx(float(wanted[key]), abs=1e-4)
    assert 'AP (11-point)' in found and 'yellow triangle' in found
    files = glob.glob(str(tmp_path / 'infer' / 'comp4_det_test_*.txt'))
    assert len(files) == 5
    lines = [[os.path.basename(path)[len('comp4_det_test_'):-len('.txt')]] + line.split()
             for path in files for line in open(path)]
    assert lines and len({line[1] for line in lines}) <= 11 and all(float(line[2]) > 0.01 for line in lines)
    with open(str(tmp_path / 'infer' / 'images.csv'), newline='') as file:
        rows = list(csv.DictReader(file))
    wrong = [int(row['false']) + int(row['missed']) for row in rows]
    assert len({row['image'] for row in rows}) == 11 and wrong == sorted(wrong, reverse=True)
    assert sum(int(row['correct']) + int(row['missed']) for row in rows) == int(wanted['objects'])
    assert sum(int(row['correct']) + int(row['false']) for row in rows) == len(lines)
    assert sorted(os.listdir(str(tmp_path / 'infer' / 'pictures'))) == ['.whole.json'] + [
        '%04d-%s.jpg' % (place, rows[place - 1]['image']) for place in (1, 2)]
    assert (tmp_path / 'infer' / 'precision_recall.png').exists()
    if importlib.util.find_spec('pycocotools'):
        assert 'AP (COCO)' in found and 0 <= float(again['coco_ap']) <= float(again['coco_ap_50'])
    code, few = here(infer, '--checkpoint=%s' % folder, '--best', '--data_path=%s' % data, '--eval_set=train',
                     '--eval_images=3', '--output_path=%s' % (tmp_path / 'few'))
    best = json.loads((folder / 'ckpt' / 'best.json').read_text())
    assert best['checkpoint'] == 'step-%08d' % int(event(few, 'eval')['step'])
    assert '%.4f' % best['metric'] == max(fields['map'] for fields in events(shown, 'eval'))
    assert code == 0 and event(few, 'eval')['images'] == '3' and event(few, 'eval')['set'] == 'train', few

    code, exported = here(export_model, '--checkpoint=%s' % folder, '--export_dir=%s' % (tmp_path / 'export'))
    assert code == 0, exported
    code, again = here(export_model, '--checkpoint=%s' % folder, '--export_dir=%s' % (tmp_path / 'export'))
    assert code == 1 and 'expected a new folder' in again and 'Traceback' not in again
    check_export(tmp_path / 'export', folder)

    images = [os.path.join(described['root'], 'VOC2007', 'JPEGImages', image_id + '.jpg')
              for image_id in sorted({line[1] for line in lines})[:3]]
    (tmp_path / 'bad.jpg').write_bytes(b'no picture')
    results = []
    for model in ('export', 'export/saved_model', 'export/frozen_graph.pb'):
        out = tmp_path / ('out%d' % len(results))
        code, said = here(detect, '--model=%s' % (tmp_path / model), '--output_path=%s' % out, '--confidence=0.02',
                         '--batch_size=2', str(tmp_path / 'bad.jpg'), str(tmp_path / 'none.jpg'), *images)
        assert code == 1 and 'bad.jpg: found no image' in said and 'none.jpg: No such file' in said, said
        results.append(json.loads((out / 'detections.json').read_text()))
        assert sorted(os.listdir(str(out))) == [os.path.basename(image) for image in images] + ['detections.json']
    assert results[0] == results[2] and [one['image'] for one in results[0]] == images
    for one, other in zip(results[0], results[1]):
        assert [each['class'] for each in one['detections']] == [each['class'] for each in other['detections']]
        for each in one['detections']:
            left, top, right, bottom = each['box_xyxy_px']
            assert 0 <= left <= right <= one['width_px'] and 0 <= top <= bottom <= one['height_px']
            assert 0.02 < each['confidence'] <= 1
        # The result files say the same; their pixels count from 1.
        image_id = os.path.splitext(os.path.basename(one['image']))[0]
        filed = [(float(line[2]), line[0], line[3:]) for line in lines if line[1] == image_id]
        mine = one['detections'][0]
        of_class = max(each for each in filed if each[1] == mine['class'])  # two classes may be as likely
        assert mine['confidence'] == pytest.approx(max(filed)[0], abs=1e-3) == pytest.approx(of_class[0], abs=1e-3)
        np.testing.assert_allclose(mine['box_xyxy_px'], np.float64(of_class[2]) - [1, 1, 0, 0], atol=0.2)
    for number, source in enumerate(['--checkpoint=%s' % folder, '--model=%s' % (tmp_path / 'export')]):
        check_predictions(here, results[0], tmp_path / ('predicted%d' % number), source,
                          [str(tmp_path / 'bad.jpg')] + images)


def check_predictions(here, detections, folder, source, pictures):
    """predict.py says what detect.py says, of a checkpoint and of an export."""
    code, said = here(predict, source, '--output_path=%s' % folder, '--confidence=0.02', *pictures)
    assert code == 0 and 'passed over: ' + pictures[0] in said, said
    predicted = json.loads((folder / 'predictions.json').read_text())
    assert predicted['classes'][4] == 'yellow triangle' and len(predicted['passed_over']) == 1
    for one, other in zip(predicted['pictures'], detections):
        assert one['file'] == other['image'] and len(one['guesses']) == len(other['detections']) > 0
        for mine, wanted in zip(one['guesses'], other['detections']):
            assert mine['class'] == wanted['class'] and mine['probability'] == pytest.approx(wanted['confidence'],
                                                                                            abs=1e-3)
            np.testing.assert_allclose([mine[edge] for edge in ('left', 'top', 'right', 'bottom')],
                                       wanted['box_xyxy_px'], atol=0.2)
    assert len(os.listdir(str(folder / 'pictures'))) == len(detections) and (folder / 'predictions.png').exists()


def check_export(folder, run_folder):
    """Both forms have the documented tensors, and they compute what the checkpoint says."""
    import tensorflow.compat.v1 as tf
    tf.disable_v2_behavior()
    description = json.loads((folder / 'model.json').read_text())
    assert description['preset'] == 'tiny' and len(description['classes']) == 5
    assert np.load(str(folder / 'default_boxes_cxcywh.npy')).shape == (372, 4)
    pixels, found = np.random.RandomState(0).randint(0, 256, (2, 64, 64, 3)), []
    with tf.Graph().as_default(), tf.Session() as session:
        loaded = tf.saved_model.loader.load(session, ['serve'], str(folder / 'saved_model'))
        signature = loaded.signature_def['serving_default']
        assert signature.inputs['image_input'].name == 'image_input:0'
        assert signature.outputs['result'].name == 'result/result:0'
        found.append(session.run('result/result:0', {'image_input:0': pixels}))
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(tf.GraphDef.FromString((folder / 'frozen_graph.pb').read_bytes()), name='')
        found.append(session.run('result/result:0', {'image_input:0': pixels.astype(np.float32)}))
    for result in found:
        assert result.shape == (2, 372, 10)
        np.testing.assert_allclose(result[..., :6].sum(-1), 1, rtol=1e-4)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)
    stored = programs.weights(run_folder / 'ckpt' / 'step-00000004' / 'model')
    with tf.Graph().as_default(), tf.Session() as session:
        tf.saved_model.loader.load(session, ['serve'], str(folder / 'saved_model'))
        names = {variable.op.name: variable for variable in tf.global_variables()}
        assert len(names) > 60
        for name, value in session.run(names).items():
            np.testing.assert_array_equal(value, stored[name])


def test_four_steps_are_two_a_kill_one_a_sigterm_and_one(data, run, tmp_path, here, monkeypatch):
    words = programs.script_flags(SCRIPT) + ['--data_path=%s' % data, '--output_path=%s' % (tmp_path / 'run'),
                                             '--checkpoint-interval=2', '--name=mine'] + SHORT
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
    folder = tmp_path / 'run' / 'mine'
    before = sorted(os.listdir(str(folder)))
    code, said = here(train, *(words + ['--weight_decay=1e-3']))
    assert code == 1 and '--weight_decay: expected 0.0005 as in the unfinished run' in event(said, 'fail')['message']
    assert sorted(os.listdir(str(folder))) == before
    from common import checkpoint
    for path in (tmp_path / 'run', folder, folder / 'step-00000003'):
        assert checkpoint.find_checkpoint(str(path))[1]['step'] == 3
    code, said = here(train, *words)
    assert code == 0 and event(said, 'run')['first_step'] == '3', said
    whole = programs.weights(run[2] / 'ckpt' / 'step-00000004' / 'model')
    resumed = programs.weights(folder / 'step-00000004' / 'model')
    assert sorted(whole) == sorted(resumed) and len(whole) > 120
    assert [name for name in whole if name.endswith('Momentum')]
    different = [name for name in whole if not np.array_equal(whole[name], resumed[name])]
    assert not different, different[:5]


def test_sigterm_of_a_process_saves(data, tmp_path):
    process = programs.start([sys.executable, '-u', 'train.py', '--data_path=%s' % data, '--train_steps=100000',
                              '--output_path=%s' % (tmp_path / 'run')] + TINY, cwd=FOLDER)
    said = programs.interrupt(process, '[train] step=2', signal.SIGTERM)
    assert process.returncode == 143 and 'Traceback' not in said, said
    saved = int(event(said, 'save')['step'])
    stored = programs.weights(tmp_path / 'run' / 'ckpt' / ('step-%08d' % saved) / 'model')
    assert saved >= 2 and stored['global_step'] == saved


@smoke
def test_synthetic_with_adam_clipping_and_cosine(tmp_path, here):
    code, said = here(train, '--synthetic', '--output_path=%s' % (tmp_path / 'run'), '--train_steps=4',
                     '--optimizer=adam', '--clip_norm=1', '--schedule=cosine', '--lr-values=0.01', '--lr-boundaries=',
                     '--precision_mode=allow_mix_precision', *TINY)
    assert code == 0 and '[eval]' not in said, said
    losses = [float(line.split(' loss=')[1].split()[0]) for line in said.splitlines() if '[train]' in line]
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert 'lr=0.01' in said and float(event(said, 'train')['lr']) < 0.002
    assert [name for name in programs.weights(tmp_path / 'run' / 'ckpt' / 'step-00000004' / 'model') if 'Adam' in name]


@pytest.mark.parametrize('script', ['train_full_1p.sh', 'train_full_8p.sh'])
def test_the_recipe_of_a_script_trains_from_scratch(script, data, tmp_path, here):
    """It stays finite and halves its loss; the warm-up, meant for thousands of steps, is left out."""
    with open(os.path.join(FOLDER, 'test', script), encoding='utf-8') as file:
        recipe = shlex.split(file.read().rpartition(' train.py ')[2].replace('\\\n', ' '))
    code, said = here(train, *[word for word in recipe if word.startswith('--')], *words_of(
        data, tmp_path / 'run', '--batch_size=2', '--train_steps=60', '--eval_images=0', '--warmup_steps=0'))
    losses = [float(fields['loss']) for fields in events(said, 'train')]
    assert code == 0 and len(losses) == 60, said
    assert np.mean(losses[-20:]) < losses[0] / 2, losses


def one_step(*words):
    """One plain step of the small network: (variables before, after it, names of all variables of the graph)."""
    from common.runtime import open_runtime
    parsed = train.parse_args(TINY + ['--synthetic', '--weight_decay=0', '--device=cpu'] + list(words))
    runtime = open_runtime(parsed)
    graph = train.build_graph(runtime, parsed, train.SYNTHETIC_CLASSES, False)
    variables = {variable.op.name: variable for variable in runtime.tf.model_variables()}
    with runtime.tf.Session() as session:
        session.run(runtime.tf.global_variables_initializer())
        before = session.run(variables)
        session.run(graph.update, dict(zip((graph.images, graph.class_ids, graph.offsets, graph.rate),
                                           train.synthetic_batch(parsed) + (1.0,))))
        return before, session.run(variables), [variable.op.name for variable in runtime.tf.global_variables()]


def test_frozen_blocks_keep_their_weights_and_have_no_gradient(monkeypatch):
    small_networks.install(monkeypatch.setattr)
    before, after, names = one_step('--freeze=3', '--weight_decay=0.1')
    for name, value in before.items():
        frozen = name.startswith(('conv1_', 'conv2_', 'conv3_'))
        assert (name + '/Momentum' in names) != frozen, name
        if not name.startswith('classifiers'):  # of some kinds of boxes no one counts in this batch
            assert np.array_equal(value, after[name]) == frozen, name


def test_batch_normalisation_is_in_the_added_layers_and_counts(monkeypatch):
    small_networks.install(monkeypatch.setattr)
    before, after, _ = one_step('--norm=batch')
    normalised = {name.split('/')[0] for name in before if '/batch_norm/' in name}
    assert normalised == {'mod_conv6', 'mod_conv7', 'conv8_1', 'conv8_2', 'conv9_1', 'conv9_2'}
    assert all(not np.array_equal(before[name], after[name]) for name in before if 'moving' in name)


def test_decay_is_of_kernels_and_clipping_of_the_loss_gradient_alone(monkeypatch):
    """One plain step (no momentum yet, rate 1) moves each weight by minus its gradient."""
    small_networks.install(monkeypatch.setattr)
    moves = []
    for words in ([], ['--weight_decay=0.5'], ['--clip_norm=0.125']):
        before, after, _ = one_step(*words)
        moves.append({name: before[name].astype(float) - after[name] for name in before})
    plain, decayed, clipped = moves
    for name, value in before.items():
        share = 0.5 * value if name.endswith('/filter') else 0 * value
        scale = np.abs(plain[name]).max()
        np.testing.assert_allclose(decayed[name] - plain[name], share, atol=1e-4 * scale + 1e-5, err_msg=name)
    length, short = (np.sqrt(sum((move ** 2).sum() for move in one.values())) for one in (plain, clipped))
    assert length > 1 and short == pytest.approx(0.125, rel=0.01)
    for name in plain:
        np.testing.assert_allclose(clipped[name] / short, plain[name] / length, atol=1e-3, err_msg=name)


def test_a_run_starts_from_another_one_and_from_a_published_checkpoint(data, run, tmp_path, here):
    """From ours with momentum and step, from the reference's with its weights alone."""
    import tensorflow.compat.v1 as tf
    prefix = str(run[2] / 'ckpt' / 'step-00000004' / 'model')
    code, said = here(train, *words_of(data, tmp_path / 'ours', '--train_steps=5', '--resume=%s' % run[2]))
    assert code == 0 and event(said, 'run')['first_step'] == '4' and event(said, 'run')['start'] == prefix, said
    stored = {name: value for name, value in programs.weights(prefix).items()
              if name.split('/')[-1] in ('filter', 'biases', 'scale')}
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(name, initializer=value) for name, value in stored.items()]
        session.run(tf.global_variables_initializer())
        published = tf.train.Saver(variables).save(session, str(tmp_path / 'final.ckpt'))
    code, said = here(train, *words_of(data, tmp_path / 'published', '--train_steps=1', '--resume=%s' % published,
                                       '--lr-values=1e-37', '--lr-boundaries='))
    assert code == 0 and event(said, 'run')['first_step'] == '0' and 'from scratch' not in said, said
    after = programs.weights(tmp_path / 'published' / 'ckpt' / 'step-00000001' / 'model')
    stored['conv1_1/filter'] = stored['conv1_1/filter'][:, :, ::-1]  # the reference's graph turns the colours round
    assert event(said, 'run')['colours'] == 'reference'
    for name, value in stored.items():
        np.testing.assert_allclose(after[name], value, rtol=0, atol=1e-30)


def test_learning_images_by_heart_evaluates_them(data, tmp_path, here):
    code, said = here(train, *words_of(data, tmp_path / 'run', '--train_images=3', '--eval_set=train', '--epochs=2',
                                       '--no_augment', '--eval_every=1', '--batch_size=2'))
    assert code == 0, said
    assert event(said, 'run')['images'] == '3' and event(said, 'run')['steps'] == '4'
    assert event(said, 'eval')['set'] == 'train' and event(said, 'eval')['images'] == '3'
    assert said.count('[eval]') == 2 and '[eval] step=2 epoch=1.000' in said
    best = json.loads((tmp_path / 'run' / 'ckpt' / 'best.json').read_text())
    assert best['metric'] >= 0


# Bad input

def failure(capsys, *words):
    assert train.main(list(words)) == 1
    line, = [line for line in capsys.readouterr().out.splitlines() if '[fail]' in line]
    assert 'expected' in line and 'found' in line
    return line


@pytest.mark.parametrize('words, told', [
    (['--data_path=none'], 'no such folder'), (['--data_path=empty'], 'in it: nothing'),
    (['--vgg_dir=none'], 'SavedModel'), (['--resume=.'], 'no whole checkpoint'),
    (['--continue-training=True'], 'an unfinished run, because of --resume=True')])
def test_what_is_missing_is_one_sentence_and_the_run_folder_stays(words, told, data, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    words = [word if '=T' in word else word.replace('=', '=%s/' % tmp_path) for word in words]
    assert told in failure(capsys, '--data_path=%s' % data, '--output_path=%s' % (tmp_path / 'out'), *words)
    assert not (tmp_path / 'out' / 'flags.json').exists()


@smoke
def test_a_checkpoint_of_other_classes_or_preset_is_refused(data, run, tmp_path, capsys, here):
    line = failure(capsys, '--data_path=%s' % data, '--output_path=%s' % (tmp_path / 'out'), '--resume=%s' % run[2])
    assert '--preset: expected tiny, which ' in line and 'found vgg300' in line
    description = json.load(open(os.path.join(data, 'dataset.json')))
    shutil.copytree(data, str(tmp_path / 'other'))
    description['classes'][3] = 'ship'
    (tmp_path / 'other' / 'dataset.json').write_text(json.dumps(description))
    for program, words in ((train, TINY + ['--resume=%s' % run[2]]), (infer, ['--checkpoint=%s' % run[2]])):
        code, said = here(program, '--data_path=%s' % (tmp_path / 'other'), '--output_path=%s' % (tmp_path / 'out'),
                         *words)
        assert code == 1 and 'class 3' in said and 'red disc' in said and 'ship' in said, said


def test_a_loss_that_is_no_number_names_step_and_part(data, tmp_path, here):
    code, said = here(train, *words_of(data, tmp_path / 'run', '--train_steps=60', '--save_every=1', '--lr-values=1e30',
                                       '--lr-boundaries='))
    message = event(said, 'fail')['message']
    assert code == 1 and message.split(' loss at step ')[0] in ('confidence', 'localisation')
    assert 'expected a finite number' in message
    newest = message.split('last whole checkpoint is ')[1].split(';')[0]
    assert newest == 'none yet' or os.path.exists(newest + '.index')


def test_one_picture_of_one_class_trains_and_is_found_by_its_name(tmp_path, here):
    """A name in another script, with what separates folders."""
    import cv2
    folder = tmp_path / 'mine' / 'VOC2007'
    for inside in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (folder / inside).mkdir(parents=True)
    cv2.imwrite(str(folder / 'JPEGImages' / 'a.jpg'), np.full((60, 80, 3), 99, np.uint8))
    (folder / 'Annotations' / 'a.xml').write_text(
        '<annotation><object><name>螺母 1/2</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>50</xmax><ymax>50</ymax>'
        '</bndbox></object></annotation>', encoding='utf-8')
    (folder / 'ImageSets' / 'Main' / 'trainval.txt').write_text('a\n')
    data = processed(tmp_path / 'mine', tmp_path / 'data')
    code, said = here(train, *words_of(data, tmp_path / 'run', '--train_steps=3', '--eval_set=train', '--no_augment'))
    assert code == 0 and event(said, 'eval')['objects'] == '1' and event(said, 'run')['classes'] == '1', said
    code, said = here(infer, '--checkpoint=%s' % (tmp_path / 'run'), '--data_path=%s' % data, '--eval_set=train',
                      '--pictures=5', '--confidence=0.01', '--output_path=%s' % (tmp_path / 'infer'))
    assert code == 0 and '螺母 1/2' in said, said
    assert {'comp4_det_test_螺母 1%2F2.txt', 'images.csv', 'pictures', 'precision_recall.png'} == set(
        os.listdir(str(tmp_path / 'infer')))
    assert sorted(os.listdir(str(tmp_path / 'infer' / 'pictures'))) == ['.whole.json', '0001-a.jpg']


def test_without_pycocotools_cocos_ap_is_refused_at_once(data, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert infer.main(['--coco', '--checkpoint=%s' % run[2], '--data_path=%s' % data]) == 1
    said = capsys.readouterr()
    line, = [line for line in (said.out + said.err).splitlines() if '[fail]' in line]
    assert '--coco: expected the package pycocotools' in line and 'pip install pycocotools' in line


def test_an_image_that_is_gone_stops_the_run_with_its_name(tree, tmp_path, here):
    """Also when a worker notices: then with its traceback. The run's own record and its report say it."""
    shutil.copytree(os.path.join(tree, 'VOCdevkit'), str(tmp_path / 'VOCdevkit'))
    data = processed(tmp_path, tmp_path / 'processed')
    process = programs.start(['bash', SCRIPT, '--data_path=%s' % data, '--output_path=run', '--train_steps=100000']
                             + TINY, cwd=str(tmp_path))

    def lose_images():
        for path in glob.glob(str(tmp_path / 'VOCdevkit' / 'VOC2007' / 'JPEGImages' / '*')):
            os.remove(path)
    said = programs.interrupt(process, '[train] step=1 ', lose_images)
    assert process.returncode == 1 and 'Traceback' in said, said
    _, again = here(train, *words_of(data, tmp_path / 'again', '--train_steps=5'))
    for each in (said, again):
        message = event(each, 'fail')['message']
        assert '.jpg: expected an image of ' in message and 'found No such file' in message, message
    with open(str(tmp_path / 'run' / 'metrics.jsonl')) as lines:
        last = [json.loads(line) for line in lines][-1]
    assert last['event'] == 'fail' and '.jpg: expected an image' in last['message']
    assert '.jpg: expected an image' in (tmp_path / 'run' / 'report.md').read_text()


@smoke
def test_a_model_that_is_none_is_named(tmp_path, here):
    image = str(tmp_path / 'a.jpg')
    (tmp_path / 'frozen_graph.pb').write_bytes(b'\xff\xff\xffnothing')
    for model in 'none', '', 'frozen_graph.pb':
        code, said = here(detect, '--model=%s' % (tmp_path / model), image)
        assert code == 1 and 'no whole model.json' in event(said, 'fail')['message'], said
    description = {'model': 'SSD-VGG', 'preset': 'vgg300', 'classes': ['cat'], 'files': {},
                   'input': {'name': 'image_input', 'tensor': 'image_input:0'},
                   'outputs': {'result': {'tensor': 'result/result:0'}}}
    (tmp_path / 'model.json').write_text(json.dumps(description))
    (tmp_path / 'saved_model').mkdir()
    (tmp_path / 'saved_model' / 'saved_model.pb').write_bytes(b'\xff\xff\xffnothing')
    for model, what in ('frozen_graph.pb', 'a frozen graph'), ('saved_model', 'a SavedModel'):
        code, said = here(detect, '--model=%s' % (tmp_path / model), '--output_path=%s' % (tmp_path / 'out'), image)
        assert code == 1 and '%s: expected %s' % (model, what) in event(said, 'fail')['message'], said
    (tmp_path / 'frozen_graph.pb').write_bytes(b'')  # a graph without anything
    code, said = here(detect, '--model=%s' % tmp_path, '--output_path=%s' % (tmp_path / 'out'), image)
    assert code == 1 and "'result/result:0' refers to a Tensor which does not exist" in event(said, 'fail')['message']
    (tmp_path / 'model.json').write_text(json.dumps(dict(description, preset='vgg1')))
    code, said = here(detect, '--model=%s' % (tmp_path / 'saved_model'), image)
    assert code == 1, said


@pytest.mark.parametrize('script', ['run_1p.sh', 'test/train_full_1p.sh', 'test/train_performance_1p.sh',
                                    'test/train_full_8p.sh', 'test/train_performance_8p.sh'])
def test_the_flags_of_every_script_are_accepted(script, tmp_path):
    """From anywhere: the next thing that is wrong is the data."""
    command = [os.path.join(FOLDER, script), '--data_path=none', '--output_path=out']
    code, said = finish(command, cwd=str(tmp_path))
    assert code == 1 and '%s: expected VOCdevkit/' % (tmp_path / 'none') in said and said.count('\n') == 1, said
    assert not os.listdir(str(tmp_path))
