# SPDX-License-Identifier: Apache-2.0
"""The stand-ins of Ascend's packages, importable for one test, and all that importing them changes undone after it."""
import json
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import folders  # noqa: E402

_OURS = ('npu_bridge', 'npu_device', 'hccl', 'ascend_contract', 'ascend_tree')
_VARIABLES = ('RANK_ID', 'RANK_SIZE', 'RANK_TABLE_FILE', 'JOB_ID', 'ASCEND_DEVICE_ID', 'NPU_LOOP_SIZE', 'CM_CHIEF_IP',
              'CM_WORKER_SIZE', 'TF_CPP_MIN_LOG_LEVEL')


def _forget():
    for name in list(sys.modules):
        if name.split('.')[0] in _OURS:
            del sys.modules[name]


@pytest.fixture
def tf():
    """tensorflow.compat.v1 with TF2 behaviour off and an empty graph."""
    module = pytest.importorskip('tensorflow.compat.v1')
    module.disable_v2_behavior()
    module.reset_default_graph()
    return module


@pytest.fixture
def environment(monkeypatch):
    """monkeypatch, with none of the variables set that Ascend's adapter or the runtime look at."""
    for name in _VARIABLES:
        monkeypatch.setenv(name, '')  # so that what a test sets is undone
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def fakes(environment):
    """The stand-ins' common module; both packages can be imported."""
    environment.syspath_prepend(folders.FAKES)
    _forget()
    session = pytest.importorskip('tensorflow.python.client.session')
    for kind in (session.Session, session.InteractiveSession):
        environment.setattr(kind, '__init__', kind.__init__)
    kind = pytest.importorskip('tensorflow.python.training.optimizer').Optimizer
    environment.setattr(kind, 'compute_gradients', kind.compute_gradients)
    import ascend_contract
    yield ascend_contract
    _forget()


@pytest.fixture
def adapter(fakes, tf):
    """As `fakes`, on a TensorFlow that an adapter exists for."""
    if not tf.__version__.startswith(('1.15', '2.6')):
        pytest.skip('there is no adapter for TensorFlow %s: run_tests.sh runs this where it finds a python3.7 or a '
                    'python3.9' % tf.__version__)
    return fakes


@pytest.fixture
def eight_ranks(environment, tmp_path):
    """This process is rank 3 of eight."""
    (tmp_path / 'table.json').write_text(json.dumps({'devices': [{'device_id': str(n)} for n in range(8)]}))
    for name, value in dict(RANK_SIZE='8', RANK_ID='3', RANK_TABLE_FILE=str(tmp_path / 'table.json')).items():
        environment.setenv(name, value)
