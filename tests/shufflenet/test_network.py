# SPDX-License-Identifier: Apache-2.0
"""ShuffleNetV2 against the published definition, its size, its behaviour in training, its loss and figures."""
import os
import sys

import numpy as np
import pytest
from conftest import ROOT

FOLDER = os.path.join(ROOT, 'ShufflenetV2_ID0371_For_Tensorflow')
sys.path.insert(0, FOLDER)
tf = pytest.importorskip('tensorflow.compat.v1')
tf.disable_v2_behavior()

import architecture  # noqa: E402
import eval as evaluation  # noqa: E402
import model  # noqa: E402
from common import files, flags  # noqa: E402
from common.runtime import open_runtime  # noqa: E402

smoke = pytest.mark.smoke  # on TensorFlow 1.15 as well
IMAGENETTE = os.path.join(ROOT, '..', 'shared', 'data', 'imagenette224')


@pytest.fixture(autouse=True)
def fresh_graph():
    tf.reset_default_graph()
    tf.set_random_seed(1)


@pytest.fixture(scope='module')
def runtime():
    parser = flags.Parser(prog='train.py')
    flags.add_device_group(parser, 'force_fp32')
    return open_runtime(parser.parse_args(['--device=cpu']))


def seeded_values():
    """The same value for each variable of the graph on every TensorFlow: {name: array}."""
    values = {}
    for variable in sorted(tf.global_variables(), key=lambda v: v.op.name):
        name, shape = variable.op.name, variable.shape.as_list()
        random = np.random.RandomState(sum(map(ord, name)) % 100003)
        kind = name.split('/')[-1]
        if kind in ('weights', 'depthwise_weights'):
            fan_in = np.prod(shape[:-1]) if kind == 'weights' else 9
            values[name] = random.normal(0, (1 / fan_in) ** 0.5, shape)
        elif kind in ('gamma', 'moving_variance'):
            values[name] = random.uniform(0.5, 1.5, shape)
        elif kind in ('beta', 'moving_mean', 'biases'):
            values[name] = random.normal(0, 0.2, shape)
    return {name: value.astype(np.float32) for name, value in values.items()}


def start(session):
    values = seeded_values()
    session.run(tf.global_variables_initializer(), {
        variable.initializer.inputs[1]: values[variable.op.name] for variable in tf.global_variables()
        if variable.op.name in values})


def published_logits(images, training, width):
    """The published reference, written down plainly on the variables that architecture.logits has made."""
    made = {variable.op.name: variable for variable in tf.global_variables()}

    def norm(x, name):
        vectors = [made['%s/batch_norm/%s' % (name, kind)]
                   for kind in ('gamma', 'beta', 'moving_mean', 'moving_variance')]
        return tf.nn.fused_batch_norm(x, *(vectors[:2] if training else vectors), epsilon=1e-3, is_training=training)[0]

    def conv(x, name, stride=1):
        return tf.nn.relu(norm(tf.nn.conv2d(x, made[name + '/weights'], [1, stride, stride, 1], 'SAME'), name))

    def depthwise(x, name, stride):
        weights = made[name + '/depthwise/depthwise_weights']
        return norm(tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], 'SAME'), name + '/depthwise')

    def branch(x, name, stride):
        return conv(depthwise(conv(x, name + '/conv1x1_before'), name, stride), name + '/conv1x1_after')

    x = conv(2.0 * images - 1.0, 'ShuffleNetV2/Conv1', 2)
    x = tf.nn.max_pool(x, [1, 3, 3, 1], [1, 2, 2, 1], 'SAME')
    for stage, units in (('Stage2', 4), ('Stage3', 8), ('Stage4', 4)):
        first = 'ShuffleNetV2/%s/unit_1' % stage
        y = branch(x, first, 2)
        x = conv(depthwise(x, first + '/second_branch', 2), first + '/second_branch/conv1x1_after')
        for unit in range(2, units + 1):
            shape = x.shape.as_list()
            z = tf.transpose(tf.stack([x, y], 3), [0, 1, 2, 4, 3])
            z = tf.reshape(z, [-1] + shape[1:3] + [2 * shape[3]])
            x, y = tf.split(z, 2, 3)
            x = branch(x, 'ShuffleNetV2/%s/unit_%d' % (stage, unit), 1)
        x = tf.concat([x, y], 3)
    x = tf.reduce_mean(conv(x, 'ShuffleNetV2/Conv5'), [1, 2])
    return tf.matmul(x, made['classifier/weights']) + made['classifier/biases']


