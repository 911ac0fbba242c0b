# SPDX-License-Identifier: Apache-2.0
"""The adapter's line in the log decides what the launcher says of the NPU, and whether the run has succeeded."""
import os
import subprocess
import sys

import folders
import pytest

from common import logparse

LINE = '2022-03-28 11:23:49.98: I tf_adapter/kernels/geop_npu.cc:739] %s, current graph id is:1' % logparse.NPU_COMPILED
SCRIPT = '''
import os, sys
sys.path.insert(0, %r)
from common import flags
def parse_args(argv=None):
    parser = flags.Parser(prog="train.py")
    flags.add_run_group(parser, epochs=1, batch_size=8, precision_mode="force_fp32")
    return parser.parse_args(argv)
def find_data(parsed):
    return None
if __name__ == "__main__":
    print(%r)
    print("[run] model=Fake batch_size=8 ranks=1 %%s" %% os.environ["RUN_FIELDS"])
    print("[done] step=1 status=ok")
'''


@pytest.mark.smoke
@pytest.mark.parametrize('line, fields, used', [
    (LINE, 'device=npu', True), ('nothing', 'device=npu', False), ('nothing', 'device=npu variables_on=NPU:0', True),
    ('nothing', 'device=npu variables_on=CPU:0', False), ('nothing', 'device=cpu', None)])
def test_the_line_decides(line, fields, used, tmp_path):
    (tmp_path / 'train.py').write_text(SCRIPT % (folders.ROOT, line))
    done = subprocess.run(
        [sys.executable, '-m', 'launcher', '--case=acc', 'train.py', '--output_path=%s' % (tmp_path / 'out')],
        cwd=str(tmp_path), env=dict(os.environ, PYTHON=sys.executable, PYTHONPATH=folders.ROOT, RUN_FIELDS=fields),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    said = done.stdout.decode()
    assert ('INFO, your task have used Ascend NPU, please check your result.' in said) == (used is True)
    assert ("ERROR, your task haven't used Ascend NPU, please check your npu Migration." in said) == (used is False)
    assert ('Final Performance' in said) == (used is not False)
    assert done.returncode == (1 if used is False else 0)
    assert ('docs/ascend.md' in said) == (used is False)
    assert LINE in (tmp_path / 'out' / 'train_0.log').read_text() or line != LINE
    assert LINE not in said  # the adapter's chatter stays in the log
