# SPDX-License-Identifier: Apache-2.0
"""Makes `common` importable; offers programs in this process, small data sets and two servers."""
import os
import shutil
import signal
import subprocess
import sys

import pytest

TESTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(TESTS)
for path in (os.path.join(TESTS, 'in_programs'), TESTS, ROOT):
    if path not in sys.path:
        sys.path.insert(0, path)

SERVERS = '10.77.0.1', '10.77.0.2'
REAL_VOC = os.path.join(ROOT, '..', 'shared', 'data', 'voc')
REAL_CIFAR10_SCRIPT = os.path.join(ROOT, '..', 'shared', 'data', 'cifar10', 'make_cifar10.py')


@pytest.fixture
def here(monkeypatch, capsys):
    """(module, *words) -> (exit code, what it said): runs a program in this process, with a small network."""
    import small_networks
    small_networks.install(monkeypatch.setattr)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(program, *words):
        small_networks.install(monkeypatch.setattr)  # what can be imported by now
        capsys.readouterr()
        code = program.main(list(words))
        return code, ''.join(capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


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


@pytest.fixture(scope='session')
def few_cifar10(tmp_path_factory):
    """str, the same with 40 + 100: an epoch of two steps of 16."""
    from tools import sampledata
    folder = str(tmp_path_factory.mktemp('few') / 'cifar10')
    sampledata.draw_cifar10(folder, train=40, test=100, seed=0)
    return folder


@pytest.fixture(scope='session')
def drawn_photos(tmp_path_factory):
    """str, class folders of 12 photos each of red, green and blue."""
    import photos
    return photos.draw(str(tmp_path_factory.mktemp('photos') / 'photos'), 12)


@pytest.fixture(scope='session')
def drawn_voc(tmp_path_factory):
    """str, a folder with VOCdevkit/VOC2007: 10 drawn images in trainval, 6 in test."""
    pytest.importorskip('PIL')
    from tools import sampledata
    folder = str(tmp_path_factory.mktemp('voc') / 'drawn')
    sampledata.draw_voc(folder, train=10, test=6)
    return folder


@pytest.fixture(scope='session')
def processed_voc(drawn_voc, tmp_path_factory):
    """str, the arrays of it."""
    import process_dataset
    return process_dataset.process(drawn_voc, str(tmp_path_factory.mktemp('processed') / 'out'))


@pytest.fixture
def real_voc():
    """str, a folder with a VOCdevkit of real photos."""
    if not os.path.isdir(REAL_VOC):
        pytest.skip('the real Pascal VOC sample is not beside this repository (%s)' % REAL_VOC)
    return REAL_VOC


@pytest.fixture
def image_folders(tmp_path):
    """pathlib.Path, an image folder of three classes with train and val."""
    import small_imagenet
    return small_imagenet.draw(tmp_path / 'in')


@pytest.fixture
def shards_folder(image_folders, tmp_path):
    """pathlib.Path, with train_shards and eval_shards of it."""
    import small_imagenet
    return small_imagenet.make(image_folders, tmp_path / 'made')


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
