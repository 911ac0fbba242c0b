# SPDX-License-Identifier: Apache-2.0
"""Weights in the files of other frameworks: .safetensors, and PyTorch's .pth where PyTorch is installed.

Both are told apart by their content. No pickle is read by this package: PyTorch's are by PyTorch, weights_only=True.
"""
import os
import re

from common.files import DataError, kind_of
from common.lazy import np

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_LFS_POINTER, _ZIP, _PICKLE = b"version https://git-lfs", b"PK\x03\x04", b"\x80"
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
           "I8": "i1", "U8": "u1", "BOOL": "?"}
_HALVES = ("F16", "BF16", "torch.float16", "torch.bfloat16")
SAVE_FLOAT32 = "save the weights as float32"
_WITHIN = ("state_dict", "model")  # where training programs put the weights, beside an optimizer's


def read(path, halves=True):
    """The tensors of a file.

    Args:
      path: str, a file.
      halves: False refuses float16 and bfloat16.
    Returns:
      {name: numpy array}, floats as float32 (float16 and bfloat16 become float32 exactly), integers as they are. A
      leading "module." of all names, torch.nn.DataParallel's, is taken off.
    Raises:
      DataError: one sentence on what the file is instead, or which package is missing.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise DataError(path, "a file of weights (%s)" % ", ".join(SUFFIXES), error.strerror or str(error),
                        "correct the path") from error
    if start.startswith(_LFS_POINTER):
        raise DataError(path, "weights", "a Git LFS pointer, %d bytes that only name them" % os.path.getsize(path),
                        "get the file itself with git lfs pull, or download it")
    if start[8:9] == b"{":
        tensors = _read_safetensors(path, halves)
    elif start.startswith((_ZIP, _PICKLE)):
        tensors = _read_torch(path, halves)
    else:
        raise DataError(path, "a .safetensors file, or one of torch.save", kind_of(path) or "bytes like %r" % start[:8],
                        "give other weights, or download the file again")
    prefix = "module."
    if tensors and all(name.startswith(prefix) for name in tensors):
        tensors = {name[len(prefix):]: tensor for name, tensor in tensors.items()}
    return {name: tensor.astype(np.float32, copy=False) if tensor.dtype.kind == "f" else tensor
            for name, tensor in tensors.items()}


def _check_width(path, name, dtype, halves):
    if not halves and dtype in _HALVES:
        raise DataError(path, "weights of 32 bits", "%s in %s" % (dtype, name), SAVE_FLOAT32)


def _read_safetensors(path, halves):
    try:
        from safetensors import SafetensorError, deserialize
    except ImportError as error:
        raise DataError(path, "the package safetensors to read it", str(error), "pip install safetensors") from error
    with open(path, "rb") as file:
        content = file.read()
    try:
        found = deserialize(content)
    except SafetensorError as error:
        raise DataError(path, "a whole .safetensors file", str(error), "download or copy it again") from error
    for name, tensor in found:
        _check_width(path, name, tensor["dtype"], halves)
    return {name: _array(path, name, tensor) for name, tensor in found}


def _array(path, name, tensor):
    if tensor["dtype"] not in _DTYPES:
        raise DataError(path, "floats of 16, 32 or 64 bits", "%s, which is %s" % (name, tensor["dtype"]),
                        SAVE_FLOAT32)
    array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    if tensor["dtype"] == "BF16":  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _read_torch(path, halves):
    do = ("pip install torch, or where it is, make a .safetensors file: safetensors.torch.save_file(torch.load(FILE, "
          "weights_only=True), 'FILE.safetensors')")
    try:
        import torch
    except ImportError as error:
        raise DataError(path, "PyTorch to read it, or the same weights as .safetensors", str(error), do) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except TypeError as error:  # PyTorch before 1.13 would run what a pickle says
        raise DataError(path, "PyTorch 1.13 or later to read it", torch.__version__, do) from error
    except Exception as error:  # the zip reader, the unpickler and the storages have their own kinds
        raise _unreadable(path, error) from error
    for key in _WITHIN:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {name: tensor for name, tensor in content.items() if torch.is_tensor(tensor)} if isinstance(
        content, dict) else {}
    if not tensors:
        raise DataError(path, "the weights of a network by name, its state_dict", type(content).__name__,
                        "save model.state_dict()")
    for name, tensor in tensors.items():
        _check_width(path, name, str(tensor.dtype), halves)
    return {name: (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
            for name, tensor in tensors.items()}


def _unreadable(path, error):
    said = str(error)
    code = re.search(r"GLOBAL ([\w.]+)|[Gg]lobal: ?([\w.]+)", said)
    if "eights only load failed" in said or code:
        name = next((group for group in code.groups() if group), "") if code else ""
        return DataError(path, "tensors alone", "a pickle that would run code%s" % (name and " (%s)" % name),
                         "save model.state_dict() alone; nothing of the file was run")
    sentence = said.strip().split("\n")[0].split(". ")[0]
    return DataError(path, "a whole file of torch.save", sentence or type(error).__name__, "download or copy it again")
