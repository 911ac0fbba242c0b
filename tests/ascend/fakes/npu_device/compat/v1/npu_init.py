# SPDX-License-Identifier: Apache-2.0
"""As the stand-in for TensorFlow 1.15, without the loss-scale classes that need tf.contrib."""
import ascend_contract
import hccl.manage.api  # noqa: F401
from ascend_contract import npu_distributed_optimizer_wrapper  # noqa: F401

from npu_device.compat.v1 import hccl_ops, util  # noqa: F401

if not any(event['event'] == 'enable_v1' for event in ascend_contract.events):
    raise ascend_contract.Lost('npu_device.compat.enable_v1() before: every NpuOptimizer entry is ignored without it')
ascend_contract.patch_sessions()
ascend_contract.patch_gradients()
NPUOptimizer = ascend_contract.make_npu_optimizer()
