# SPDX-License-Identifier: Apache-2.0
"""The CSPNet network: its size, its layers against the plain definitions, its behaviour in training."""
import os
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'CSPNet_ID0840_for_TensorFlow'))
tf = pytest.importorskip('tensorflow.compat.v1')
tf.disable_v2_behavior()

from common import cifar10, flags  # noqa: E402
from common.runtime import open_runtime  # noqa: E402
from models import cspdarknet53, layers  # noqa: E402

smoke = pytest.mark.smoke  # on TensorFlow 1.15 and 2.6 as well


@pytest.fixture(autouse=True)
def fresh_graph():
    tf.reset_default_graph()
    tf.set_random_seed(1)


def run(fetches, feed=None, before=None):
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        if before is not None:
            session.run(before, feed)
        return session.run(fetches, feed)


def network_size():
    """Parameters of CSPDarknet-53 by its layer table: (with full kernels, without taps that only meet padding)."""
    full = stored = 0

    def unit(channels_in, channels, taps, stored_taps=None):
        nonlocal full, stored
        full += taps * channels_in * channels + 2 * channels
        stored += (stored_taps or taps) * channels_in * channels + 2 * channels

    unit(3, 32, 9)
    channels_in = 32
    for channels, half, blocks, narrow, down_taps, block_taps in [
            (64, 64, 1, 32, 9, 9), (128, 64, 2, 64, 9, 9), (256, 128, 8, 128, 9, 9), (512, 256, 8, 256, 9, 9),
            (1024, 512, 4, 512, 4, 1)]:
        unit(channels_in, channels, 9, down_taps)
        unit(channels, half, 1)
        unit(channels, half, 1)
        for _ in range(blocks):
            unit(half, narrow, 1)
            unit(narrow, half, 9, block_taps)
        unit(half, half, 1)
        unit(2 * half, channels, 1)
        channels_in = channels
    return full + 1024 * 10 + 10, stored + 1024 * 10 + 10


@smoke
def test_the_size_is_that_of_the_layer_table():
    images = tf.zeros([2, 32, 32, 3], tf.uint8)
    assert cspdarknet53.logits(images, True).shape.as_list() == [2, 10]
    full, stored = network_size()
    assert round(full / 1e6, 2) == 26.63
    assert sum(variable.shape.num_elements() for variable in tf.trainable_variables()) == stored
    convolutions = [v for v in tf.trainable_variables() if len(v.shape) == 4]
    assert len(convolutions) == 1 + 5 * 5 + 2 * (1 + 2 + 8 + 8 + 4)


