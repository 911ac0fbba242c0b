# SPDX-License-Identifier: Apache-2.0
"""Own pictures and own weights, in programs with a small network: train, freeze, evaluate, predict, export."""
import csv
import json
import os
import sys

import numpy as np
import pytest
from conftest import ROOT
from programs import event

pytest.importorskip('tensorflow', '2.6')
FOLDER = os.path.join(ROOT, 'cutmix_ID2502_for_TensorFlow2.X')
sys.path.insert(0, FOLDER)
import export_model  # noqa: E402
import predict  # noqa: E402
import train  # noqa: E402

TINY = ['--batch_size=16', '--log_every=1', '--train_steps=2', '--optimizer=sgd', '--learning_rate=0.01']


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setattr(train, 'PREPARED', str(tmp_path / 'data' / 'prepared'))


@pytest.fixture
def base(few_cifar10, tmp_path_factory, here):
    """A finished run of two steps on CIFAR-10."""
    folder = tmp_path_factory.getbasetemp() / 'base'
    if not folder.exists():
        code, said = here(train, '--data_path=%s' % few_cifar10, '--output_path=%s' % folder, *TINY)
        assert code == 0, said
    return folder


def weights(path):
    """{"layer/variable": array} of a file."""
    import model_files
    import resnet
    return model_files.read_weights(str(path), resnet.resnet20(classes=3))


@pytest.mark.smoke
def test_own_classes_start_from_weights_of_others_and_frozen_parts_stay(base, drawn_photos, tmp_path, here):
    output = tmp_path / 'run'
    code, said = here(train, '--data_path=%s' % drawn_photos, '--output_path=%s' % output, '--init_from=%s' % base,
                      '--freeze=2', *TINY)
    assert code == 0, said
    started = event(said, 'run')
    assert (started['classes'], started['weights_anew'], started['anew']) == ('3', '2', 'scores')
    assert 'held out to judge by: 3 of 36 pictures' in said and event(said, 'eval')['images'] == '3'
    before, after = (weights(folder / 'ckpt' / 'step-00000002' / 'model.h5') for folder in (base, output))
    frozen = [name for name in before if name.startswith(('stem', 'stage1_'))]
    assert len(frozen) > 10 and all((before[name] == after[name]).all() for name in frozen)
    assert all((before[name] != after[name]).any() for name in before if name.startswith('stage2_'))
    code, said = here(train, '--mode=evaluate', '--data_path=%s' % drawn_photos, '--checkpoint_dir=%s' % output)
    assert code == 0 and event(said, 'eval')['images'] == '3' and 'green' in said, said
    described = json.loads((output / 'export' / 'model.json').read_text())
    assert described['classes'] == ['blue', 'green', 'red'] and described['model'] == 'CutMix'


@pytest.mark.smoke
def test_checkpoint_and_exports_predict_the_same(base, drawn_photos, tmp_path, here):
    exported = tmp_path / 'exported'
    code, said = here(export_model, '--checkpoint=%s' % base, '--export_dir=%s' % exported)
    assert code == 0 and 'frozen_graph.pb, largest difference' in said, said
    found = []
    for number, source in enumerate(('--checkpoint=%s' % base, '--model=%s' % exported, '--model=%s/export' % base)):
        output = tmp_path / str(number)
        code, said = here(predict, source, drawn_photos, '--output_path=%s' % output)
        assert code == 0, said
        with open(str(output / 'predictions.csv')) as file:
            found.append({(row['file'], row['class']): float(row['probability']) for row in csv.DictReader(file)})
        assert len(found[-1]) == 36 * 5 and (output / 'predictions.png').exists()
    assert found[0] == pytest.approx(found[1], abs=1e-5) and found[0] == pytest.approx(found[2], abs=1e-5)


@pytest.mark.smoke
def test_files_of_keras_are_taken_by_layer_or_by_order(base, few_cifar10, tmp_path, here):
    import tensorflow as tf

    import model_files
    import resnet
    network = resnet.resnet20(7)
    network.save(str(tmp_path / 'whole.h5'))
    network.save_weights(str(tmp_path / 'some.weights.h5'))
    files = [tmp_path / 'whole.h5', tmp_path / 'some.weights.h5']
    if not tf.__version__.startswith('2.6'):
        network.save(str(tmp_path / 'whole.keras'))
        files.append(tmp_path / 'whole.keras')
    for path in files:
        fresh = resnet.resnet20(8)
        loaded = model_files.load_fitting(fresh, str(path))
        assert not loaded.anew and len(loaded.names) == len(network.weights), path
        assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(network.weights, fresh.weights))
    code, said = here(train, '--data_path=%s' % few_cifar10, '--output_path=%s' % (tmp_path / 'run'),
                      '--init_from=%s' % files[-1], *TINY)
    assert code == 0 and event(said, 'run')['anew'] == 'scores', said  # of CIFAR-10's own names


def pointer(path):
    path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8\n')


def pickled(path):
    path.write_bytes(b'\x80\x04cos\nsystem\n.')


def of_another_network(path):
    import tensorflow as tf
    inputs = tf.keras.Input([8])
    tf.keras.Model(inputs, tf.keras.layers.Dense(3, name='other')(inputs)).save(str(path))


@pytest.mark.parametrize('make, said', [(pointer, 'a pointer of Git LFS'), (pickled, 'a pickle'),
                                        (of_another_network, 'expected weights of this network')])
def test_weights_of_something_else_are_one_sentence(few_cifar10, tmp_path, here, make, said):
    make(tmp_path / 'weights.h5')
    code, heard = here(train, '--data_path=%s' % few_cifar10, '--output_path=%s' % (tmp_path / 'run'),
                       '--init_from=%s' % (tmp_path / 'weights.h5'), *TINY)
    assert code == 1 and said in event(heard, 'fail')['message'] and 'Traceback' not in heard, heard
    assert not os.path.exists(str(tmp_path / 'run' / 'ckpt'))
