# SPDX-License-Identifier: Apache-2.0
"""download-data.sh against a server of this machine."""
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile

import pytest
from conftest import ROOT

FOLDER = os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow')
sys.path.insert(0, FOLDER)
pytest.importorskip('cv2')
pytest.importorskip('defusedxml')

from voc_trees import listing  # noqa: E402

pytestmark = pytest.mark.smoke


@pytest.fixture
def server(tmp_path):
    """Two archives in a folder, and the environment that makes download-data.sh take them from there."""
    (tmp_path / 'server').mkdir()
    lines = []
    for name, content in (('one', b'x' * 300000), ('two', b'y' * 5000)):
        inside = tmp_path / 'VOCdevkit' / 'VOC2007' / name
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_bytes(content)
        path = tmp_path / 'server' / (name + '.tar')
        with tarfile.open(str(path), 'w') as archive:
            archive.add(str(inside), 'VOCdevkit/VOC2007/' + name)
        lines.append('%s voc2007/%s.tar\n' % (hashlib.md5(path.read_bytes()).hexdigest(), name))
    shutil.rmtree(str(tmp_path / 'VOCdevkit'))
    (tmp_path / 'sums').write_text(''.join(lines))
    return tmp_path / 'server', dict(os.environ, VOC_URL='file://%s' % (tmp_path / 'server'),
                                     VOC_MD5SUMS=str(tmp_path / 'sums'))


def download(folder, environment):
    done = subprocess.run(['bash', os.path.join(FOLDER, 'download-data.sh'), str(folder)], env=environment,
                          capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


needs_curl = pytest.mark.skipif(shutil.which('curl') is None, reason='curl is not installed')


@needs_curl
def test_a_download_goes_on_where_it_stopped(server, tmp_path):
    place, environment = server
    out = tmp_path / 'out'
    out.mkdir()
    whole = (place / 'one.tar').read_bytes()
    (out / 'one.tar.part').write_bytes(whole[:100000])
    code, said, errors = download(out, environment)
    assert code == 0 and 'from byte position 100000' in errors and 'process_dataset.py' in said
    assert (out / 'VOCdevkit' / 'VOC2007' / 'one').read_bytes() == b'x' * 300000
    assert (out / 'one.tar').read_bytes() == whole and not list(out.glob('*.part'))
    before = listing(out)
    code, said, errors = download(out, dict(environment, VOC_URL='file:///nowhere'))
    assert (code, errors) == (0, '') and listing(out) == before


@needs_curl
def test_a_wrong_archive_is_never_unpacked(server, tmp_path):
    place, environment = server
    out = tmp_path / 'out'
    (place / 'one.tar').write_bytes((place / 'two.tar').read_bytes())
    code, _, errors = download(out, environment)
    assert code == 1 and 'expected md5' in errors and 'found another' in errors and 'put them into' in errors
    assert sorted(os.listdir(str(out))) == ['VOCdevkit', 'two.tar']
    assert os.listdir(str(out / 'VOCdevkit' / 'VOC2007')) == ['two']


@needs_curl
def test_without_a_network_it_says_what_to_do(server, tmp_path):
    place, environment = server
    out = tmp_path / 'out'
    code, _, errors = download(out, dict(environment, VOC_URL='file:///nowhere'))
    assert code == 1 and 'voc2007/one.tar' in errors and 'Without a network: fetch them elsewhere' in errors
    shutil.copy(str(place / 'one.tar'), str(out))
    (out / 'two.tar.part').write_bytes((place / 'two.tar').read_bytes())  # whole, only its name is not
    code, _, errors = download(out, dict(environment, VOC_URL='file:///nowhere'))
    assert (code, errors) == (0, '') and (out / 'VOCdevkit' / 'VOC2007' / 'two').exists()
