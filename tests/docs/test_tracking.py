# SPDX-License-Identifier: Apache-2.0
"""The programs of docs/tracking.md run as they stand on what a run leaves."""
import contextlib
import json
import os
import sys
import types

import pages
import pytest

from common import runlog


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder RUN where the program stands."""
    monkeypatch.chdir(tmp_path)
    os.mkdir('RUN')
    log = runlog.RunLog('RUN')
    log.event(runlog.RUN, model='CSPNet', batch_size=64)
    for step in (1, 100):
        log.event(runlog.TRAIN, step=step, epoch=step / 100, loss=2.5 / step, lr=0.1, images_per_sec=400.5)
    log.event(runlog.EVAL, step=100, epoch=1.0, loss=0.5, top1=0.75, images=500)
    log.event(runlog.DONE, step=100, status='ok')
    log.close()
    for name, text in (('flags.json', json.dumps({'batch_size': 64})), ('report.md', '# CSPNet\n')):
        with open(os.path.join('RUN', name), 'w') as file:
            file.write(text)
    return tmp_path


def program(number):
    return [block.text for block in pages.blocks('docs/tracking.md') if block.language == 'python'][number]


@pytest.mark.parametrize('number', range(3))
def test_ten_lines_are_enough(number):
    assert len([line for line in program(number).splitlines() if line.strip()]) <= 11


def test_tensorboard(run, capsys):
    pytest.importorskip('tensorboard')
    pytest.importorskip('tensorflow')
    writer = runlog.ScalarWriter(os.path.join('RUN', 'tb'))
    for step in (1, 100):
        writer.scalar('train/loss', 2.5 / step, step)
    exec(program(0), {})
    assert capsys.readouterr().out.split() == ['train/loss', 'step', '100', '0.025']


def test_mlflow(run, monkeypatch):
    """MLflow's four calls, by their published signatures; the package is not needed for it."""
    calls = []
    stub = types.ModuleType('mlflow')

    @contextlib.contextmanager
    def start_run(run_id=None, experiment_id=None, run_name=None):
        calls.append(('run', run_name))
        yield
    stub.start_run = start_run
    stub.log_params = lambda params: calls.append(('params', params))
    stub.log_metrics = lambda metrics, step=None: calls.append((step, metrics))
    stub.log_artifact = lambda local_path, artifact_path=None: calls.append(('artifact', local_path))
    monkeypatch.setitem(sys.modules, 'mlflow', stub)
    exec(program(1), {})
    assert calls[:2] == [('run', 'CSPNet'), ('params', {'batch_size': 64})]
    assert calls[-1] == ('artifact', 'RUN/report.md')
    assert calls[-2] == (100, {'eval/epoch': 1.0, 'eval/loss': 0.5, 'eval/top1': 0.75})
    assert calls[2][1]['train/images_per_sec'] == 400.5


def test_pandas(run, capsys):
    pytest.importorskip('pandas')
    exec(program(2), {})
    assert capsys.readouterr().out.rstrip().endswith("best: {'top1': 0.75}")
    assert (run / 'RUN' / 'train.csv').read_text().splitlines()[0] == 'step,loss,lr,images_per_sec'
