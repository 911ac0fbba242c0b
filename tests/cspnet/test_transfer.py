# SPDX-License-Identifier: Apache-2.0
"""Own pictures and own weights, in programs with a small network: train, freeze, extend, evaluate, predict, export."""
import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import programs
import pytest
from conftest import ROOT
from programs import event

FOLDER = os.path.join(ROOT, 'CSPNet_ID0840_for_TensorFlow')
sys.path.insert(0, FOLDER)
import export_model  # noqa: E402
import predict  # noqa: E402
import test as evaluation  # noqa: E402
import train  # noqa: E402
from tools.sampledata import SHAPES  # noqa: E402

TINY = ['--batch_size=16', '--warmup_steps=2', '--DISPLAY_STEP=1', '--LEARNING_RATE=0.01', '--train_steps=2']


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    for module in (train, evaluation):
        monkeypatch.setattr(module, 'PREPARED', str(tmp_path / 'data' / 'prepared'))


def weights(folder, step):
    return programs.weights(folder / 'ckpt' / ('step-%08d' % step) / 'model')


@pytest.fixture
def base(few_cifar10, tmp_path_factory, here):
    """A finished run of two steps on CIFAR-10."""
    folder = tmp_path_factory.getbasetemp() / 'base'
    if not folder.exists():
        code, said = here(train, '--data_path=%s' % few_cifar10, '--output_path=%s' % folder, *TINY)
        assert code == 0, said
    return folder


@pytest.mark.smoke
def test_own_classes_start_from_weights_of_others_and_frozen_parts_stay(base, drawn_photos, tmp_path, here):
    output = tmp_path / 'run'
    words = ['--data_path=%s' % drawn_photos, '--output_path=%s' % output] + TINY
    code, said = here(train, '--init_from=%s' % base, '--freeze=2', *words)
    assert code == 0, said
    started = event(said, 'run')
    assert started['classes'] == '3' and started['weights_anew'] == '2' and int(started['weights_loaded']) > 60
    assert started['anew'] == 'cspdarknet53/classifier/biases cspdarknet53/classifier/weights'
    assert 'held out to judge by: 3 of 36 pictures' in said and event(said, 'eval')['images'] == '3'
    before, after = weights(base, 2), weights(output, 2)
    frozen = [name for name in before if name.startswith(('cspdarknet53/stem/', 'cspdarknet53/stage1/'))]
    frozen = [name for name in frozen if not name.endswith('Momentum')]
    assert len(frozen) > 30 and all((before[name] == after[name]).all() for name in frozen)
    assert not [name for name in after if name.startswith('cspdarknet53/stage1/') and name.endswith('Momentum')]
    moved = [name for name in before if name.startswith('cspdarknet53/stage2/') and not name.endswith('Momentum')]
    assert all((before[name] != after[name]).any() for name in moved if 'widen' not in name)
    assert after['cspdarknet53/classifier/biases'].shape == (3,)
    code, said = here(evaluation, '--data_path=%s' % drawn_photos, '--checkpoint=%s' % output)
    assert code == 0 and event(said, 'eval')['images'] == '3' and 'green' in said
    code, said = here(train, '--init_from=%s' % output, *(words + ['--output_path=%s' % (tmp_path / 'again')]))
    assert 'anew' not in event(said, 'run') and event(said, 'run')['weights_anew'] == '0'


def test_a_finished_run_is_extended_when_asked(base, few_cifar10, tmp_path, here):
    output = tmp_path / 'run'
    shutil.copytree(str(base), str(output))
    words = ['--data_path=%s' % few_cifar10, '--output_path=%s' % output] + TINY[:-1]
    code, said = here(train, '--train_steps=2', '--extend', *words)
    assert code == 1 and '--extend: expected a checkpoint before step 2' in event(said, 'fail')['message']
    code, said = here(train, '--train_steps=4', '--extend', *(words + ['--batch_size=8']))
    message = event(said, 'fail')['message']
    assert code == 1 and '--batch_size: expected 16 as in the finished run' in message and '--init_from=' in message
    code, said = here(train, '--train_steps=4', '--extend', *words)
    assert code == 0 and event(said, 'run')['first_step'] == '2' and event(said, 'done')['step'] == '4', said
    assert not os.path.exists(str(output) + '.1') and weights(output, 4)['global_step'] == 4
    code, said = here(train, '--train_steps=4', '--extend', *(words + ['--output_path=%s' % (tmp_path / 'none')]))
    assert code == 1 and 'a run to train on' in event(said, 'fail')['message']


@pytest.mark.smoke
def test_the_published_folders_kernels_are_found_and_cropped(few_cifar10, tmp_path, here):
    import tensorflow.compat.v1 as tf

    import published
    from models import cspdarknet53
    prefix, random = str(tmp_path / 'cspdarknet53.ckpt'), np.random.RandomState(0)
    with tf.Graph().as_default(), tf.Session() as session:
        cspdarknet53.logits(tf.placeholder(tf.uint8, [None, 32, 32, 3]), False)
        shapes = {variable.op.name: variable.shape.as_list() for variable in tf.trainable_variables()}
    arrays = {'w_' + there: random.normal(size=shapes['cspdarknet53/%s/weights' % here]).astype(np.float32)
              for here, there in published.kernels().items()}
    arrays.update(wfc=random.normal(size=shapes['cspdarknet53/classifier/weights']).astype(np.float32),
                  bfc=np.arange(10, dtype=np.float32), b_s1c1=np.zeros(3, np.float32))
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(name, initializer=array) for name, array in arrays.items()]
        session.run(tf.global_variables_initializer())
        tf.train.Saver(variables).save(session, prefix, write_meta_graph=False)
    output = tmp_path / 'run'
    code, said = here(train, '--data_path=%s' % few_cifar10, '--output_path=%s' % output, '--init_from=%s' % prefix,
                      *(TINY + ['--LEARNING_RATE=1e-30', '--LAMBDA=0']))
    assert code == 0 and int(event(said, 'run')['weights_loaded']) == len(published.kernels()), said
    after = weights(output, 2)
    for here_name, there in published.kernels().items():
        assert (after['cspdarknet53/%s/weights' % here_name] == arrays['w_' + there]).all(), there
    kernel = np.arange(9).reshape(3, 3, 1, 1)
    assert [published.crop(kernel, taps).ravel().tolist() for taps in (1, 2)] == [[4], [0, 1, 3, 4]]
    assert published.crop(kernel, 3) is not None and published.crop(kernel[:1, :1], 1).shape == (1, 1, 1, 1)


