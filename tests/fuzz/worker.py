# SPDX-License-Identifier: Apache-2.0
"""A process that tries one case after another: reads lines {"kind", "case", "content"}, answers each with a line.

What a reader opens for writing, runs or connects to is watched; all of it must lie below the case's own folder.
"""
import base64
import json
import os
import random
import re
import shutil
import sys
import traceback
import warnings

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(os.path.dirname(HERE))]

import kinds  # noqa: E402
import mutations  # noqa: E402

from common.files import DataError  # noqa: E402

_RUNS = ('subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn', 'os.spawn', 'os.fork', 'os.kill',
         'socket.connect', 'ctypes.dlopen')
_CHANGES = ('os.mkdir', 'os.remove', 'os.rename', 'os.rmdir', 'os.symlink', 'os.link')


class Watch:
    """Notes what is run, and what is written outside a folder; while it has one."""

    def __init__(self):
        self.inside, self.seen = None, []
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if self.inside is None:
            return
        if event in _RUNS:
            self.seen.append('%s %.200r' % (event, arguments))
        changed = [(arguments[0], -1)]
        if event in ('os.rename', 'os.link'):
            changed = [(arguments[0], arguments[2]), (arguments[1], arguments[3])]
        elif event in _CHANGES:
            changed = [(arguments[event == 'os.symlink'], arguments[-1])]
        elif event != 'open' or not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        for path, folder in changed:
            if isinstance(path, (str, bytes)) and os.fsdecode(path) != os.devnull:
                within = os.readlink('/proc/self/fd/%d' % folder) if folder >= 0 else ''
                path = os.path.abspath(os.path.join(within, os.fsdecode(path)))
                if not (path + os.sep).startswith(self.inside):
                    self.seen.append('%s %s' % (event, path))


def targets(kind, place):
    """[(path within place, what it is)] of the files that may be damaged."""
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(place) for name in names]
    return sorted((os.path.relpath(path, place), what) for pattern, what in kind.targets.items() for path in paths
                  if re.search(pattern, path))


def attempt(kind, pristine, place, name, content, watch):
    """(outcome, words) of one case: returned, refused, or found with the reason."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(pristine, place)
    with open(os.path.join(place, name), 'wb') as file:
        file.write(content)
    watch.inside, watch.seen = place + os.sep, []
    try:
        kind.read(place, os.path.join(place, name))
        outcome = 'returned', ''
    except (DataError, kinds.Refused) as error:
        outcome = ('found', 'more than a line: %r' % str(error)) if '\n' in str(error) else ('refused', str(error))
    except BaseException:
        outcome = 'found', traceback.format_exc()
    finally:
        watch.inside = None
    return ('found', 'ran or wrote: %s' % watch.seen) if watch.seen else outcome


def main():
    work, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), 'w')
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    warnings.simplefilter('ignore')
    os.environ.update(HOME=work, MPLCONFIGDIR=work, TF_CPP_MIN_LOG_LEVEL='3')
    kinds.use_folder(folder)
    watch = Watch()
    for line in sys.stdin:
        order = json.loads(line)
        kind = kinds.KINDS[order['kind']]
        pristine, place = (os.path.join(work, order['kind'], name) for name in ('pristine', '0'))
        try:
            if not os.path.isdir(pristine):
                for folder in (place, pristine):
                    shutil.rmtree(folder, ignore_errors=True)
                    os.makedirs(folder)
                    kind.make(folder)
                for name, _ in targets(kind, place):  # imports what it needs, and proves that whole files are read
                    kind.read(place, os.path.join(place, name))
            files = targets(kind, pristine)
            chance = random.Random('%s %s' % (order['kind'], order['case']))
            name, what = chance.choice(files)
            if 'content' in order:
                name, content = order['name'], base64.b64decode(order['content'])
            else:
                with open(os.path.join(pristine, name), 'rb') as file:
                    content = mutations.mutate(file.read(), chance, what)
            outcome, words = attempt(kind, pristine, place, name, content, watch)
        except BaseException:
            outcome, words, name = 'found', 'in the test itself: ' + traceback.format_exc(), '?'
        answers.write(json.dumps([outcome, words[-3000:], name]) + '\n')
        answers.flush()


if __name__ == '__main__':
    main()
