# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are whole or absent; a run is continued, refused or moved aside."""
import contextlib
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


@pytest.mark.parametrize('content', [7, [], {}, {'step': 2}, {'step': '2', 'files': {}}, {'step': 2, 'files': [1]},
                                     {'step': 2, 'files': {}, 'epoch': 'x'}, {'step': 2, 'files': {}, 'wall_sec': []}])
def test_another_programs_state_is_no_checkpoint(tmp_path, content):
    store = checkpoint.CheckpointStore(str(tmp_path))
    save(store, 1, metric=0.5)
    prefix = save(store, 2)
    for name, text in ((prefix[:-len('model')] + 'state.json', json.dumps(content)),
                       (os.path.join(store.folder, 'best.json'), json.dumps(content)),
                       (str(tmp_path / 'flags.json'), json.dumps(content)), (str(tmp_path / 'metrics.jsonl'), '7')):
        with open(name, 'w') as file:
            file.write(text)
    assert store.newest()[1]['step'] == 1 and store.best() is None
    assert checkpoint.find_checkpoint(str(tmp_path))[1]['step'] == 1 and not checkpoint.is_finished(str(tmp_path))


def test_leftovers_of_a_killed_save_are_no_checkpoint_and_go(tmp_path):
    store = checkpoint.CheckpointStore(str(tmp_path))
    os.makedirs(os.path.join(store.folder, 'tmp-step-00000009-1'))
    for name in ('flags.json.tmp-77.json', 'report.tmp-77', '.probe-a', 'ckpt/best.json.tmp-77'):
        (tmp_path / name).write_text('')
    (tmp_path / 'flags.json').write_text('{}')
    assert store.newest() is None
    store.clean()
    assert os.listdir(store.folder) == [] and sorted(os.listdir(str(tmp_path))) == ['ckpt', 'flags.json']


class Killed(BaseException):
    """In place of a kill -9, after which nothing more is done."""


def test_a_save_that_is_killed_anywhere_is_settled_by_the_next_command(tmp_path, monkeypatch):
    """Before its n-th change of a file, for each n; the next command may find that nothing is left to train."""
    def killed_before(number):
        store = checkpoint.CheckpointStore(str(tmp_path / str(number)))
        for step, metric in ((1, 0.9), (2, 0.1), (3, 0.2)):
            save(store, step, metric=metric)
        changes = []

        def counted(change):
            def do(*words, **more):
                changes.append(change)
                if len(changes) >= number:
                    raise Killed
                return change(*words, **more)
            return do

        with monkeypatch.context() as killing:
            for name in ('mkdir', 'rename', 'replace', 'remove', 'rmdir', 'unlink', 'fsync'):
                killing.setattr(os, name, counted(getattr(os, name)))
            with contextlib.suppress(Killed):
                save(store, 4, metric=0.95)
        return store, len(changes) >= number

    newest, number, killed = [], 0, True
    while killed:
        number += 1
        store, killed = killed_before(number)
        store.clean()
        store.settle()
        newest.append(store.newest()[1]['step'])
        assert store.best()[1]['step'] == (4 if newest[-1] == 4 else 1)
        assert open(os.path.join(store.folder, 'checkpoint')).read() == (
            'model_checkpoint_path: "step-%08d/model"\n' % newest[-1])
        assert sorted(os.listdir(store.folder)) == ['best.json', 'checkpoint'] + [
            'step-%08d' % step for step in ([3, 4] if newest[-1] == 4 else [1, 2, 3])]
    assert newest == sorted(newest) and set(newest) == {3, 4} and number > 12


@pytest.mark.parametrize('form', ['', 'ckpt', 'ckpt/step-00000002', 'ckpt/step-00000002/model'])
def test_a_checkpoint_is_found_under_every_name_that_a_user_gives(tmp_path, form):
    store = checkpoint.CheckpointStore(str(tmp_path))
    prefix = save(store, 2)
    open(prefix + '.index', 'w').close()
    assert checkpoint.find_checkpoint(str(tmp_path / form))[0] == prefix


def test_no_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match='no whole checkpoint'):
        checkpoint.find_checkpoint(str(tmp_path))


def opened(folder, flags):
    """Whether open_run continues the run; its lock is let go."""
    continued, lock = checkpoint.open_run(folder, flags)
    os.close(lock)
    return continued


def a_run(tmp_path, finished):
    folder = tmp_path / '0'
    folder.mkdir()
    (folder / 'flags.json').write_text(json.dumps({'seed': 0, 'resume': 'auto', 'log_every': 1}))
    (folder / 'metrics.jsonl').write_text('{"event": "run"}\n' + ('{"event": "done"}\n' if finished else ''))
    return str(folder)


