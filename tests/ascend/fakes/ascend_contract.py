# SPDX-License-Identifier: Apache-2.0
"""What the stand-ins of Ascend's two adapters share: options, sessions, collectives, optimizers.

They compute on the CPU and stand for one rank whose siblings hold the same values. Where the adapter loses a value
without a word, or would wait for ever, they raise Lost, where it kills the process Aborted. What was asked of them is
written to the file that FAKE_ASCEND_RECORD names, one JSON object a line. FAKE_ASCEND_INF_NAN=1 is a device that
computes INF and NaN, without it one that saturates and keeps in its float status that it did;
FAKE_ASCEND_OVERFLOW_ELSEWHERE=1 is a step in which another rank overflows, FAKE_ASCEND_BUSY=1 a device that does not
open.
"""
import json
import os
import sys

# Every option that the session reads, and the one field of AttrValue that it reads it from.
FIELDS = {name: field for field, names in {
    'b': 'use_off_line enable_data_pre_proc hcom_parallel hcom_multi_mode mix_compile_mode enable_dump profiling_mode '
         'enable_dump_debug dynamic_input external_weight frozen_variable is_tailing_optimization '
         'enable_compress_weight variable_format_optimize',
    's': 'precision_mode precision_mode_v2 modify_mixlist fusion_switch_file dump_path dump_step dump_mode dump_data '
         'dump_debug_mode dump_layer profiling_options dynamic_graph_execute_mode dynamic_inputs_shape_range '
         'input_shape dynamic_dims graph_memory_max_size variable_memory_max_size op_compiler_cache_mode '
         'op_compiler_cache_dir debug_dir jit_compile op_select_implmode optypelist_for_implmode op_precision_mode '
         'buffer_optimize aoe_mode work_path aoe_config_file variable_placement local_device_list',
    'i': 'iterations_per_loop dynamic_node_type graph_run_mode enable_exception_dump session_device_id deterministic '
         'enable_small_channel op_debug_level stream_sync_timeout event_sync_timeout hccl_timeout op_wait_timeout '
         'op_execute_timeout atomic_clean_policy static_memory_policy topo_sorting_mode graph_exec_timeout '
         'local_rank_id',
}.items() for name in names.split()}
PRECISION_MODES = ('force_fp32', 'allow_fp32_to_fp16', 'force_fp16', 'must_keep_origin_dtype', 'allow_mix_precision',
                   'cube_fp16in_fp32out', 'allow_mix_precision_fp16', 'allow_mix_precision_bf16', 'allow_fp32_to_bf16')
PRECISION_MODES_V2 = ('fp16', 'origin', 'cube_fp16in_fp32out', 'mixed_float16', 'mixed_bfloat16')
MIXED = ('allow_mix_precision', 'allow_mix_precision_fp16', 'allow_mix_precision_bf16', 'mixed_float16',
         'mixed_bfloat16')
COMPILED = 'The model has been compiled on the Ascend AI processor, current graph id is: %d'

events = []


class Lost(Exception):
    """The adapter would go on without what it was told."""


class Aborted(BaseException):
    """The adapter would kill the process, without a Python exception."""


def record(event, **fields):
    """Keeps one thing that was asked for."""
    events.append(dict(fields, event=event))
    if os.environ.get('FAKE_ASCEND_RECORD'):
        with open(os.environ['FAKE_ASCEND_RECORD'], 'a') as file:
            file.write(json.dumps(events[-1]) + '\n')


def say_compiled(graph_id):
    """The adapter's line, through TensorFlow's log: at level INFO."""
    if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '0') == '0':
        sys.stderr.write('2023-12-15 10:00:00.000000: I tf_adapter/kernels/geop_npu.cc:805] '
                         + COMPILED % graph_id + '\n')
        sys.stderr.flush()


# Sessions

