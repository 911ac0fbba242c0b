# SPDX-License-Identifier: Apache-2.0
"""SSD-VGG against the published definition, its size, its loss by hand, and how its weights begin."""
import os
import sys

import numpy as np
import pytest
import small_networks
from conftest import ROOT

FOLDER = os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow')
sys.path.insert(0, FOLDER)
tf = pytest.importorskip('tensorflow.compat.v1')
tf.disable_v2_behavior()

import layouts  # noqa: E402
import ssdutils  # noqa: E402
import ssdvgg  # noqa: E402
from common import graph_files  # noqa: E402

smoke = pytest.mark.smoke  # on TensorFlow 1.15 as well
VGG300, VGG512 = ssdutils.PRESETS['vgg300'], ssdutils.PRESETS['vgg512']


@pytest.fixture(autouse=True)
def fresh_graph():
    tf.reset_default_graph()
    tf.set_random_seed(1)


def vgg_shapes():
    shapes, before = {}, 3
    for block, channels, count in ((1, 64, 2), (2, 128, 2), (3, 256, 3), (4, 512, 3), (5, 512, 3)):
        for number in range(1, count + 1):
            shapes['conv%d_%d/filter' % (block, number)] = [3, 3, before, channels]
            shapes['conv%d_%d/biases' % (block, number)] = [channels]
            before = channels
    return shapes


def expected_shapes(preset, classes):
    """{variable name: shape} of the published reference."""
    shapes = dict(vgg_shapes(), **{'mod_conv6/filter': [3, 3, 512, 1024], 'mod_conv6/biases': [1024],
                                   'mod_conv7/filter': [1, 1, 1024, 1024], 'mod_conv7/biases': [1024],
                                   'l2_norm_conv4_3/scale': [512]})
    before, of_maps = 1024, [512, 1024]
    for layer, narrow, channels in [(8, 256, 512), (9, 128, 256), (10, 128, 256), (11, 128, 256)] + (
            [(12, 128, 256)] if preset == 'vgg512' else []):
        shapes.update({'conv%d_1/filter' % layer: [1, 1, before, narrow], 'conv%d_1/biases' % layer: [narrow],
                       'conv%d_2/filter' % layer: [3, 3, narrow, channels], 'conv%d_2/biases' % layer: [channels]})
        before = channels
        of_maps.append(channels)
    kinds = [4, 6, 6, 6, 6, 4, 4] if preset == 'vgg512' else [4, 6, 6, 6, 4, 4]
    for number, (channels, count) in enumerate(zip(of_maps, kinds)):
        for kind in range(count):
            name = 'classifiers/classifier%d_%d/' % (number, kind)
            shapes.update({name + 'filter': [3, 3, channels, classes + 5], name + 'biases': [classes + 5]})
    return shapes


def made_shapes():
    return {variable.op.name: variable.shape.as_list() for variable in tf.global_variables()}


def seeded_values(shapes):
    """The same value for each variable on every TensorFlow: {name: float32 array}. Maps keep about their size."""
    values = {}
    for name, shape in shapes.items():
        random = np.random.RandomState(sum(map(ord, name)) % 100003)
        if name.endswith('/filter'):
            scale = (0.3 if 'classifier' in name else 2.0) / np.prod(shape[:3])
            values[name] = random.normal(0, scale ** 0.5, shape).astype(np.float32)
        else:
            values[name] = random.normal(20 if name.endswith('scale') else 0, 0.1, shape).astype(np.float32)
    values['conv1_1/filter'] /= 64
    return values


def start(session):
    session.run(tf.global_variables_initializer())
    graph_files.load_fitting(tf, session, seeded_values(made_shapes()), 'seeded')


