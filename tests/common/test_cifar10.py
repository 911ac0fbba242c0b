# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 is read right or not at all; every refusal is one line that says where, what and what to do."""
import gzip
import os
import pickle
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from conftest import ROOT

from common import cifar10
from common.files import DataError

pytestmark = pytest.mark.smoke


def write_pickle(path, content, protocol=2):
    with open(str(path), 'wb') as stream:
        pickle.dump(content, stream, protocol)


def read_pickle(path):
    with open(str(path), 'rb') as stream:
        return pickle.load(stream, encoding='bytes')


def load_pickle(path):
    return cifar10.load_restricted_pickle(cifar10.File(str(path), 0, lambda: open(str(path), 'rb')))


def message_of(function, *args):
    with pytest.raises(DataError) as caught:
        function(*args)
    message = str(caught.value)
    assert '\n' not in message
    assert ': expected ' in message and '; found ' in message and message.endswith('.')
    return message


@pytest.fixture
def batches(sample_cifar10, tmp_path):
    """A copy of the drawn set's cifar-10-batches-py that a test may damage."""
    folder = tmp_path / 'cifar-10-batches-py'
    shutil.copytree(os.path.join(sample_cifar10, 'cifar-10-batches-py'), str(folder))
    return folder


@pytest.fixture
def archive(batches, tmp_path):
    """cifar-10-python.tar.gz in a folder of its own, with the members in the real archive's mixed order."""
    path = tmp_path / 'packed' / 'cifar-10-python.tar.gz'
    path.parent.mkdir()
    with tarfile.open(str(path), 'w:gz') as packed:
        for name in ('data_batch_4', 'test_batch', 'data_batch_3', 'batches.meta', 'data_batch_2',
                     'data_batch_5', 'data_batch_1'):
            packed.add(str(batches / name), 'cifar-10-batches-py/' + name)
    return path


def assert_same(left, right):
    for a, b in zip(left, right):
        np.testing.assert_array_equal(a, b)


def test_error_is_one_line():
    error = DataError('a.bin', 'a whole file', 'two\nlines', 'do this')
    assert str(error) == 'a.bin: expected a whole file; found two lines; do this.'
    assert (error.where, error.found) == ('a.bin', 'two lines')


def test_reads_images_and_labels(batches):
    data = cifar10.load_cifar10(str(batches))
    assert data.train_images.shape == (500, 32, 32, 3) and data.train_images.dtype == np.uint8
    assert data.test_images.shape == (100, 32, 32, 3) and data.test_images.dtype == np.uint8
    assert data.train_labels.shape == (500,) and data.train_labels.dtype == np.int32
    first = read_pickle(batches / 'data_batch_1')
    third = read_pickle(batches / 'data_batch_3')
    # Row 0 of a file: 1024 red values, then green, then blue, each row by row.
    np.testing.assert_array_equal(data.train_images[0, :, :, 1], first[b'data'][0, 1024:2048].reshape(32, 32))
    np.testing.assert_array_equal(data.train_images[200, :, :, 2], third[b'data'][0, 2048:].reshape(32, 32))
    assert data.train_labels[200:300].tolist() == third[b'labels']


def test_reads_real_photos_written_by_python_2(real_cifar10):
    data = cifar10.load_cifar10(real_cifar10)
    assert data.train_images.shape == (2000, 32, 32, 3) and data.test_images.shape == (500, 32, 32, 3)
    assert np.bincount(data.train_labels).tolist() == [200] * 10
    assert data.class_names == cifar10.CIFAR10_CLASSES
    # The published means over all 50,000 are 125.3, 123.0 and 113.9: a swapped channel or plane would show.
    np.testing.assert_allclose(data.train_images.mean((0, 1, 2)), (125.3, 123.0, 113.9), atol=3)


def test_every_documented_place_is_found(batches, archive, tmp_path):
    below = tmp_path / 'project' / 'dataset'
    below.mkdir(parents=True)
    shutil.copytree(str(batches), str(below / 'cifar-10-batches-py'))
    renamed = tmp_path / 'renamed'
    shutil.copytree(str(batches), str(renamed))
    whole = cifar10.load_cifar10(str(batches))
    twice, keras = tmp_path / 'twice' / 'cifar-10-batches-py', tmp_path / 'datasets' / 'cifar-10-batches-py-target'
    for folder in (twice, keras):
        folder.mkdir(parents=True)
        shutil.copytree(str(batches), str(folder / 'cifar-10-batches-py'))
    for place in (batches, batches.parent, below.parent, renamed, archive, archive.parent, twice, twice.parent,
                  keras.parent):
        assert_same(cifar10.load_cifar10(str(place)), whole)
    assert cifar10.find_cifar10(str(batches.parent)) == str(batches)


