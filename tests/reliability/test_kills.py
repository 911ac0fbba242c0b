# SPDX-License-Identifier: Apache-2.0
"""A run that is killed at any moment, as often as you like, ends as one that nobody disturbed.

    KILLS=100 pytest tests/reliability          more than the two that are part of all tests
    KILLS_SEED=7 ...                            at other moments
    FIGURES=figures.json ...                    writes what happened, kill by kill

Ten kills hit a life of one rank, five one of two ranks, one or two of each kind of moment; of two lives of one rank a
script starts the first, the other is train.py alone.
"""
import glob
import itertools
import os
import random
import time

import lives
import pytest

from common import checkpoint

KILLS, SEED = int(os.environ.get('KILLS', 2)), os.environ.get('KILLS_SEED', '0')
MOMENTS = ('start', 'training', 'save', 'evaluation', 'end')


def planned():
    """(number, model, ranks, whether a script starts it, kills) of each life."""
    left = KILLS
    for number in itertools.count():
        name, kind = list(lives.MODELS)[number % len(lives.MODELS)], number // len(lives.MODELS) % 3
        kills = min(left, len(MOMENTS) * (1 if kind == 2 else 2))
        if not kills:
            return
        yield number, name, 2 if kind == 2 else 1, kind != 1, kills
        left -= kills


def came(life, moment, chance, usual):
    """Starts the command and waits for the moment; whether it came before the command's end."""
    first = 0 if checkpoint.is_finished(life.folder) else life.newest()
    soon = max(1, (lives.STEPS - first) // 2)  # leaves steps for the kills to come
    step = first + chance.randint(1, soon)
    if moment == 'save':
        life.start(FILE_EVENT=str(chance.randint(1, lives.EVENTS_A_SAVE * -(-soon // lives.SAVE_EVERY))))
        return life.wait_until(life.stopped, 0.05)
    life.start()
    if moment == 'start':
        at = life.began + chance.uniform(0, usual.start_sec)
        return life.wait_until(lambda: time.monotonic() > at)
    if moment == 'evaluation':
        step = min(lives.STEPS, -(-step // lives.STEPS_AN_EPOCH) * lives.STEPS_AN_EPOCH)
    event = ('done', lives.STEPS) if moment == 'end' else ('train', step)
    if not life.wait_until(lambda: event in [(known['event'], known.get('step')) for known in life.events()]):
        return False
    time.sleep(chance.uniform(0, {'end': usual.end_sec, 'evaluation': usual.evaluation_sec}.get(moment, 0.05)))
    return True


@pytest.mark.parametrize('number, name, ranks, by_script, kills', list(planned()))
def test_a_killed_run_ends_as_an_undisturbed_one(number, name, ranks, by_script, kills, new_life, undisturbed, note):
    chance, usual = random.Random('%s %d' % (SEED, number)), undisturbed(name, ranks)
    life, aside = new_life(name, ranks, by_script), 0

    def check_result():
        """Of a run that has said [done]; the next command begins another one and moves this one aside."""
        nonlocal aside
        assert life.result() == usual.result, life.told()
        aside += 1

    moments = [moment for _ in range(2) for moment in chance.sample(MOMENTS, len(MOMENTS))]
    for moment in moments[:kills]:
        while not (came(life, moment, chance, usual) and life.processes()):
            assert life.wait_for_end() == 0, life.told()
            check_result()
        victims = sorted(life.processes().items()) or [None]
        victim = chance.choice(victims) if chance.random() < 0.5 else None
        events = life.events()
        before = life.newest() if events or not life.begins_anew else 0
        hit = moment if events or moment != 'training' else 'start'
        life.kill(victim and victim[:1])
        killed = time.monotonic()
        code = life.wait_for_end()
        ended_sec = time.monotonic() - killed
        life.check_going_on()
        assert life.newest() >= before, life.told()
        note(what='kill', model=name, ranks=ranks, moment=hit, victim=role(victim), step=life.newest(), code=code,
             ended_sec=round(ended_sec, 1))
        if checkpoint.is_finished(life.folder) and life.events():  # else it has not yet been moved aside
            check_result()
    life.start()
    assert life.wait_for_end() == 0, life.told()
    life.check_going_on()
    check_result()
    life.check_whole(by_script)
    assert len(glob.glob(life.folder + '.*')) == aside - 1
    for finished in glob.glob(life.folder + '.*'):
        assert checkpoint.is_finished(finished)
        assert checkpoint.CheckpointStore(finished).newest()[1]['step'] == lives.STEPS
    note(what='life', model=name, ranks=ranks, end='as undisturbed')


def role(victim):
    """What a victim is: (pid, command line), or None for all."""
    if victim is None:
        return 'all'
    words = victim[1]
    return ('worker' if 'spawn_main' in words else 'tracker' if 'tracker' in words else
            'watcher' if 'processes.py' in words and 'train.py' not in words else
            'launcher' if '-m launcher' in words or words.startswith('bash') else
            'rank' if 'train.py' in words else 'other')
