# SPDX-License-Identifier: Apache-2.0
"""A model folder that was copied elsewhere, with what it needs beside it and without."""
import glob
import os
import re
import shutil
import subprocess
import sys

import programs
import pytest
from conftest import ROOT

FOLDERS = sorted(os.path.basename(os.path.dirname(path)) for path in glob.glob(os.path.join(ROOT, '*', 'train.py')))
PROGRAMS = sorted(os.path.relpath(path, ROOT) for folder in FOLDERS
                  for path in glob.glob(os.path.join(ROOT, folder, '**', '*.py'), recursive=True)
                  if '__main__' in open(path).read() and 'output' not in path)


def copy(folder, place, *beside):
    for name in (folder,) + beside:
        shutil.copytree(os.path.join(ROOT, name), str(place / name),
                        ignore=shutil.ignore_patterns('__pycache__', 'output*', 'prepared', 'VOCdevkit'))
    return place / folder


def run(words, folder, **environment):
    ended = subprocess.run(words, cwd=str(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           stdin=subprocess.DEVNULL, timeout=300,
                           env=programs.environment(PYTHONPATH=programs.IN_PROGRAMS, **environment))
    return ended.returncode, ended.stdout


@pytest.mark.parametrize('folder', FOLDERS)
def test_a_copied_folder_runs_with_what_it_needs_beside_it(folder, tmp_path):
    model = copy(folder, tmp_path, 'common', 'launcher', 'tools')
    for program in PROGRAMS:
        if program.startswith(folder):
            code, said = run([sys.executable, os.path.relpath(program, folder), '--help'], model)
            assert code == 0 and said.startswith('usage: '), said
    if folder.startswith('SSD'):  # whose other tests train in a copy
        return
    code, said = run(['bash', 'test/train_full_1p.sh', '--synthetic', '--train_steps=1', '--batch_size=2'], model)
    assert code == 0 and 'Final Performance images/sec' in said, said


@pytest.mark.parametrize('program', PROGRAMS + ['tools/ranktable.py', 'tools/report.py', 'tools/sampledata.py'])
def test_help_waits_for_no_large_package(program):
    folder, words = ROOT, ['-m', program[:-len('.py')].replace('/', '.')]
    if program in PROGRAMS:
        folder, words = os.path.join(ROOT, os.path.dirname(program)), [os.path.basename(program)]
    told = subprocess.run([sys.executable, '-X', 'importtime'] + words + ['--help'], cwd=folder, capture_output=True,
                          text=True, timeout=300, env=dict(os.environ, PYTHONPATH=''))
    imported = {line.rpartition('|')[2].strip() for line in told.stderr.splitlines()}
    assert told.returncode == 0 and told.stdout.startswith('usage: ') and 'common.flags' in imported, told.stderr
    assert not imported & {'numpy', 'cv2', 'PIL', 'tensorflow', 'matplotlib', 'google_crc32c'}


@pytest.mark.parametrize('program', PROGRAMS)
def test_without_common_a_sentence_says_what_is_missing(program, tmp_path):
    folder, name = program.split(os.sep, 1)
    ended, said = run([sys.executable, '-S', name, '--help'], copy(folder, tmp_path))
    assert ended == 1 and said.count('\n') == 1, said
    assert 'expected the folders common, launcher and tools beside this one; found no common' in said


@pytest.mark.parametrize('script', ['CSPNet_ID0840_for_TensorFlow/test/train_full_1p.sh'])
def test_a_script_without_the_launcher_names_it(script, tmp_path):
    folder, name = script.split(os.sep, 1)
    for shell in ('bash', 'sh'):
        ended, said = run([shell, name], copy(folder, tmp_path / shell))
        assert ended != 0 and said.count('\n') == 1 and 'launcher/run.sh' in said, said


@pytest.mark.parametrize('program', PROGRAMS)
def test_outside_the_environment_a_sentence_says_what_to_run(program, tmp_path):
    """-S: this Python without its packages."""
    folder, name = program.split(os.sep, 1)
    model = copy(folder, tmp_path, 'common', 'launcher', 'tools')

    def told():
        code, said = run([sys.executable, '-S', name, '--help'], model)
        assert code == 1 and said.count('\n') == 1 and 'no numpy' in said, said
        return re.search(r"; run '([^']*)'", said).group(1)

    assert told() == 'pip3 install -r requirements.txt'
    (tmp_path / 'quickstart.sh').write_text('')
    assert told() == 'bash quickstart.sh'
    (tmp_path / '.venv' / 'bin').mkdir(parents=True)
    (tmp_path / '.venv' / 'bin' / 'python').write_text('')
    assert told() == 'source %s' % (tmp_path / '.venv' / 'bin' / 'activate')


def test_all_folders_ask_in_the_same_words():
    texts = {re.sub(r'check_installed\("numpy".*\)', '', open(os.path.join(ROOT, folder, 'needs.py')).read())
             for folder in FOLDERS}
    assert len(texts) == 1
