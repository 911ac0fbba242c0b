# SPDX-License-Identifier: Apache-2.0
"""A stand-in of Ascend's adapter for TensorFlow 2.6."""
import os

import tensorflow as tf
from ascend_contract import Lost, on_device, record
from ascend_contract import is_inf_nan as is_inf_nan_enabled  # noqa: F401
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
        plain_gradient = tf.GradientTape.gradient
        tf.GradientTape.gradient = lambda tape, *args, **kwargs: tf.nest.map_structure(
            on_device, plain_gradient(tape, *args, **kwargs))
        distribute.handle[:] = [self]
        record('as_default', device=self._name)
        return self


def open(device_id=None):
    """Opens one device, with the options as they are now."""
    device_id = int(os.environ.get('ASCEND_DEVICE_ID', '0')) if device_id is None else device_id
    if device_id in _handles:
        return _handles[device_id]
    if _handles:
        raise RuntimeError('another device is open')
    ranks, rank = int(os.environ.get('RANK_SIZE', '1')), 0
    if 'RANK_SIZE' in os.environ and 'CM_WORKER_SIZE' in os.environ:
        raise ValueError('RANK_SIZE and CM_WORKER_SIZE')
    if ranks > 1:
        table = 'RANK_TABLE_FILE' in os.environ
        if table == ('CM_CHIEF_IP' in os.environ) or table and not os.environ.get('RANK_ID'):
            raise RuntimeError('RANK_TABLE_FILE, RANK_ID, CM_CHIEF_IP')
        import hccl.manage.api
        rank = hccl.manage.api.get_rank_id()
    if os.environ.get('FAKE_ASCEND_BUSY'):
        raise RuntimeError('Failed open npu device %d : device is busy' % device_id)
    options = global_options().as_dict()
    record('open', device=device_id, ranks=ranks, options=options)
    dump = options.get('dump_config.enable_dump') == '1' or options.get('dump_config.enable_dump_debug') == '1'
    if dump and not os.path.isdir(options.get('dump_config.dump_path', '')):
        raise Lost('dump_path')
    _handles[device_id] = NpuDeviceHandle(device_id, ranks, rank)
    return _handles[device_id]
