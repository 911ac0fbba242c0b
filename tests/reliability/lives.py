# SPDX-License-Identifier: Apache-2.0
"""Runs of a copy of this tree that are killed, or whose disk fills up, and what must be true of them then."""
import collections
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import programs

from common import checkpoint, logparse

ROOT = programs.ROOT
IMAGES, STEPS_AN_EPOCH, STEPS, SAVE_EVERY = 24, 6, 24, 3  # one evaluation an epoch
EVENTS_A_SAVE = 16  # files opened, renamed, removed
PATIENCE_SEC = 300  # for what comes next; a start takes 5 on a quiet machine

NO_KERAS = {'TF_USE_LEGACY_KERAS': '1'}  # which takes a fifth of a start: TensorFlow looks for it when it is used
Model = collections.namedtuple("Model", "folder data flags env")
MODELS = {
    'cspnet': Model('CSPNet_ID0840_for_TensorFlow', 'cifar10', [], NO_KERAS),
    'cutmix': Model('cutmix_ID2502_for_TensorFlow2.X', 'cifar10', [], {}),
    'shufflenet': Model('ShufflenetV2_ID0371_For_Tensorflow', 'imagenet', ['--num_classes=10', '--prepare'],
                        NO_KERAS),
    'ssd': Model('SSD-VGG_ID1619_for_TensorFlow', 'voc', ['--preset=tiny', '--num_workers=1'], NO_KERAS),
}


def copy_tree(folder):
    """A copy of the programs in `folder`, which nobody edits, and whose prepared data is nobody else's."""
    for name in ['common', 'launcher', 'tools'] + [model.folder for model in MODELS.values()]:
        shutil.copytree(os.path.join(ROOT, name), os.path.join(folder, name),
                        ignore=shutil.ignore_patterns('output*', 'prepared', '__pycache__', 'VOCdevkit'))


def _parsed(line):
    """The event in a line of metrics.jsonl; None in one that a full disk has cut short."""
    try:
        return json.loads(line)
    except ValueError:
        return None