def expected_shapes(stage2, last, classes):
    """{variable name: shape} of the published reference."""
    shapes = {'classifier/weights': [last, classes], 'classifier/biases': [classes]}

    def convolution(name, kernel):
        shapes[name + ('/depthwise_weights' if name.endswith('depthwise') else '/weights')] = kernel
        for kind in ('gamma', 'beta', 'moving_mean', 'moving_variance'):
            shapes['%s/batch_norm/%s' % (name, kind)] = [kernel[2] if name.endswith('depthwise') else kernel[3]]

    convolution('ShuffleNetV2/Conv1', [3, 3, 3, 24])
    channels_in = 24
    for number, units in ((2, 4), (3, 8), (4, 4)):
        half = stage2 * 2 ** (number - 2) // 2
        for unit in range(1, units + 1):
            name = 'ShuffleNetV2/Stage%d/unit_%d/' % (number, unit)
            inside = channels_in if unit == 1 else half
            convolution(name + 'conv1x1_before', [1, 1, inside, inside])
            convolution(name + 'depthwise', [3, 3, inside, 1])
            convolution(name + 'conv1x1_after', [1, 1, inside, half])
            if unit == 1:
                convolution(name + 'second_branch/depthwise', [3, 3, channels_in, 1])
                convolution(name + 'second_branch/conv1x1_after', [1, 1, channels_in, half])
        channels_in = 2 * half
    convolution('ShuffleNetV2/Conv5', [1, 1, channels_in, last])
    return shapes


def multiply_adds():
    """Of one image, by the operations of the graph."""
    total = 0
    for operation in tf.get_default_graph().get_operations():
        if operation.type in ('Conv2D', 'DepthwiseConv2dNative'):
            pixels = operation.outputs[0].shape.as_list()[1:]
            kernel = operation.inputs[1].shape.as_list()
            total += np.prod(pixels) * np.prod(kernel[:2]) * (kernel[2] if operation.type == 'Conv2D' else 1)
        elif operation.type == 'MatMul':
            rows, columns = operation.outputs[0].shape.as_list()
            total += rows * columns * operation.inputs[0].shape.as_list()[1]
    return int(total)


# Ma et al. 2018, tables 5 and 8. The published TensorFlow code keeps 24 channels inside the first unit of Stage2, where
# the paper has as many as that branch gives out: a little less work at widths above 0.5.
@pytest.mark.parametrize('width, stage2, last, parameters_m, work_m', [
    pytest.param('0.5', 48, 1024, 1.4, 41, marks=smoke), ('1.0', 116, 1024, 2.3, 146), ('1.5', 176, 1024, 3.5, 299),
    ('2.0', 244, 2048, 7.4, 591)])
def test_names_shapes_and_size_are_the_published_ones(width, stage2, last, parameters_m, work_m):
    architecture.logits(tf.zeros([1, 224, 224, 3]), False, 1000, width)
    made = {variable.op.name: variable.shape.as_list() for variable in tf.global_variables()}
    assert made == expected_shapes(stage2, last, 1000)
    assert round(sum(v.shape.num_elements() for v in tf.trainable_variables()) / 1e6, 1) == parameters_m
    assert work_m * 0.95 < multiply_adds() / 1e6 <= work_m


@pytest.mark.parametrize('width, training', [
    pytest.param('0.5', False, marks=smoke), ('0.5', True), ('1.0', False), ('1.0', True)])