def test_the_published_names_are_those_of_its_source():
    code = 'import published; print(" ".join(sorted(published.kernels().values())))'
    names = ['s1c1', 's2c1', 's2s0', 's2s1', 's2c2', 's2c3', 's2c4', 'conv']
    for stage, blocks in ((3, 2), (4, 8), (5, 8), (6, 4)):
        names += ['s%d%s' % (stage, part) for part in ('c1', 'c2', 's0', 's1', 'c3')]
        names += ['s%db%dc%d' % (stage, block, part) for block in range(1, blocks + 1) for part in (1, 2)]
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    said = subprocess.run([sys.executable, '-c', code], cwd=FOLDER, env=env, stdout=subprocess.PIPE, text=True).stdout
    assert said.split() == sorted(names)


def pointer(path, _):
    path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8\n')


def pickled(path, _):
    path.write_bytes(b'\x80\x04cos\nsystem\n.')


def onnx(path, _):
    path.write_bytes(b'\x08\x07\x12\x07pytorch')


def half(path, base):
    shutil.copytree(str(base / 'ckpt' / 'step-00000002'), str(path))
    os.truncate(str(path / 'model.data-00000-of-00001'), 100)


def of_another_network(path, _):
    import tensorflow.compat.v1 as tf
    path.mkdir()
    with tf.Graph().as_default(), tf.Session() as session:
        variable = tf.get_variable('conv/kernel', [3, 3])
        session.run(tf.global_variables_initializer())
        tf.train.Saver([variable]).save(session, str(path / 'model'), write_meta_graph=False)


@pytest.mark.parametrize('make, said', [
    (pointer, 'a pointer of Git LFS'), (pickled, 'a pickle'), (onnx, 'an ONNX model'), (half, 'no whole checkpoint'),
    (of_another_network, 'expected weights of this network')])
def test_weights_of_something_else_are_one_sentence(base, few_cifar10, tmp_path, here, make, said):
    make(tmp_path / 'weights', base)
    path = tmp_path / 'weights' / 'model' if make is of_another_network else tmp_path / 'weights'
    code, heard = here(train, '--data_path=%s' % few_cifar10, '--output_path=%s' % (tmp_path / 'run'),
                       '--init_from=%s' % path, *TINY)
    message = event(heard, 'fail')['message']
    assert code == 1 and said in message and 'Traceback' not in heard, heard
    assert not os.path.exists(str(tmp_path / 'run' / 'ckpt'))


@pytest.fixture
def exported(base, tmp_path_factory, here):
    folder = tmp_path_factory.getbasetemp() / 'exported'
    if not folder.exists():
        code, said = here(export_model, '--checkpoint=%s' % base, '--export_dir=%s' % folder)
        assert code == 0 and 'frozen_graph.pb, largest difference' in said, said
    return folder


@pytest.mark.smoke
def test_checkpoint_and_export_predict_the_same(base, exported, drawn_photos, tmp_path, here):
    bad = tmp_path / 'bad.jpg'
    bad.write_bytes(b'text')
    found = {}
    for source in ('--checkpoint=%s' % base, '--model=%s' % exported):
        output = tmp_path / source[2:5]
        code, said = here(predict, source, drawn_photos, str(bad), '--output_path=%s' % output)
        assert code == 0 and 'passed over: %s: not an image' % bad in said, said
        with open(str(output / 'predictions.csv')) as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 36 * 5 and rows[0]['class'] in SHAPES
        found[source] = {(row['file'], row['class']): float(row['probability']) for row in rows}
        described = json.loads((output / 'predictions.json').read_text())
        assert described['model'] == 'CSPNet' and described['step'] == 2 and len(described['pictures']) == 36
        assert (output / 'predictions.png').exists()
    of_checkpoint, of_export = found.values()
    assert of_checkpoint == pytest.approx(of_export, abs=1e-5)


def test_an_export_of_another_model_is_refused(exported, drawn_photos, tmp_path, here):
    other = tmp_path / 'other'
    shutil.copytree(str(exported), str(other))
    described = json.loads((other / 'model.json').read_text())
    (other / 'model.json').write_text(json.dumps(dict(described, model='ShuffleNetV2')))
    code, said = here(predict, '--model=%s' % other, drawn_photos, '--output_path=%s' % (tmp_path / 'out'))
    assert code == 1 and 'expected an export of CSPNet; found one of ShuffleNetV2' in event(said, 'fail')['message']
    code, said = here(export_model, '--checkpoint=%s' % (tmp_path / 'none'), '--export_dir=%s' % (tmp_path / 'new'))
    assert code == 1 and 'no such file' in event(said, 'fail')['message'] and not os.path.exists(str(tmp_path / 'new'))
