# SPDX-License-Identifier: Apache-2.0
"""Makes `common` importable; offers two small CIFAR-10 folders, one of real photos and one drawn, and two servers."""
import os
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

SERVERS = '10.77.0.1', '10.77.0.2'
REAL_CIFAR10_SCRIPT = os.path.join(ROOT, '..', 'shared', 'data', 'cifar10', 'make_cifar10.py')


@pytest.fixture(scope='session')
def real_cifar10(tmp_path_factory):
    """str, a folder that holds cifar-10-batches-py with 2000 + 500 real photos."""
    if not os.path.exists(REAL_CIFAR10_SCRIPT):
        pytest.skip('the real CIFAR-10 is not beside this repository (%s)' % REAL_CIFAR10_SCRIPT)
    folder = str(tmp_path_factory.mktemp('real_cifar10'))
    command = [sys.executable, REAL_CIFAR10_SCRIPT, '--out', folder, '--train', '2000', '--test', '500']
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert made.returncode == 0, made.stdout
    return folder


@pytest.fixture(scope='session')
def sample_cifar10(tmp_path_factory):
    """str, a folder that holds cifar-10-batches-py with 500 + 100 drawn images."""
    from tools import sampledata
    folder = str(tmp_path_factory.mktemp('sample') / 'cifar10')
    sampledata.draw_cifar10(folder, train=500, test=100, seed=0)
    return folder


def _ip(*words):
    done = subprocess.run(['ip'] + list(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode == 0, ' '.join(['ip'] + list(words)) + ': ' + done.stdout.strip()


@pytest.fixture(scope='module')
def servers():
    """Two network namespaces with a cable between them: {address: words before a command that is to run there}."""
    if not shutil.which('ip'):
        pytest.skip('two servers need the program ip (iproute2)')
    names = dict(zip(SERVERS, ('zoo-a-%d' % os.getpid(), 'zoo-b-%d' % os.getpid())))
    first, second = names.values()
    steps = [['netns', 'add', name] for name in names.values()]
    steps.append(['link', 'add', 'zoo', 'netns', first, 'type', 'veth', 'peer', 'name', 'zoo', 'netns', second])
    for address, name in names.items():
        steps += [['-n', name] + words.split() for words in (
            'address add %s/24 dev zoo' % address, 'link set zoo up', 'link set lo up')]
    try:
        for step in steps:
            made, said = _ip(*step)
            if not made:
                pytest.skip('two servers need root and network namespaces (%s)' % said)
        yield {address: ('ip', 'netns', 'exec', name) for address, name in names.items()}
    finally:
        for name in names.values():
            _ip('netns', 'delete', name)