def test_scores_and_gradients_are_those_of_the_published_graph(width, training, runtime):
    batch = np.random.RandomState(0).rand(3, 64, 64, 3).astype(np.float32)
    images = tf.constant(batch)
    found = architecture.logits(images, training, 10, width, fuse=runtime.fuse)
    expected = published_logits(images, training, width)
    direction = tf.constant(np.random.RandomState(1).normal(size=[3, 10]).astype(np.float32))
    variables = tf.trainable_variables()
    of_found, of_expected = (tf.gradients(tf.reduce_sum(scores * direction), variables) for scores in (found, expected))
    with tf.Session() as session:
        start(session)
        scores, wanted, by_found, by_expected = session.run([found, expected, of_found, of_expected])
    assert np.abs(wanted).max() > 0.1 and np.abs(wanted - wanted[:1]).max() > 1e-3
    np.testing.assert_allclose(scores, wanted, rtol=2e-3, atol=2e-4)
    for variable, one, other in zip(variables, by_found, by_expected):
        scale = np.abs(other).max()
        if training and variable.op.name.endswith('depthwise/batch_norm/beta'):
            continue  # the next batch norm takes a shift away again: both are rounding errors
        assert scale > 0, variable.op.name
        np.testing.assert_allclose(one, other, atol=0.03 * scale + 1e-5, rtol=0.03, err_msg=variable.op.name)


# Of seeded_values() and the images below; TensorFlow 2.21 and 1.15 agree on them.
GOLDEN = {
    '0.5': [0.625017, -0.077514, 0.511466, 0.256561, -0.142985, 0.623728, -0.078822, 0.510756, 0.255405, -0.144893],
    '1.0': [0.173990, -0.142157, -0.000037, 0.555558, 0.126970, 0.175086, -0.140668, -0.000772, 0.555865, 0.127771]}


