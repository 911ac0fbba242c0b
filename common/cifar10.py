# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 in every layout that people have, read without trusting it."""
import contextlib
import functools
import os
import pickle
import reprlib
import tarfile
from collections import namedtuple

from common import progress
from common.files import DataError
from common.lazy import np

IMAGE_PX = 32
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR10_TRAIN_FILES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
CIFAR10_TEST_FILE = "test_batch"
CIFAR10_META_FILE = "batches.meta"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_BATCH_FILES, _SIX_FILES = CIFAR10_TRAIN_FILES + (CIFAR10_TEST_FILE,), "data_batch_1 to data_batch_5 and test_batch"
_FOLDERS = (".", CIFAR10_FOLDER, os.path.join(CIFAR10_FOLDER, CIFAR10_FOLDER), os.path.join("dataset", CIFAR10_FOLDER),
            os.path.join(CIFAR10_FOLDER + "-target", CIFAR10_FOLDER))  # the last is Keras'
_ARCHIVES = (CIFAR10_ARCHIVE, os.path.join("dataset", CIFAR10_ARCHIVE))
_OTHER_DATA = (  # what else its authors offer, and names that give it away
    ("the binary version of CIFAR-10", "cifar-10-binary.tar.gz", "cifar-10-batches-bin", "data_batch_1.bin"),
    ("the Matlab version of CIFAR-10", "cifar-10-matlab.tar.gz", "cifar-10-batches-mat", "data_batch_1.mat"),
    ("CIFAR-100", "cifar-100-python.tar.gz", "cifar-100-python", "cifar-100-binary.tar.gz", "cifar-100-binary",
     "cifar-100-matlab.tar.gz", "cifar-100-matlab", "meta"),
)
_ROW_BYTES = 3 * 32 * 32
_MOST_BYTES = 2 ** 28  # of a file, and a quarter of an archive's; CIFAR-10's have 31 MB
_FETCH = "fetch %s from https://www.cs.toronto.edu/~kriz/cifar.html" % CIFAR10_ARCHIVE

Cifar10 = namedtuple("Cifar10", "train_images train_labels test_images test_labels class_names")
Cifar10.__doc__ = """CIFAR-10 in memory: images uint8 [N, 32, 32, 3] RGB, labels int32 [N], class names."""

File = namedtuple("File", "where size_bytes open")
File.__doc__ = """A file in a folder or an archive: its name for messages, its size, () -> stream of its bytes."""


class _PickledDtype:
    """Stands for numpy.dtype while unpickling; numpy never sees a dtype state that came from the file."""

    def __init__(self, code, align=False, copy=True):
        if _text(code) in ("O", "O8"):
            self.dtype = np.dtype(object)  # of one plain container, as numpy.save wraps it
            return
        if _text(code) not in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "b1"):
            raise pickle.UnpicklingError("an array of dtype %s" % reprlib.repr(code))
        self.dtype = np.dtype(_text(code))

    def __setstate__(self, state):
        if _text(state[1]) not in ("|", "=", "<", ">"):
            raise pickle.UnpicklingError("byte order %s" % reprlib.repr(state[1]))
        self.dtype = self.dtype.newbyteorder(_text(state[1]))


@functools.lru_cache(None)
def _pickled_array():
    """The class that stands for numpy.ndarray while unpickling: the state is checked before numpy gets it."""
    class PickledArray(np.ndarray):
        def __setstate__(self, state):
            _, shape, dtype, fortran_order, content = state
            if isinstance(dtype, _PickledDtype) and dtype.dtype == object and shape == () and (
                    isinstance(content, list) and len(content) == 1):
                return super().__setstate__((1, (), dtype.dtype, False, content))  # type: ignore[arg-type]
            _check_array(shape, dtype, content)
            return super().__setstate__((1, shape, dtype.dtype, bool(fortran_order), content))  # type: ignore[arg-type]
    return PickledArray


def _text(code):
    return code.decode("ascii") if isinstance(code, bytes) else code


def _check_array(shape, dtype, content):
    if not (isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
            and isinstance(dtype, _PickledDtype) and dtype.dtype != object and isinstance(content, bytes)):
        raise pickle.UnpicklingError("an array whose state is not (shape, dtype, bytes)")


def _from_buffer(content, dtype, shape, order, axis_order=None):
    _check_array(shape, dtype, content)
    array = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")
    return array.transpose(axis_order) if order == "K" else array


def _scalar(dtype, content):
    return _from_buffer(content, dtype, (), "C").item()


def _encode(text, encoding):
    # Python 3 writes bytes as latin1 text at protocol 2; no other codec has a reason to be asked for.
    if _text(encoding) not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("text in the codec %s" % reprlib.repr(encoding))
    return text.encode("latin1")


