# SPDX-License-Identifier: Apache-2.0
"""Variables come back whole, or one sentence names the file and what is wrong with it."""
import os

import pytest

from common import graph_files
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
