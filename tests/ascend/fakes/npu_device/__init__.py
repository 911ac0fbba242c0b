# SPDX-License-Identifier: Apache-2.0
"""A stand-in of Ascend's adapter for TensorFlow 2.6."""
import os

import tensorflow as tf
from ascend_contract import Lost, record
from ascend_tree import global_options

from npu_device import compat, distribute, train  # noqa: F401

if not tf.__version__.startswith('2.6.'):
    raise ImportError('cannot import name from keras internals: TensorFlow %s' % tf.__version__)
record('import', package='npu_device', loop_size=os.environ.get('NPU_LOOP_SIZE'))
_handles = {}


class NpuDeviceHandle:
    """An opened device."""

    def __init__(self, device_id, workers_num, worker_id):
        self._name = '/job:localhost/replica:0/task:0/device:NPU:%d' % device_id
        self.workers_num, self.worker_id = workers_num, worker_id

    def name(self):
        """str."""
        return self._name

    def is_cluster_worker(self):
        """bool."""
        return self.workers_num > 1

    def as_default(self):
        """Puts what follows on the device: variables made from now on say that they are there."""
        from tensorflow.python.framework import ops
        from tensorflow.python.ops import resource_variable_ops
        plain = ops.device
        ops.device = lambda name: plain(None if isinstance(name, str) and 'NPU' in name else name)
        resource_variable_ops.BaseResourceVariable.device = property(lambda variable: self._name)
        distribute.handle[:] = [self]
        record('as_default', device=self._name)
        return self


def open(device_id=None):
    """Opens one device, with the options as they are now."""
    device_id = int(os.environ.get('ASCEND_DEVICE_ID') or 0) if device_id is None else device_id
    if device_id in _handles:
        return _handles[device_id]
    if _handles:
        raise RuntimeError('another device is open')
    ranks = int(os.environ.get('RANK_SIZE') or 1)
    table, chief = os.environ.get('RANK_TABLE_FILE'), os.environ.get('CM_CHIEF_IP')
    if ranks > 1:
        if bool(table) == bool(chief) or table and not os.environ.get('RANK_ID'):
            raise RuntimeError('RANK_TABLE_FILE, RANK_ID, CM_CHIEF_IP')
        import hccl.manage.api
        rank = hccl.manage.api.get_rank_id()
    else:
        rank = 0
    if os.environ.get('FAKE_ASCEND_BUSY'):
        raise RuntimeError('Failed open npu device %d : device is busy' % device_id)
    options = global_options().as_dict()
    record('open', device=device_id, ranks=ranks, options=options)
    dump = options.get('dump_config.enable_dump') == '1' or options.get('dump_config.enable_dump_debug') == '1'
    if dump and not os.path.isdir(options.get('dump_config.dump_path', '')):
        raise Lost('dump_path')
    _handles[device_id] = NpuDeviceHandle(device_id, ranks, rank)
    return _handles[device_id]
