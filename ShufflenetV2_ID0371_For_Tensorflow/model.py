# SPDX-License-Identifier: Apache-2.0
"""Loss, update, moving averages of the weights, evaluation figures. The network: architecture.py."""
import numpy as np
import tensorflow.compat.v1 as tf

import architecture
from common import graph_files

NAME = "ShuffleNetV2"
# Names of the exported graph's tensors; export, prediction and tests read them here.
INPUT = "images"  # uint8 [N, 224, 224, 3], RGB
OUTPUTS = ("probabilities", "classes")  # float32 [N, classes]; int32 [N]
_VARIABLES = ("weights", "depthwise_weights", "gamma", "beta", "moving_mean", "moving_variance", "biases")


def smoothed_cross_entropy(scores, labels, smoothing):
    """Mean cross-entropy against (1 - smoothing) one-hot + smoothing / classes (Szegedy et al. 2016, section 7).

    Args:
      scores: float32 [B, classes].
      labels: int32 [B].
      smoothing: float in [0, 1).
    Returns:
      float32 [].
    """
    of_label = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=scores)
    if not smoothing:
        return tf.reduce_mean(of_label)
    of_all = -tf.reduce_mean(tf.nn.log_softmax(scores), 1)
    return tf.reduce_mean((1.0 - smoothing) * of_label + smoothing * of_all)


def decayed(name):
    """Whether weight decay applies to a variable: to kernels, not to depthwise ones, batch norms and biases."""
    return name.split("/")[-1] == "weights"


def network_variables():
    """{name: variable} of the network in the current graph, frozen ones too; no optimizer's, no moving averages."""
    return {variable.op.name: variable for variable in tf.global_variables()
            if variable.op.name.split("/")[-1] in _VARIABLES}


def count_parameters():
    """Of the network in the current graph, frozen ones too."""
    return sum(variable.shape.num_elements() for name, variable in network_variables().items()
               if not name.endswith(graph_files.MOVING_STATISTICS))


def make_averages(decay):
    """The moving averages of the weights; `decay` is reached gradually, so that early weights are soon forgotten."""
    return tf.train.ExponentialMovingAverage(decay, tf.train.get_or_create_global_step())


def update_op(loss, rate, momentum, weight_decay, averages, wrap_optimizer):
    """One step of Nesterov momentum and what goes with it: weight decay, batch statistics, moving averages.

    Args:
      loss: float32 [] tensor, the cross-entropy; the decay is added to the gradients.
      rate: float32 [] tensor.
      momentum, weight_decay: float.
      averages: from make_averages.
      wrap_optimizer: backends.local.Local.wrap_optimizer.
    Returns:
      operation.
    """
    optimizer = wrap_optimizer(tf.train.MomentumOptimizer(rate, momentum, use_nesterov=True))
    gradients = [(gradient + weight_decay * variable if decayed(variable.op.name) else gradient, variable)
                 for gradient, variable in optimizer.compute_gradients(loss)]
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        applied = optimizer.apply_gradients(gradients, global_step=tf.train.get_or_create_global_step())
    with tf.control_dependencies([applied]):
        return averages.apply(tf.trainable_variables())


def averaged_logits(images, averages, **network):
    """architecture.logits for evaluation, computed with the moving averages instead of the weights.

    Frozen weights, which do not train, have none: they serve themselves.
    """
    def average_of(getter, name, *args, **kwargs):
        variable = getter(name, *args, **kwargs)
        return averages.average(variable) if variable.trainable else variable

    with tf.variable_scope(tf.get_variable_scope(), reuse=True, custom_getter=average_of):
        return architecture.logits(images, False, **network)


def inference(classes, width, variant):
    """The network as others use it.

    Returns:
      placeholder INPUT, uint8 [N, 224, 224, 3], and {name: tensor} of OUTPUTS.
    """
    images = tf.placeholder(tf.uint8, [None, architecture.IMAGE_PX, architecture.IMAGE_PX, 3], INPUT)
    scores = architecture.logits(images, False, classes, width, variant)
    return images, {OUTPUTS[0]: tf.nn.softmax(scores, name=OUTPUTS[0]),
                    OUTPUTS[1]: tf.argmax(scores, 1, output_type=tf.int32, name=OUTPUTS[1])}


def figures(scores, labels, counted):
    """Sums over the images that count, to be divided by their number.

    Args:
      scores: float32 [B, classes].
      labels: int32 [B].
      counted: float32 [B], 0 for padding.
    Returns:
      float32 [3]: cross-entropy, right at the first guess, right within five. Of equal scores the lower class comes
      first; an image with a score that is NaN is never right.
    """
    classes = int(scores.shape[1])
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=scores)
    is_label = tf.one_hot(labels, classes, on_value=True, off_value=False)
    of_label = tf.reduce_sum(tf.where(is_label, scores, tf.zeros_like(scores)), 1, keepdims=True)
    is_lower_class = tf.range(classes)[None, :] < labels[:, None]
    ahead = (scores > of_label) | (tf.equal(scores, of_label) & is_lower_class)
    rank = tf.reduce_sum(tf.cast(ahead, tf.float32), 1)  # of the label among the guesses, from 0
    rank = tf.where(tf.reduce_any(tf.is_nan(scores), 1), np.inf * tf.ones_like(rank), rank)
    rows = [loss, tf.cast(rank < 1, tf.float32), tf.cast(rank < 5, tf.float32)]
    return tf.stack([tf.reduce_sum(row * counted) for row in rows])


def mean_figures(batches, total=lambda sums: sums):
    """Means over images from the sums of batches.

    Args:
      batches: iterable of (float [k, 3] of figures(), images counted); of two rows the first is of the averages.
      total: adds up numbers over ranks, all_sum of the runtime.
    Returns:
      dict: images, loss, top1, top5 of the first row; top1_no_ema, top5_no_ema of the second where there is one.
    """
    sums, images = 0.0, 0
    for batch_sums, counted in batches:
        sums, images = sums + np.array(batch_sums, np.float64), images + int(counted)
    sums, images = total(sums), int(total([images])[0])
    rows = (sums / max(images, 1)).tolist()
    fields = {"images": images, "loss": rows[0][0], "top1": rows[0][1], "top5": rows[0][2]}
    if len(rows) > 1:
        fields.update(top1_no_ema=rows[1][1], top5_no_ema=rows[1][2])
    return fields
