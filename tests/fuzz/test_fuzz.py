# SPDX-License-Identifier: Apache-2.0
"""Damaged files of every kind are read or refused in a line: soon, in little memory, and nothing else happens.

    FUZZ_SECONDS=600 pytest tests/fuzz         longer than the minute that is part of all tests
    FUZZ_SEED=7 pytest tests/fuzz              other damage
    FUZZ_CASE=voc_xml:0-123 pytest tests/fuzz  one case again, as a failure names it

The cases are functions of seed, kind and number; how many there is time for depends on the machine.
"""
import collections
import os
import random
import shutil
import subprocess
import sys
import time

import kinds
import mutations
import pytest
import worker
from kinds import KINDS, ROOT

SECONDS, SEED = float(os.environ.get('FUZZ_SECONDS', 25)), os.environ.get('FUZZ_SEED', '0')
ONE_CASE, SHOWN = os.environ.get('FUZZ_CASE', ''), int(os.environ.get('FUZZ_SHOWN', 5))
_SHARES = sum(kind.share for kind in KINDS.values())


@pytest.mark.parametrize('name', sorted(KINDS, key=lambda name: KINDS[name].folder))
def test_damaged_files(name, workers, request):
    worker, counts, said = workers(KINDS[name].folder), collections.Counter(), []
    kind, _, only = ONE_CASE.partition(':')
    if kind not in ('', name):
        pytest.skip('another case is asked for')
    end = time.monotonic() + SECONDS * KINDS[name].share / _SHARES
    number = 0
    while not only and (time.monotonic() < end or number < 5) or only and not number:
        case = only or '%s-%d' % (SEED, number)
        outcome, words, damaged = worker.ask(kind=name, case=case)
        counts[outcome] += 1
        if outcome == 'found':
            said.append('FUZZ_CASE=%s:%s (%s)\n%s' % (name, case, damaged, words))
        number += 1
    request.config.fuzz_counts[name] = counts
    assert not said, '%d of %d cases:\n%s' % (len(said), number, '\n'.join(said[:SHOWN]))


COMMANDS = {  # kind whose files it takes: command line, with their folder for {}
    'voc_lists': [kinds.SSD + '/process_dataset.py', '--data_path={}/VOC', '--output_path={}/out', '--workers=1'],
    'imagenet': [kinds.SHUFFLENET + '/explore_imagenet.py', '--data_dir={}', '--output={}/out'],
    'imagenet_tables': [
        kinds.SHUFFLENET + '/create_tfrecords.py', '--metadata_file={}/out/training_metadata.csv', '--workers=1',
        '--labels={}/out/integer_encoding.json', '--boxes={}/out/boxes.npy', '--output={}/shards'],
    'rank_table': ['-m', 'tools.ranktable', 'check', '{}/server_list.json'],
    'run_folder': ['-m', 'tools.report', '--table', '{}/run'],
    'cifar_batches': [kinds.CSPNET + '/test.py', '--data_path={}', '--checkpoint={}', '--device=cpu'],
    'flags_cspnet': [kinds.CSPNET + '/train.py'],
}


@pytest.mark.parametrize('name', COMMANDS)
def test_a_command_says_in_a_line_what_is_wrong(name, tmp_path, request):
    """The same through the command line, a few times: tracebacks, exit codes, what is left behind."""
    kind, counts = KINDS[name], request.config.fuzz_counts.setdefault('commands', collections.Counter())
    pristine, place = str(tmp_path / 'pristine'), str(tmp_path / 'place')
    os.mkdir(pristine)
    if name == 'flags_cspnet':
        (tmp_path / 'pristine' / 'words').write_text('--epochs=1\n--batch_size=64\n--LAMBDA=0.1\n--device=cpu\n')
    else:
        subprocess.run([sys.executable, '-c', 'import sys, kinds; kinds.use_folder(sys.argv[1]); '
                        'kinds.KINDS[sys.argv[2]].make(sys.argv[3])', kind.folder, name, pristine], check=True,
                       cwd=ROOT, env=dict(os.environ, PYTHONPATH=os.path.dirname(__file__) + os.pathsep + ROOT),
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    files = worker.targets(kind, pristine)
    for number in range(max(1, int(SECONDS / 60))):
        chance = random.Random('%s %s %d' % (SEED, name, number))
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(pristine, place)
        damaged, what = chance.choice(files)
        path = os.path.join(place, damaged)
        with open(path, 'rb') as file:
            content = mutations.mutate(file.read(), chance, what)
        with open(path, 'wb') as file:
            file.write(content)
        words = [word.replace('{}', place) for word in COMMANDS[name]]
        if name == 'flags_cspnet':
            words += content.replace(b'\0', b'').decode(errors='surrogateescape').split('\n') + ['--data_path=/none']
        done = subprocess.run([sys.executable] + words, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=120, env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL='3'))
        said = (done.stdout + done.stderr).decode(errors='replace')
        fine = done.returncode in (0, 1, 2) and 'Traceback' not in said and (done.returncode == 0 or said.strip())
        counts['returned' if done.returncode == 0 else 'refused' if fine else 'found'] += 1
        assert fine, '%s with %s of case %d: exit code %d\n%s' % (name, damaged, number, done.returncode, said[-3000:])
