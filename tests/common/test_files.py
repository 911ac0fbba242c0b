# SPDX-License-Identifier: Apache-2.0
"""What is written appears whole or not at all, and nothing of others is touched."""
import collections
import os
import subprocess
import sys

import pytest

from common import files
from common.files import DataError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(files.__file__)))
MAKE = """
import os, sys, time
from common import files
with files.whole_folder(sys.argv[1], {"n": 1}, "me") as fresh:
    if fresh:
        print("making", flush=True)
        time.sleep(float(sys.argv[2]))
        open(os.path.join(fresh, "content"), "w").write("x" * 10)
print("made" if fresh else "found", flush=True)
"""


def start(path, seconds):
    return subprocess.Popen([sys.executable, '-c', MAKE, str(path), str(seconds)], cwd=ROOT, stdout=subprocess.PIPE,
                            text=True)


def fill(path, settings, text='content', made_by='me'):
    """What whole_folder gave, after writing one file."""
    with files.whole_folder(str(path), settings, made_by, besides=('more',)) as fresh:
        if fresh:
            with open(os.path.join(fresh, 'content'), 'w') as file:
                file.write(text)
    return fresh


def message_of(function, *args):
    with pytest.raises(DataError) as caught:
        function(*args)
    message = str(caught.value)
    assert '\n' not in message
    assert ': expected ' in message and '; found ' in message and message.endswith('.')
    return message


def test_a_folder_is_used_again_while_its_settings_agree(tmp_path):
    path = tmp_path / 'made'
    assert fill(path, {'n': 1}) and not fill(path, {'n': 1}, 'other')
    assert (path / 'content').read_text() == 'content'
    assert fill(path, {'n': 2}, 'newer') and (path / 'content').read_text() == 'newer'
    (path / 'content').write_text('cut')  # damaged: another size
    assert fill(path, {'n': 2}, 'longer')
    assert os.listdir(str(tmp_path)) == ['made']


def test_what_may_be_added_keeps_a_folder_whole_and_what_may_not_keeps_it_from_being_replaced(tmp_path):
    path = tmp_path / 'made'
    fill(path, {'n': 1})
    (path / 'more').mkdir()
    (path / 'more' / 'picture').write_text('x')
    assert not fill(path, {'n': 1}) and fill(path, {'n': 2})
    (path / 'thesis.tex').write_text('x')
    assert not fill(path, {'n': 2})
    assert 'thesis.tex in it' in message_of(fill, path, {'n': 3})
    assert (path / 'thesis.tex').exists()


def test_a_folder_of_others_is_left_alone(tmp_path):
    fill(tmp_path / 'made', {'n': 1}, made_by='somebody')
    (tmp_path / 'file').write_text('x')
    for name in ('made', 'file'):
        assert 'one that me made' in message_of(fill, tmp_path / name, {'n': 1})
    (tmp_path / '.new.partial').mkdir()
    (tmp_path / '.new.partial' / 'thesis.tex').write_text('x')  # looks like a leftover, but was not made here
    assert 'new.partial' in message_of(fill, tmp_path / 'new', {'n': 1})
    assert sorted(os.listdir(str(tmp_path))) == ['.new.partial', 'file', 'made']


def test_nothing_is_left_of_one_that_failed(tmp_path):
    with pytest.raises(KeyError):
        with files.whole_folder(str(tmp_path / 'made'), {}, 'me'):
            raise KeyError('x')
    assert os.listdir(str(tmp_path)) == []


def test_of_two_one_makes_it_and_the_other_waits(tmp_path):
    processes = [start(tmp_path / 'made', 1) for _ in range(2)]
    said = sorted(process.communicate(timeout=30)[0] for process in processes)
    assert said == ['found\n', 'making\nmade\n']


def test_what_a_killed_one_left_is_cleared_away(tmp_path):
    process = start(tmp_path / 'made', 60)
    assert process.stdout.readline() == 'making\n'
    process.kill()
    process.communicate()
    assert os.listdir(str(tmp_path)) == ['.made.partial']
    assert fill(tmp_path / 'made', {'n': 1})
    (tmp_path / '.made.partial').mkdir()  # by one that was killed before it could mark it
    (tmp_path / '.made.partial' / '.whole.json.tmp-1').write_text('')
    assert fill(tmp_path / 'made', {'n': 2})
    assert os.listdir(str(tmp_path)) == ['made']