@smoke
@pytest.mark.parametrize('width', sorted(GOLDEN))
def test_golden_logits(width):
    images = np.random.RandomState(7).randint(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    scores = architecture.logits(tf.constant(images), False, 5, width)
    with tf.Session() as session:
        start(session)
        found = session.run(scores)
    np.testing.assert_allclose(found.ravel(), GOLDEN[width], rtol=1e-3, atol=1e-4)


def test_an_image_evaluates_the_same_alone_and_in_company():
    images = np.random.RandomState(0).randint(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    together = architecture.logits(tf.constant(images), False, 10)
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
        alone = architecture.logits(tf.constant(images[:1]), False, 10)
    with tf.Session() as session:
        start(session)
        found, single = session.run([together, alone])
    np.testing.assert_allclose(found[:1], single, rtol=1e-4, atol=1e-4)


def test_training_moves_weights_statistics_and_averages(runtime):
    random = np.random.RandomState(0)
    images, labels = random.randint(0, 256, (4, 64, 64, 3)).astype(np.uint8), np.array([0, 1, 2, 3], np.int32)
    loss = model.smoothed_cross_entropy(architecture.logits(tf.constant(images), True, 10), tf.constant(labels), 0.1)
    averages = model.make_averages(0.9)
    update = model.update_op(loss, tf.constant(0.1), 0.9, 4e-5, averages, runtime.wrap_optimizer)
    averaged = model.averaged_logits(tf.constant(images), averages, classes=10)
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
        plain = architecture.logits(tf.constant(images), False, 10)
    variables = {v.op.name: v for v in tf.global_variables() if v.op.name.startswith(('ShuffleNetV2/', 'classifier/'))
                 and not v.op.name.endswith(('Momentum', 'ExponentialMovingAverage'))}
    shadows = {v.op.name: averages.average(v) for v in tf.trainable_variables()}
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        before = session.run(variables)
        history = []
        for _ in range(3):
            session.run(update)
            history.append(session.run([variables, shadows]))
        one, other = session.run([averaged, plain])
    after, shadow = history[-1]
    still = [name for name in before if np.array_equal(before[name], after[name])]
    assert not still, still
    # num_updates is read beside the step's own count, so the decay may be that of this step or of the next
    previous = history[1][1]['classifier/weights']
    now, weights = shadow['classifier/weights'], after['classifier/weights']
    share = ((now - previous) * (weights - previous)).sum() / ((weights - previous) ** 2).sum()
    assert share == pytest.approx(1 - (1 + 3) / (10 + 3), abs=0.03)
    assert np.abs(one - other).max() > 1e-4 and tf.train.get_or_create_global_step() is not None


def test_a_handful_of_real_images_is_learnt_by_heart(runtime):
    if not os.path.isdir(IMAGENETTE):
        pytest.skip('the real images are not beside this repository (%s)' % IMAGENETTE)
    from PIL import Image
    images, labels = [], []
    for label, name in enumerate(sorted(os.listdir(os.path.join(IMAGENETTE, 'train')))):
        folder = os.path.join(IMAGENETTE, 'train', name)
        for file in sorted(os.listdir(folder))[:2]:
            images.append(np.array(Image.open(os.path.join(folder, file)).convert('RGB').resize((96, 96))))
            labels.append(label)
    scores = architecture.logits(tf.constant(np.array(images)), True, 10, fuse=runtime.fuse)
    loss = model.smoothed_cross_entropy(scores, tf.constant(labels, tf.int32), 0.0)
    update = model.update_op(loss, tf.constant(0.05), 0.9, 4e-5, model.make_averages(0.9), runtime.wrap_optimizer)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        first = session.run(loss)
        for _ in range(30):
            session.run(update)
        last = session.run(loss)
    assert first > 1.8 and last < 0.3


def write_checkpoint(folder, averages, width='0.5', classes=10):
    """A checkpoint with the published names, and with moving averages that are twice the weights."""
    with tf.Graph().as_default(), tf.Session() as session:
        values = {}
        for name, shape in expected_shapes(architecture.WIDTHS[width].stage2, architecture.WIDTHS[width].last,
                                           classes).items():
            values[name] = np.random.RandomState(len(name)).uniform(0.5, 1.0, shape).astype(np.float32)
            if averages and not name.endswith(('moving_mean', 'moving_variance')):
                values[name + '/ExponentialMovingAverage'] = 2 * values[name]
        variables = [tf.get_variable(name, initializer=value) for name, value in values.items()]
        session.run(tf.global_variables_initializer())
        return tf.train.Saver(variables).save(session, str(folder / 'model.ckpt'), write_meta_graph=False), values


@smoke
def test_a_published_checkpoint_loads_with_and_without_averages(tmp_path):
    prefix, values = write_checkpoint(tmp_path, True)
    architecture.logits(tf.zeros([1, 224, 224, 3]), False, 10)
    made = {variable.op.name: variable for variable in tf.global_variables()}
    with tf.Session() as session:
        for averaged in (False, True):
            assert evaluation.restore(tf, session, prefix, prefix, averaged)
            for name, found in session.run({k: v for k, v in made.items() if k != 'global_step'}).items():
                key = name + '/ExponentialMovingAverage'
                np.testing.assert_array_equal(found, values[key if averaged and key in values else name])


def test_another_networks_checkpoint_is_named(tmp_path):
    prefix, _ = write_checkpoint(tmp_path, False, classes=7)
    architecture.logits(tf.zeros([1, 224, 224, 3]), False, 10)
    with tf.Session() as session:
        assert not evaluation.restore(tf, session, prefix, prefix, True)
        with pytest.raises(files.DataError, match='variable classifier/biases of shape'):
            evaluation.restore(tf, session, prefix, prefix, False)


@smoke
def test_weight_decay_is_for_kernels_that_are_not_depthwise():
    names = [name for name in expected_shapes(48, 1024, 10) if model.decayed(name)]
    assert 'ShuffleNetV2/Conv1/weights' in names and 'classifier/weights' in names
    assert not [name for name in names if 'depthwise_weights' in name or 'batch_norm' in name or 'biases' in name]
    assert len(names) == 2 + 16 * 2 + 3 + 1


@smoke
def test_loss_and_figures_by_hand():
    shares = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.1, 0.2, 0.7]], np.float32)
    scores, labels = tf.constant(np.log(shares)), tf.constant([0, 1, 2])
    loss = model.smoothed_cross_entropy(scores, labels, 0.3)
    counted = tf.constant([1.0, 1.0, 0.0])
    figures = model.figures(scores, labels, counted)
    lost = model.figures(tf.fill([2, 9], np.nan), tf.constant([0, 1]), tf.ones([2]))
    with tf.Session() as session:
        loss, figures, lost = session.run([loss, figures, lost])
    target = 0.7 * np.eye(3) + 0.1
    assert loss == pytest.approx(-(target * np.log(shares)).sum() / 3, rel=1e-5)
    assert figures.tolist() == [pytest.approx(-np.log(0.7) - np.log(0.2)), 1.0, 2.0]
    assert lost[1:].tolist() == [0.0, 0.0]
    found = model.mean_figures([([[2.0, 1.0, 3.0], [0, 0, 1.0]], 3), ([[1.0, 0.0, 0.0], [0, 0, 0]], 1)])
    assert found == {'images': 4, 'loss': 0.75, 'top1': 0.25, 'top5': 0.75, 'top1_no_ema': 0.0, 'top5_no_ema': 0.25}


