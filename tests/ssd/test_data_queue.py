# SPDX-License-Identifier: Apache-2.0
"""Worker processes: the order of batches, failures, ends."""
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from programs import is_alive

FOLDER = os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow')
sys.path.insert(0, FOLDER)
pytest.importorskip('cv2')
pytest.importorskip('defusedxml')

import data_queue  # noqa: E402
import ssdutils  # noqa: E402
from data_queue import BatchQueue, WorkerDied  # noqa: E402
from training_data import TrainingData, TrainingSamples  # noqa: E402

pytestmark = pytest.mark.smoke
PRESET = ssdutils.PRESETS['vgg300']


class Counter:
    """Numbers instead of images; `fail`, `die` and `hang` say at which step, `log` where to write what was made."""

    def __init__(self, fail=None, die=None, hang=None, log=None, slow=0.0):
        self.fail, self.die, self.hang, self.log, self.slow = fail, die, hang, log, slow

    def __call__(self, step, position):
        if step == self.fail:
            raise ValueError('step %d is impossible' % step)
        if step == self.die:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60 if step == self.hang else self.slow)
        if self.log:
            with open(self.log, 'a') as file:
                file.write('%d %d\n' % (step, position))
        tensorflow = 'tensorflow' in sys.modules
        return np.full((2, 3), step * 100 + position, np.int64), np.array([tensorflow, step], np.uint8)


def batches(queue):
    with queue:
        return [(step, [array.copy() for array in arrays]) for step, arrays in queue]


@pytest.mark.parametrize('num_workers', [0, 1, 3])
def test_batches_come_in_order_and_are_the_same_for_every_number_of_workers(num_workers, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow', sys)  # this process has it, a worker must not
    got = batches(BatchQueue(Counter(), 4, 5, 13, num_workers))
    assert [step for step, _ in got] == list(range(5, 13))
    for step, (numbers, marks) in got:
        assert numbers.shape == (4, 2, 3) and numbers.dtype == np.int64
        assert (numbers == step * 100 + np.arange(4)[:, None, None]).all()
        assert (marks == [num_workers == 0, step]).all()
    assert not multiprocessing.active_children()


def test_real_samples_are_the_same_from_workers_and_after_a_resume(processed_voc):
    samples = TrainingSamples(TrainingData(processed_voc), PRESET, seed=1, batch_size=2)
    alone = batches(BatchQueue(samples, 2, 0, 5, 0))
    assert alone[0][1][0].shape == (2, 300, 300, 3) and alone[0][1][1].shape == (2, 8732)
    for first, num_workers in ((0, 2), (3, 2), (3, 0)):
        for (step, ours), (other, theirs) in zip(alone[first:], batches(BatchQueue(samples, 2, first, 5, num_workers))):
            assert step == other and all((one == two).all() for one, two in zip(ours, theirs))


def test_workers_do_not_run_ahead(tmp_path):
    log = str(tmp_path / 'made')
    with BatchQueue(Counter(log=log), 1, num_workers=2) as queue:
        for step, _ in queue:
            if step == 4:
                break
        time.sleep(1)
        made = {int(line.split()[0]) for line in open(log)}
    # Two slots a worker beside the step that is in use; one more may have begun.
    assert max(made) <= 4 + 2 * 2


@pytest.mark.parametrize('num_workers', [0, 1, 3])
def test_a_failing_worker_raises_with_its_traceback(num_workers):
    with BatchQueue(Counter(fail=6), 2, 5, None, num_workers) as queue:
        started = time.time()
        with pytest.raises(ValueError if num_workers == 0 else WorkerDied, match='step 6 is impossible') as error:
            for _ in queue:
                pass
        assert time.time() - started < 10
    assert num_workers == 0 or 'Traceback' in str(error.value) and '__call__' in str(error.value)
    assert not multiprocessing.active_children()


def test_the_first_sample_fails_here():
    with pytest.raises(ValueError, match='step 5'):
        BatchQueue(Counter(fail=5), 2, 5, None, 2)


@pytest.mark.parametrize('die', ['itself', 'while idle'])
def test_a_killed_worker_is_noticed(die):
    with BatchQueue(Counter(die=7 if die == 'itself' else None), 2, 5, None, 3) as queue:
        if die == 'while idle':
            next(queue)
            time.sleep(1)
            os.kill(queue._workers[2].process.pid, signal.SIGKILL)
        started = time.time()
        with pytest.raises(WorkerDied, match='input worker 2 .*killed by SIGKILL'):
            for _ in queue:
                time.sleep(0.05)
        assert time.time() - started < 10
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_noticed_while_another_one_is_waited_for():
    # Worker 1 makes 6 and 8 ahead, and 10 when 6 is done with.
    with BatchQueue(Counter(die=10, hang=7), 2, 5, None, 2) as queue:
        assert [next(queue)[0], next(queue)[0]] == [5, 6]
        started = time.time()
        with pytest.raises(WorkerDied, match='input worker 1 .*killed by SIGKILL'):
            next(queue)
        assert time.time() - started < 10
    assert not multiprocessing.active_children()  # also the one that hangs


CONSUMER = """
import sys, time
sys.path[:0] = %r
from test_data_queue import Counter
from data_queue import BatchQueue
if __name__ == '__main__':
    queue = BatchQueue(Counter(slow=0.01), 2, num_workers=2)
    next(queue)
    print(*[worker.process.pid for worker in queue._workers], flush=True)
    if 'end' not in sys.argv:
        for _ in queue:
            time.sleep(0.1)
"""


@pytest.mark.parametrize('ending', ['SIGKILL', 'SIGINT', 'SIGTERM', 'end'])
def test_workers_end_with_the_training_process_and_say_nothing(tmp_path, ending):
    script = tmp_path / 'consumer.py'
    here = os.path.dirname(os.path.abspath(__file__))
    script.write_text(CONSUMER % ([here, os.path.dirname(here), FOLDER, ROOT],))
    consumer = subprocess.Popen([sys.executable, str(script), ending], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                universal_newlines=True, start_new_session=True)
    workers = [int(pid) for pid in consumer.stdout.readline().split()]
    assert len(workers) == 2
    if ending == 'SIGINT':
        os.killpg(consumer.pid, signal.SIGINT)  # as a terminal does: to all of them
    elif ending != 'end':
        consumer.send_signal(getattr(signal, ending))
    errors = consumer.communicate(timeout=60)[1]
    for _ in range(100):
        if not any(map(is_alive, workers)):
            break
        time.sleep(0.1)
    assert not any(map(is_alive, workers))
    assert errors.count('Traceback') == (ending == 'SIGINT') and 'test_data_queue.py' not in errors


def test_the_group_gets_sigterm_and_the_next_batch_still_comes(monkeypatch):
    monkeypatch.setattr(data_queue, '_PATIENCE_SEC', 30)
    with BatchQueue(Counter(), 2, num_workers=2) as queue:
        next(queue)
        for worker in queue._workers:
            os.kill(worker.process.pid, signal.SIGTERM)
            os.kill(worker.process.pid, signal.SIGINT)
        assert [next(queue)[0] for _ in range(6)] == [1, 2, 3, 4, 5, 6]
        processes = [worker.process for worker in queue._workers]
    assert [process.exitcode for process in processes] == [0, 0]  # they saw that nobody waits, and were not killed
