# SPDX-License-Identifier: Apache-2.0
"""Collectives of eager TensorFlow; on one device all are pass-through."""
import tensorflow as tf
from ascend_contract import Lost, allreduce, record, roots_value

handle = []  # the device that is the default one


def is_alone():
    """bool."""
    return not handle or not handle[0].is_cluster_worker()


def broadcast(values, root_rank=0, fusion=2, fusion_id=0, group='hccl_world_group'):
    """Assigns the variables in place."""
    if fusion not in (0, 2):
        raise ValueError('fusion')
    values = values if isinstance(values, (list, tuple)) else [values]
    if is_alone():
        return
    record('broadcast', variables=[value.name for value in values], root_rank=root_rank)
    for value in values:
        value.assign(roots_value[0](tf.convert_to_tensor(value)))


def all_reduce(values, reduction='mean', fusion=1, fusion_id=-1, group='hccl_world_group'):
    """All ranks hold the same."""
    if is_alone():
        return values
    if not isinstance(values, (list, tuple)):
        return all_reduce([values], reduction, fusion)[0]
    if reduction != 'mean':
        return [None if value is None else allreduce(value, reduction, fusion) for value in values]
    record('reduced', gradients=len(values))
    return [None if total is None else total / tf.cast(handle[0].workers_num, total.dtype)
            for total in all_reduce(values, 'sum', fusion)]


def npu_distributed_keras_optimizer_wrapper(optimizer, reduce_reduction='mean', fusion=1, fusion_id=-1,
                                            group='hccl_world_group'):
    """Patches the given optimizer."""
    optimizer = tf.keras.optimizers.get(optimizer)
    if hasattr(optimizer, '_of_ascend') or isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        raise Lost('wrapped again, or loss scaling inside the wrapper')
    original, optimizer._of_ascend = optimizer.apply_gradients, 'a distributed optimizer'
    record('distributed', optimizer=type(optimizer).__name__)

    def apply_gradients(grads_and_vars, *args, **kwargs):
        gradients, variables = zip(*grads_and_vars)
        return original(zip(all_reduce(gradients, reduce_reduction), variables), *args, **kwargs)
    optimizer.apply_gradients = apply_gradients
    return optimizer