def published_outputs(images, preset):
    """The published reference's graph, written down plainly on the variables that ssdvgg.predictions has made.

    It is fed OpenCV's BGR and takes that for RGB, which it turns round before the mean and the first convolution. A
    checkpoint of it holds this convolution's kernel turned round against ours.

    Returns:
      [B, N, classes + 1 + 4], before softmax.
    """
    made = {variable.op.name: variable for variable in tf.global_variables()}
    made['conv1_1/filter'] = tf.reverse(made['conv1_1/filter'], [2])

    def conv(x, name, stride=1, padding='SAME'):
        x = tf.nn.conv2d(x, made[name + '/filter'], [1, stride, stride, 1], padding)
        return tf.nn.relu(x + made[name + '/biases'])

    called_red, called_green, called_blue = tf.split(images, 3, 3)
    x = tf.concat([called_blue - 103.939, called_green - 116.779, called_red - 123.68], 3)
    for block, count in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3)):
        for number in range(1, count + 1):
            x = conv(x, 'conv%d_%d' % (block, number))
        if block == 4:
            maps = [made['l2_norm_conv4_3/scale'] * x / tf.sqrt(tf.reduce_sum(x * x, 3, keepdims=True) + 1e-12)]
        x = tf.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], 'SAME') if block < 5 else tf.nn.max_pool(
            x, [1, 3, 3, 1], [1, 1, 1, 1], 'SAME')
    # A kernel of 3x3 with five zeros between its taps is one of 13x13.
    spread = made['mod_conv6/filter']
    for axis in (0, 1):
        taps = [tf.pad(tap, [[0, 5 * (axis == 0 and place < 2)], [0, 5 * (axis == 1 and place < 2)], [0, 0], [0, 0]])
                for place, tap in enumerate(tf.split(spread, 3, axis))]
        spread = tf.concat(taps, axis)
    x = tf.nn.relu(tf.nn.conv2d(x, spread, [1, 1, 1, 1], 'SAME') + made['mod_conv6/biases'])
    x = conv(x, 'mod_conv7')
    maps.append(x)
    for layer in (8, 9, 10, 11) + ((12,) if preset == 'vgg512' else ()):
        x = conv(x, 'conv%d_1' % layer)
        if layer == 12:
            x = tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]])
        halves = layer in (8, 9) or (layer == 10 and preset == 'vgg512')
        x = conv(x, 'conv%d_2' % layer, 2 if halves else 1, 'SAME' if halves else 'VALID')
        maps.append(x)
    outputs = []
    for number, x in enumerate(maps):
        kind = 0
        while 'classifiers/classifier%d_%d/filter' % (number, kind) in made:
            name = 'classifiers/classifier%d_%d/' % (number, kind)
            y = tf.nn.conv2d(x, made[name + 'filter'], [1, 1, 1, 1], 'SAME') + made[name + 'biases']
            outputs.append(tf.reshape(y, [-1, y.shape[1] * y.shape[2], y.shape[3]]))
            kind += 1
    return tf.concat(outputs, 1)


# Other implementations of the paper's SSD300 have as many; in SSD512 the authors' conv12_2 is 4x4, the reference's 3x3.
@smoke
@pytest.mark.parametrize('preset, boxes, parameters', [('vgg300', 8732, 26285486), ('vgg512', 24564, 26959300)])
def test_names_shapes_and_size_are_the_published_ones(preset, boxes, parameters):
    side = ssdutils.PRESETS[preset].image_px
    logits, offsets = ssdvgg.predictions(tf.zeros([2, side, side, 3], tf.uint8), ssdutils.PRESETS[preset], 20)
    assert made_shapes() == expected_shapes(preset, 20)
    assert sum(variable.shape.num_elements() for variable in tf.trainable_variables()) == parameters
    assert logits.shape.as_list() == [2, boxes, 21] and offsets.shape.as_list() == [2, boxes, 4]
    made = ssdvgg.result(logits, offsets)
    assert made.name == 'result/result:0' and made.shape.as_list() == [2, boxes, 25]


