# SPDX-License-Identifier: Apache-2.0
"""Who takes part."""
import os


def get_rank_id():
    """int, this process."""
    return int(os.environ['RANK_ID'])
