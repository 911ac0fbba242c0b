# SPDX-License-Identifier: Apache-2.0
"""torchvision's ShuffleNetV2: the same scores from the same weights, the same pixels from the same picture."""
import io
import json
import os
import sys
import types

import numpy as np
import pytest
from conftest import ROOT
from torchvision_tensors import random_tensors

FOLDER = os.path.join(ROOT, 'ShufflenetV2_ID0371_For_Tensorflow')
sys.path.insert(0, FOLDER)
import arguments  # noqa: E402
import pretrained  # noqa: E402
from common.files import DataError  # noqa: E402

smoke = pytest.mark.smoke
NAMES = {'0.5': 'shufflenet_v2_x0_5', '1.0': 'shufflenet_v2_x1_0', '1.5': 'shufflenet_v2_x1_5',
         '2.0': 'shufflenet_v2_x2_0'}


@pytest.fixture(scope='module')
def torchvision():
    pytest.importorskip('torch', reason='pip install torch==2.13.0; pip install --no-deps torchvision==0.28.0')
    # It carries compiled operators for CUDA only; the models are plain Python.
    sys.modules.setdefault('torchvision._meta_registrations', types.ModuleType('torchvision._meta_registrations'))
    return pytest.importorskip('torchvision')


@pytest.fixture(scope='module')
def tf():
    import tensorflow.compat.v1 as tf
    tf.disable_v2_behavior()
    return tf


def loaded(tf, session, weights):
    """Gives the variables of the current graph these values; all of them must be there."""
    variables = [variable for variable in tf.global_variables() if variable.op.name != 'global_step']
    session.run([variable.initializer for variable in variables],
                {variable.initializer.inputs[1]: weights[variable.op.name] for variable in variables})


@pytest.mark.parametrize('width', sorted(NAMES))
def test_scores_are_torchvisions(torchvision, tf, width):
    import torch

    import architecture
    tensors = random_tensors(width)
    network = getattr(torchvision.models, NAMES[width])()
    network.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()})
    network.eval()
    pixels = np.kron(np.random.RandomState(1).randint(0, 256, [2, 14, 14, 3]), np.ones([1, 16, 16, 1])).astype(np.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        wanted = network(((torch.tensor(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)).numpy()
    with tf.Graph().as_default(), tf.Session() as session:
        scores = architecture.logits(tf.constant(pixels), False, 1000, width, 'torchvision')
        loaded(tf, session, pretrained.from_torchvision('file', tensors))
        found = session.run(scores)
    assert 1 < wanted.std() < 30 and (wanted[0] - wanted[1]).std() > 0.1
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize('width', ['1.0', '2.0'])
@pytest.mark.parametrize('size', [(500, 375), (333, 500), (900, 901), (120, 90), (256, 256)])
def test_pixels_are_torchvisions(torchvision, tf, width, size):
    from PIL import Image

    import input_pipeline
    random = np.random.RandomState(0)
    image = Image.fromarray(random.randint(0, 256, [size[1] // 20, size[0] // 20, 3]).astype(np.uint8)).resize(size)
    stream = io.BytesIO()
    image.save(stream, 'JPEG', quality=90)
    shorter_px = input_pipeline.shorter_px_of('torchvision', width)
    transforms = torchvision.models.get_weight('ShuffleNet_V2_X%s_Weights.IMAGENET1K_V1' % width.replace('.', '_'))
    preset = transforms.transforms(mean=(0, 0, 0), std=(1, 1, 1))
    wanted = preset(Image.open(io.BytesIO(stream.getvalue()))).permute(1, 2, 0).numpy()
    with tf.Graph().as_default(), tf.Session() as session:
        found = session.run(input_pipeline.decode(
            tf, tf.constant(stream.getvalue()), tf.constant(input_pipeline.centre_window(*size[::-1], shorter_px)),
            tf.constant(False), None, True, shorter_px))
    assert wanted.std() > 0.1
    np.testing.assert_allclose(found / 255, wanted, rtol=0, atol=2 / 255)


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_a_picture_is_taken_for_what_torchvision_takes_it_for(torchvision, tmp_path, capsys, ending):
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    import predict
    tensors = {name: torch.tensor(array) for name, array in random_tensors('1.5', 7).items()}
    network = torchvision.models.shufflenet_v2_x1_5(num_classes=7)
    network.load_state_dict(tensors)
    network.eval()
    file = str(tmp_path / ('weights.' + ending))
    (torch.save if ending == 'pth' else save_file)(tensors, file)
    noise = np.random.RandomState(0).randint(0, 256, [9, 12, 3]).astype(np.uint8)
    Image.fromarray(noise).resize((400, 300)).save(str(tmp_path / 'a.jpg'), quality=95)
    preset = torchvision.models.ShuffleNet_V2_X1_5_Weights.IMAGENET1K_V1.transforms()
    with torch.no_grad():
        wanted = network(preset(Image.open(str(tmp_path / 'a.jpg')))[None]).softmax(1)[0].numpy()
    assert predict.main([str(tmp_path / 'a.jpg'), '--checkpoint=' + file, '--output_path=%s' % tmp_path, '--top=7',
                         '--device=cpu']) == 0, capsys.readouterr().out
    picture, = json.loads((tmp_path / 'predictions.json').read_text())['pictures']
    found = {guess['class']: guess['probability'] for guess in picture['guesses']}
    assert [found['class %d' % label] for label in range(7)] == pytest.approx(wanted.tolist(), abs=0.02)
    assert picture['guesses'][0]['class'] == 'class %d' % wanted.argmax()


def test_its_names_and_shapes_are_known(torchvision):
    for width, name in NAMES.items():
        state = getattr(torchvision.models, name)().state_dict()
        assert {key: tuple(tensor.shape) for key, tensor in state.items()} == {
            key: array.shape for key, array in random_tensors(width).items()}


# Of random_tensors() and the images of the test below, by torchvision 0.28 with torch 2.13.
GOLDEN = [6.898418, -1.460591, 7.277624, 5.525456, -1.531005, 5.868091, -1.018479, 6.739131, 5.020314, -1.246122]


@smoke
def test_golden_scores(tf):
    import architecture
    pixels = np.random.RandomState(7).randint(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    with tf.Graph().as_default(), tf.Session() as session:
        scores = architecture.logits(tf.constant(pixels), False, 5, '0.5', 'torchvision')
        loaded(tf, session, pretrained.from_torchvision('file', random_tensors('0.5', 5)))
        found = session.run(scores)
    np.testing.assert_allclose(found.ravel(), GOLDEN, rtol=0, atol=1e-4)


@smoke
def test_weights_of_other_networks_are_named():
    tensors = random_tensors('0.5', 5)
    halves = {name: tensor for name, tensor in tensors.items() if not name.startswith(('conv5', 'fc'))}
    for other, said in (({}, '0 tensors'), ({'layer1.0.conv1.weight': np.zeros([1, 1, 1, 1])}, 'layer1.0.conv1.weight'),
                        (halves, 'with conv5.0.weight')):
        with pytest.raises(DataError, match=said):
            pretrained.from_torchvision('file', other)
    parsed = arguments.parse_args(['--depth_multiplier=1.0'])
    with pytest.raises(DataError, match='give --variant=torchvision --depth_multiplier=0.5'):
        pretrained.check_same_network(parsed, 'file', {'variant': 'torchvision', 'depth_multiplier': '0.5'})
