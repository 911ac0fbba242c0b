# SPDX-License-Identifier: Apache-2.0
"""ResNet-20: its size, its two forms, its behaviour in training and evaluation, its files."""
import os
import sys

import numpy as np
import pytest
from conftest import ROOT

tf = pytest.importorskip('tensorflow', '2.6')
FOLDER = os.path.join(ROOT, 'cutmix_ID2502_for_TensorFlow2.X')
sys.path.insert(0, FOLDER)

import evaluation  # noqa: E402
import layers  # noqa: E402
import model_files  # noqa: E402
import resnet  # noqa: E402
import train  # noqa: E402
from common import cifar10, files  # noqa: E402
from common.runtime import open_runtime  # noqa: E402

smoke = pytest.mark.smoke  # on TensorFlow 2.6, with Keras 2, as well


def images_of(count, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope='module')
def runtime():
    return open_runtime(train.parse_args(['--precision_mode=force_fp32', '--device=cpu']), keras=True)


def training_of(runtime, *words):
    return train.build_training(runtime, train.parse_args(list(words)))


@pytest.fixture(scope='module')
def trained():
    """The two forms of one network whose statistics have moved."""
    network, standard = resnet.resnet20(1, layers.fused_normalise), resnet.resnet20(1)
    for step in range(3):
        network(images_of(16, step), training=True)
    model_files.copy_weights(network, standard)
    return network, standard


@smoke
def test_the_papers_number_of_parameters():
    network = resnet.resnet20()
    trainable = sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
    convolutions = 3 * 16 * 9 + 6 * 16 * 16 * 9 + (16 * 32 + 5 * 32 * 32) * 9 + (32 * 64 + 5 * 64 * 64) * 9
    assert trainable == convolutions + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 64 * 10 + 10
    assert round(trainable / 1e6, 2) == 0.27  # table 6 of the paper
    assert len([layer for layer in network.layers if layer.name.endswith(('conv1', 'conv2', 'stem', 'scores'))]) == 20


@smoke
def test_both_forms_are_one_function():
    network, standard = resnet.resnet20(3, layers.fused_normalise), resnet.resnet20(3)
    ours, keras = model_files.network_variables(network), model_files.network_variables(standard)
    assert sorted(ours) == sorted(keras)
    assert all(np.array_equal(ours[name].numpy(), keras[name].numpy()) for name in ours)
    images, labels = images_of(32), tf.one_hot(np.arange(32) % 10, 10)
    gradients = []
    for form in (network, standard):
        with tf.GradientTape() as tape:
            scores = form(images, training=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, scores))
        gradients.append((scores.numpy(), tape.gradient(loss, form.trainable_variables)))
    np.testing.assert_allclose(gradients[0][0], gradients[1][0], atol=2e-3)
    for variable, one, other in zip(network.trainable_variables, gradients[0][1], gradients[1][1]):
        assert np.linalg.norm(one - other) <= 0.02 * np.linalg.norm(other), variable.name
    for name in ours:
        if 'moving' in name:
            np.testing.assert_allclose(ours[name].numpy(), keras[name].numpy(), rtol=2e-3, atol=1e-4)
            assert not np.array_equal(ours[name].numpy(), np.full(ours[name].shape, float('variance' in name)))


@smoke
def test_every_trainable_has_a_gradient_and_statistics_move_in_training_only(runtime):
    network, _, step = training_of(runtime, '--optimizer=sgd', '--weight_decay=0')
    before = {name: v.numpy() for name, v in model_files.network_variables(network).items()}
    labels = tf.one_hot(np.arange(16) % 10, 10)
    assert np.isfinite(float(step(tf.constant(images_of(16)), labels, tf.constant(0.1))))
    after = {name: v.numpy() for name, v in model_files.network_variables(network).items()}
    assert not [name for name in before if np.array_equal(before[name], after[name])]
    standard = resnet.resnet20()
    model_files.copy_weights(network, standard)
    standard(images_of(16), training=False)
    assert all(np.array_equal(v.numpy(), after[n]) for n, v in model_files.network_variables(standard).items())


