# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are whole or absent; a run is continued, refused or moved aside."""
import json
import os

import pytest

from common import checkpoint
from common.files import DataError

pytestmark = pytest.mark.smoke


def save(store, step, content=b'weights', metric=None):
    def write(prefix):
        with open(prefix + '.data', 'wb') as file:
            file.write(content)
    return store.save({'step': step}, write, metric)


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    store = checkpoint.CheckpointStore(str(tmp_path))
    for step, metric in ((1, 0.9), (2, 0.1), (3, None), (4, 0.5)):
        save(store, step, metric=metric)
    assert sorted(name for name in os.listdir(store.folder) if name.startswith('step')) == [
        'step-00000001', 'step-00000003', 'step-00000004']
    assert store.newest()[1]['step'] == 4
    assert store.best()[1]['step'] == 1 and store.best()[1]['metric'] == 0.9
    assert 'step-00000004/model' in open(os.path.join(store.folder, 'checkpoint')).read()


def test_a_save_that_fails_leaves_the_old_one(tmp_path):
    store = checkpoint.CheckpointStore(str(tmp_path))
    save(store, 1)

    def full_disk(prefix):
        with open(prefix + '.data', 'wb') as file:
            file.write(b'half')
        raise OSError(28, 'No space left on device')
    with pytest.raises(OSError):
        store.save({'step': 2}, full_disk)
    assert store.newest()[1]['step'] == 1
    assert not [name for name in os.listdir(store.folder) if name.startswith('tmp')]


@pytest.mark.parametrize('damage', ['truncate', 'remove', 'no state'])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    store = checkpoint.CheckpointStore(str(tmp_path))
    save(store, 1)
    prefix = save(store, 2)
    if damage == 'truncate':
        open(prefix + '.data', 'wb').close()
    elif damage == 'remove':
        os.remove(prefix + '.data')
    else:
        os.remove(os.path.join(os.path.dirname(prefix), checkpoint.STATE_FILE))
    assert store.newest()[1]['step'] == 1


def test_leftovers_of_a_killed_save_are_no_checkpoint_and_go(tmp_path):
    store = checkpoint.CheckpointStore(str(tmp_path))
    os.makedirs(os.path.join(store.folder, 'tmp-step-00000009-1'))
    assert store.newest() is None
    store.clean()
    assert os.listdir(store.folder) == []


@pytest.mark.parametrize('form', ['', 'ckpt', 'ckpt/step-00000002', 'ckpt/step-00000002/model'])
def test_a_checkpoint_is_found_under_every_name_that_a_user_gives(tmp_path, form):
    store = checkpoint.CheckpointStore(str(tmp_path))
    prefix = save(store, 2)
    open(prefix + '.index', 'w').close()
    assert checkpoint.find_checkpoint(str(tmp_path / form))[0] == prefix


def test_no_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match='no whole checkpoint'):
        checkpoint.find_checkpoint(str(tmp_path))


@pytest.mark.parametrize('stored, said', [({}, 'no such variable'), ({'w': [3, 4]}, r'shape \[3, 4\]')])
def test_another_networks_checkpoint_names_the_variable(stored, said):
    with pytest.raises(DataError, match=r'variable w of shape \[3, 3\].*' + said):
        checkpoint.check_variables(stored, {'w': [3, 3]}, 'here')
    checkpoint.check_variables({'w': [3, 3], 'more': []}, {'w': [3, 3]}, 'here')


def a_run(tmp_path, finished):
    folder = tmp_path / '0'
    folder.mkdir()
    (folder / 'flags.json').write_text(json.dumps({'seed': 0, 'resume': 'auto', 'log_every': 1}))
    (folder / 'metrics.jsonl').write_text('{"event": "run"}\n' + ('{"event": "done"}\n' if finished else ''))
    return str(folder)


def test_an_unfinished_run_is_continued_when_the_flags_agree(tmp_path):
    folder = a_run(tmp_path, finished=False)
    assert checkpoint.open_run(folder, {'seed': 0, 'resume': 'auto', 'log_every': 5}) is True
    with pytest.raises(DataError, match='--seed: expected 0 as in the unfinished run.*found 1'):
        checkpoint.open_run(folder, {'seed': 1, 'resume': 'auto', 'log_every': 1})
    assert os.listdir(str(tmp_path)) == ['0']


@pytest.mark.parametrize('finished, resume', [(True, 'auto'), (False, 'False'), (True, 'False')])
def test_what_is_not_continued_is_moved_aside(tmp_path, finished, resume):
    folder = a_run(tmp_path, finished)
    (tmp_path / '0.1').mkdir()
    assert checkpoint.open_run(folder, {'seed': 5, 'resume': resume}) is False
    assert sorted(os.listdir(str(tmp_path))) == ['0.1', '0.2']
    assert sorted(os.listdir(str(tmp_path / '0.2'))) == ['flags.json', 'metrics.jsonl']


def test_resume_true_needs_something_to_continue(tmp_path):
    with pytest.raises(DataError, match='unfinished run'):
        checkpoint.open_run(str(tmp_path / 'none'), {'resume': 'True'})
    folder = a_run(tmp_path, finished=True)
    with pytest.raises(DataError, match='a finished one'):
        checkpoint.open_run(folder, {'resume': 'True'})
    assert os.listdir(str(tmp_path)) == ['0']


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path):
    (tmp_path / 'precious.txt').write_text('x')
    assert checkpoint.open_run(str(tmp_path), {'resume': 'auto'}) is False
    assert os.listdir(str(tmp_path)) == ['precious.txt']
