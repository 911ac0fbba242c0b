# SPDX-License-Identifier: Apache-2.0
"""A disk that fills up before any write of a run ends it in one sentence, and with room again it goes on.

    DISKS=20 pytest tests/reliability           not part of all tests: tests/common has the faults that it found
    KILLS_SEED=7 ...                            before other writes
"""
import os
import random
import signal
import subprocess

import lives
import pytest

DISKS, SEED = int(os.environ.get('DISKS', 0)), os.environ.get('KILLS_SEED', '0')
DISK_BYTES, MOST_LEFT_BYTES = 32 << 20, 1 << 16


@pytest.fixture
def disk(tmp_path):
    """A folder that is a small disk."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    if subprocess.call(['mount', '-t', 'tmpfs', '-o', 'size=%d' % DISK_BYTES, 'tmpfs', str(folder)],
                       stderr=subprocess.DEVNULL):
        pytest.skip('this user may not mount a small disk')
    yield folder
    subprocess.call(['umount', '--lazy', str(folder)])


def fill_up(disk, left_bytes):
    """Leaves so many bytes on it."""
    status = os.statvfs(str(disk))
    with open(str(disk / 'filler'), 'wb') as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - left_bytes))


@pytest.mark.skipif(not DISKS, reason='DISKS says how many')
@pytest.mark.parametrize('number', range(DISKS))
def test_a_full_disk_ends_a_run_in_a_sentence(number, disk, new_life, undisturbed, note):
    chance = random.Random('disk %s %d' % (SEED, number))
    name, ranks = list(lives.MODELS)[number % len(lives.MODELS)], 2 if number % 10 == 9 else 1
    usual, by_script = undisturbed(name, ranks), ranks > 1 or number // len(lives.MODELS) % 2 == 0
    life = new_life(name, ranks, by_script, str(disk / 'run'))
    life.start(FILE_EVENT=str(chance.randint(1, lives.EVENTS_A_SAVE * lives.STEPS // lives.SAVE_EVERY)))
    while not life.wait_until(life.stopped, 0.05):
        life.start(FILE_EVENT=str(chance.randint(1, lives.EVENTS_A_SAVE)))
    left_bytes = chance.choice([0, chance.randint(1, MOST_LEFT_BYTES)])
    fill_up(disk, left_bytes)
    before = life.newest()
    os.kill(life.stopped(), signal.SIGCONT)
    code, said = life.wait_for_end(), life.said()
    life.check_going_on()
    assert life.newest() >= before, life.told()
    if code:
        assert code == 1 and ('full disk' in said or 'disk is full' in said or 'free disk space' in said), life.told()
        assert sum('[fail]' in line for line in said.splitlines()) < 2, said
    else:  # all that counts had been written
        assert life.result() == usual.result, life.told()
    note(what='disk', model=name, ranks=ranks, left_bytes=left_bytes, step=life.newest(), code=code,
         end='in a sentence' if code else 'after the last write that counts')
    os.remove(str(disk / 'filler'))
    if code:
        life.start()
        assert life.wait_for_end() == 0, life.told()
        life.check_going_on()
        assert life.result() == usual.result, life.told()
        life.check_whole(by_script)
    note(what='life', model=name, ranks=ranks, end='as undisturbed')
