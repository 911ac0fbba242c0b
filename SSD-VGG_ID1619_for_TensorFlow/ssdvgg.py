# SPDX-License-Identifier: Apache-2.0
"""SSD on VGG-16 (Liu et al. 2016, arXiv:1512.02325), with the variables of the published TensorFlow reference.

Names, shapes and row order are those of github.com/ljanyst/ssd-tensorflow, so its checkpoints load. Maps are NHWC,
padding is SAME where nothing else is said, variables are float32.
"""
import math

import tensorflow.compat.v1 as tf

import ssdutils

MEAN_BGR = (103.939, 116.779, 123.68)  # of ImageNet, of 255, as VGG-16 was trained
NEGATIVES_PER_POSITIVE = 3  # section 2.2, "Hard negative mining"

# He's weights keep a map's size, and pixels less their mean have 64 units, not 1. All convolutions of VGG share that
# factor. In the first alone it makes weights whose gradient, in proportion, is 64^2 times the others': one step at the
# documented rate then changes them several times over, and the loss is nan within six.
VGG_GAIN = 2.0 / 64.0 ** (2 / sum(convolutions for _, convolutions in ssdutils.VGG_BLOCKS))
FC_CHANNELS = 1024
L2_NORM_SCALE = 20.0  # section 3.1, after ParseNet
BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM = 1e-3, 0.99  # the momentum is of the moving statistics

_RELEASE = tuple(int(part) for part in tf.__version__.split(".")[:2])


def predictions(images, preset, num_classes, compute_dtype=tf.float32, norm="none", training=False,
                mean_bgr=MEAN_BGR):
    """Class scores and box offsets of every default box.

    Args:
      images: [B, P, P, 3] BGR, 0 to 255, uint8 or float32; P is preset.image_px.
      preset: ssdutils.Preset.
      num_classes: int, without the background.
      compute_dtype: tf.float32 or tf.bfloat16, of products and maps.
      norm: "none", or "batch" for batch normalisation in the layers that SSD adds to VGG-16 (Zhu et al. 2019,
        arXiv:1810.08425, section 3.2), which new layers and training from scratch gain by.
      training: Python bool. True normalises by the batch and adds the moving statistics' updates to UPDATE_OPS; False
        normalises by the moving statistics.
      mean_bgr: three floats that the weights want taken off: layouts.mean_bgr.
    Returns:
      logits float32 [B, N, num_classes + 1], the background last; offsets float32 [B, N, 4] as ssdutils.encode gives
      them. N default boxes in the order of ssdutils.default_boxes.
    """
    network = _Network(norm, training)
    by_map = []
    for number, features in enumerate(network.feature_maps(images, preset, compute_dtype, mean_bgr)):
        kinds = ssdutils.kinds(preset, number)
        by_map.append(network.classifiers(features, number, kinds, num_classes + 1 + 4))
    outputs = tf.concat(by_map, 1)  # [B, N, num_classes + 1 + 4]
    return outputs[:, :, :num_classes + 1], outputs[:, :, num_classes + 1:]


def trained(variables, frozen_blocks):
    """These variables without those of the first `frozen_blocks` of VGG's blocks ."""
    frozen = tuple("conv%d_" % block for block in range(1, frozen_blocks + 1))
    return [variable for variable in variables if not variable.op.name.startswith(frozen)]


def result(logits, offsets):
    """What is exported: confidences and offsets, float32 [B, N, num_classes + 1 + 4], tensor "result/result:0"."""
    with tf.variable_scope("result"):
        return tf.concat([tf.nn.softmax(logits), offsets], -1, name="result")


