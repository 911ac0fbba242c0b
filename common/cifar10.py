# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 in every layout that people have, read without trusting it."""
import os
import pickle
import tarfile
from collections import namedtuple
from typing import Any, BinaryIO, Dict, List, Optional, Tuple

import numpy as np

from common.files import DataError

CIFAR10_FOLDER = 'cifar-10-batches-py'
CIFAR10_ARCHIVE = 'cifar-10-python.tar.gz'
CIFAR10_TRAIN_FILES = ('data_batch_1', 'data_batch_2', 'data_batch_3', 'data_batch_4', 'data_batch_5')
CIFAR10_TEST_FILE = 'test_batch'
CIFAR10_META_FILE = 'batches.meta'
CIFAR10_CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')

_ROW_BYTES = 3 * 32 * 32
_FETCH_AGAIN = 'fetch the data set again'

Cifar10 = namedtuple('Cifar10', 'train_images train_labels test_images test_labels class_names')
Cifar10.__doc__ = """CIFAR-10 in memory: images uint8 [N, 32, 32, 3] RGB, labels int32 [N], class names."""


class _PickledDtype:
    """Stands for numpy.dtype while unpickling; numpy never sees a dtype state that came from the file."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        code = code.decode('ascii') if isinstance(code, bytes) else code
        if code not in ('u1', 'i1', 'u2', 'i2', 'u4', 'i4', 'u8', 'i8', 'f4', 'f8', 'b1'):
            raise pickle.UnpicklingError('an array of dtype %.40r' % (code,))
        self.code = code
        self.byte_order = '='

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode('ascii') if isinstance(state[1], bytes) else state[1]
        if order not in ('|', '=', '<', '>'):
            raise pickle.UnpicklingError('byte order %.40r' % (order,))
        self.byte_order = order


class _PickledArray(np.ndarray):
    """Stands for numpy.ndarray while unpickling: the state is checked before numpy gets it."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, raw = state
        if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
                and isinstance(dtype, _PickledDtype) and isinstance(raw, bytes)):
            raise pickle.UnpicklingError('an array whose state is not (shape, dtype, bytes)')
        checked = np.dtype(dtype.byte_order + dtype.code)
        checked_state: Any = (1, shape, checked, bool(fortran_order), raw)
        super().__setstate__(checked_state)


def _reconstruct(array_type: Any, shape: Any, code: Any) -> np.ndarray:
    if array_type is not _PickledArray:
        raise pickle.UnpicklingError('an array type that is not numpy.ndarray')
    return np.ndarray.__new__(_PickledArray, (0,), np.uint8)


def _encode(text: Any, encoding: Any) -> bytes:
    # Python 3 writes bytes as latin1 text at protocol 2; no other codec has a reason to be asked for.
    if encoding not in ('latin1', 'latin-1', b'latin1'):
        raise pickle.UnpicklingError('text in the codec %.40r' % (encoding,))
    return text.encode('latin1')


def _empty_bytes() -> bytes:
    return b''


_ADMITTED = {
    ('numpy.core.multiarray', '_reconstruct'): _reconstruct,
    ('numpy._core.multiarray', '_reconstruct'): _reconstruct,
    ('numpy', 'ndarray'): _PickledArray,
    ('numpy', 'dtype'): _PickledDtype,
    ('_codecs', 'encode'): _encode,
    # What Python 3 writes for b'' at protocol 2.
    ('__builtin__', 'bytes'): _empty_bytes,
}