def test_an_unfinished_run_is_continued_when_the_flags_agree(tmp_path):
    folder = a_run(tmp_path, finished=False)
    assert opened(folder, {'seed': 0, 'resume': 'auto', 'log_every': 5}) is True
    with pytest.raises(DataError, match='--seed: expected 0 as in the unfinished run.*found 1'):
        checkpoint.open_run(folder, {'seed': 1, 'resume': 'auto', 'log_every': 1})
    assert os.listdir(str(tmp_path)) == ['0']


@pytest.mark.parametrize('finished, resume', [(True, 'auto'), (False, 'False'), (True, 'False')])
def test_what_is_not_continued_is_moved_aside(tmp_path, finished, resume):
    folder = a_run(tmp_path, finished)
    (tmp_path / '0.1').mkdir()
    assert opened(folder, {'seed': 5, 'resume': resume}) is False
    assert sorted(os.listdir(str(tmp_path))) == ['0', '0.1', '0.2'] and not os.listdir(folder)
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
    assert opened(str(tmp_path), {'resume': 'auto'}) is False
    assert os.listdir(str(tmp_path)) == ['precious.txt']


def test_a_run_folder_is_for_one_training_at_a_time(tmp_path, monkeypatch):
    folder = a_run(tmp_path, finished=False)
    flags = {'seed': 0, 'resume': 'auto', 'log_every': 1}
    _, lock = checkpoint.open_run(folder, flags)
    with pytest.raises(DataError, match='a run folder that is free; found one that another training uses'):
        checkpoint.open_run(folder, flags)
    monkeypatch.setenv(checkpoint.LOCK_FD, str(lock))  # as a launcher's rank
    assert checkpoint.open_run(folder, flags) == (True, lock)
    os.close(lock)
    assert opened(folder, flags) is True  # the number handed down means nothing any more


def another_run(tmp_path, step, epoch):
    store = checkpoint.CheckpointStore(str(tmp_path / 'other'))
    store.save({'step': step, 'epoch': epoch}, lambda prefix: open(prefix + '.data', 'w').close())
    return str(tmp_path / 'other')


@pytest.mark.parametrize('end, refused', [({'train_steps': 8}, 'step 8'), ({'train_steps': 6}, 'step 6'),
                                          ({'epochs': 2}, 'epoch 2'), ({'train_steps': 9, 'epochs': 1}, None),
                                          ({'epochs': 3}, None)])
def test_a_run_trains_on_from_another_only_to_a_later_end(tmp_path, end, refused):
    folder, source = a_run(tmp_path, finished=True), another_run(tmp_path, 8, 2.0)
    flags = dict({'seed': 0, 'resume': source, 'train_steps': None}, **end)
    if refused:
        with pytest.raises(DataError, match='a checkpoint before %s, the end of this run' % refused):
            checkpoint.open_run(folder, flags)
        assert sorted(os.listdir(str(tmp_path))) == ['0', 'other']
    else:
        assert opened(folder, flags) is False
        assert sorted(os.listdir(str(tmp_path))) == ['0', '0.1', 'other']


def test_a_run_is_not_trained_on_from_itself_unless_it_is_unfinished(tmp_path):
    folder = a_run(tmp_path, finished=True)
    first, second = (save(checkpoint.CheckpointStore(folder), step) for step in (1, 2))
    for resume in (folder, second):
        with pytest.raises(DataError, match='found the finished run of --output_path itself'):
            checkpoint.open_run(folder, {'seed': 0, 'resume': resume})
    assert os.listdir(str(tmp_path)) == ['0']
    (tmp_path / '0' / 'metrics.jsonl').write_text('')
    flags = {'seed': 0, 'log_every': 1, 'train_steps': None}
    (tmp_path / '0' / 'flags.json').write_text(json.dumps(flags))
    assert opened(folder, dict(flags, resume=second)) is True
    with pytest.raises(DataError, match='the newest checkpoint of the run'):
        checkpoint.open_run(folder, dict(flags, resume=first))


def test_best_needs_an_evaluated_checkpoint(tmp_path):
    store = checkpoint.CheckpointStore(str(tmp_path))
    save(store, 1)
    with pytest.raises(DataError, match='a checkpoint that was evaluated'):
        checkpoint.find_checkpoint(str(tmp_path), best=True)
    save(store, 2, metric=0.5)
    save(store, 3, metric=0.4)
    assert checkpoint.find_checkpoint(str(tmp_path), best=True)[1]['step'] == 2