@pytest.mark.parametrize('given', [None, ''])
def test_no_data_path_says_what_to_give(given):
    message = message_of(cifar10.find_cifar10, given)
    for told in ('--data_path=DIR', 'cifar-10-batches-py', 'cifar-10-python.tar.gz'):
        assert told in message


def test_other_places_are_refused(tmp_path):
    assert 'no such file' in message_of(cifar10.find_cifar10, str(tmp_path / 'absent'))
    assert 'an empty folder' in message_of(cifar10.find_cifar10, str(tmp_path))
    (tmp_path / 'photo.jpg').write_bytes(b'x')
    assert 'photo.jpg' in message_of(cifar10.find_cifar10, str(tmp_path))
    assert 'another file' in message_of(cifar10.find_cifar10, str(tmp_path / 'photo.jpg'))
    (tmp_path / 'cifar-10-batches-py').mkdir()
    (tmp_path / 'cifar-10-batches-py' / 'data_batch_1.txt').write_bytes(b'x')
    assert 'found data_batch_1.txt' in message_of(cifar10.find_cifar10, str(tmp_path))


@pytest.mark.parametrize('folder, names, told', [
    ('cifar-10-batches-bin', ['data_batch_1.bin', 'test_batch.bin'], 'the binary version of CIFAR-10'),
    ('cifar-10-batches-mat', ['data_batch_1.mat', 'test_batch.mat'], 'the Matlab version of CIFAR-10'),
    ('cifar-100-python', ['train', 'test', 'meta'], 'CIFAR-100'),
])
def test_other_data_of_its_authors_is_named(tmp_path, folder, names, told):
    other = tmp_path / 'data' / folder
    other.mkdir(parents=True)
    for name in names:
        (other / name).write_bytes(b'x')
    with tarfile.open(str(tmp_path / 'packed.tar.gz'), 'w:gz') as packed:
        packed.add(str(other), folder)
    shutil.copytree(str(other), str(tmp_path / 'renamed'))
    for place in (tmp_path / 'data', other, tmp_path / 'renamed', tmp_path / 'packed.tar.gz'):
        message = message_of(cifar10.load_cifar10, str(place))
        assert 'found %s (' % told in message and 'fetch cifar-10-python.tar.gz from https://' in message


def test_missing_file_is_named(batches):
    os.remove(str(batches / 'data_batch_3'))
    assert 'no data_batch_3' in message_of(cifar10.load_cifar10, str(batches))


@pytest.mark.parametrize('kept', [0, 1, 60, 5000])
def test_truncated_file_is_named(batches, kept):
    path = batches / 'data_batch_2'
    path.write_bytes(path.read_bytes()[:kept])
    assert 'data_batch_2' in message_of(cifar10.load_cifar10, str(batches))


@pytest.mark.parametrize('foreign', [b'\x89PNG\r\n\x1a\n' * 400, b'hello\n' * 800,
                                     b'\x80\x02]q\x00.' + b'\0' * 4000])
def test_foreign_file_is_named(batches, foreign):
    (batches / 'test_batch').write_bytes(foreign)
    assert 'test_batch' in message_of(cifar10.load_cifar10, str(batches))


def test_missing_meta_gives_the_standard_names(batches):
    os.remove(str(batches / 'batches.meta'))
    assert cifar10.load_cifar10(str(batches)).class_names == cifar10.CIFAR10_CLASSES


@pytest.mark.parametrize('label', [10, -1, 3.0, None, 'cat', 2 ** 40])
def test_label_out_of_range_names_file_row_and_value(batches, label):
    batch = read_pickle(batches / 'data_batch_5')
    batch[b'labels'][17] = label
    write_pickle(batches / 'data_batch_5', batch)
    message = message_of(cifar10.load_cifar10, str(batches))
    assert 'data_batch_5' in message and 'row 17' in message and '0..9' in message
    assert label is None or str(label) in message


@pytest.mark.parametrize('change, told', [
    (dict(data=np.zeros((0, 3072), np.uint8), labels=[]), 'no images'),
    (dict(data=np.zeros((4, 3072), np.uint8)), 'a list of 100'),
    (dict(data=np.zeros((100, 3071), np.uint8)), '[100, 3071]'),
    (dict(data=np.zeros((100, 3072), np.float32)), 'float32'),
    (dict(data=[1, 2]), 'a list'),
    (dict(labels=7), 'a int'),
])
def test_wrong_shapes_are_refused(batches, change, told):
    batch = read_pickle(batches / 'data_batch_1')
    batch.update({key.encode(): value for key, value in change.items()})
    write_pickle(batches / 'data_batch_1', batch)
    message = message_of(cifar10.load_cifar10, str(batches))
    assert 'data_batch_1' in message and told in message