@smoke
@pytest.mark.parametrize('scores, label, top1, top5', [
    ([0.5] * 9, 0, 1, 1), ([0.5] * 9, 1, 0, 1), ([0.5] * 9, 4, 0, 1), ([0.5] * 9, 5, 0, 0),  # equal: the lower index
    ([2, 1, 2, 1, 2, 1, 2, 1, 2], 2, 0, 1), ([2, 1, 2, 1, 2, 1, 2, 1, 2], 1, 0, 0), ([1, 3, 3], 1, 1, 1),
    ([1, 3, np.nan], 1, 0, 0), ([np.nan, 3, 1], 1, 0, 0), ([np.nan] * 9, 0, 0, 0),
    ([-np.inf, 3, -np.inf], 1, 1, 1), ([-np.inf] * 9, 8, 0, 0)])
def test_ties_go_to_the_lower_class_and_nan_is_never_right(scores, label, top1, top5):
    figures = model.figures(tf.constant([scores], tf.float32), tf.constant([label]), tf.ones([1]))
    with tf.Session() as session:
        assert session.run(figures)[1:].tolist() == [top1, top5]


def test_an_evaluation_adds_up_batches_and_takes_nan_for_no_class():
    batches = [evaluation.Batch(np.array([[3.0, 1.0, 2.0]]), np.array([[1, 2], [np.nan, 1]]), np.array([1, 1]),
                                np.array([1.0, 1.0])),
               evaluation.Batch(np.array([[1.0, 0.0, 1.0]]), np.array([[5, 4], [9, 9]]), np.array([1, 0]),
                                np.array([1.0, 0.0]))]
    fetched = iter([None] + batches)
    figures, guesses = evaluation.score(lambda fetches: next(fetched), 'tensors', 'start', 2)
    assert figures == {'images': 3, 'loss': 4 / 3, 'top1': 1 / 3, 'top5': 1.0}
    assert guesses.tolist() == [[1, -1, 0], [1, 1, 1]]


@smoke
def test_what_is_frozen_stays_and_costs_no_gradient(runtime):
    random = np.random.RandomState(0)
    images, labels = random.randint(0, 256, (4, 64, 64, 3)).astype(np.uint8), np.array([0, 1, 2, 3], np.int32)
    scores = architecture.logits(tf.constant(images), True, 10, freeze=3)
    loss = model.smoothed_cross_entropy(scores, tf.constant(labels), 0.1)
    forward = len(tf.get_default_graph().get_operations())
    averages = model.make_averages(0.9)
    update = model.update_op(loss, tf.constant(0.1), 0.9, 4e-5, averages, runtime.wrap_optimizer)
    averaged = model.averaged_logits(tf.constant(images), averages, classes=10)
    frozen = ('ShuffleNetV2/Conv1/', 'ShuffleNetV2/Stage2/', 'ShuffleNetV2/Stage3/')
    behind = [operation for operation in tf.get_default_graph().get_operations()[forward:]
              if operation.name.startswith(tuple('gradients/' + name for name in frozen))]
    assert not behind, behind[:3]
    assert any(operation.name.startswith('gradients/ShuffleNetV2/Stage4/')
               for operation in tf.get_default_graph().get_operations())
    variables = model.network_variables()
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        before = session.run(variables)
        session.run(update)
        after = session.run(variables)
        assert np.isfinite(session.run(averaged)).all()
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {name for name in variables if not name.startswith(frozen)}
    assert not [v.op.name for v in tf.global_variables() if v.op.name.startswith(frozen) and v.op.name not in variables]