@pytest.mark.parametrize('preset', ['vgg300', 'vgg512'])
def test_result_and_gradients_are_those_of_the_published_graph(preset):
    side = ssdutils.PRESETS[preset].image_px
    batch = np.random.RandomState(0).randint(0, 256, (1, side, side, 3)).astype(np.uint8)
    logits, offsets = ssdvgg.predictions(tf.constant(batch), ssdutils.PRESETS[preset], 5,
                                         mean_bgr=layouts.mean_bgr('reference'))
    expected = published_outputs(tf.constant(batch.astype(np.float32)), preset)
    found = tf.concat([logits, offsets], 2)
    direction = tf.constant(np.random.RandomState(1).normal(size=[1, len(ssdutils.default_boxes(
        ssdutils.PRESETS[preset])), 10]).astype(np.float32))
    variables = tf.trainable_variables()
    fetches = [found, expected, ssdvgg.result(logits, offsets)]
    if preset == 'vgg300':
        fetches += [tf.gradients(tf.reduce_sum(scores * direction), variables) for scores in (found, expected)]
    with tf.Session() as session:
        start(session)
        found, expected, result = session.run(fetches)[:3] if preset == 'vgg512' else session.run(fetches[:3])
        by_found, by_expected = session.run(fetches[3:]) if preset == 'vgg300' else ([], [])
    # Every map says something of its own, or an error in one would not be seen.
    starts = np.cumsum([0] + [cells ** 2 * ssdutils.kinds(ssdutils.PRESETS[preset], number) for number, cells in
                              enumerate(ssdutils.PRESETS[preset].map_cells)])
    for first, last in zip(starts, starts[1:]):
        assert expected[0, first:last].std() > 0.05
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    shares = np.exp(expected[..., :6] - expected[..., :6].max(-1, keepdims=True))
    np.testing.assert_allclose(result[..., :6], shares / shares.sum(-1, keepdims=True), rtol=5e-3, atol=1e-4)
    np.testing.assert_array_equal(result[..., 6:], found[..., 6:])
    for variable, one, other in zip(variables, by_found, by_expected):
        scale = np.abs(other).max()
        assert scale > 0, variable.op.name
        np.testing.assert_allclose(one, other, atol=0.02 * scale, rtol=0.02, err_msg=variable.op.name)


# Rows of the result of seeded_values() and the image below; TensorFlow 2.21 and 1.15 agree on them.
GOLDEN_ROWS = (0, 1444 * 3 + 700, 5776, 5776 + 361 * 5 + 180, 8000, 8600, 8700, 8731)
GOLDEN = [
    [0.1968, 0.4323, 0.3709, -0.3453, 0.0367, 0.6796, -0.4766],
    [0.1750, 0.5633, 0.2617, -0.1614, -0.2398, -0.2715, -0.0015],
    [0.7216, 0.0512, 0.2272, 0.0573, -0.3643, 0.2118, -0.6683],
    [0.0020, 0.9907, 0.0073, 3.1709, -2.0695, -0.4802, 0.3777],
    [0.0591, 0.0767, 0.8642, 3.0609, 0.0168, 3.8798, -1.9068],
    [0.0317, 0.2716, 0.6967, 0.1061, 1.9760, -1.8441, -1.4830],
    [0.1930, 0.7767, 0.0303, 3.7869, -0.7654, 0.6050, 3.1345],
    [0.1576, 0.6168, 0.2256, -0.8475, 0.5898, 1.2754, -0.7956]]


@smoke
def test_golden_result():
    image = np.random.RandomState(7).randint(0, 256, (1, 300, 300, 3)).astype(np.uint8)
    result = ssdvgg.result(*ssdvgg.predictions(tf.constant(image), VGG300, 2))
    with tf.Session() as session:
        start(session)
        found = session.run(result)[0, list(GOLDEN_ROWS)]
    np.testing.assert_allclose(found, GOLDEN, rtol=2e-3, atol=1e-3)


def test_an_image_is_judged_the_same_alone_in_company_and_nearly_in_bfloat16():
    images = np.random.RandomState(0).randint(0, 256, (2, 300, 300, 3)).astype(np.float32)
    results = [ssdvgg.result(*ssdvgg.predictions(tf.constant(images), VGG300, 3))]
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
        results += [ssdvgg.result(*ssdvgg.predictions(tf.constant(images[1:]), VGG300, 3, dtype))
                    for dtype in (tf.float32, tf.bfloat16)]
    with tf.Session() as session:
        start(session)
        together, alone, bfloat16 = session.run(results)
    np.testing.assert_allclose(together[1:], alone, rtol=1e-3, atol=1e-3)
    assert alone.std() > 0.1
    assert np.abs(alone - bfloat16).max() < 0.1 * np.abs(alone).max() and not np.array_equal(alone, bfloat16)


# Loss

