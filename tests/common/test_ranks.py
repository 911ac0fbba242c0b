# SPDX-License-Identifier: Apache-2.0
"""Who this process is among others, by the environment."""
import json

import pytest

from common import ranks
from common.files import DataError

pytestmark = pytest.mark.smoke


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ('RANK_ID', 'RANK_SIZE', 'RANK_TABLE_FILE'):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize('said, meant', [
    ({}, (0, 1)), ({'RANK_SIZE': '', 'RANK_ID': '', 'RANK_TABLE_FILE': ''}, (0, 1)),
    ({'RANK_SIZE': '4', 'RANK_ID': '3'}, (3, 4)), ({'RANK_ID': '0'}, (0, 1))])
def test_what_is_meant(environment, said, meant):
    for name, value in said.items():
        environment.setenv(name, value)
    assert ranks.read() == meant and ranks.is_rank_0() == (meant[0] == 0) and ranks.size_text() == str(meant[1])


@pytest.mark.parametrize('said, at_fault', [({'RANK_SIZE': 'two'}, 'RANK_SIZE'), ({'RANK_SIZE': '0'}, 'RANK_SIZE'),
                                            ({'RANK_SIZE': '2'}, 'RANK_ID'), ({'RANK_ID': '1'}, 'RANK_ID'),
                                            ({'RANK_SIZE': '2', 'RANK_ID': '2'}, 'RANK_ID')])
def test_what_makes_no_sense_is_named(environment, said, at_fault):
    for name, value in said.items():
        environment.setenv(name, value)
    with pytest.raises(DataError, match=at_fault + ': expected'):
        ranks.read()


@pytest.mark.parametrize('content, found', [(None, 'no such file'), ('[', 'something else'),
                                            (json.dumps([{'device_id': '0'}]), 'something else'),
                                            (json.dumps({'a': [{'device_id': '0'}]}), 'found 1')])
def test_a_table_that_does_not_fit_is_named(environment, tmp_path, content, found):
    if content:
        (tmp_path / 'table.json').write_text(content)
    for name, value in dict(RANK_SIZE='2', RANK_ID='0', RANK_TABLE_FILE=str(tmp_path / 'table.json')).items():
        environment.setenv(name, value)
    with pytest.raises(DataError, match='table.json: expected .*' + found):
        ranks.read()
    (tmp_path / 'table.json').write_text(json.dumps({'a': [{'device_id': '0'}, {'device_id': '1'}]}))
    assert ranks.read() == (0, 2)