def losses(logits, offsets, class_ids, target_offsets):
    """The MultiBox loss (section 2.2, equations 1 to 3), its two parts.

    An image's sums are divided by its own number of matched boxes and then averaged over the batch, as the published
    reference does, so that the loss of a batch is the mean of the losses of its parts; an image
    without objects adds nothing.

    Args:
      logits: [B, N, num_classes + 1] float32.
      offsets: [B, N, 4] float32.
      class_ids: [B, N] int32, what each default box was matched to; num_classes is the background.
      target_offsets: [B, N, 4] float32; read where class_ids is not the background.
    Returns:
      confidence loss, localisation loss: float32 [].
    """
    background = int(logits.shape[2]) - 1
    positive = tf.not_equal(class_ids, background)
    positives = tf.reduce_sum(tf.cast(positive, tf.int32), 1)  # [B]
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=class_ids, logits=logits)  # [B, N]

    # The hardest negatives come first; a matched box is no negative and sorts to the end with loss 0.
    boxes = int(class_ids.shape[1])
    hardest, _ = tf.nn.top_k(tf.where(positive, tf.zeros_like(cross_entropy), cross_entropy), boxes)
    kept = tf.expand_dims(tf.range(boxes), 0) < tf.expand_dims(NEGATIVES_PER_POSITIVE * positives, 1)
    confidence = (tf.reduce_sum(tf.where(positive, cross_entropy, tf.zeros_like(cross_entropy)), 1)
                  + tf.reduce_sum(tf.where(kept, hardest, tf.zeros_like(hardest)), 1))

    distance = tf.abs(offsets - target_offsets)
    smooth_l1 = tf.where(distance < 1.0, 0.5 * tf.square(distance), distance - 0.5)  # Girshick 2015, equation 3
    by_box = tf.reduce_sum(smooth_l1, 2)
    localisation = tf.reduce_sum(tf.where(positive, by_box, tf.zeros_like(by_box)), 1)

    matched = tf.cast(tf.maximum(positives, 1), tf.float32)
    return tf.reduce_mean(confidence / matched), tf.reduce_mean(localisation / matched)


class _Network:
    """The layers, with what all of them share."""

    def __init__(self, norm, training):
        self._norm, self._training = norm == "batch", training
        if self._norm and training:  # a short run, too, ends with statistics that have left their initial values
            step = tf.cast(tf.train.get_or_create_global_step(), tf.float32)
            self._momentum = tf.minimum((1.0 + step) / (10.0 + step), BATCH_NORM_MOMENTUM)

    def feature_maps(self, images, preset, compute_dtype, mean_bgr):
        """The maps that boxes are predicted from, largest first."""
        x = tf.cast(tf.cast(images, tf.float32) - mean_bgr, compute_dtype)
        for block, (channels, convolutions) in enumerate(ssdutils.VGG_BLOCKS, 1):
            for number in range(1, convolutions + 1):
                x = self.vgg_convolution(x, channels, "conv%d_%d" % (block, number))
            if block == 4:
                conv4_3 = x
            if block < 5:
                x = tf.nn.max_pool2d(x, 2, 2, "SAME")
        x = tf.nn.max_pool2d(x, 3, 1, "SAME")  # pool5: the map keeps its size, so fc6 is dilated
        x = self.convolution(x, FC_CHANNELS, 3, "mod_conv6", dilation=6)
        x = self.convolution(x, FC_CHANNELS, 1, "mod_conv7")
        maps = [_l2_normalised(conv4_3, "l2_norm_conv4_3"), x]

        for name, narrow, channels, stride, padding in _extra_layers(preset):
            x = self.convolution(x, narrow, 1, name + "_1")
            if not isinstance(padding, str):
                x, padding = tf.pad(x, [[0, 0], padding, padding, [0, 0]]), "VALID"
            x = self.convolution(x, channels, 3, name + "_2", stride, padding)
            maps.append(x)
        return maps

    def vgg_convolution(self, x, channels, name):
        """3x3 convolution, biases, ReLU."""
        with tf.variable_scope(name):
            weights, biases = _weights(x, channels, 3, tf.variance_scaling_initializer(VGG_GAIN))
            x = tf.nn.conv2d(x, tf.cast(weights, x.dtype), strides=[1, 1, 1, 1], padding="SAME")
            return tf.nn.relu(tf.nn.bias_add(x, tf.cast(biases, x.dtype)))

    def convolution(self, x, channels, kernel_px, name, stride=1, padding="SAME", dilation=1):
        """Convolution, biases, ReLU. Weights start as He et al. 2015 (equation 10), which a run from scratch needs."""
        with tf.variable_scope(name):
            weights, biases = _weights(x, channels, kernel_px, tf.variance_scaling_initializer(2.0))
            if dilation > 1 and _RELEASE < (2, 9):  # before oneDNN was the default: no gradient of a dilated one there
                x = tf.nn.atrous_conv2d(x, tf.cast(weights, x.dtype), dilation, padding)
            else:
                x = tf.nn.conv2d(x, tf.cast(weights, x.dtype), strides=[1, stride, stride, 1], padding=padding,
                                 dilations=[1, dilation, dilation, 1])
            return tf.nn.relu(self.shifted(x, biases))

    def shifted(self, x, biases):
        """x + biases; with batch normalisation x is normalised and scaled before (Ioffe and Szegedy 2015)."""
        if not self._norm:
            return tf.nn.bias_add(x, tf.cast(biases, x.dtype))
        with tf.variable_scope("batch_norm"):
            channels = [int(x.shape[3])]
            gamma = _variable("gamma", channels, tf.ones_initializer())
            moving_mean = _variable("moving_mean", channels, tf.zeros_initializer(), trainable=False)
            moving_variance = _variable("moving_variance", channels, tf.ones_initializer(), trainable=False)
        if not self._training:
            return tf.nn.fused_batch_norm(x, gamma, biases, moving_mean, moving_variance,
                                          epsilon=BATCH_NORM_EPSILON, is_training=False)[0]
        x, mean, variance = tf.nn.fused_batch_norm(x, gamma, biases, epsilon=BATCH_NORM_EPSILON, is_training=True)
        for moving, batch in ((moving_mean, mean), (moving_variance, variance)):
            tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, moving.assign_sub((moving - batch) * (1.0 - self._momentum)))
        return x

    @staticmethod
    def classifiers(x, number, kinds, values):
        """Predictions of one map: a 3x3 convolution per kind of box, computed as one; never normalised.

        Returns:
          [B, kinds * H * W, values] float32: kind, then row, then column.
        """
        weights, biases = zip(*[_classifier_weights(x, values, "classifiers/classifier%d_%d" % (number, kind))
                                for kind in range(kinds)])
        y = tf.nn.conv2d(x, tf.cast(tf.concat(weights, 3), x.dtype), strides=[1, 1, 1, 1], padding="SAME")
        cells = int(y.shape[1]) * int(y.shape[2])
        y = tf.reshape(tf.cast(y, tf.float32) + tf.concat(biases, 0), [-1, cells, kinds, values])
        return tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [-1, kinds * cells, values])