def loss_by_hand(logits, offsets, class_ids, targets):
    """Equations 1 to 3 of the paper, one image and one box at a time."""
    background = logits.shape[2] - 1
    parts = []
    for scores, found, ids, wanted in zip(logits.astype(float), offsets.astype(float), class_ids, targets):
        entropy = np.array([np.log(np.exp(row - row.max()).sum()) + row.max() - row[one]
                            for row, one in zip(scores, ids)])
        matched = [box for box, one in enumerate(ids) if one != background]
        others = sorted((entropy[box] for box, one in enumerate(ids) if one == background), reverse=True)
        smooth = 0.0
        for box in matched:
            for difference in np.abs(found[box] - wanted[box]):
                smooth += 0.5 * difference ** 2 if difference < 1 else difference - 0.5
        count = max(len(matched), 1)
        parts.append(((sum(entropy[box] for box in matched) + sum(others[:3 * len(matched)])) / count, smooth / count))
    return np.mean(parts, 0)


@smoke
def test_loss_by_hand():
    random = np.random.RandomState(3)
    logits, offsets = random.normal(0, 3, (4, 40, 6)), random.normal(0, 2, (4, 40, 4))
    targets, class_ids = random.normal(0, 2, (4, 40, 4)), np.full((4, 40), 5)
    class_ids[0, [3, 9]], class_ids[1, 7], class_ids[3] = [0, 4], 2, random.randint(0, 5, 40)  # image 2 has no object,
    class_ids[3, 5:] = np.where(random.rand(35) < 0.5, 5, class_ids[3, 5:])  # image 3 fewer negatives than three each
    found = ssdvgg.losses(*map(tf.constant, (logits.astype(np.float32), offsets.astype(np.float32),
                                             class_ids.astype(np.int32), targets.astype(np.float32))))
    with tf.Session() as session:
        found = session.run(found)
    np.testing.assert_allclose(found, loss_by_hand(logits, offsets, class_ids, targets), rtol=1e-5)


@smoke
def test_loss_moves_towards_the_targets_only():
    """The gradient reaches matched boxes and three negatives each, and no offset of the background."""
    logits, offsets = tf.zeros([1, 30, 3]), tf.zeros([1, 30, 4])
    class_ids = np.full((1, 30), 2, np.int32)
    class_ids[0, 4] = 1
    confidence, localisation = ssdvgg.losses(logits, offsets, tf.constant(class_ids), tf.ones([1, 30, 4]))
    with tf.Session() as session:
        by_logits, by_offsets = session.run(tf.gradients(confidence + localisation, [logits, offsets]))
    assert np.flatnonzero(np.abs(by_offsets[0]).sum(1)).tolist() == [4] and (by_offsets[0, 4] < 0).all()
    assert len(np.flatnonzero(np.abs(by_logits[0]).sum(1))) == 4 and by_logits[0, 4, 1] < 0
    np.testing.assert_allclose(by_logits.sum(2), 0, atol=1e-6)


# Initial weights

@smoke
def test_one_rate_suits_all_initial_weights(monkeypatch):
    """Pixels go to 255, yet maps begin at size 1 and no layer's gradient stands out in proportion to its weights."""
    small_networks.install(monkeypatch.setattr)
    maps = []
    for make in ssdvgg._Network.vgg_convolution, ssdvgg._Network.convolution:
        def noted(*args, make=make, **kwargs):
            maps.append(make(*args, **kwargs))
            return maps[-1]
        monkeypatch.setattr(ssdvgg._Network, make.__name__, noted)
    preset, random = ssdutils.PRESETS['tiny'], np.random.RandomState(0)
    blocks = random.randint(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    logits, offsets = ssdvgg.predictions(tf.constant(blocks.repeat(8, 1).repeat(8, 2)), preset, 3)
    class_ids = random.choice([0, 1, 2, 3], (4, int(logits.shape[1])), p=[0.02, 0.02, 0.02, 0.94]).astype(np.int32)
    loss = sum(ssdvgg.losses(logits, offsets, tf.constant(class_ids), tf.zeros_like(offsets)))
    filters = [variable for variable in tf.trainable_variables() if variable.op.name.endswith('/filter')][:len(maps)]
    proportions = [tf.norm(gradient) / tf.norm(weight)
                   for gradient, weight in zip(tf.gradients(loss, filters), filters)]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        proportions, found = session.run([proportions, maps[12]])  # of conv5_3
    assert max(proportions) < 30 * np.median(proportions), dict(zip(filters, proportions))
    assert 0.1 < np.sqrt(np.square(found).mean()) < 10
