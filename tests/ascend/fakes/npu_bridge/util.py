# SPDX-License-Identifier: Apache-2.0
"""Loops on the device."""
from ascend_contract import set_iteration_per_loop  # noqa: F401