def options_of(config):
    """{option: value} of all NpuOptimizer entries; Lost where a value lies in a field that nobody reads."""
    options = {}
    for entry in config.graph_options.rewrite_options.custom_optimizers:
        if entry.name == 'NpuOptimizer':
            for name, value in entry.parameter_map.items():
                if name not in FIELDS or value.WhichOneof('value') != FIELDS[name]:
                    raise Lost('%s in field %s' % (name, value.WhichOneof('value')))
                found = getattr(value, FIELDS[name])
                options[name] = found.decode() if isinstance(found, bytes) else found
    return options


def check_options(options):
    """What the adapter checks when a session first builds a graph."""
    from tensorflow.python.framework import errors

    def internal(what):
        raise errors.InternalError(None, None, what)

    def invalid(what):
        raise errors.InvalidArgumentError(None, None, what)

    def abort_unless(name, *values):
        if options.get(name, values[0]) not in values:
            raise Aborted('%s=%r' % (name, options[name]))

    mode = options.get('precision_mode') or options.get('precision_mode_v2')
    if 'precision_mode' in options and options['precision_mode'] not in PRECISION_MODES:
        invalid('precision_mode=' + options['precision_mode'])
    if 'precision_mode_v2' in options and options['precision_mode_v2'] not in PRECISION_MODES_V2:
        invalid('precision_mode_v2=' + options['precision_mode_v2'])
    if 'precision_mode' in options and 'precision_mode_v2' in options:
        internal('precision_mode and precision_mode_v2')
    if 'modify_mixlist' in options and mode not in MIXED:
        internal('modify_mixlist with %s' % mode)
    if options.get('iterations_per_loop', 1) < 1:
        raise Aborted('iterations_per_loop')
    if options.get('enable_dump') or options.get('enable_dump_debug'):
        path = options.get('dump_path')
        if not path or not os.path.isdir(path) or not os.access(path, os.R_OK | os.W_OK):
            internal('dump_path %s' % path)
    if options.get('enable_dump'):
        abort_unless('dump_mode', 'output', 'input', 'all')
        parts = [part.split('-') for part in options.get('dump_step', '0').split('|')]
        if len(parts) > 100 or not all(number.isdigit() for part in parts for number in part) or any(
                len(part) > 2 or len(part) == 2 and int(part[0]) >= int(part[1]) for part in parts):
            internal('dump_step ' + options['dump_step'])
    if options.get('enable_dump_debug'):
        abort_unless('dump_debug_mode', 'all', 'aicore_overflow', 'atomic_overflow')
    if options.get('enable_data_pre_proc'):
        record('deprecated', option='enable_data_pre_proc')  # a line in the log, no more
    if options.get('profiling_mode'):
        json.loads(options['profiling_options'])
    abort_unless('graph_run_mode', 1, 0)
    if options.get('jit_compile', 'auto') not in ('true', 'false', 'auto'):
        invalid('jit_compile')


def patch_sessions():
    """Replaces Session.__init__ and InteractiveSession.__init__ for the process, as importing the adapter does."""
    from tensorflow.core.protobuf import config_pb2
    from tensorflow.python.client import session
    for kind in (session.Session, session.InteractiveSession):
        if not hasattr(kind.__init__, 'of_ascend'):
            kind.__init__ = _patched(kind.__init__, config_pb2)


def _patched(original, config_pb2):
    def init(self, *args, **kwargs):
        if len(args) > 2:  # target, graph, config
            config = args[2]
        else:
            config = kwargs['config'] = kwargs.get('config') or config_pb2.ConfigProto()
        _fill(config)  # AttributeError for a None that was given by position
        original(self, *args, **kwargs)
        rewrites = config.graph_options.rewrite_options
        self._of_ascend = {'options': options_of(config), 'checked': False, 'graphs': set()}
        record('session', options=self._of_ascend['options'], remapping=int(rewrites.remapping),
               memory_optimization=int(rewrites.memory_optimization),
               entries=sum(entry.name == 'NpuOptimizer' for entry in rewrites.custom_optimizers))
        plain = self.run

        def run(fetches, feed_dict=None, options=None, run_metadata=None):
            return _run(self, plain, fetches, feed_dict, options, run_metadata)
        self.run = run
    init.of_ascend = True
    return init