class _ForbiddenGlobal(Exception):
    """The pickle asks for something that is neither a numpy array nor a plain container."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _ForbiddenGlobal('%s.%s' % (module, name))
        return _ADMITTED[module, name]


def _unpickle(stream: BinaryIO, where: str) -> Any:
    try:
        return _RestrictedUnpickler(stream, encoding='bytes').load()
    except _ForbiddenGlobal as error:
        raise DataError(where, 'a pickle of numpy arrays and plain containers only',
                        'one that imports %s' % error, 'do not use this file; ' + _FETCH_AGAIN) from error
    # A foreign file is a program for pickle's machine and can fail in any way: wrong opcode, bad index,
    # endless recursion, an array larger than memory. All of them mean the same to the user.
    except Exception as error:
        found = 'one that cannot be read (%s: %s)' % (type(error).__name__, str(error) or 'no reason given')
        raise DataError(where, 'a whole pickle of numpy arrays', found, _FETCH_AGAIN) from error


def load_restricted_pickle(path: str) -> Any:
    """Reads a pickle written by Python 2 or 3 that may hold numpy arrays and plain containers, nothing else.

    Args:
        path: str, the file.

    Returns:
        The object. Python 2 strings arrive as bytes; arrays are numpy.ndarray (a subclass without additions).

    Raises:
        DataError: the file is missing, truncated, no pickle, or asks for another import (which is named).
    """
    try:
        stream = open(path, 'rb')
    except OSError as error:
        raise DataError(str(path), 'a readable pickle file', error.strerror or str(error),
                        _FETCH_AGAIN) from error
    with stream:
        return _unpickle(stream, str(path))


def _looks_like_batches(folder: str) -> bool:
    names = CIFAR10_TRAIN_FILES + (CIFAR10_TEST_FILE,)
    return (os.path.basename(os.path.abspath(folder)) == CIFAR10_FOLDER
            or any(os.path.isfile(os.path.join(folder, name)) for name in names))


def find_cifar10(data_path: Optional[str]) -> str:
    """Finds CIFAR-10 (Python version) at or below what the user gave.

    Args:
        data_path: str or None: the folder cifar-10-batches-py, a folder that holds it, a folder that holds
            dataset/cifar-10-batches-py, cifar-10-python.tar.gz, or a folder that holds that archive.

    Returns:
        str, the path of the folder with the batch files, or of the archive.

    Raises:
        DataError: nothing was given, or none of these is there.
    """
    do = ('give --data_path=DIR, where DIR is %s, a folder that holds it, or %s'
          % (CIFAR10_FOLDER, CIFAR10_ARCHIVE))
    if not data_path:
        raise DataError('--data_path', 'the place of CIFAR-10 (Python version)', 'nothing', do)
    path = os.path.expanduser(data_path)
    if os.path.isfile(path):
        if path.endswith(('.tar.gz', '.tgz', '.tar')):
            return path
        raise DataError(path, 'a folder or %s' % CIFAR10_ARCHIVE, 'another file', do)
    if not os.path.isdir(path):
        raise DataError(path, 'a folder with %s' % CIFAR10_FOLDER, 'no such file or folder', do)
    if _looks_like_batches(path):
        return path
    for below in (CIFAR10_FOLDER, os.path.join('dataset', CIFAR10_FOLDER)):
        folder = os.path.join(path, below)
        if os.path.isdir(folder):
            return folder
    for below in (CIFAR10_ARCHIVE, os.path.join('dataset', CIFAR10_ARCHIVE)):
        archive = os.path.join(path, below)
        if os.path.isfile(archive):
            return archive
    inside = sorted(os.listdir(path))
    found = ', '.join(inside[:4] + ['...'] * (len(inside) > 4)) or 'an empty folder'
    raise DataError(path, '%s, dataset/%s or %s in it' % (CIFAR10_FOLDER, CIFAR10_FOLDER, CIFAR10_ARCHIVE),
                    found, do)


class _FolderSource:
    """The batch files in a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def close(self) -> None:
        pass

    def describe(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def size_bytes(self, name: str) -> Optional[int]:
        path = self.describe(name)
        return os.path.getsize(path) if os.path.isfile(path) else None

    def load(self, name: str) -> Any:
        return load_restricted_pickle(self.describe(name))


class _ArchiveSource:
    """The batch files in a tar archive; they are read in place, so no name in it can reach the disk."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.archive = tarfile.open(path)
            regular = [member for member in self.archive.getmembers() if member.isfile()]
        # gzip, zlib and tarfile each have their own exceptions for a damaged archive.
        except Exception as error:
            found = 'one that cannot be read (%s: %s)' % (type(error).__name__, error)
            raise DataError(path, 'a whole tar.gz archive', found, _FETCH_AGAIN) from error
        self.members = {os.path.basename(member.name): member for member in reversed(regular)}

    def close(self) -> None:
        self.archive.close()

    def describe(self, name: str) -> str:
        return '%s of %s' % (name, self.path)

    def size_bytes(self, name: str) -> Optional[int]:
        return self.members[name].size if name in self.members else None

    def load(self, name: str) -> Any:
        stream = self.archive.extractfile(self.members[name])
        assert stream is not None, 'members holds regular files only'
        with stream:
            return _unpickle(stream, self.describe(name))  # type: ignore[arg-type]


def _entry(batch: Dict[Any, Any], key: str) -> Any:
    return batch.get(key.encode('ascii'), batch.get(key))


def _check_batch(batch: Any, where: str) -> Tuple[np.ndarray, List[int]]:
    """Returns data uint8 [n, 3072] and n labels in 0..9 of one batch file, or raises DataError."""
    if not isinstance(batch, dict):
        raise DataError(where, 'a CIFAR-10 batch (a dict with data and labels)',
                        'a %s' % type(batch).__name__, _FETCH_AGAIN)
    data, labels = _entry(batch, 'data'), _entry(batch, 'labels')
    if data is None or labels is None:
        keys = ', '.join(sorted(k.decode('latin1') if isinstance(k, bytes) else str(k) for k in batch)[:6])
        raise DataError(where, 'a CIFAR-10 batch with the keys data and labels',
                        'the keys %s' % keys if keys else 'no keys', _FETCH_AGAIN)
    if (not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2
            or data.shape[1] != _ROW_BYTES):
        found = ('%s %s' % (data.dtype, list(data.shape)) if isinstance(data, np.ndarray)
                 else 'a %s' % type(data).__name__)
        raise DataError(where, 'data of uint8 [n, %d]' % _ROW_BYTES, found, _FETCH_AGAIN)
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if not isinstance(labels, (list, tuple)) or len(labels) != len(data):
        found = ('%d labels' % len(labels) if isinstance(labels, (list, tuple))
                 else 'a %s' % type(labels).__name__)
        raise DataError(where, '%d labels, one for each image' % len(data), found, _FETCH_AGAIN)
    if not len(data):
        raise DataError(where, 'at least one image', 'no images', _FETCH_AGAIN)
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(CIFAR10_CLASSES):
            raise DataError(where, 'labels in 0..9', '%.40r in row %d' % (label, row), _FETCH_AGAIN)
    return data, list(labels)


def _load_split(source: Any, names: Tuple[str, ...]) -> Tuple[np.ndarray, np.ndarray]:
    # A row needs at least 3072 bytes of its file, so the sizes bound the number of rows before anything is
    # read: one allocation, and the pages beyond the true end are never touched.
    bounds = [source.size_bytes(name) // _ROW_BYTES for name in names]
    images = np.empty((sum(bounds), 32, 32, 3), np.uint8)
    labels: List[int] = []
    for name in names:
        data, batch_labels = _check_batch(source.load(name), source.describe(name))
        first, last = len(labels), len(labels) + len(data)
        # The file holds its planes one after the other: 1024 red, 1024 green, 1024 blue values per row.
        images[first:last] = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # [n, 32, 32, 3]
        labels += batch_labels
        del data  # or it would still be there while the next file is read
    return images[:len(labels)], np.array(labels, np.int32)


def _class_names(source: Any) -> Tuple[str, ...]:
    if source.size_bytes(CIFAR10_META_FILE) is None:
        return CIFAR10_CLASSES
    where = source.describe(CIFAR10_META_FILE)
    meta = source.load(CIFAR10_META_FILE)
    names = _entry(meta, 'label_names') if isinstance(meta, dict) else None
    if not isinstance(names, list) or len(names) != len(CIFAR10_CLASSES):
        found = '%d' % len(names) if isinstance(names, list) else 'none'
        raise DataError(where, 'ten label_names', found, _FETCH_AGAIN + ' or remove this file')
    return tuple(name.decode('utf-8', 'replace') if isinstance(name, bytes) else str(name) for name in names)


def load_cifar10(data_path: Optional[str]) -> Cifar10:
    """Reads CIFAR-10 into memory and checks every file, shape and label on the way.

    The number of images comes from the files. Peak memory is the result plus about one batch file; an archive
    is read in place.

    Args:
        data_path: str or None, as for `find_cifar10`.

    Returns:
        Cifar10 with train_images uint8 [N, 32, 32, 3] (RGB, 0..255), train_labels int32 [N] (0..9),
        test_images and test_labels likewise, and class_names, a tuple of ten str.

    Raises:
        DataError: a file is missing, truncated, foreign, empty, or has a label out of range.
    """
    path = find_cifar10(data_path)
    source = _FolderSource(path) if os.path.isdir(path) else _ArchiveSource(path)
    try:
        names = CIFAR10_TRAIN_FILES + (CIFAR10_TEST_FILE,)
        missing = [name for name in names if source.size_bytes(name) is None]
        if missing:
            raise DataError(path, 'data_batch_1 to data_batch_5 and test_batch',
                            'no ' + ', no '.join(missing), _FETCH_AGAIN)
        class_names = _class_names(source)
        train_images, train_labels = _load_split(source, CIFAR10_TRAIN_FILES)
        test_images, test_labels = _load_split(source, (CIFAR10_TEST_FILE,))
    finally:
        source.close()
    return Cifar10(train_images, train_labels, test_images, test_labels, class_names)


def random_cifar10(train: int, test: int, seed: int) -> Cifar10:
    """Random images and labels in CIFAR-10's shapes, for runs that need no data.

    Args:
      train, test: numbers of images.
      seed: int.
    Returns:
      Cifar10.
    """
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (train + test, 32, 32, 3)).astype(np.uint8)
    labels = random.randint(0, 10, train + test).astype(np.int32)
    return Cifar10(images[:train], labels[:train], images[train:], labels[train:], CIFAR10_CLASSES)
