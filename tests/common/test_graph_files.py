# SPDX-License-Identifier: Apache-2.0
"""Variables come back whole, or one sentence names the file and what is wrong with it."""
import importlib.util
import os

import numpy as np
import pytest

from common import export, graph_files
from common.files import DataError


@pytest.mark.parametrize('stored, said', [({}, 'no such variable'), ({'w': [3, 4]}, r'shape \[3, 4\]')])
def test_another_networks_checkpoint_names_the_variable(stored, said):
    with pytest.raises(DataError, match=r'variable w of shape \[3, 3\].*' + said):
        graph_files.check_variables(stored, {'w': [3, 3]}, 'here')
    graph_files.check_variables({'w': [3, 3], 'more': []}, {'w': [3, 3]}, 'here')


@pytest.fixture(scope='module')
def tf():
    tensorflow = pytest.importorskip('tensorflow.compat.v1')
    tensorflow.disable_v2_behavior()
    return tensorflow


@pytest.fixture
def saved(tf, tmp_path):
    """(session, prefix of a checkpoint that says w = 1 and has no v); w and v are 2 in the session."""
    with tf.Graph().as_default(), tf.Session() as session:
        w, v = (tf.get_variable(name, [2], tf.float32, tf.ones_initializer(), use_resource=True) for name in 'wv')
        session.run(tf.global_variables_initializer())
        prefix = str(tmp_path / 'model')
        graph_files.save(tf, tf.train.Saver([w]), session, prefix)
        session.run([w.assign([2, 2]), v.assign([2, 2])])
        yield session, prefix


def test_variables_come_back(tf, saved):
    session, prefix = saved
    graph_files.restore(tf, session, prefix, may_be_missing={'v'})
    w, v = session.run(tf.global_variables())
    assert w.tolist() == [1, 1] and v.tolist() == [2, 2]
    graph_files.restore(tf, session, prefix, {'w': tf.global_variables()[1]})  # under another name
    assert session.run(tf.global_variables()[1]).tolist() == [1, 1]
    with pytest.raises(DataError, match='expected variable v of shape .2.; found no such variable'):
        graph_files.restore(tf, session, prefix)


@pytest.mark.parametrize('damage', ['no data', 'cut data', 'no index', 'pointer', 'cut index'])
def test_a_checkpoint_that_is_not_whole_is_one_sentence(tf, saved, damage):
    session, prefix = saved
    data, index = prefix + '.data-00000-of-00001', prefix + '.index'
    if damage == 'no data':
        os.remove(data)
    elif damage == 'cut data':
        os.truncate(data, 3)
    elif damage == 'no index':
        os.remove(index)
    elif damage == 'pointer':
        with open(data, 'w') as file:
            file.write('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8\n')
    else:
        os.truncate(index, 20)
    with pytest.raises(DataError, match='expected a whole TensorFlow checkpoint') as caught:
        graph_files.restore(tf, session, prefix, may_be_missing={'v'})
    assert '\n' not in str(caught.value)


def test_what_fits_is_loaded_and_the_rest_is_named(tf, saved):
    session, prefix = saved
    w, v = tf.global_variables()
    by_name = {'w': w, 'v': v}
    assert graph_files.load_fitting(tf, session, prefix, 'here', by_name) == (['w'], ['v'], [])
    assert session.run([w, v])[0].tolist() == [1, 1] and session.run(v).tolist() == [2, 2]
    arrays = {'w': np.full(2, 5, np.float32), 'v': np.zeros(3, np.float32), 'more': np.zeros(1),
              'w/Momentum': np.zeros(2)}
    assert graph_files.load_fitting(tf, session, arrays, 'here') == (['w'], ['v'], ['more'])
    assert session.run(w).tolist() == [5, 5]
    with pytest.raises(DataError, match='here: expected weights of this network, such as v of shape .2.; found 4 '):
        graph_files.load_fitting(tf, session, arrays, 'here', anew={'w'})
    with pytest.raises(DataError, match='found none'):
        graph_files.load_fitting(tf, session, {}, 'here')


def test_an_export_is_compared_and_opened(tf, saved, tmp_path):
    session, _ = saved
    images = tf.placeholder(tf.float32, [None, 2], 'images')
    outputs = {'sums': tf.add(images, tf.global_variables()[0], name='sums')}
    folder, example = str(tmp_path / 'export'), np.ones([3, 2], np.float32)
    export.export_session(tf, session, folder, images, outputs, example, {'model': 'Sum', 'classes': ['a', 'b']})
    opened = export.open_export(tf, folder, 'Sum')
    assert opened.description['input'] == {'name': 'images', 'tensor': 'images:0', 'dtype': 'float32',
                                           'shape': [None, 2]}
    assert opened.run(example[:1])['sums'].tolist() == [[3, 3]]
    with_onnx = all(importlib.util.find_spec(name) for name in ('tf2onnx', 'onnx', 'onnxruntime'))
    assert sorted(opened.description['difference']) == sorted(opened.description['files']) == [
        'frozen_graph'] + ['onnx'] * with_onnx + ['saved_model']
    with pytest.raises(DataError, match='expected an export of CSPNet; found one of Sum'):
        export.open_export(tf, folder, 'CSPNet')
    with pytest.raises(DataError, match='expected a new folder'):
        export.export_session(tf, session, folder, images, outputs, example, {})
    os.truncate(os.path.join(folder, export.FROZEN_GRAPH), 20)
    with pytest.raises(DataError, match='expected a frozen graph'):
        export.open_export(tf, folder, 'Sum')
    os.remove(os.path.join(folder, export.DESCRIPTION))
    with pytest.raises(DataError, match='no whole model.json'):
        export.open_export(tf, folder, 'Sum')


def test_an_export_that_differs_is_not_kept(tf, saved, tmp_path, monkeypatch):
    session, _ = saved
    images = tf.placeholder(tf.float32, [None, 2], 'images')
    outputs = {'sums': tf.add(images, tf.global_variables()[0], name='sums')}
    true_run = export.run_frozen_graph
    monkeypatch.setattr(export, 'run_frozen_graph', lambda *words: lambda batch: {
        name: value + 1e-3 for name, value in true_run(*words)(batch).items()})
    with pytest.raises(DataError, match='frozen_graph.pb: expected the checkpoint\'s sums within 1e-05'):
        export.export_session(tf, session, str(tmp_path / 'in' / 'export'), images, outputs,
                              np.ones([3, 2], np.float32), {'model': 'Sum', 'classes': []})
    assert os.listdir(str(tmp_path / 'in')) == []