_ADMITTED: dict = {
    ("numpy", "dtype"): _PickledDtype,
    ("numpy", "ndarray"): None,  # named, never called: an array made of it would be of any size
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",  # what Python 3 writes for b"" at protocol 2
}
for _core in ("numpy.core.", "numpy._core."):
    _ADMITTED[_core + "multiarray", "_reconstruct"] = lambda *words: np.ndarray.__new__(_pickled_array(), 0, np.uint8)
    _ADMITTED[_core + "multiarray", "scalar"] = _scalar
    _ADMITTED[_core + "numeric", "_frombuffer"] = _from_buffer  # of arrays since protocol 5


class _RestrictedUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """Admits numpy arrays and plain containers.

    The unpickler in C makes as many places as the largest index in the file says: up to 2^32. The one in Python also
    lets Python 3.7 read protocol 5, whose only operation that files need is the one for bytearray.
    """

    dispatch = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]
    dispatch[pickle.PROTO[0]] = lambda self: self.read(1)  # type: ignore[attr-defined]
    dispatch[0x96] = dispatch[pickle.BINBYTES8[0]]  # BYTEARRAY8, which fills memory of any length before it reads

    def find_class(self, module, name):
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError("it imports %s.%s, so do not use it" % (module, name))
        return _ADMITTED[module, name]


def load_restricted_pickle(file, do=_FETCH):
    """Reads a pickle written by Python 2 or 3 that may hold numpy arrays and plain containers, nothing else.

    Args:
      file: File.
      do: what to do about one that cannot be read, for the message.
    Returns:
      The object. Python 2 strings arrive as bytes; arrays are numpy.ndarray (a subclass without additions).
    Raises:
      DataError: it cannot be opened, is truncated, no pickle, or asks for another import (which is named).
    """
    try:
        with file.open() as stream:
            return _RestrictedUnpickler(stream, encoding="bytes").load()
    # A foreign file is a program for pickle's machine and can fail in any way: wrong opcode, bad index,
    # an array larger than memory. All of them mean the same to the user.
    except Exception as error:
        reason = "%s: %s" % (type(error).__name__, str(error) or "no reason given")
        raise DataError(file.where, "a whole pickle of numpy arrays and plain containers",
                        "one that cannot be read (%.200s)" % reason, do) from error


def find_cifar10(data_path):
    """Finds CIFAR-10 (Python version) at or below what the user gave.

    Args:
      data_path: str or None: the folder cifar-10-batches-py, a folder that holds it, a folder that holds
        dataset/cifar-10-batches-py, cifar-10-python.tar.gz, or a folder that holds that archive.
    Returns:
      str, the path of the folder with the batch files, or of the archive.
    Raises:
      DataError: nothing was given, or none of these is there.
    """
    do = "give --data_path=DIR, where DIR is %s, a folder that holds it, %s, or has a folder of pictures for each " \
         "class" % (CIFAR10_FOLDER, CIFAR10_ARCHIVE)
    if not data_path:
        raise DataError("--data_path", "the place of CIFAR-10 (Python version)", "nothing", do)
    path = os.path.expanduser(data_path)
    if os.path.isfile(path):
        if path.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
            return path
        raise DataError(path, "a folder or %s" % CIFAR10_ARCHIVE, "another file", do)
    try:
        inside = os.listdir(path)
    except OSError as error:
        reason = "no such file or folder" if not os.path.exists(path) else error.strerror
        raise DataError(path, "a folder with %s" % CIFAR10_FOLDER, reason, do) from error
    folders = [os.path.normpath(os.path.join(path, below)) for below in _FOLDERS]
    for folder in folders:
        if any(os.path.isfile(os.path.join(folder, name)) for name in _BATCH_FILES):
            return folder
    for archive in (os.path.join(path, below) for below in _ARCHIVES):
        if os.path.isfile(archive):
            return archive
    deepest = [folder for folder in folders if os.path.isdir(folder)][-1]
    names = sorted(os.listdir(deepest))
    other = _other_data([os.path.basename(os.path.abspath(path))] + inside + names)
    listing = ", ".join(names[:4] + ["..."] * (len(names) > 4)) or "an empty folder"
    raise DataError(deepest, "%s, %s or %s in it" % (_SIX_FILES, CIFAR10_FOLDER, CIFAR10_ARCHIVE), other or listing,
                    _FETCH if other else do)


def _other_data(names):
    """What these names of files and folders say that the data is instead; None when they do not."""
    return next(("%s (%s)" % (title, sign) for title, *signs in _OTHER_DATA for sign in signs if sign in names), None)


@contextlib.contextmanager
def _open_files(path):
    """{name: File} of what is in a folder or, in place, in an archive: no name in it can reach the disk."""
    if os.path.isdir(path):
        paths = {name: os.path.join(path, name) for name in os.listdir(path)}
        yield {name: File(place, os.path.getsize(place), functools.partial(open, place, "rb"))
               for name, place in paths.items() if os.path.isfile(place)}
        return
    members: list = []
    try:
        archive = tarfile.open(path, tarinfo=_BoundedTarInfo)
        for member in archive:
            if member.offset + member.size > 4 * _MOST_BYTES or len(members) > 1000:
                raise ValueError("more than %d bytes or 1000 members" % (4 * _MOST_BYTES))
            members.append(member)
    # gzip, zlib and tarfile each have their own exceptions for a damaged archive.
    except Exception as error:
        raise DataError(path, "a whole tar.gz archive", "one that cannot be read (%s: %.100s)" % (
            type(error).__name__, error), _FETCH) from error
    with archive:
        yield {os.path.basename(member.name): File("%s of %s" % (os.path.basename(member.name), path), member.size,
                                                   functools.partial(archive.extractfile, member))
               for member in reversed(members) if member.isfile()}