def _fill(config):
    rewrites = config.graph_options.rewrite_options
    config.allow_soft_placement = True
    config.log_device_placement = False
    rewrites.remapping = rewrites.OFF
    config.graph_options.optimizer_options.global_jit_level = -1
    if not any(entry.name == 'NpuOptimizer' for entry in rewrites.custom_optimizers):
        rewrites.custom_optimizers.add().name = 'NpuOptimizer'
        rewrites.memory_optimization = rewrites.OFF


def _run(session, plain, fetches, feed_dict, options, run_metadata):
    from tensorflow.python.util import nest
    state = session._of_ascend
    chosen = state['options']
    if not state['checked']:
        check_options(chosen)
        state['checked'] = True
    fetched = [getattr(item, 'op', item) for item in nest.flatten(fetches)]
    names = tuple(sorted(getattr(op, 'name', str(op)) for op in fetched))
    if names not in state['graphs'] and chosen.get('use_off_line', True):
        state['graphs'].add(names)
        say_compiled(10 * len(state['graphs']) + 1)
    loops = chosen.get('iterations_per_loop', 1)
    if loops > 1 and any(op.type.startswith('OneShotIterator') for op in session.graph.get_operations()):
        raise Aborted('iterations_per_loop > 1 with a OneShotIterator')
    if loops == 1 or 'IterationOp' not in names:
        return plain(fetches, feed_dict, options, run_metadata)
    if not chosen.get('enable_data_pre_proc'):
        raise Lost('iterations_per_loop without enable_data_pre_proc')
    if feed_dict:
        raise Lost('a loop on the device that is fed: the same values for every step of it')
    loaded = [plain(v) for v in session.graph.get_collection('npu_runconfig_iterations_per_loop')]
    if loaded != [loops - 1]:
        raise Lost('loops of %d and of %s steps' % (loops, loaded))
    record('loop', steps=loops)
    for _ in range(loops):
        result = plain(fetches, None, options, run_metadata)
    return result


def set_iteration_per_loop(sess, train_op, iterations_per_loop=1):
    """util.set_iteration_per_loop."""
    import tensorflow.compat.v1 as tf
    if not isinstance(train_op, tf.Operation):
        raise ValueError('train_op is a %s' % type(train_op).__name__)
    if not isinstance(iterations_per_loop, int):
        raise TypeError('iterations_per_loop')
    if iterations_per_loop < 1:
        raise ValueError('iterations_per_loop')
    if iterations_per_loop == 1:
        return train_op
    sess.graph._check_not_finalized()
    steps = tf.get_variable('npu_runconfig/iterations_per_loop', [], tf.int64, tf.zeros_initializer(), trainable=False,
                            use_resource=True,
                            collections=['npu_runconfig_iterations_per_loop', tf.GraphKeys.LOCAL_VARIABLES])
    steps.load(iterations_per_loop - 1, session=sess)
    record('set_iteration_per_loop', steps=iterations_per_loop)
    return tf.group(train_op, name='IterationOp')


# Collectives and optimizers

_STATUS = 'fake_ascend_float_status'  # collection of a graph: int32 [], 1 where a gradient has overflowed
_REDUCED_TYPES = ('int8', 'int16', 'int32', 'float16', 'float32')
_frozen_size = []


def is_inf_nan():
    """Whether the device computes INF and NaN."""
    return os.environ.get('FAKE_ASCEND_INF_NAN') == '1'


def _overflows_elsewhere():
    return os.environ.get('FAKE_ASCEND_OVERFLOW_ELSEWHERE') == '1'


