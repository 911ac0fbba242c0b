# SPDX-License-Identifier: Apache-2.0
"""The line at the bottom of a terminal."""
import re
import time

import pytest
from programs import drawn_on_terminal

from common import progress

pytestmark = pytest.mark.smoke


def test_a_phase_counts_its_seconds_and_leaves_nothing(monkeypatch):
    monkeypatch.setattr(progress, '_FIRST_SEC', 0.05)
    with drawn_on_terminal(80) as drawn:
        with progress.Phase('starting'):
            time.sleep(1.3)
        with progress.Phase('too short to be seen'):
            pass
    assert drawn == ['starting, 0 s', 'starting, 1 s']


@pytest.mark.parametrize('columns', (80, 200))
def test_a_bar_says_how_far_and_fits(columns):
    with drawn_on_terminal(columns) as drawn:
        with progress.bar(4000, 'evaluating', done=1000) as bar:
            bar.set_postfix_str('loss 1.234', refresh=False)
            time.sleep(0.6)
            bar.update(1000)
        for _ in progress.over(range(3), 'evaluating'):
            time.sleep(0.6)
    assert [line for line in drawn if line.startswith('evaluating  50%') and
            re.search(r'\| 2000/4000 images, loss 1.234, 00:0\d left$', line)], drawn
    assert any(re.search(r'\| 2/3 batches, 00:00 left$', line) for line in drawn), drawn
    assert max(map(len, drawn)) <= columns


def test_a_file_gets_nothing(tmp_path, monkeypatch):
    with open(str(tmp_path / 'log'), 'w') as log:
        monkeypatch.setattr('sys.stderr', log)
        monkeypatch.setattr(progress, '_FIRST_SEC', 0)
        with progress.Phase('starting'), progress.bar(3) as bar:
            time.sleep(0.05)
            bar.update(3)
    assert (tmp_path / 'log').read_text() == ''
