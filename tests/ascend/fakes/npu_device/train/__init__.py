# SPDX-License-Identifier: Apache-2.0
"""Training."""
from npu_device.train import optimizer  # noqa: F401