def test_other_keys_are_named(batches):
    batch = read_pickle(batches / 'test_batch')
    batch[b'fine_labels'] = batch.pop(b'labels')
    write_pickle(batches / 'test_batch', batch)
    assert 'fine_labels' in message_of(cifar10.load_cifar10, str(batches))


class Evil:
    """Runs a command when a plain unpickler reads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_import_in_a_pickle_is_refused_and_not_run(batches, tmp_path):
    batch = read_pickle(batches / 'data_batch_1')
    batch[b'filenames'] = Evil(str(tmp_path / 'owned'))
    write_pickle(batches / 'data_batch_1', batch)
    assert 'imports posix.mkdir' in message_of(cifar10.load_cifar10, str(batches))
    assert not (tmp_path / 'owned').exists()


@pytest.mark.parametrize('program, told', [
    (b'cbuiltins\neval\n(S"1"\ntR.', 'builtins.eval'),
    (b'cbuiltins\nbytes\n(I9\ntR.', 'builtins.bytes'),
    (b'cnumpy\nload\n(S"x"\ntR.', 'numpy.load'),
    (b'cnumpy.core.multiarray\nset_string_function\n.', 'numpy.core.multiarray.set_string_function'),
    (b'cnumpy.core.multiarray\nscalar\n(S"O"\nS"x"\ntR.', 'an array whose state'),
    (b'cnumpy\nndarray\n(I100000\ntR.', 'not callable'),
    (b'cnumpy.core.numeric\n_frombuffer\n(S"ab"\nS"O"\n(I2\ntS"C"\ntR.', 'an array whose state'),
    (b'c_codecs\nencode\n(V1\nVrot13\ntR.', 'rot13'),
    (b'cnumpy\ndtype\n(S"V8"\nI0\nI1\ntR.', 'dtype'),
    (b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS"b"\ntR(I1\n(I2\ntcnumpy\ndtype\n(S"O8"\nI0\nI1\ntR'
     b'I00\nS"0123456789abcdef"\ntb.', 'an array whose state'),  # pointers made of bytes
    (b'(' * 200, 'cannot be read'),
])
def test_restricted_pickle_admits_arrays_and_containers_only(tmp_path, program, told):
    path = tmp_path / 'p'
    path.write_bytes(program)
    assert told in message_of(load_pickle, path)


def test_array_state_is_checked_before_numpy_sees_it(tmp_path):
    reconstruct = b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS"b"\ntR'
    dtype = b'cnumpy\ndtype\n(S"u1"\nI0\nI1\ntR(I3\nS"|"\nNNNI-1\nI-1\nI0\ntb'
    good = reconstruct + b'(I1\n(I2\nt' + dtype + b'I00\nS"ab"\ntb.'
    (tmp_path / 'good').write_bytes(good)
    assert load_pickle(tmp_path / 'good').tolist() == [97, 98]
    for bad in (good.replace(b'(I2\nt', b'(I900000\nt'), good.replace(b'(I2\nt', b'(I-1\nt'),
                good.replace(b'S"ab"', b'(lI1\na'), good.replace(dtype, b'S"O"\n')):
        (tmp_path / 'bad').write_bytes(bad)
        assert 'cannot be read' in message_of(load_pickle, tmp_path / 'bad')


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_survive(tmp_path, protocol):
    arrays = {b'big-endian': np.arange(12, dtype='>i4').reshape(3, 4), b'columns': np.arange(6).reshape(2, 3).T,
              b'turned': np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1), b'every second': np.arange(6)[::2]}
    content = {b'b': [1, 2.5, None, True, b'x', b'', 'y'], b'c': (1,), b'numpy': [np.int64(3), np.float32(2.5)]}
    write_pickle(tmp_path / 'p', dict(content, **{key.decode(): array for key, array in arrays.items()}), protocol)
    read = load_pickle(tmp_path / 'p')
    for key, array in arrays.items():
        np.testing.assert_array_equal(read.pop(key.decode()), array)
    assert read == content and all(type(number) in (int, float) for number in read[b'numpy'])


def test_protocol_5_is_read_by_every_python(tmp_path):
    # What numpy 2 writes for np.array([[1, 2]], np.uint8) at protocol 5.
    (tmp_path / 'p').write_bytes(
        b'\x80\x05\x95y\0\0\0\0\0\0\0\x8c\x13numpy._core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(\x96\x02\0\0\0\0\0\0\0'
        b'\x01\x02\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff'
        b'\xff\xff\xffJ\xff\xff\xff\xffK\0t\x94bK\x01K\x02\x86\x94\x8c\x01C\x94t\x94R\x94.')
    read = load_pickle(tmp_path / 'p')
    assert read.tolist() == [[1, 2]] and read.dtype == np.uint8


@pytest.mark.parametrize('program', [
    pytest.param(b'(lr\0\0\0\3.', id='index'), pytest.param(b'(lp50000000\n.', id='index in text'),
    pytest.param(b'\x96\0\0\0\x30\0\0\0\0x.', id='length')])
def test_a_number_in_a_pickle_does_not_fill_the_memory(tmp_path, program):
    (tmp_path / 'p').write_bytes(program)
    limited = ('import re, resource, sys\n'
               'from common import cifar10\n'
               'resource.setrlimit(resource.RLIMIT_DATA, (2 ** 31, 2 ** 31))\n'
               'try:\n'
               '    print(cifar10.load_restricted_pickle(cifar10.File("it", 0, lambda: open(sys.argv[1], "rb"))))\n'
               'except cifar10.DataError as error:\n'
               '    print(error)\n'
               'print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])')
    said = subprocess.check_output([sys.executable, '-c', limited, str(tmp_path / 'p')], cwd=ROOT, text=True)
    read, peak_kb = said.splitlines()
    assert int(peak_kb) < 500e3 and (read == '[]' or 'cannot be read' in read)


@pytest.mark.skipif(not hasattr(np.ndarray, '__array_namespace__'), reason='numpy 1 uses the old name')
def test_both_numpy_generations_module_names(tmp_path):
    written = pickle.dumps(np.arange(3, dtype=np.uint8), 2)
    assert b'numpy._core.multiarray' in written
    for name in (b'numpy._core.multiarray', b'numpy.core.multiarray'):
        (tmp_path / 'p').write_bytes(written.replace(b'numpy._core.multiarray', name))
        assert load_pickle(tmp_path / 'p').tolist() == [0, 1, 2]


def test_truncated_archive_is_refused(archive):
    whole = archive.read_bytes()
    archive.write_bytes(whole[:len(whole) // 2])
    assert str(archive) in message_of(cifar10.load_cifar10, str(archive))
    archive.write_bytes(b'no archive')
    assert str(archive) in message_of(cifar10.load_cifar10, str(archive))


@pytest.mark.parametrize('kind', [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_archive_of_very_much_is_refused_before_it_is_unpacked(tmp_path, kind):
    member = tarfile.TarInfo('cifar-10-batches-py/data_batch_1')
    member.type, member.size = kind, 2 ** 40
    with gzip.open(str(tmp_path / 'bomb.tar.gz'), 'wb') as packed:
        packed.write(member.tobuf(tarfile.GNU_FORMAT) + bytes(2 ** 20))
    assert 'a member of %d bytes' % 2 ** 40 in message_of(cifar10.load_cifar10, str(tmp_path / 'bomb.tar.gz'))


def test_archive_is_never_unpacked(batches, tmp_path):
    path = tmp_path / 'evil.tar.gz'
    with tarfile.open(str(path), 'w:gz') as packed:
        for name in os.listdir(str(batches)):
            packed.add(str(batches / name), '../../escaped/' + name)
    before = sorted(os.listdir(str(tmp_path)))
    assert_same(cifar10.load_cifar10(str(path)), cifar10.load_cifar10(str(batches)))
    assert sorted(os.listdir(str(tmp_path))) == before


def test_link_in_an_archive_is_not_followed(batches, tmp_path):
    path = tmp_path / 'linked.tar.gz'
    with tarfile.open(str(path), 'w:gz') as packed:
        for name in os.listdir(str(batches)):
            member = tarfile.TarInfo('cifar-10-batches-py/' + name)
            if name == 'data_batch_2':
                member.type, member.linkname = tarfile.SYMTYPE, str(batches / name)
                packed.addfile(member)
            else:
                packed.add(str(batches / name), member.name)
    assert 'no data_batch_2' in message_of(cifar10.load_cifar10, str(path))


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='peak memory is read from /proc')
def test_peak_memory_is_the_result_plus_one_file(tmp_path):
    folder = tmp_path / 'cifar-10-batches-py'
    folder.mkdir()
    labels = [0] * 10000
    for name in cifar10.CIFAR10_TRAIN_FILES:
        write_pickle(folder / name, {b'data': np.full((10000, 3072), 7, np.uint8), b'labels': labels}, 4)
    few = np.full((10, 3072), 7, np.uint8)
    write_pickle(folder / 'test_batch', {b'data': few, b'labels': labels[:10]}, 4)
    program = ('import re, sys\n'
               'from common import cifar10\n'
               'def peak():\n'
               '    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024\n'
               'before = peak()\n'
               'data = cifar10.load_cifar10(sys.argv[1])\n'
               'print(peak() - before, data.train_images.nbytes / 2 ** 20)\n')
    output = subprocess.check_output([sys.executable, '-c', program, str(folder)], cwd=ROOT)
    grown_mb, images_mb = map(float, output.split())
    one_file_mb = images_mb / 5
    assert images_mb < grown_mb < images_mb + 3 * one_file_mb
