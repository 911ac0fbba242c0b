# SPDX-License-Identifier: Apache-2.0
"""Arrays in weight files of any origin, told apart by what is in them: {name: array}, in the order of the layers."""
import io
import re
import zipfile

from common import tensor_files
from common.files import DataError
from common.lazy import np

_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_KERAS_MEMBER = "model.weights.h5"  # of a .keras archive
_FORMATS = "an .npz, Keras' .h5, .weights.h5 or .keras, a .safetensors file or PyTorch's .pth"


def read(path):
    """The arrays of a file, whatever its name ends with.

    Args:
      path: str, a file of numpy (.npz), Keras (.h5, .weights.h5, .keras), safetensors or PyTorch.
    Returns:
      {name: numpy array}, floats as float32. In the order that the file says its layers have, Keras 1 and 2; else by
      name, a number in it counting as one.
    Raises:
      DataError: one sentence on what the file is instead; nothing in it has been run.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise DataError(path, "a file of weights: " + _FORMATS, error.strerror or str(error),
                        "correct the path") from error
    if start == _HDF5:
        arrays = _read_keras(path, path)
    elif start[:4] == _ZIP:
        arrays = _read_zip(path)
    else:
        arrays = _in_order(tensor_files.read(path, halves=False))
    half = next((name for name, array in arrays.items() if array.dtype == np.float16), None)
    if half:
        raise DataError(path, "weights of 32 bits", "float16 in %s" % half, tensor_files.SAVE_FLOAT32)
    return {name: array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
            for name, array in arrays.items()}


def layer_of(name):
    """An array's name without its last part: what a layer's kernel and biases have in common."""
    return re.split(r"[/.](?=[^/.]*$)", name)[0]


def _in_order(arrays):
    """By name, part by part: conv2d before conv2d_1 before conv2d_10."""
    def key(name):
        return [[int(text) if text.isdigit() else text for text in re.split(r"(\d+)", part)]
                for part in re.split("[/.]", name)]
    return {name: arrays[name] for name in sorted(arrays, key=key)}


def _read_zip(path):
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if _KERAS_MEMBER in names:
                return _read_keras(path, io.BytesIO(archive.read(_KERAS_MEMBER)))
        if names and all(name.endswith(".npy") for name in names):
            with np.load(path, allow_pickle=False) as file:
                return _in_order({name: file[name] for name in file.files})
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy have their own kinds for damage
        raise DataError(path, "a whole archive of plain arrays, .npz, .keras or .pth", str(error),
                        "download or copy it again") from error
    return _in_order(tensor_files.read(path, halves=False))


def _read_keras(path, file):
    import h5py
    try:
        with h5py.File(file, "r") as opened:
            return {name: dataset[()] for name, dataset in _keras_datasets(opened)}
    except Exception as error:  # h5py raises anything when it meets a damaged file
        raise DataError(path, "a whole HDF5 file of Keras", str(error), "download or copy it again") from error


def _keras_datasets(file):
    """[(path, dataset)] of the layers without an optimizer's. Keras 1 and 2 note their order; else it is the names'."""
    import h5py
    group = file.get("model_weights", file)
    if "layer_names" in group.attrs:
        names = [(_text(layer), _text(weight)) for layer in group.attrs["layer_names"]
                 for weight in group[_text(layer)].attrs["weight_names"]]
        return [("%s/%s" % pair, group[pair[0]][pair[1]]) for pair in names]
    found = {}
    group.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return [(name, found[name]) for name in _in_order(found) if not name.startswith("optimizer")]


def _text(name):
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
