# SPDX-License-Identifier: Apache-2.0
"""Which of how many processes this is: the one reader of RANK_ID, RANK_SIZE and RANK_TABLE_FILE.

An empty variable counts as one that is not set.
"""
import json
import os

from common.files import DataError, read_json


def read():
    """(rank, ranks): ints; (0, 1) for a process that is alone.

    Raises:
      DataError: the variables make no sense.
    """
    ranks = size_text()
    if not ranks.isdecimal() or int(ranks) < 1:
        raise DataError("RANK_SIZE", "the number of ranks", repr(ranks), "unset it, or start with test/*_8p.sh")
    if int(ranks) > 1 and table_file():
        _check_table(table_file(), int(ranks))
    rank = os.environ.get("RANK_ID") or ("0" if int(ranks) == 1 else "")
    if not rank.isdecimal() or int(rank) >= int(ranks):
        raise DataError("RANK_ID", "this process among RANK_SIZE=%s, from 0" % ranks, repr(rank),
                        "export it, or start with test/*_8p.sh")
    return int(rank), int(ranks)


def _check_table(path, ranks):
    """The launcher checks a table in full; a rank that was started without it must not wait for others in vain."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(path, "a rank table in JSON", "something else" if os.path.exists(path) else "no such file",
                        "correct RANK_TABLE_FILE")
    devices = json.dumps(content).count('"device_id":')
    if devices != ranks:
        raise DataError(path, "%d devices, as RANK_SIZE says" % ranks, devices,
                        "correct the rank table (RANK_TABLE_FILE) or RANK_SIZE")


def size_text():
    """RANK_SIZE as it is, "1" without it; unchecked, for what must not fail."""
    return os.environ.get("RANK_SIZE") or "1"


def is_rank_0():
    """Whether this process decides about the run folder: it is alone, or rank 0 of several."""
    return (os.environ.get("RANK_ID") or "0") == "0"


def table_file():
    """The path in RANK_TABLE_FILE, or None."""
    return os.environ.get("RANK_TABLE_FILE") or None