class Life:
    """A run folder and the command that fills it, given as often as it takes.

    Args:
      tree: of copy_tree; drawn: folder of the drawn data sets.
      name: of the model; ranks: int; place: folder for what its commands say, and for the run unless `folder` is.
      by_script: whether the command is a script of test/, or train.py alone, which has one rank.
    """

    def __init__(self, tree, drawn, name, ranks, place, by_script=True, folder=None):
        self.ranks, self.model = ranks, MODELS[name]
        self.folder, self._said_path = folder or os.path.join(place, 'run'), os.path.join(place, 'said.txt')
        self._cwd = os.path.join(tree, self.model.folder)
        script = os.path.join('test', 'train_full_%s.sh' % ('1p' if ranks == 1 else '8p'))
        self._command = ['bash', script] if by_script else [sys.executable, 'train.py'] + programs.script_flags(
            os.path.join(ROOT, self.model.folder, script))
        self._command += self.model.flags + [
            '--data_path=%s' % os.path.join(drawn, self.model.data), '--output_path=%s' % self.folder,
            '--batch_size=%d' % (4 // ranks), '--train_steps=%d' % STEPS, '--save_every=%d' % SAVE_EVERY,
            '--eval_every=1', '--log_every=1', '--device=cpu']
        self.process, self._before, self._first_step, self.begins_anew, self.began = None, None, 0, True, 0.0
        os.makedirs(place, exist_ok=True)
        shutil.rmtree(os.path.join(self._cwd, 'data', 'prepared'), ignore_errors=True)  # made in this life, too

    # The command and its processes

    def start(self, **env):
        """Gives the command. With FILE_EVENT=n a process of it stops at the n-th change of a file of the run folder."""
        self._before = self._log_state()
        self.begins_anew = self._before[0]
        self._first_step = 0 if self.begins_anew else self.newest()
        with open(self._said_path, 'w') as said:
            self.process = subprocess.Popen(
                self._command, cwd=self._cwd, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
                start_new_session=True, env=programs.environment(
                    LIFE=self.folder, RANK_SIZE=str(self.ranks), PYTHONPATH=os.pathsep.join(
                        [programs.IN_PROGRAMS, os.path.dirname(self._cwd)]), **dict(self.model.env, **env)))
        self.began = time.monotonic()

    def said(self):
        with open(self._said_path, errors='replace') as file:
            return file.read()

    def processes(self):
        """{pid: command line} of all that the command started and that have not ended."""
        mark, found = ('LIFE=%s' % self.folder).encode(), {}
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                with open('/proc/%s/environ' % pid, 'rb') as file:
                    if mark in file.read().split(b'\0'):
                        with open('/proc/%s/cmdline' % pid, 'rb') as words:
                            found[int(pid)] = words.read().replace(b'\0', b' ').decode(errors='replace')
            except OSError:  # it has ended, or is another user's
                pass
        return found

    def stopped(self):
        """The pid of the process that FILE_EVENT has stopped, or None."""
        for pid in self.processes():
            try:
                with open('/proc/%d/stat' % pid) as file:
                    if file.read().rpartition(')')[2].split()[0] == 'T':
                        return pid
            except OSError:
                pass
        return None

    def wait_until(self, condition, pause_sec=0.01):
        """Whether condition() came true before the command ended."""
        deadline = time.monotonic() + PATIENCE_SEC
        while not condition():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, 'nothing came for %d s:\n%s' % (PATIENCE_SEC, self.told())
            time.sleep(pause_sec)
        return True

    def wait_for_end(self):
        """Exit code; all processes have ended."""
        deadline = time.monotonic() + PATIENCE_SEC
        while self.process.poll() is None or self.processes():
            assert time.monotonic() < deadline, 'no end after %d s: %s\n%s' % (
                PATIENCE_SEC, self.processes(), self.told())
            time.sleep(0.1)
        return self.process.returncode

    def kill(self, pids=None):
        """kill -9 of these, or of all at once."""
        while True:
            victims = pids or list(self.processes())
            for pid in victims:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
            if pids or not victims:
                break
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGCONT)
            except OSError:
                pass

    # What the run has said and left

    def _log_state(self):
        """(is finished, inode and size of metrics.jsonl): what was there before a command."""
        try:
            status = os.stat(os.path.join(self.folder, 'metrics.jsonl'))
        except OSError:
            return False, None, 0
        return checkpoint.is_finished(self.folder), status.st_ino, status.st_size

    def events(self):
        """The events since the command was given: [dict]."""
        was_finished, inode, size = self._before
        try:
            with open(os.path.join(self.folder, 'metrics.jsonl'), 'rb') as file:
                if os.fstat(file.fileno()).st_ino == inode:
                    if was_finished:  # not yet moved aside
                        return []
                    file.seek(size)
                lines = file.read().split(b'\n')
        except OSError:
            return []
        return [event for event in map(_parsed, lines[:-1]) if event]

    def newest(self):
        """The step of the newest whole checkpoint; 0 without one."""
        found = checkpoint.CheckpointStore(self.folder).newest()
        return found[1]['step'] if found else 0

    def check_going_on(self):
        """The command has begun where the newest checkpoint was, and no traceback was said."""
        events = self.events()
        assert not events or events[0]['event'] == 'run' and events[0]['first_step'] == self._first_step, self.told()
        assert 'Traceback' not in self.said() + self.log(), self.told()

    def told(self):
        """What the command said, and the end of the log, for messages."""
        return '%s\n--- log:\n%s' % (self.said()[-3000:], self.log()[-3000:])

    def log(self):
        """What ranks have logged, in all that was written into this folder; train.py alone has no log."""
        text = ''
        for name in sorted(os.listdir(self.folder)) if os.path.isdir(self.folder) else []:
            if re.fullmatch(r'train_\d+\.log', name):
                with open(os.path.join(self.folder, name), errors='replace') as file:
                    text += file.read()
        return text

    def result(self):
        """What must be the same in the end, whatever happened on the way: {name: value}."""
        events = self.events()
        done = events[-1]
        with open(os.path.join(self.folder, 'metrics.jsonl')) as lines:
            every = [event for event in map(_parsed, lines) if event]
        figures = {event['step']: {key: value for key, value in event.items() if key != 'time'}
                   for event in every if event['event'] == 'eval'}
        losses = {event['step']: event['loss'] for event in every if event['event'] == 'train'}
        best = checkpoint.CheckpointStore(self.folder).best()
        return dict(event=done['event'], step=done['step'], checksum=done['checksum'], figures=figures, losses=losses,
                    best=best and (best[1]['step'], best[1]['metric']))

    def check_whole(self, by_launcher):
        """The run folder of a finished run is as a run leaves it: nothing half, nothing temporary, nothing missing."""
        for folder, folders, names in os.walk(self.folder):
            odd = [name for name in folders + names if 'tmp' in name]
            assert not odd, (folder, odd)
        store = checkpoint.CheckpointStore(self.folder)
        steps = [name for name in os.listdir(store.folder) if name.startswith('step-')]
        for name in steps:
            assert checkpoint.find_checkpoint(os.path.join(store.folder, name)), name
        best = store.best()
        assert len(steps) == len({STEPS, best[1]['step'], max(int(name[5:]) for name in set(steps) - {
            'step-%08d' % STEPS})}), steps
        with open(os.path.join(store.folder, 'checkpoint')) as file:
            assert file.read() == 'model_checkpoint_path: "step-%08d/model"\n' % STEPS
        assert self.newest() == STEPS and os.path.isfile(os.path.join(self.folder, 'flags.json'))
        if by_launcher:
            losses, = [name for name in os.listdir(self.folder) if name.endswith('_loss.txt')]
            with open(os.path.join(self.folder, losses)) as lines:
                assert len(lines.read().split()) == STEPS
            for name in ('report.md', 'curves.png', losses.replace('train_', '').replace('_loss.txt', '.log')):
                assert os.path.getsize(os.path.join(self.folder, name)), name
            assert logparse.summarize(self.log().splitlines()).finished
