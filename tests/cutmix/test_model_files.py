# SPDX-License-Identifier: Apache-2.0
"""What is no file of this network's weights is named in one sentence."""
import os
import shutil
import sys
import zipfile

import numpy as np
import pytest
from conftest import ROOT

tf = pytest.importorskip('tensorflow', '2.6')
sys.path.insert(0, os.path.join(ROOT, 'cutmix_ID2502_for_TensorFlow2.X'))
import evaluation  # noqa: E402
import model_files  # noqa: E402
import resnet  # noqa: E402
from common import files  # noqa: E402

IMAGES = np.zeros((2, 32, 32, 3), np.uint8)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A folder that a run exported into, and a network of the same shapes as Keras and TensorFlow save it."""
    folder = tmp_path_factory.mktemp('models')
    model_files.export(tf, str(folder / 'export'), resnet.resnet20(), {})
    images = tf.keras.Input([32, 32, 3], dtype='uint8', name='images')
    other = tf.keras.Model(images, tf.keras.layers.Dense(10)(tf.keras.layers.Flatten()(images / 255)))
    other.save(str(folder / 'other.h5'))
    other.save_weights(str(folder / 'other.weights.h5'))
    tf.saved_model.save(other, str(folder / 'by_tensorflow'))
    if hasattr(other, 'export'):
        other.export(str(folder / 'by_keras'), verbose=False)
    module = tf.Module()
    module.serve = tf.function(lambda images: {'scores': tf.zeros([1, 3]), 'probabilities': tf.zeros([1, 3])},
                               input_signature=[tf.TensorSpec([None, 28, 28, 1], tf.uint8, 'images')])
    tf.saved_model.save(module, str(folder / 'other_shape'), signatures=module.serve)
    tf.saved_model.save(tf.train.Checkpoint(weights=tf.Variable(1.0)), str(folder / 'no_signature'))
    return folder


def scores_of(path):
    file, _ = model_files.find_file(str(path))
    scores = model_files.find_scores(tf, file, resnet.resnet20,
                                     lambda network: evaluation.make_score_function(tf, network, False))
    return scores(IMAGES)


def refused(path):
    with pytest.raises(files.DataError) as raised:
        scores_of(path)
    assert str(path) in raised.value.where and '\n' not in str(raised.value)
    return str(raised.value)


def test_a_home_folder_may_be_a_tilde(exported, monkeypatch):
    monkeypatch.setenv('HOME', str(exported))
    for name in ('model.h5', 'model.weights.h5', 'model', 'saved_model'):
        assert scores_of('~/export/' + name).shape == (2, 10)


@pytest.mark.parametrize('name', ['by_keras', 'by_tensorflow', 'other_shape'])
def test_a_saved_model_that_serves_something_else_is_refused(exported, name):
    if not (exported / name).exists():
        pytest.skip('this Keras has no export()')
    said = refused(exported / name)
    assert 'expected a SavedModel that serves images uint8 (None, 32, 32, 3) -> probabilities float32' in said
    assert ('found images uint8 (None, 28, 28, 1) -> ' if name == 'other_shape' else '(None, 10); give export/') in said


def test_a_saved_model_that_is_not_whole_is_refused(exported, tmp_path):
    assert 'serving_default' in refused(exported / 'no_signature')
    cut = tmp_path / 'saved_model'
    shutil.copytree(str(exported / 'export' / 'saved_model'), str(cut))
    data = cut / 'variables' / 'variables.data-00000-of-00001'
    data.write_bytes(data.read_bytes()[:1000])
    refused(cut)
    (cut / 'saved_model.pb').write_text('version https://git-lfs.github.com/spec/v1\n')
    assert 'a pointer of Git LFS' in refused(cut)


@pytest.mark.parametrize('name', ['model.h5', 'model.weights.h5'])
def test_a_cut_file_a_pointer_and_another_networks_file_are_refused(exported, tmp_path, name):
    whole = (exported / 'export' / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:len(whole) // 2])
    assert 'truncated' in refused(tmp_path / name)
    (tmp_path / name).write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8\n')
    assert 'a pointer of Git LFS' in refused(tmp_path / name)
    os.remove(str(tmp_path / name))
    assert 'no such file' in refused(tmp_path / name)
    said = refused(exported / name.replace('model', 'other'))
    assert 'variable' in said or 'hdf5 weights of resnet20' in said
    (tmp_path / 'model.hdf').write_bytes(whole)
    assert 'an HDF5 file' in refused(tmp_path / 'model.hdf')


def test_an_optimizers_file_that_is_not_whole_is_refused(tmp_path):
    optimizer = tf.keras.optimizers.SGD(0.1)
    assert optimizer.iterations is not None  # makes it
    path = tmp_path / 'model.optimizer.npz'

    def refusal():
        with pytest.raises(files.DataError) as raised:
            model_files.restore_optimizer(str(tmp_path / 'model'), optimizer)
        assert raised.value.where == str(path)
        return str(raised.value)

    assert 'no such file' in refusal()
    np.savez(str(path), *[variable.numpy() for variable in model_files.optimizer_variables(optimizer)])
    model_files.restore_optimizer(str(tmp_path / 'model'), optimizer)
    path.write_bytes(path.read_bytes()[:-30])
    assert 'the state of an optimizer' in refusal()
    with zipfile.ZipFile(str(path), 'w', zipfile.ZIP_DEFLATED) as packed:
        packed.writestr('arr_0.npy', bytes(10 ** 8))
    assert 'or other shapes' in refusal()
