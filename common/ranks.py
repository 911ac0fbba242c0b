# SPDX-License-Identifier: Apache-2.0
"""Which of how many processes this is: the one reader of RANK_ID, RANK_SIZE and RANK_TABLE_FILE.

An empty variable counts as one that is not set.
"""
import os

from common.files import DataError


def read():
    """(rank, ranks): ints; (0, 1) for a process that is alone.

    Raises:
      DataError: the variables make no sense.
    """
    ranks = size_text()
    if not ranks.isdigit() or int(ranks) < 1:
        raise DataError("RANK_SIZE", "the number of ranks", repr(ranks), "unset it, or start with test/*_8p.sh")
    rank = os.environ.get("RANK_ID") or ("0" if int(ranks) == 1 else "")
    if not rank.isdigit() or int(rank) >= int(ranks):
        raise DataError("RANK_ID", "this process among RANK_SIZE=%s, from 0" % ranks, repr(rank),
                        "export it, or start with test/*_8p.sh")
    return int(rank), int(ranks)


def size_text():
    """RANK_SIZE as it is, "1" without it; unchecked, for what must not fail."""
    return os.environ.get("RANK_SIZE") or "1"


def is_rank_0():
    """Whether this process decides about the run folder: it is alone, or rank 0 of several."""
    return (os.environ.get("RANK_ID") or "0") == "0"


def table_file():
    """The path in RANK_TABLE_FILE, or None."""
    return os.environ.get("RANK_TABLE_FILE") or None