def test_a_whole_folder_is_found_where_nothing_can_be_written(tmp_path, monkeypatch):
    fill(tmp_path / 'made', {'n': 1})

    def refuse(*_args, **_kwargs):
        raise OSError(30, 'Read-only file system')
    monkeypatch.setattr(files.os, 'makedirs', refuse)
    assert fill(tmp_path / 'made', {'n': 1}) is None
    assert 'Read-only' in message_of(fill, tmp_path / 'made', {'n': 2})


def test_a_lock_is_for_one_and_follows_no_moved_folder(tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    first = files.lock_folder(str(folder), wait=False)
    with pytest.raises(BlockingIOError):
        files.lock_folder(str(folder), wait=False)
    assert files.move_aside(str(folder)) == str(folder) + '.1'
    folder.mkdir()
    second = files.lock_folder(str(folder), wait=False)  # another folder
    os.close(first)
    os.close(second)
    os.close(files.lock_folder(str(folder), wait=False))


def test_output_folder_is_made_and_left_clean(tmp_path):
    path = tmp_path / 'a' / 'b'
    assert files.prepare_output_dir(str(path)) == str(path)
    assert os.listdir(str(path)) == []
    (path / 'kept').write_text('x')
    files.prepare_output_dir(str(path))
    assert os.listdir(str(path)) == ['kept']


def test_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('x')
    for path in (tmp_path / 'file', tmp_path / 'file' / 'below', '/proc/none'):
        assert str(path) in message_of(files.prepare_output_dir, str(path))


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, 'No space left on device')
    files.write_text(str(tmp_path / 'text'), 'old')
    monkeypatch.setattr(files.os, 'fsync', full)
    with pytest.raises(OSError):
        files.write_text(str(tmp_path / 'text'), 'new')
    assert os.listdir(str(tmp_path)) == ['text'] and (tmp_path / 'text').read_text() == 'old'


def test_a_line_that_was_cut_short_is_ended(tmp_path):
    for before, after in (('', ''), ('a\n', 'a\n'), ('a\nb', 'a\nb\n')):
        (tmp_path / 'log').write_text(before)
        files.end_last_line(str(tmp_path / 'log'))
        assert (tmp_path / 'log').read_text() == after
    files.end_last_line(str(tmp_path / 'none'))
    assert not (tmp_path / 'none').exists()


def test_free_space(tmp_path, monkeypatch):
    usage = collections.namedtuple('usage', 'total used free')
    monkeypatch.setattr(files.shutil, 'disk_usage', lambda path: usage(10 ** 9, 0, 10 ** 6))
    files.check_free_space(str(tmp_path / 'not' / 'yet'), 10 ** 6)
    message = message_of(files.check_free_space, str(tmp_path), 10 ** 9)
    assert '1000.0 MB' in message and 'found 1.0 MB' in message


def test_a_fingerprint_sees_every_file_also_behind_links(tmp_path):
    (tmp_path / 'real' / 'inner').mkdir(parents=True)
    (tmp_path / 'real' / 'inner' / 'label').write_text('cat')
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'linked').symlink_to(tmp_path / 'real')
    (tmp_path / 'data' / 'loop').symlink_to(tmp_path / 'data')
    (tmp_path / 'data' / 'broken').symlink_to(tmp_path / 'nothing')
    paths = [str(tmp_path / 'data'), str(tmp_path / 'list.txt')]
    states = [files.fingerprint(paths)]
    assert files.fingerprint(paths) == states[0]
    for change in (lambda: (tmp_path / 'real' / 'inner' / 'label').write_text('cats'),
                   lambda: os.utime(str(tmp_path / 'real' / 'inner' / 'label'), (1, 1)),
                   lambda: (tmp_path / 'real' / 'more').mkdir(),
                   lambda: (tmp_path / 'list.txt').write_text('a'),
                   lambda: (tmp_path / 'nothing').write_text('now there')):
        change()
        states.append(files.fingerprint(paths))
    assert len(set(states)) == 6
