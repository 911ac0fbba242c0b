# SPDX-License-Identifier: Apache-2.0
"""Python imports this at its start where this folder is on PYTHONPATH: in the programs that programs.py starts.

Their networks are small. RENAMES in the environment names a file that gets a line for each checkpoint that is given its
name: "rank name". FILE_EVENT=n stops (SIGSTOP) a process before it changes a file below the folder LIFE for the n-th
time.
"""
import os
import signal
import sys

import small_networks

small_networks.install_on_import()

if 'RENAMES' in os.environ:
    _rename = os.rename

    def _recorded(source, target, *words, **more):
        _rename(source, target, *words, **more)
        if os.path.basename(str(target)).startswith('step-'):
            with open(os.environ['RENAMES'], 'a') as file:
                file.write('%s %s\n' % (os.environ.get('RANK_ID', '0'), os.path.basename(str(target))))
    os.rename = _recorded

if 'FILE_EVENT' in os.environ and hasattr(sys, 'addaudithook'):
    _count = int(os.environ['FILE_EVENT'])

    def _is_change(event, words):
        if event in ('os.remove', 'os.rmdir') and words[1] != -1:  # of rmtree, which names a file within a folder
            return True
        return event in ('os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'open') and str(words[0]).startswith(
            os.environ['LIFE']) and words[1:2] not in (('r',), ('rb',))

    def _stop(event, words):
        global _count
        if _is_change(event, words):
            _count -= 1
            if _count == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
    sys.addaudithook(_stop)
