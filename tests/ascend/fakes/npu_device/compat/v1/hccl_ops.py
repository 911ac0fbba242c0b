# SPDX-License-Identifier: Apache-2.0
"""The collectives that the folders use."""
from ascend_contract import allreduce, broadcast  # noqa: F401
