# SPDX-License-Identifier: Apache-2.0
"""Ascend's packages are named in one file of the tree; importing it names them only."""
import os
import subprocess
import sys

import folders

_LEFT_OUT = ('tests', 'docs', 'output', 'constraints', '__pycache__')


def sources():
    """Paths of what is no document, test or list of packages."""
    for folder, inside, names in os.walk(folders.ROOT):
        inside[:] = [name for name in inside if not name.startswith('.') and name not in _LEFT_OUT]
        for name in names:
            if name.endswith(('.py', '.sh', '.json', '.toml')):
                yield os.path.join(folder, name)


def test_one_file_names_the_packages():
    found = set()
    for path in sources():
        with open(path, encoding='utf-8') as file:
            text = file.read()
        if 'npu_bridge' in text or 'npu_device' in text:
            found.add(os.path.relpath(path, folders.ROOT))
    assert found == {os.path.join('common', 'backends', 'npu.py')}


def test_importing_the_runtime_imports_no_adapter_and_no_tensorflow():
    code = 'import sys, common.runtime, common.npu_options, common.backends.npu, common.run; print(sorted(sys.modules))'
    environment = dict(os.environ, PYTHONPATH=folders.FAKES)
    said = subprocess.run([sys.executable, '-c', code], cwd=folders.ROOT, env=environment, stdout=subprocess.PIPE,
                          check=True).stdout.decode()
    assert 'common.runtime' in said
    assert not [name for name in ('npu_bridge', 'npu_device', 'hccl', 'tensorflow') if "'%s'" % name in said]