def _extra_layers(preset):
    """(name, channels of the 1x1, channels of the 3x3 convolution, its stride, its padding) of conv8 and on.

    A padding is TensorFlow's, or the pixels before and behind on both axes.
    """
    yield "conv8", 256, 512, 2, "SAME"
    yield "conv9", 128, 256, 2, [1, 1] if preset.even_padding else "SAME"
    if len(preset.map_cells) == 6:  # SSD300
        yield "conv10", 128, 256, 1, "VALID"
        yield "conv11", 128, 256, 1, "VALID"
    else:  # SSD512
        yield "conv10", 128, 256, 2, "SAME"
        yield "conv11", 128, 256, 1, "VALID"
        yield "conv12", 128, 256, 1, [0, 1]  # makes 3x3 of 2x2


def _classifier_weights(x, values, name):
    """Filter and biases for a kind of box. The background begins as likely as the loss will see it.

    Source of the latter: Lin et al. 2017 (arXiv:1708.02002), section 4.1, "Initialization".
    """
    background = values - 5  # the last class, before four offsets
    biases = [0.0] * values
    biases[background] = math.log(NEGATIVES_PER_POSITIVE * background)
    with tf.variable_scope(name):
        return _weights(x, values, 3, tf.glorot_uniform_initializer(), tf.constant_initializer(biases))


def _weights(x, channels, kernel_px, initializer, biases=None):
    shape = [kernel_px, kernel_px, int(x.shape[3]), channels]
    return _variable("filter", shape, initializer), _variable("biases", [channels], biases or tf.zeros_initializer())


def _variable(name, shape, initializer, trainable=True):
    collections = [tf.GraphKeys.GLOBAL_VARIABLES, tf.GraphKeys.MODEL_VARIABLES]
    return tf.get_variable(name, shape, tf.float32, initializer, trainable=trainable, collections=collections,
                           use_resource=True)


def _l2_normalised(x, name):
    """Each pixel's features divided by their length, times a learned scale per channel (section 3.1)."""
    with tf.variable_scope(name):
        scale = _variable("scale", [int(x.shape[3])], tf.constant_initializer(L2_NORM_SCALE))
        return tf.cast(scale * tf.nn.l2_normalize(tf.cast(x, tf.float32), axis=-1), x.dtype)
