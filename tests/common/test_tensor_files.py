# SPDX-License-Identifier: Apache-2.0
"""Weights of other frameworks: what is read exactly, and one sentence about what is not."""
import json
import pickle
import struct
import sys

import numpy as np
import pytest

from common import files, tensor_files


def write_safetensors(path, tensors):
    """By the format's definition: {name: (dtype as it spells it, shape, bytes)}."""
    header, data = {}, b''
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + data)
    return str(path)


def refused(path):
    with pytest.raises(files.DataError) as caught:
        tensor_files.read(str(path))
    said = str(caught.value)
    assert '\n' not in said and str(path) in said
    return said


@pytest.mark.smoke
def test_numbers_of_every_width_are_read_exactly(tmp_path):
    pytest.importorskip('safetensors')
    halves = np.array([1.5, -2.25], np.float16)
    path = write_safetensors(tmp_path / 'w.bin', {
        'module.a': ('F32', [1, 2], np.array([0.1, 7], np.float32).tobytes()),
        'module.b': ('F16', [2], halves.tobytes()), 'module.n': ('I64', [], np.int64(3).tobytes()),
        'module.c': ('BF16', [2], (halves.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes())})
    tensors = tensor_files.read(path)
    assert {name: tensor.dtype.name for name, tensor in tensors.items()} == {
        'a': 'float32', 'b': 'float32', 'c': 'float32', 'n': 'int64'}
    assert (tensors['a'] == np.array([[0.1, 7]], np.float32)).all() and tensors['n'] == 3
    assert (tensors['b'] == halves).all() and (tensors['c'] == halves).all()


@pytest.mark.smoke
def test_what_is_no_whole_safetensors_file_is_said(tmp_path):
    pytest.importorskip('safetensors')
    path = tmp_path / 'w.safetensors'
    write_safetensors(path, {'a': ('F32', [4], b'\0' * 16)})
    path.write_bytes(path.read_bytes()[:-3])
    assert 'expected a whole .safetensors file' in refused(path)
    write_safetensors(path, {'a': ('F8_E4M3', [4], b'\0' * 4)})
    assert 'a, which is F8_E4M3' in refused(path)


@pytest.mark.parametrize('content, found', [
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n', 'a Git LFS pointer, 63 bytes'),
    (b'', 'an empty file'), (b'\x89HDF\r\n\x1a\n', 'an HDF5 file'), (b'\x08\x07\x12\x07pytorch', 'an ONNX model'),
    (b'\xff\xd8\xff\xe0 a photo', "bytes like b'")])
def test_other_files_are_named(tmp_path, content, found):
    (tmp_path / 'w.pth').write_bytes(content)
    assert 'found %s' % found in refused(tmp_path / 'w.pth')
    assert 'No such file' in refused(tmp_path / 'absent.pth') and 'directory' in refused(tmp_path)


def test_without_the_packages_one_sentence_names_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    (tmp_path / 'w.pth').write_bytes(pickle.dumps({}, 2))
    assert 'as .safetensors' in refused(tmp_path / 'w.pth')
    assert 'pip install safetensors' in refused(write_safetensors(tmp_path / 'w.safetensors', {}))


class Runs:
    def __reduce__(self):
        return exec, ('open("ran", "w")',)


def test_pytorch_files(tmp_path, monkeypatch):
    torch = pytest.importorskip('torch')
    monkeypatch.chdir(tmp_path)
    weight = torch.tensor([[0.1, 7]], requires_grad=True)
    for old in (False, True):
        torch.save({'model': {'a': weight, 'h': weight.detach().half(), 'n': torch.tensor(3)}, 'epoch': 1}, 'w.pth',
                   _use_new_zipfile_serialization=not old)
        tensors = tensor_files.read('w.pth')
        assert (tensors['a'] == np.array([[0.1, 7]], np.float32)).all() and tensors['n'] == 3
        assert tensors['h'].dtype == np.float32 and (tensors['h'] == np.array([[0.1, 7]], np.float16)).all()
        content = (tmp_path / 'w.pth').read_bytes()
        (tmp_path / 'w.pth').write_bytes(content[:len(content) // 2])
        assert 'expected a whole file of torch.save' in refused('w.pth')
        torch.save({'a': Runs()}, 'w.pth', _use_new_zipfile_serialization=not old)
        assert 'a pickle that would run code (' in refused('w.pth') and not (tmp_path / 'ran').exists()
        torch.save([1], 'w.pth', _use_new_zipfile_serialization=not old)
        assert 'found list' in refused('w.pth')
    (tmp_path / 'w.pth').write_bytes(pickle.dumps(Runs(), 2))
    assert 'a pickle that would run code' in refused('w.pth') and not (tmp_path / 'ran').exists()