def on_device(gradient):
    """A gradient as the device computes it: saturated, and noted in the float status, unless it knows INF and NaN."""
    import tensorflow.compat.v1 as tf
    if gradient is None or is_inf_nan():
        return gradient
    is_finite = tf.reduce_all(tf.is_finite(gradient))
    tf.get_default_graph().add_to_collection(_STATUS, 1 - tf.cast(is_finite, tf.int32))
    saturated = tf.clip_by_value(gradient, gradient.dtype.min, gradient.dtype.max)
    return tf.where(tf.is_nan(saturated), tf.zeros_like(saturated), saturated)


def patch_gradients():
    """What graphs' optimizers compute comes from the device."""
    from tensorflow.python.training import optimizer
    plain = optimizer.Optimizer.compute_gradients

    def compute_gradients(self, *args, **kwargs):
        return [(on_device(gradient), variable) for gradient, variable in plain(self, *args, **kwargs)]
    compute_gradients.of_ascend = True
    if not hasattr(plain, 'of_ascend'):
        optimizer.Optimizer.compute_gradients = compute_gradients


def status_is_clear(distributed):
    """bool []: whether nothing has overflowed, by the float status; `distributed`: on any rank."""
    import tensorflow.compat.v1 as tf
    status = tf.add_n([tf.zeros([], tf.int32)] + tf.get_default_graph().get_collection(_STATUS))
    if distributed:
        status = allreduce(status, 'sum', fusion=0) + int(_overflows_elsewhere() and not is_inf_nan())
    return tf.equal(status, 0)


def apply_if(finite, apply, manager):
    """One step of a graph: apply() where `finite`, and the manager's update."""
    import tensorflow.compat.v1 as tf
    return tf.group(tf.cond(finite, apply, tf.no_op), manager.update_loss_scale(finite))


def rank_size():
    """RANK_SIZE as what averages has frozen it at its first use."""
    if not _frozen_size:
        if 'CM_WORKER_SIZE' in os.environ and 'RANK_SIZE' in os.environ:
            raise ValueError('RANK_SIZE and CM_WORKER_SIZE')
        _frozen_size.append(int(os.environ.get('RANK_SIZE', 1)))
    if not os.environ.get('JOB_ID'):
        raise AttributeError("'NoneType' object has no attribute '_rank_size'")
    return _frozen_size[0]


def _members():
    """How many ranks take part in a collective."""
    ranks = int(os.environ.get('RANK_SIZE', 1))
    if ranks > 1 and not os.environ.get('RANK_ID'):
        raise Aborted('RANK_ID')
    return ranks


def _is_conditional():
    """Whether what is built now runs on a condition."""
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_v2_func_graphs
    graph = ops.get_default_graph()
    context = graph._get_control_flow_context()
    return isinstance(graph, control_flow_v2_func_graphs.CondBranchFuncGraph) or (
        context is not None and context.IsCondContext())


def allreduce(tensor, reduction, fusion=1, fusion_id=-1, group='hccl_world_group'):
    """hccl_ops.allreduce; all ranks hold the same."""
    if reduction not in ('min', 'max', 'prod', 'sum'):
        raise ValueError('reduction %s' % reduction)
    dtype = tensor.dtype.base_dtype
    if dtype.name not in _REDUCED_TYPES:
        raise TypeError('%s is not in the list of allowed values' % dtype.name)
    if is_inf_nan() and _is_conditional():  # the float status, and so the condition, would be the sum over ranks
        raise Lost('a reduction on a condition of this rank: the others wait for it')
    import tensorflow.compat.v1 as tf
    if reduction != 'sum':
        return tf.identity(tensor)
    total = tensor * tf.cast(_members(), dtype)
    if _overflows_elsewhere() and dtype.is_floating:
        total += tf.constant(float('nan') if is_inf_nan() else dtype.max, dtype)
    return total


