# SPDX-License-Identifier: Apache-2.0
"""Python imports this at its start where this folder is on PYTHONPATH: in the programs that programs.py starts.

Their networks are small. RENAMES in the environment names a file that gets a line for each checkpoint that is given its
name: "rank name".
"""
import os

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