@smoke
def test_averages_move_every_fifth_step(runtime):
    from averages import Averages
    network = training_of(runtime, '--optimizer=sgd').network
    averages = Averages(network, 0.9)
    average, variable = averages.variables['scores/bias'], model_files.network_variables(network)['scores/bias']
    assert sorted(averages.variables) == sorted(model_files.network_variables(network))
    expected = variable.numpy() + 8.0
    variable.assign(expected)
    for step in range(1, 11):
        averages.follow(step)
        if step == 5:
            np.testing.assert_allclose(average.numpy(), expected - 8 * 2 / 11, rtol=1e-6)
    np.testing.assert_allclose(average.numpy(), expected - 8 * (2 / 11) * (3 / 12), rtol=1e-6)
    averages.follow(5000)
    np.testing.assert_allclose(average.numpy(), expected - 8 * (2 / 11) * (3 / 12) * 0.9 ** 5, rtol=1e-6)


@smoke
def test_smoothed_labels(runtime):
    images, labels = tf.constant(images_of(8)), tf.one_hot(np.arange(8), 10)
    by_flag = training_of(runtime, '--label_smoothing=0.2').step(images, labels, tf.constant(0.1))
    by_hand = training_of(runtime).step(images, labels * 0.8 + 0.02, tf.constant(0.1))
    assert float(by_flag) == pytest.approx(float(by_hand), rel=1e-5)


@smoke
def test_weight_decay_pulls_kernels_alone(runtime):
    images, labels, rate = tf.constant(images_of(8)), tf.one_hot(np.arange(8), 10), tf.constant(0.5)
    moved = []
    for decay in ('0', '0.5'):
        network, _, step = training_of(runtime, '--optimizer=sgd', '--weight_decay=' + decay)
        variables, start = network.trainable_variables, [variable.numpy() for variable in network.trainable_variables]
        step(images, labels, rate)
        moved.append([variable.numpy() for variable in variables])
    for variable, value, plain, decayed in zip(variables, start, *moved):
        expected = 0.5 * 1.9 * 0.5 * value if len(variable.shape) > 1 else 0 * value  # Nesterov: 1 + 0.9
        np.testing.assert_allclose(plain - decayed, expected, atol=1e-4, err_msg=variable.name)


def test_a_handful_of_images_is_learnt(runtime, few_cifar10):
    data = cifar10.load_cifar10(few_cifar10)
    images, labels = tf.constant(data.train_images[:32]), tf.one_hot(data.train_labels[:32], 10)
    step = training_of(runtime, '--optimizer=sgd', '--weight_decay=0').step
    losses = [float(step(images, labels, tf.constant(0.05))) for _ in range(60)]
    assert losses[0] > 1.5 and losses[-1] < 0.1, losses[::10]


def test_one_image_alone_is_the_same_as_in_a_batch(runtime, trained):
    scores = evaluation.make_score_function(tf, trained[1], False)
    images = images_of(20, 9)
    together = scores(images)
    for place in (0, 7, 19):
        np.testing.assert_allclose(scores(images[place:place + 1])[0], together[place], atol=1e-4)


@pytest.mark.parametrize('count', [1, 255, 256, 300])
def test_static_evaluation_is_dynamic_evaluation(trained, count):
    images, found = images_of(count, 5), []
    for static in (True, False):
        scores = evaluation.make_score_function(tf, trained[1], static)
        found.append(evaluation.predict(scores, images, static))
    assert found[0].shape == found[1].shape == (count, 10)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_static_evaluation_has_one_shape():
    shapes = []

    def scores(images):
        shapes.append(images.shape)
        return np.zeros((len(images), 10))
    assert evaluation.predict(scores, images_of(300), True).shape == (300, 10)
    assert shapes == [(256, 32, 32, 3)] * 2