roots_value = [lambda tensor: tensor + 0]  # a test replaces it: what rank 0 is to hold, for a rank that is not 0


def broadcast(tensor, root_rank, fusion=2, fusion_id=0, group='hccl_world_group'):
    """hccl_ops.broadcast: what rank `root_rank` holds, as a list."""
    if not isinstance(tensor, list):
        raise TypeError('tensor is a %s' % type(tensor).__name__)
    if fusion not in (0, 2):
        raise ValueError('fusion %s' % fusion)
    import tensorflow.compat.v1 as tf
    _members()
    record('broadcast', variables=[item.op.name for item in tensor], root_rank=root_rank)
    return [roots_value[0](tf.convert_to_tensor(item)) for item in tensor]


def _mean_over_ranks(gradients):
    import tensorflow.compat.v1 as tf
    averaged = []
    with tf.name_scope('Npu_Distributed_optimizer_Allreduce'):
        for gradient, variable in gradients:
            if gradient is not None:
                gradient = allreduce(gradient, 'sum') / tf.cast(rank_size(), gradient.dtype)
            averaged.append((gradient, variable))
    return averaged


def npu_distributed_optimizer_wrapper(optimizer):
    """Patches the given optimizer."""
    if optimizer is None:
        return None
    if hasattr(optimizer, '_of_ascend'):
        raise Lost('%s wrapped again, or loss scaling inside the wrapper' % optimizer._of_ascend)
    original, optimizer._of_ascend = optimizer.compute_gradients, 'a distributed optimizer'
    record('distributed', optimizer=type(optimizer).__name__)
    is_alone = int(os.environ.get('RANK_SIZE', 1)) <= 1

    def compute_gradients(*args, **kwargs):
        gradients = original(*args, **kwargs)
        return gradients if is_alone else _mean_over_ranks(gradients)
    optimizer.compute_gradients = compute_gradients
    return optimizer


def make_npu_optimizer():
    """The class NPUOptimizer, which both adapters have."""
    import tensorflow.compat.v1 as tf

    class NPUOptimizer(tf.train.Optimizer):
        """Averages over ranks when is_distributed, scales the loss when is_loss_scale."""

        def __init__(self, opt, loss_scale_manager=None, is_distributed=False, is_loss_scale=False,
                     is_tailing_optimization=False, name=None):
            if is_loss_scale and loss_scale_manager is None:
                raise ValueError('is_loss_scale without a manager')
            if hasattr(opt, '_of_ascend'):
                raise Lost('%s wrapped again: two reductions' % opt._of_ascend)
            self._opt, self._manager = opt, loss_scale_manager
            self._distributed, self._scales, self._of_ascend = is_distributed, is_loss_scale, 'NPUOptimizer'
            record('loss_scale', kind='NPUOptimizer', is_distributed=is_distributed, is_loss_scale=is_loss_scale)
            super().__init__(name=name or 'NPUOptimizer', use_locking=False)

        def compute_gradients(self, loss, var_list=None, gate_gradients=tf.train.Optimizer.GATE_OP,
                              aggregation_method=None, colocate_gradients_with_ops=False, grad_loss=None):
            scale = self._manager.get_loss_scale() if self._scales else 1.0
            gradients = self._opt.compute_gradients(loss * scale, var_list, gate_gradients, aggregation_method,
                                                    colocate_gradients_with_ops, grad_loss)
            if self._distributed:
                gradients = _mean_over_ranks(gradients)
            return [(None if g is None else g * tf.reciprocal(scale), v) for g, v in gradients]

        def apply_gradients(self, grads_and_vars, global_step=None, name=None):
            if not self._scales:
                return self._opt.apply_gradients(grads_and_vars, global_step, name)
            return apply_if(status_is_clear(self._distributed),  # in both modes; that of INF and NaN never sets it
                            lambda: self._opt.apply_gradients(grads_and_vars, global_step, name), self._manager)

    return NPUOptimizer