@smoke
@pytest.mark.parametrize('height_px, stride', [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)])
def test_a_convolution_is_the_librarys_with_a_full_kernel(height_px, stride):
    random = np.random.RandomState(0)
    x = tf.constant(random.randn(3, height_px, height_px, 5).astype(np.float32))
    weight_of = tf.constant(random.randn(3, height_px // stride, height_px // stride, 7).astype(np.float32))
    y = layers.convolution(x, 7, 3, stride)
    weights, = tf.trainable_variables()
    seen = {1: slice(1, 2), 2: slice(0, 2), 3: slice(0, 3)}[int(weights.shape[0])]
    full = tf.placeholder(tf.float32, [3, 3, 5, 7])
    expected = tf.nn.conv2d(x, full, strides=[1, stride, stride, 1], padding='SAME')
    gradients = tf.gradients(y, [x, weights], weight_of) + tf.gradients(expected, [x, full], weight_of)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        kernel = random.randn(3, 3, 5, 7).astype(np.float32)  # whatever the unseen taps hold
        kernel[seen, seen] = session.run(weights)
        found, wanted, by_x, by_weights, want_x, want_full = session.run([y, expected] + gradients, {full: kernel})
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(by_x, want_x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(by_weights, want_full[seen, seen], rtol=1e-4, atol=1e-4)


@smoke
@pytest.mark.parametrize('height_px, stride', [(4, 1), (4, 2), (8, 2)])
def test_a_bfloat16_weight_gradient_is_the_float32_one_rounded(height_px, stride):
    random = np.random.RandomState(0)

    def rounded(*shape):
        return tf.cast(tf.constant(random.randn(*shape)), tf.bfloat16)
    x, upstream = rounded(8, height_px, height_px, 16), rounded(8, height_px // stride, height_px // stride, 32)
    y = layers.convolution(x, 32, 3, stride)
    found, = tf.gradients(y, tf.trainable_variables(), upstream)
    wanted = tf.nn.conv2d_backprop_filter(tf.cast(x, tf.float32), [3, 3, 16, 32], tf.cast(upstream, tf.float32),
                                          strides=[1, stride, stride, 1], padding='SAME')
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        found, wanted = session.run([found, wanted])
    assert np.abs(found - wanted).max() < np.abs(wanted).max() / 100  # the library's is off by a fiftieth


@smoke
@pytest.mark.parametrize('fused', [False, True])
def test_mish_and_its_gradient(fused):
    parser = flags.Parser(prog='train.py')
    flags.add_device_group(parser, 'force_fp32')
    fuse = open_runtime(parser.parse_args(['--device=cpu'])).fuse if fused else lambda function: function
    values = np.array([-100, -30, -5, -1.2, -1e-3, 0, 1e-3, 0.7, 5, 19.9, 20.1, 100], np.float32)
    x = tf.constant(values)
    y = layers.make_mish(fuse)(x)
    found, slope = run([y, tf.gradients(y, x)[0]])

    def mish(z):
        return z * np.tanh(np.log1p(np.exp(-np.abs(z))) * 1.0 + np.maximum(z, 0))
    wide = values.astype(np.float64)
    np.testing.assert_allclose(found, mish(wide), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(slope, (mish(wide + 1e-4) - mish(wide - 1e-4)) / 2e-4, rtol=1e-3, atol=1e-5)


@smoke
def test_batch_norm_moves_its_statistics_in_training_only():
    x = tf.constant(np.random.RandomState(0).randn(64, 2, 2, 3).astype(np.float32) * 3 + 5)
    with tf.variable_scope('norm', reuse=tf.AUTO_REUSE):
        y = layers.batch_norm(x, True, 0.99)
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        still = layers.batch_norm(x, False, 0.99)
    moving = {v.op.name.split('/')[1]: v for v in tf.global_variables()}
    assert tf.get_collection(tf.GraphKeys.UPDATE_OPS) == updates and len(updates) == 2
    normalised, mean, variance, first = run([y, moving['moving_mean'], moving['moving_variance'], still],
                                            before=updates)
    np.testing.assert_allclose(normalised.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(normalised.std((0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(mean, 0.01 * 5, rtol=0.1)
    np.testing.assert_allclose(variance, 1 + 0.01 * (9 - 1), rtol=0.02)
    assert first.mean() > 4  # by the moving statistics, which have hardly moved yet


@smoke
def test_the_moving_average_is_short_at_first():
    found = run([layers.moving_average_momentum(tf.constant(step, tf.int64)) for step in (0, 90, 100000)])
    np.testing.assert_allclose(found, [0.1, 0.91, 0.99], rtol=1e-6)


def test_an_image_evaluates_the_same_alone_and_in_company():
    random = np.random.RandomState(0)
    batch = random.randint(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    together = cspdarknet53.logits(tf.constant(batch), False)
    alone = cspdarknet53.logits(tf.constant(batch[:1]), False)
    found, single = run([together, alone])
    assert np.abs(found).max() > 1e-3
    np.testing.assert_allclose(found[:1], single, rtol=1e-4, atol=1e-5)


def test_every_variable_has_a_gradient_and_real_images_are_learnt_by_heart(real_cifar10):
    data = cifar10.load_cifar10(real_cifar10)
    images, labels = data.train_images[:16], data.train_labels[:16]
    scores = cspdarknet53.logits(tf.constant(images), True)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.constant(labels), logits=scores))
    optimizer = tf.train.MomentumOptimizer(0.01, 0.9, use_nesterov=True)
    pairs = optimizer.compute_gradients(loss)
    assert all(gradient is not None for gradient, _ in pairs)
    update = optimizer.apply_gradients(pairs)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        gradients = session.run([gradient for gradient, _ in pairs])
        # beta of a residual block whose scale starts at zero is all that such a block's 3x3 kernel cannot reach yet
        blocked = [v.op.name for g, (_, v) in zip(gradients, pairs) if not np.abs(g).max() > 0]
        assert all('/widen/weights' in name or '/narrow/' in name for name in blocked), blocked
        first = session.run(loss)
        for _ in range(30):
            session.run(update)
        last, gradients = session.run([loss, [gradient for gradient, _ in pairs]])
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)
    assert first > 1.5 and last < 0.1