def test_metrics_count_examples():
    scores = np.array([[3, 1, 0, 0, 0, 0, 0], [0, 2, 1, 3, 4, 5, 6], [9, 0, 1, 1, 1, 1, 1]], np.float32)
    result = evaluation.metrics(scores, np.array([0, 2, 1]))
    expected = np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(scores, [0, 2, 1])])
    assert result['top1'] == pytest.approx(1 / 3) and result['top5'] == pytest.approx(1 / 3)
    assert result['loss'] == pytest.approx(expected)


@smoke
def test_files_reload_to_the_same_outputs(trained, tmp_path):
    network, standard = trained
    images = images_of(6, 3)
    expected = standard(images, training=False).numpy()
    model_files.export(tf, str(tmp_path), standard, {}, replace=True)
    whole = tf.keras.models.load_model(str(tmp_path / 'model.h5'), compile=False)  # without any code of this folder
    np.testing.assert_allclose(whole(images, training=False).numpy(), expected, atol=1e-5)
    fresh = resnet.resnet20(5)
    fresh.load_weights(str(tmp_path / 'model.weights.h5'))
    np.testing.assert_allclose(fresh(images, training=False).numpy(), expected, atol=1e-6)
    loaded = tf.saved_model.load(str(tmp_path / 'saved_model'))  # its variables live as long as it does
    served = loaded.signatures['serving_default'](**{model_files.INPUTS: tf.constant(images)})
    assert sorted(served) == sorted(model_files.OUTPUTS)
    np.testing.assert_allclose(served['scores'].numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(served['probabilities'].numpy().sum(1), 1, atol=1e-5)
    for path in ('model.h5', 'model.weights.h5', 'saved_model'):
        scores = model_files.find_scores(tf, str(tmp_path / path), resnet.resnet20,
                                         lambda found: evaluation.make_score_function(tf, found, False))
        np.testing.assert_allclose(scores(images), expected, atol=1e-4)


def another_network():
    inputs = tf.keras.Input([8])
    return tf.keras.Model(inputs, tf.keras.layers.Dense(3, name='scores')(inputs), name='other')


@smoke
@pytest.mark.parametrize('kind', ['whole', 'weights', 'text', 'absent'])
def test_a_file_of_another_network_is_named(tmp_path, kind):
    path = str(tmp_path / ('model.weights.h5' if kind == 'weights' else 'model.h5'))
    if kind == 'whole':
        another_network().save(path)
    elif kind == 'weights':
        another_network().save_weights(path)
    elif kind == 'text':
        (tmp_path / 'model.h5').write_text('no hdf5')
    with pytest.raises(files.DataError, match='model') as raised:
        model_files.load_weights(resnet.resnet20(), path)
    assert raised.value.where == path and '\n' not in str(raised.value)


@smoke
def test_an_optimizers_state_comes_back_and_another_optimizers_is_refused(runtime, tmp_path):
    network, optimizer, step = training_of(runtime, '--optimizer=adam')
    step(tf.constant(images_of(8)), tf.one_hot(np.arange(8), 10), tf.constant(0.1))
    model_files.save(str(tmp_path / 'model'), resnet.resnet20(), optimizer)
    again = training_of(runtime, '--optimizer=adam').optimizer
    model_files.restore_optimizer(str(tmp_path / 'model'), again)
    old, new = (model_files.optimizer_variables(each) for each in (optimizer, again))
    assert len(old) > 2 * len(network.trainable_variables) and any(variable.numpy().any() for variable in old[2:])
    assert all(np.array_equal(one.numpy(), other.numpy()) for one, other in zip(old, new))
    with pytest.raises(files.DataError, match='SGD'):
        model_files.restore_optimizer(str(tmp_path / 'model'), training_of(runtime, '--optimizer=sgd').optimizer)