class _BoundedTarInfo(tarfile.TarInfo):
    """A member of bounded size: told before tarfile reads a header's content, or unpacks it to get to the next."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        if not 0 <= member.size <= _MOST_BYTES:
            raise ValueError("a member of %d bytes" % member.size)
        return member


def _entry(batch, key):
    return batch.get(key.encode("ascii"), batch.get(key))


def _described(thing):
    if isinstance(thing, np.ndarray):
        return "%s %s" % (thing.dtype, list(thing.shape))
    return "a %s" % type(thing).__name__ + (" of %d" % len(thing) if isinstance(thing, (list, tuple)) else "")


def _check_batch(batch, where):
    """Returns data uint8 [n, 3072] and n labels in 0..9 of one batch file, or raises DataError."""
    if not isinstance(batch, dict):
        raise DataError(where, "a CIFAR-10 batch (a dict with data and labels)", _described(batch), _FETCH)
    data, labels = _entry(batch, "data"), _entry(batch, "labels")
    if data is None or labels is None:
        keys = sorted(key.decode("latin1") if isinstance(key, bytes) else reprlib.repr(key) for key in batch)
        raise DataError(where, "a CIFAR-10 batch with the keys data and labels",
                        "the keys %s" % ", ".join(keys[:6]) if keys else "no keys", _FETCH)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (_ROW_BYTES,):
        raise DataError(where, "data of uint8 [n, %d]" % _ROW_BYTES, _described(data), _FETCH)
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if not isinstance(labels, (list, tuple)) or len(labels) != len(data):
        raise DataError(where, "%d labels, one for each image" % len(data), _described(labels), _FETCH)
    if not len(data):
        raise DataError(where, "at least one image", "no images", _FETCH)
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(CIFAR10_CLASSES):
            raise DataError(where, "labels in 0..9", "%s in row %d" % (reprlib.repr(label), row), _FETCH)
    return data, list(labels)


def _load_split(files):
    # A row needs at least 3072 bytes of its file, so the sizes bound the number of rows before anything is
    # read: one allocation, and the pages beyond the true end are never touched.
    for file in files:
        if file.size_bytes > _MOST_BYTES:
            raise DataError(file.where, "a batch of CIFAR-10", "%d bytes" % file.size_bytes, _FETCH)
    images = np.empty((sum(file.size_bytes // _ROW_BYTES for file in files), 32, 32, 3), np.uint8)
    labels: list = []
    for file in files:
        data, batch_labels = _check_batch(load_restricted_pickle(file), file.where)
        first, last = len(labels), len(labels) + len(data)
        # The file holds its planes one after the other: 1024 red, 1024 green, 1024 blue values per row.
        images[first:last] = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # [n, 32, 32, 3]
        labels += batch_labels
        del data  # or it would still be there while the next file is read
    return images[:len(labels)], np.array(labels, np.int32)


def _class_names(file):
    meta = load_restricted_pickle(file)
    names = _entry(meta, "label_names") if isinstance(meta, dict) else None
    if not isinstance(names, list) or len(names) != len(CIFAR10_CLASSES):
        raise DataError(file.where, "ten label_names", _described(names), _FETCH + " or remove this file")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)


def load_cifar10(data_path):
    """Reads CIFAR-10 into memory and checks every file, shape and label on the way.

    The number of images comes from the files. Peak memory is the result plus about one batch file.

    Args:
      data_path: str or None, as for `find_cifar10`.
    Returns:
      Cifar10 with train_images uint8 [N, 32, 32, 3] (RGB, 0..255), train_labels int32 [N] (0..9), test_images and
      test_labels likewise, and class_names, a tuple of ten str.
    Raises:
      DataError: a file is missing, truncated, foreign, empty, or has a label out of range.
    """
    path = find_cifar10(data_path)
    with progress.Phase("reading CIFAR-10"), _open_files(path) as files:
        missing = [name for name in _BATCH_FILES if name not in files]
        if missing:
            other = _other_data([os.path.basename(path)] + list(files))
            raise DataError(path, _SIX_FILES, other or "no " + ", no ".join(missing), _FETCH)
        class_names = _class_names(files[CIFAR10_META_FILE]) if CIFAR10_META_FILE in files else CIFAR10_CLASSES
        train_images, train_labels = _load_split([files[name] for name in CIFAR10_TRAIN_FILES])
        test_images, test_labels = _load_split([files[CIFAR10_TEST_FILE]])
    return Cifar10(train_images, train_labels, test_images, test_labels, class_names)


def random_cifar10(train, test, seed):
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
