# SPDX-License-Identifier: Apache-2.0
"""Weights to start from: VGG-16 in every form, SSD300 of PyTorch's two, the published reference's; and what is none."""
import io
import json
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import small_networks
from programs import event
from test_network import VGG300, expected_shapes, fresh_graph, made_shapes, seeded_values, tf, vgg_shapes

import export_model  # noqa: E402
import infer  # noqa: E402
import layouts  # noqa: E402
import ssdutils  # noqa: E402
import ssdvgg  # noqa: E402
import train  # noqa: E402
import weights  # noqa: E402
from common import checkpoint  # noqa: E402
from common.files import DataError  # noqa: E402

smoke = pytest.mark.smoke
fresh_graph = fresh_graph  # for each test of this file, too
VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@pytest.fixture
def vgg(monkeypatch):
    """VGG-16 with narrow layers, under the published SavedModel's names: {name: array}."""
    monkeypatch.setattr(ssdutils, 'VGG_BLOCKS', ((4, 2), (4, 2), (6, 3), (8, 3), (8, 3)))
    monkeypatch.setattr(layouts, '_FC_CHANNELS', 16)
    shapes, channels = {}, 3
    for name, count in zip(layouts.convolution_names(), [4] * 4 + [6] * 3 + [8] * 6):
        shapes.update({name + '/filter': (3, 3, channels, count), name + '/biases': (count,)})
        channels = count
    shapes.update({'fc6/weights': (7, 7, 8, 16), 'fc6/biases': (16,), 'fc7/weights': (1, 1, 16, 16),
                   'fc7/biases': (16,)})
    random = np.random.RandomState(0)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def without_top(vgg):
    return {name: array for name, array in vgg.items() if not name.startswith('fc')}


def layer_pairs(vgg):
    """[(layer, kernel, biases)]"""
    layers = [name.split('/')[0] for name in vgg if name.endswith('/biases')]
    return [(layer, vgg[layer + ('/weights' if layer.startswith('fc') else '/filter')], vgg[layer + '/biases'])
            for layer in layers]


def as_npz(folder, arrays):
    np.savez(str(folder / 'vgg.npz'), **arrays)
    return folder / 'vgg.npz'


def as_saved_model(folder, arrays):
    """What tag and graph a SavedModel has does not matter: its variables are read."""
    with tf.Graph().as_default(), tf.Session() as session:
        for name, array in arrays.items():
            tf.get_variable(name, initializer=array)
        session.run(tf.global_variables_initializer())
        builder = tf.saved_model.Builder(str(folder / 'model' / 'vgg'))
        builder.add_meta_graph_and_variables(session, ['vgg16'])
        builder.save()
    return folder / 'model'


def as_keras(path, arrays, layout):
    """An .h5 as Keras 1 (the published file), Keras 2 and 3 (whole model), or Keras 3 (.weights.h5) write it."""
    import h5py
    pairs = layer_pairs(arrays) + [('fc8', np.zeros([1, 1, 16, 2], np.float32), np.zeros(2, np.float32))]
    names = {}
    with h5py.File(path, 'w') as file:
        for count, (place, kernel, biases) in enumerate(pairs):
            first_top = next((number for number, pair in enumerate(pairs) if pair[0].startswith('fc')), 0)
            if place.startswith('fc'):
                kernel = kernel.reshape(-1, kernel.shape[-1])
                name, number = {'fc6': 'fc1', 'fc7': 'fc2', 'fc8': 'predictions'}[place], count - first_top
            else:
                name, number = 'block%s_conv%s' % tuple(place[4:].split('_')), count
            kind = 'dense' if place.startswith('fc') else 'conv2d'
            numbered = '%s_%d' % (kind, number) if number else kind
            for which, array in enumerate((kernel, biases)):
                within = {'keras1': '%s_%s_1:0' % (name, 'Wb'[which]), 'keras2': '%s/%s:0' % (name, (
                    'kernel', 'bias')[which]), 'keras3': 'vars/%d' % which}[layout]
                layer = {'keras1': name, 'keras2': 'model_weights/' + name, 'keras3': 'layers/' + numbered}[layout]
                file['%s/%s' % (layer, within)] = array
                names.setdefault(name, []).append(within.encode())
        if layout == 'keras2':
            for layer, of_layer in names.items():
                file['model_weights'][layer].attrs['weight_names'] = of_layer
            file['model_weights'].attrs['layer_names'] = [layer.encode() for layer in names]
            file['optimizer_weights/SGD/block1_conv1/kernel/momentum:0'] = np.zeros([3, 3, 3, 4])
        if layout == 'keras3':
            file['optimizer/vars/1'] = np.zeros([3, 3, 3, 4])
    return path


def as_archive(path, arrays):
    content = io.BytesIO()
    as_keras(content, arrays, 'keras3')
    with zipfile.ZipFile(str(path), 'w') as archive:
        archive.writestr('config.json', '{}')
        archive.writestr('model.weights.h5', content.getvalue())
    return path


def of_torch(vgg, convolution='features.%d', top='classifier.%d'):
    """The same network's state_dict, of numpy arrays."""
    tensors = {}
    for (layer, kernel, biases), place in zip(layer_pairs(vgg), VGG_PLACES + (0, 3)):
        name = (top if layer.startswith('fc') else convolution) % place
        weight = kernel.transpose(3, 2, 0, 1)
        tensors[name + '.weight'] = np.ascontiguousarray(
            weight.reshape(len(weight), -1) if layer.startswith('fc') else weight)
        tensors[name + '.bias'] = biases
    return tensors


def as_safetensors(path, tensors):
    numpy = pytest.importorskip('safetensors.numpy')
    numpy.save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, str(path))
    return path


def as_pth(path, tensors, **more):
    torch = pytest.importorskip('torch')
    torch.save(dict({name: torch.from_numpy(array.copy()) for name, array in tensors.items()}, **more), str(path))
    return path


def found(path, colours=None):
    return weights.arrays_of(tf, weights.find_vgg16(str(path), colours))


def complaint(path, **words):
    with pytest.raises(DataError) as error:
        found(path, **words)
    assert str(error.value).count('\n') == 0 and len(str(error.value)) < 700
    return str(error.value)


def check_top(arrays, vgg):
    """fc6 keeps every third pixel and fourth channel, fc7 every fourth channel."""
    fc6, fc7 = arrays['mod_conv6/filter'], arrays['mod_conv7/filter']
    assert fc6.shape == (3, 3, 8, 4) and fc7.shape == (1, 1, 4, 4) and fc6.dtype == np.float32
    for row in range(3):
        for column in range(3):
            for channel in range(4):
                np.testing.assert_array_equal(fc6[row, column, :, channel],
                                              vgg['fc6/weights'][3 * row, 3 * column, :, 4 * channel])
    for one in range(4):
        for other in range(4):
            assert fc7[0, 0, one, other] == vgg['fc7/weights'][0, 0, 4 * one, 4 * other]
        assert arrays['mod_conv6/biases'][one] == vgg['fc6/biases'][4 * one]
        assert arrays['mod_conv7/biases'][one] == vgg['fc7/biases'][4 * one]


# VGG-16

@smoke
@pytest.mark.parametrize('form', ['npz', 'SavedModel', 'keras1', 'keras2', 'keras3', 'keras', 'safetensors', 'timm',
                                  'pth'])
def test_vgg16_is_read_from_every_format(form, vgg, tmp_path):
    path = {
        'npz': lambda: as_npz(tmp_path, dict(vgg, extra=np.zeros(1))),
        'SavedModel': lambda: as_saved_model(tmp_path, dict(vgg, **{'conv1_1/filter/Momentum': vgg['conv1_1/filter']})),
        'keras': lambda: as_archive(tmp_path / 'vgg.keras', vgg),
        'safetensors': lambda: as_safetensors(tmp_path / 'a', of_torch(vgg)),
        'pth': lambda: as_pth(tmp_path / 'a', of_torch(vgg)),
        'timm': lambda: as_safetensors(tmp_path / 'model.safetensors', {
            name.replace('classifier.0', 'pre_logits.fc1').replace('classifier.3', 'pre_logits.fc2'): array.reshape(
                16, -1, 7, 7) if name == 'classifier.0.weight' else array[:, :, None, None]
            if name == 'classifier.3.weight' else array for name, array in of_torch(vgg).items()}),
    }.get(form, lambda: as_keras(str(tmp_path / 'vgg.h5'), vgg, form))()
    arrays = found(path)
    check_top(arrays, vgg)
    for name, array in without_top(vgg).items():
        if name != 'conv1_1/filter' or form not in ('safetensors', 'timm', 'pth'):  # the next test's
            np.testing.assert_array_equal(arrays[name], array)
    assert len(arrays) == 30


# What a first convolution is fed: of BGR pixels, its three maps in the order of its channels.
FED = {
    'keras': lambda b, g, r: (b - 103.939, g - 116.779, r - 123.68),
    'reference': lambda b, g, r: (r - 103.939, g - 116.779, b - 123.68),
    'amdegroot': lambda b, g, r: (r - 123, g - 117, b - 104),
    'torchvision_ssd': lambda b, g, r: (r - 255 * 0.48235, g - 255 * 0.45882, b - 255 * 0.40784),
    'torchvision': lambda b, g, r: ((r / 255 - 0.485) / 0.229, (g / 255 - 0.456) / 0.224, (b / 255 - 0.406) / 0.225),
}


def colours_of(path, words=None):
    """The colours that the first convolution of a file is taken to be for, by what ours computes."""
    source = weights.find_vgg16(str(path), words)
    pixels = np.random.RandomState(3).uniform(0, 255, (3, 3, 3))
    ours = np.tensordot(pixels - layouts.mean_bgr(source.colours), source.arrays['conv1_1/filter'], 3)
    return ours, pixels, source.colours


@pytest.mark.parametrize('form, expected', [
    ('keras', 'keras'), ('npz', 'keras'), ('torchvision', 'torchvision'), ('features', 'torchvision_ssd'),
    ('nan', 'torchvision_ssd'), ('reducedfc', 'amdegroot'), ('asked', 'reference'), ('slices', 'torchvision')])
def test_the_first_convolution_computes_what_it_was_trained_to(form, expected, vgg, tmp_path):
    features = of_torch(without_top(vgg))
    nan = {name: array * np.float32(np.nan) if 'classifier' in name else array for name, array in of_torch(vgg).items()}
    reduced = dict(without_top(vgg), **{'fc6/weights': np.ones([3, 3, 8, 4], np.float32), 'fc6/biases': np.ones(
        4, np.float32), 'fc7/weights': np.ones([1, 1, 4, 4], np.float32), 'fc7/biases': np.ones(4, np.float32)})
    path = {
        'keras': lambda: as_keras(str(tmp_path / 'vgg.h5'), without_top(vgg), 'keras1'),
        'torchvision': lambda: as_safetensors(tmp_path / 'v', of_torch(vgg)),
        'features': lambda: as_safetensors(tmp_path / 'v', features),
        'nan': lambda: as_safetensors(tmp_path / 'v', nan),
        'reducedfc': lambda: as_safetensors(tmp_path / 'v', {
            {'0': '31', '3': '33'}.get(name[4:5], '') + name[5:] if name.startswith('top') else name: array.reshape(
                4, -1, 3, 3) if name == 'top.0.weight' else array[:, :, None, None] if name == 'top.3.weight' else array
            for name, array in of_torch(reduced, '%d', 'top.%d').items()}),
        'slices': lambda: as_safetensors(tmp_path / 'v', {'slice.' + name: array for name, array in features.items()}),
    }.get(form, lambda: as_npz(tmp_path, vgg))()
    if form == 'slices':
        assert 'found others; give --colours' in complaint(path)
    ours, pixels, colours = colours_of(path, expected if form in ('asked', 'slices') else None)
    assert colours == expected
    fed = np.stack(FED[colours](*np.moveaxis(pixels, 2, 0)), 2)
    np.testing.assert_allclose(ours, np.tensordot(fed, vgg['conv1_1/filter'], 3), rtol=2e-5, atol=2e-4)


@smoke
def test_a_trunk_under_other_names_serves_and_fc6_and_fc7_begin_anew(vgg, tmp_path):
    import h5py
    path = str(tmp_path / 'edges.weights.h5')
    with h5py.File(path, 'w') as file:
        for layer, kernel, biases in reversed(layer_pairs(without_top(vgg))):
            block, number = layer[4], int(layer[6]) - 1
            layer = 'block%s/layers/conv2d%s/vars/' % (block, '_%d' % number if number else '')
            file[layer + '0'], file[layer + '1'] = kernel, biases
        file['dsn1/vars/0'], file['dsn1/vars/1'] = np.zeros([1, 1, 4, 1]), np.zeros(1)
    arrays = found(path)
    assert len(arrays) == 26
    for name, array in without_top(vgg).items():
        np.testing.assert_array_equal(arrays[name], array)
    with h5py.File(path, 'a') as file:  # a decoder
        file['up/vars/0'], file['up/vars/1'] = np.zeros([3, 3, 8, 8]), np.zeros(8)
    assert 'found 14 such' in complaint(path)
    with h5py.File(path, 'a') as file:
        del file['up']
        for name in ('0', '1'):
            file.move('block1/layers/conv2d/vars/' + name, 'z/' + name)
    assert 'in their order, by name; found them in the order block1/layers/conv2d_1/vars, ' in complaint(path)


def test_decimated_layers_are_taken_as_they_are(vgg, tmp_path):
    random = np.random.RandomState(1)
    small = {'fc6/weights': (3, 3, 8, 4), 'fc6/biases': (4,), 'fc7/weights': (1, 1, 4, 4), 'fc7/biases': (4,)}
    small = {name: random.normal(size=shape) for name, shape in small.items()}
    arrays = found(as_npz(tmp_path, dict(vgg, **small)))
    for name, array in small.items():
        ours = name.replace('fc', 'mod_conv').replace('weights', 'filter')
        np.testing.assert_array_equal(arrays[ours], array.astype(np.float32))


class Runs:
    def __reduce__(self):
        return exec, ('open("ran", "w")',)


@smoke
def test_another_file_than_vgg16_is_named(vgg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 'no such file' in complaint(tmp_path / 'none')
    assert 'variables/variables.index; found neither' in complaint(tmp_path)
    (tmp_path / 'pointer.h5').write_bytes(b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n')
    assert 'a Git LFS pointer' in complaint(tmp_path / 'pointer.h5')
    (tmp_path / 'notes.txt').write_text('x')
    assert 'notes.txt: expected' in complaint(tmp_path / 'notes.txt')
    for name, make in (('vgg.npz', lambda: as_npz(tmp_path, vgg)), ('k', lambda: as_keras('k', vgg, 'keras1')),
                       ('a', lambda: as_archive(tmp_path / 'a', vgg)),
                       ('s', lambda: as_safetensors(tmp_path / 's', of_torch(vgg)))):
        make()
        for share in (0.99, 0.5, 0.1):
            content = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(content[:int(len(content) * share)])
            assert '%s: expected ' % name in complaint(tmp_path / name)
            (tmp_path / name).write_bytes(content)
    np.savez('pickled.npz', **dict(vgg, extra=np.array([Runs()], object)))
    assert 'plain arrays' in complaint('pickled.npz') and not os.path.exists('ran')
    whole = as_saved_model(tmp_path, vgg) / 'vgg' / 'variables'
    with open(str(whole / 'variables.data-00000-of-00001'), 'r+b') as file:
        file.truncate(100)
    assert 'whole TensorFlow checkpoint' in complaint(whole.parent)


def test_another_network_than_vgg16_is_named(vgg, tmp_path):
    def said(arrays):
        return complaint(as_npz(tmp_path, arrays))
    deeper = dict(vgg, **{'conv5_4/filter': vgg['conv5_3/filter'], 'conv5_4/biases': vgg['conv5_3/biases']})
    assert 'VGG-16, 13 convolutions of 3x3 from 3 to 8 channels, or SSD300 of' in said(deeper)
    assert 'found 14 such' in said(deeper)
    shallow = {name: array for name, array in vgg.items() if not name.startswith('conv3_3')}
    assert 'found 12 such' in said(shallow)
    assert 'found 12 such' in said(dict(vgg, **{'conv3_1/filter': np.zeros([6, 4, 3, 3], np.float32)}))
    assert 'found 0 such convolutions among 1 arrays, a' in said({'a': np.zeros(3)})
    assert 'found float16 in conv1_1/' in said({name: array.astype(np.float16) for name, array in vgg.items()})
    assert 'found none beside conv2_1' in said({name: vgg[name] for name in vgg if name != 'conv2_1/biases'})
    assert 'expected finite numbers; found others in conv2_1/filter' in said(dict(vgg, **{'conv2_1/filter': vgg[
        'conv2_1/filter'] * np.inf}))
    normalised = dict(vgg)
    for layer in layouts.convolution_names():
        normalised.update({'norm_%s/%s' % (layer, name): np.zeros(4, np.float32) for name in 'abcd'})
    assert 'without batch normalisation; found one in norm_conv1_1' in said(normalised)


@smoke
def test_halves_are_refused(vgg, tmp_path):
    halves = {name: array.astype(np.float16) for name, array in of_torch(vgg).items()}
    assert 'F16 in' in complaint(as_safetensors(tmp_path / 's', halves))
    assert 'torch.float16 in' in complaint(as_pth(tmp_path / 'p', halves))


def test_pytorch_files(vgg, tmp_path, monkeypatch):
    torch = pytest.importorskip('torch')
    monkeypatch.chdir(tmp_path)
    path = as_pth(tmp_path / 'v.pth', of_torch(vgg))
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    assert 'whole archive' in complaint(path)
    as_pth(path, of_torch(vgg), run=Runs())
    assert 'a pickle that would run code' in complaint(path) and not os.path.exists('ran')
    monkeypatch.setitem(sys.modules, 'torch', None)
    assert 'the same weights as .safetensors' in complaint(path)
    assert torch


def test_without_pytorch_nothing_of_a_pickle_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'torch', None)
    (tmp_path / 'v.pth').write_bytes(pickle.dumps({'a': Runs()}, 2))
    assert '.safetensors' in complaint('v.pth') and not os.path.exists('ran')


def test_starting_weights_reach_the_network_and_the_rest_is_named():
    ssdvgg.predictions(tf.zeros([1, 300, 300, 3], tf.uint8), VGG300, 2)
    values = {name: np.full(shape, number, np.float32) for number, (name, shape) in enumerate(vgg_shapes().items(), 1)}
    source = weights.Source('vgg', layouts.VGG, 'keras', {}, values)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        loaded = weights.load_fitting(tf, session, source, ['one', 'two'])
        made = {variable.op.name: variable for variable in tf.global_variables()}
        for name, array in session.run({name: made[name] for name in values}).items():
            np.testing.assert_array_equal(array, values[name])
        # He's weights, less the size of a trained trunk's map.
        assert session.run(made['mod_conv6/filter']).std() == pytest.approx((2 / (9 * 512)) ** 0.5 / 16, rel=0.02)
        assert session.run(made['conv8_1/filter']).std() == pytest.approx((2 / 1024) ** 0.5, rel=0.02)
    assert loaded.names == sorted(values) and loaded.anew == sorted(set(made) - set(values))
    assert {'mod_conv6/filter', 'mod_conv7/biases', 'classifiers/classifier0_0/filter'} < set(loaded.anew)


# SSD300 of PyTorch

def of_torchvision(values, kinds_of):
    """Weights by our names -> torchvision's state_dict of numpy arrays."""
    names = ['conv%d_%d' % (block, number) for block, count in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3))
             for number in range(1, count + 1)]
    places = dict(zip(names, ['backbone.features.%d' % place for place in VGG_PLACES[:10]] + [
        'backbone.extra.0.1', 'backbone.extra.0.3', 'backbone.extra.0.5']))
    places.update({'mod_conv6': 'backbone.extra.0.7.1', 'mod_conv7': 'backbone.extra.0.7.3'})
    places.update({'conv%d_%d' % (layer, number): 'backbone.extra.%d.%d' % (layer - 7, 2 * number - 2)
                   for layer in (8, 9, 10, 11) for number in (1, 2)})
    return of_torch_ssd(values, kinds_of, places, 'backbone.scale_weight', 'head.classification_head.module_list.%d',
                        'head.regression_head.module_list.%d')


def of_amdegroot(values, kinds_of):
    """The same for ssd.pytorch."""
    names = ['conv%d_%d' % (block, number) for block, count in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3))
             for number in range(1, count + 1)]
    places = dict(zip(names + ['mod_conv6', 'mod_conv7'], ['vgg.%d' % place for place in VGG_PLACES + (31, 33)]))
    places.update({'conv%d_%d' % (layer, number): 'extras.%d' % (2 * layer - 17 + number)
                   for layer in (8, 9, 10, 11) for number in (1, 2)})
    return of_torch_ssd(values, kinds_of, places, 'L2Norm.weight', 'conf.%d', 'loc.%d')


def of_torch_ssd(values, kinds_of, places, scale, scores, offsets):
    tensors = {scale: values['l2_norm_conv4_3/scale']}
    for layer, place in places.items():
        tensors[place + '.weight'] = values[layer + '/filter'].transpose(3, 2, 0, 1)
        tensors[place + '.bias'] = values[layer + '/biases']
    for number, kinds in enumerate(kinds_of):
        order = [0, 5, 1, 3, 2, 4] if kinds == 6 else [0, 3, 1, 2]  # 1, between, 2, 1/2, 3, 1/3
        by_kind = [{end: values['classifiers/classifier%d_%d/%s' % (number, kind, end)] for end in ('filter', 'biases')}
                   for kind in order]
        for name, columns in ((scores, lambda array: np.concatenate([array[..., -5:-4], array[..., :-5]], -1)),
                              (offsets, lambda array: array[..., -4:])):
            tensors[name % number + '.weight'] = np.concatenate([
                columns(of_kind['filter']) for of_kind in by_kind], -1).transpose(3, 2, 0, 1)
            tensors[name % number + '.bias'] = np.concatenate([columns(of_kind['biases']) for of_kind in by_kind], -1)
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


KINDS = [4, 6, 6, 6, 4, 4]
LAYOUTS = {'torchvision300': of_torchvision, 'amdegroot300': of_amdegroot}


@pytest.mark.parametrize('preset', sorted(LAYOUTS))
def test_every_weight_of_pytorchs_networks_finds_its_place(preset, monkeypatch, tmp_path):
    small_networks.install(monkeypatch.setattr)
    with tf.Graph().as_default():
        ssdvgg.predictions(tf.zeros([1, 300, 300, 3]), ssdutils.PRESETS[preset], 4)
        values = seeded_values(made_shapes())
    tensors = LAYOUTS[preset](values, KINDS)
    source = weights.find(str(as_safetensors(tmp_path / 's', tensors)))
    assert source.state == {'preset': preset, 'num_classes': 4} and set(source.arrays) == set(values)
    values['conv1_1/filter'] = values['conv1_1/filter'][:, :, ::-1]
    for name, array in values.items():
        np.testing.assert_array_equal(source.arrays[name], array)
    assert 'expected a VGG-16; found ' in complaint(tmp_path / 's')
    assert weights.class_names(tf, source) == ['class 0', 'class 1', 'class 2', 'class 3']
    with pytest.raises(DataError, match='expected 4 classes, as .* has; found 3; '):
        weights.check_classes(source, ['a', 'b', 'c'], 'data')
    mark = next(name for name in tensors if name.endswith('2.bias') and 'head' not in name)
    head = 'head.regression_head.module_list.2.bias' if preset == 'torchvision300' else 'loc.2.bias'
    for bad, said in (({name: array for name, array in tensors.items() if name != mark}, 'no such array'),
                      (dict(tensors, strange=tensors[mark]), 'one with strange besides'),
                      (dict(tensors, **{mark: tensors[mark] * np.float32(np.nan)}), 'expected finite numbers'),
                      (dict(tensors, **{head: tensors[head][1:]}), '6 kinds of boxes on map 2; found an array of sh')):
        with pytest.raises(DataError, match=said):
            weights.find(str(as_safetensors(tmp_path / 's', bad)))


def shifted_copy(tensors):
    """Random values with the sizes that keep maps about as large, so that every part says something."""
    random = np.random.RandomState(5)
    for name, tensor in tensors.items():
        if tensor.ndim == 4:
            scale = (2.0 if 'head' not in name and 'loc' not in name and 'conf' not in name else 0.5) / np.prod(
                tensor.shape[1:])
            if tensor.shape[1] == 3:
                scale /= 64 ** 2
            tensors[name] = random.normal(0, scale ** 0.5, tensor.shape).astype(np.float32)
        else:
            tensors[name] = random.normal(20 if 'scale' in name or 'L2' in name else 0, 0.1, tensor.shape).astype(
                np.float32)
    return tensors


def ours_of(path, image):
    """Scores [N, classes + 1] and boxes_xyxy [N, 4] of a BGR image by a file of weights."""
    source = weights.find(str(path))
    preset = ssdutils.PRESETS[source.state['preset']]
    result = ssdvgg.result(*ssdvgg.predictions(tf.constant(image[None]), preset, len(weights.class_names(tf, source)),
                                               **weights.network_options(source)))
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        weights.restore(tf, session, source, preset.name)
        result = session.run(result)[0]
    return result[:, :-4], ssdutils.cxcywh_to_xyxy(ssdutils.decode(result[:, -4:], ssdutils.default_boxes(preset)))


def rows_by_cell():
    """The places of our rows in the order of PyTorch's: cell by cell, its kinds 1, between, 2, 1/2, 3, 1/3."""
    places, first = [], 0
    for cells, kinds in zip(VGG300.map_cells, KINDS):
        ours = first + np.arange(kinds * cells * cells).reshape(kinds, -1)
        places.append(ours[[0, 5, 1, 3, 2, 4] if kinds == 6 else [0, 3, 1, 2]].T.ravel())
        first += kinds * cells * cells
    return np.concatenate(places)


def check_equal(ours, scores, boxes_xyxy):
    rows = rows_by_cell()
    assert scores.std() > 0.05 and (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).std() > 0.05
    np.testing.assert_allclose(np.roll(ours[0], 1, -1)[rows], scores, atol=1e-4)  # their background is first
    np.testing.assert_allclose(ours[1][rows], boxes_xyxy, atol=1e-4)


def test_torchvisions_ssd300_gives_the_same_scores_and_boxes(tmp_path):
    torch = pytest.importorskip('torch')
    sys.modules.setdefault('torchvision._meta_registrations', types.ModuleType('torchvision._meta_registrations'))
    detection = pytest.importorskip('torchvision.models.detection')
    model = detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=8).eval()
    tensors = shifted_copy({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    image = np.random.RandomState(2).randint(0, 256, (300, 300, 3)).astype(np.uint8)
    with torch.no_grad():
        rgb = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1]))
        pixels, _ = model.transform([rgb.permute(2, 0, 1) / 255.0])
        maps = list(model.backbone(pixels.tensors).values())
        outputs = model.head(maps)
        anchors = model.anchor_generator(pixels, maps)[0]
        scores = outputs['cls_logits'].softmax(-1)[0].numpy()
        boxes = model.box_coder.decode_single(outputs['bbox_regression'][0], anchors).numpy() / 300
    check_equal(ours_of(as_pth(tmp_path / 'ssd.pth', tensors), image), scores, boxes)
    names = detection.SSD300_VGG16_Weights.COCO_V1.meta['categories']
    assert names[1:] == layouts.COCO_CLASSES and names[0] == '__background__'


def amdegroot_forward(torch, tensors, rgb):
    """ssd.pytorch's network, as its ssd.py and layers/ compute it, of an image float [1, 3, 300, 300] less the mean.

    Returns:
      (scores [N, classes + 1], offsets [N, 4], default boxes cxcywh [N, 4]).
    """
    functional = torch.nn.functional

    def convolution(x, name, **words):
        return functional.conv2d(x, tensors[name + '.weight'], tensors[name + '.bias'], **words)

    x = rgb
    for place in VGG_PLACES:
        if place in (5, 10, 17, 24):
            if place == 24:
                length = x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10
                sources = [tensors['L2Norm.weight'][None, :, None, None] * (x / length)]
            x = functional.max_pool2d(x, 2, 2, ceil_mode=place == 17)
        x = functional.relu(convolution(x, 'vgg.%d' % place, padding=1))
    x = functional.max_pool2d(x, 3, 1, 1)
    x = functional.relu(convolution(x, 'vgg.31', padding=6, dilation=6))
    x = functional.relu(convolution(x, 'vgg.33'))
    sources.append(x)
    for place in range(8):
        halves = place in (1, 3)
        x = functional.relu(convolution(x, 'extras.%d' % place, stride=1 + halves, padding=int(halves)))
        if place % 2:
            sources.append(x)
    by_map = [[convolution(x, '%s.%d' % (head, number), padding=1).permute(0, 2, 3, 1).reshape(-1, size)
               for head, size in (('conf', 8), ('loc', 4))] for number, x in enumerate(sources)]
    scores, offsets = (torch.cat(parts) for parts in zip(*by_map))
    boxes, sides = [], (30, 60, 111, 162, 213, 264, 315)
    for number, (cells, step) in enumerate(zip((38, 19, 10, 5, 3, 1), (8, 16, 32, 64, 100, 300))):
        side, following = sides[number] / 300, sides[number + 1] / 300
        for row in range(cells):
            for column in range(cells):
                centre = [(column + 0.5) / (300 / step), (row + 0.5) / (300 / step)]
                shapes = [(side, side), ((side * following) ** 0.5,) * 2]
                for ratio in (2, 3)[:1 + (KINDS[number] == 6)]:
                    shapes += [(side * ratio ** 0.5, side / ratio ** 0.5), (side / ratio ** 0.5, side * ratio ** 0.5)]
                boxes += [centre + list(shape) for shape in shapes]
    return scores.softmax(-1), offsets, torch.tensor(boxes).clamp(0, 1)


def test_amdegroots_ssd300_gives_the_same_scores_and_boxes(tmp_path):
    torch = pytest.importorskip('torch')
    with tf.Graph().as_default():
        ssdvgg.predictions(tf.zeros([1, 300, 300, 3]), ssdutils.PRESETS['amdegroot300'], 7)
        shapes = made_shapes()
    tensors = shifted_copy(of_amdegroot({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, KINDS))
    image = np.random.RandomState(2).randint(0, 256, (300, 300, 3)).astype(np.uint8)
    with torch.no_grad():
        rgb = torch.from_numpy(image[:, :, ::-1].astype(np.float32)) - torch.tensor([123.0, 117.0, 104.0])
        scores, offsets, defaults = amdegroot_forward(
            torch, {name: torch.from_numpy(array) for name, array in tensors.items()}, rgb.permute(2, 0, 1)[None])
        boxes = torch.cat([defaults[:, :2] + offsets[:, :2] * 0.1 * defaults[:, 2:],
                           defaults[:, 2:] * torch.exp(offsets[:, 2:] * 0.2)], 1).numpy()
    check_equal(ours_of(as_pth(tmp_path / 'ssd.pth', tensors), image), scores.numpy(), ssdutils.cxcywh_to_xyxy(boxes))


# Checkpoints

def write_checkpoint(folder, preset, classes, **more):
    """A checkpoint with the published names and what the reference leaves in it besides."""
    with tf.Graph().as_default(), tf.Session() as session:
        shapes = expected_shapes(preset, classes)
        values = dict({name: np.full(shape, number, np.float32) for number, (name, shape) in enumerate(shapes.items())},
                      **more)
        variables = [tf.get_variable(name, initializer=value) for name, value in values.items()]
        session.run(tf.global_variables_initializer())
        return tf.train.Saver(variables).save(session, str(folder / 'final.ckpt'), write_meta_graph=False), values


@smoke
def test_a_published_checkpoint_loads_by_name_with_its_first_kernel_turned_round(tmp_path):
    kernel = np.random.RandomState(0).normal(size=(3, 3, 3, 64)).astype(np.float32)
    more = {'fc6/weights': np.zeros(3, np.float32), 'conv1_1/filter/Momentum': np.zeros(3, np.float32),
            'learning_rate/global_step': np.int32(7), 'conv1_1/filter': kernel}
    prefix, values = write_checkpoint(tmp_path, 'vgg300', 4, **more)
    assert checkpoint.find_checkpoint(str(prefix)) == (str(prefix), {})
    ssdvgg.predictions(tf.zeros([1, 300, 300, 3], tf.uint8), VGG300, 4)
    made = {variable.op.name: variable for variable in tf.global_variables()}
    with tf.Session() as session:
        for colours, expected, mean in ((None, kernel[:, :, ::-1], [123.68, 116.779, 103.939]),
                                        ('keras', kernel, [103.939, 116.779, 123.68])):
            source = weights.find(prefix, colours=colours)
            weights.restore(tf, session, source, 'vgg300')
            assert list(weights.network_options(source)['mean_bgr']) == mean
            for name, array in session.run(made).items():
                np.testing.assert_array_equal(array, expected if name == 'conv1_1/filter' else values[name])
        assert weights.class_names(tf, source) == ['class 0', 'class 1', 'class 2', 'class 3']
        with open(prefix + '.data-00000-of-00001', 'r+b') as file:
            file.truncate(1000)
        with pytest.raises(DataError, match='final.ckpt: expected a whole TensorFlow checkpoint'):
            weights.restore(tf, session, source, 'vgg300')


@smoke
@pytest.mark.parametrize('stored, classes, wanted, told', [
    ('vgg512', 2, 'vgg300', 'variable classifiers/classifier4_4/biases, which vgg300 does not have'),
    ('vgg300', 2, 'vgg512', 'variable classifiers/classifier4_4/biases of shape [7]; found no such variable'),
    ('vgg300', 3, 'vgg300', 'variable classifiers/classifier0_0/biases of shape [7]; found shape [8]')])
def test_a_checkpoint_of_another_network_is_named(stored, classes, wanted, told, tmp_path):
    prefix, _ = write_checkpoint(tmp_path, stored, classes)
    preset = ssdutils.PRESETS[wanted]
    ssdvgg.predictions(tf.zeros([1, preset.image_px, preset.image_px, 3], tf.uint8), preset, 2)
    with tf.Session() as session:
        with pytest.raises(DataError) as error:
            weights.restore(tf, session, weights.find(prefix), wanted)
    assert told in str(error.value)


def test_a_checkpoint_says_its_preset():
    ours, other = weights.described('p', {'preset': 'vgg512'}), weights.described('p', {})
    assert weights.preset_of(ours, None) == 'vgg512' and ours.colours == 'keras'
    assert weights.described('p', {'preset': 'vgg512', 'colours': 'torchvision'}, 'keras').colours == 'torchvision'
    assert weights.preset_of(other, None) == 'vgg300' and weights.preset_of(other, 'vgg512') == 'vgg512'
    with pytest.raises(DataError, match='--preset: expected vgg512, which p was trained with; found vgg300'):
        weights.preset_of(ours, 'vgg300')


def test_classes_are_found_by_name_in_weights_that_know_more():
    ours = weights.described('p', {'preset': 'vgg300', 'classes': ['a', 'b', 'c']})
    assert weights.columns(ours, ('c', 'a'), 'd') == (3, [2, 0, 3, 4, 5, 6, 7])
    with pytest.raises(DataError, match='class 1 is b; found x'):
        weights.columns(ours, ('a', 'x'), 'd')
    coco, other = (ours._replace(state={'preset': 'torchvision300', 'num_classes': count}) for count in (90, 2))
    assert weights.columns(coco, ('stop sign', 'person'), 'd') == (90, [12, 0, 90, 91, 92, 93, 94])
    assert weights.columns(other, ('x', 'y'), 'd') == (2, [0, 1, 2, 3, 4, 5, 6])  # it has no names
    for source in (coco, other):
        with pytest.raises(DataError, match='expected .* classes, as p has; found 3; '):
            weights.columns(source, ('x', 'y', 'z'), 'd')


# Whole programs

CLASSES = 5  # of drawn pictures


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A processed data set of 4 + 2 drawn images."""
    import process_dataset
    from tools import sampledata
    folder = tmp_path_factory.mktemp('drawn')
    sampledata.draw_voc(str(folder / 'voc'), train=4, test=2)
    return process_dataset.process(str(folder / 'voc'), str(folder / 'processed'))


def narrow_file(folder, preset, classes):
    """SSD300's weights in PyTorch's layout; call it where the network is narrow."""
    with tf.Graph().as_default():
        ssdvgg.predictions(tf.zeros([1, 300, 300, 3]), ssdutils.PRESETS[preset], classes)
        shapes = made_shapes()
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return as_safetensors(folder / ('%s-%d' % (preset, classes)), shifted_copy(LAYOUTS[preset](zeros, KINDS)))


def words(data, output, *more):
    return ['--data_path=%s' % data, '--output_path=%s' % output, '--batch_size=2', '--num_workers=0',
            '--train_steps=1', '--log_every=1', '--eval_every=0', '--no_augment', '--lr-values=1e-12',
            '--lr-boundaries='] + list(more)


@smoke
def test_a_network_of_pytorch_is_evaluated_trained_on_and_exported(data, tmp_path, here):
    path = narrow_file(tmp_path, 'torchvision300', CLASSES)
    image = np.random.RandomState(2).randint(0, 256, (300, 300, 3)).astype(np.uint8)
    expected = ours_of(path, image)[0]
    code, said = here(infer, '--checkpoint=%s' % path, '--data_path=%s' % data, '--num_workers=0', '--batch_size=2',
                      '--output_path=%s' % (tmp_path / 'infer'))
    assert code == 0 and event(said, 'eval')['images'] == '2', said
    command = words(data, tmp_path / 'run', '--init_from=%s' % path)
    code, said = here(train, *command)
    run = event(said, 'run')
    assert code == 0 and run['network'] == 'torchvision300' and run['colours'] == 'torchvision_ssd', said
    assert run['weights_loaded'] == str(len(weights.find(str(path)).arrays)) and run['weights_anew'] == '0'

    state = checkpoint.find_checkpoint(str(tmp_path / 'run'))[1]
    assert state['preset'] == 'torchvision300' and state['colours'] == 'torchvision_ssd'
    tf.reset_default_graph()
    np.testing.assert_allclose(ours_of(tmp_path / 'run', image)[0], expected, atol=1e-4)
    code, said = here(export_model, '--checkpoint=%s' % (tmp_path / 'run'), '--export_dir=%s' % (tmp_path / 'export'))
    assert code == 0, said
    description = json.loads((tmp_path / 'export' / 'model.json').read_text())
    np.testing.assert_allclose(description['preprocessing']['mean_bgr'], [104, 117, 123], atol=1e-3)
    assert description['preset'] == 'torchvision300' and description['classes'] == state['classes']
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(tf.GraphDef.FromString((tmp_path / 'export' / 'frozen_graph.pb').read_bytes()), name='')
        exported = session.run('result/result:0', {'image_input:0': image[None]})[0]
    np.testing.assert_allclose(exported[:, :-4], expected, atol=1e-4)

    metrics = tmp_path / 'run' / 'metrics.jsonl'
    metrics.write_text(''.join(metrics.read_text().splitlines(True)[:-1]))  # as if killed before [done]
    code, said = here(train, *command)
    assert code == 0 and event(said, 'run')['first_step'] == '1' and 'weights_loaded' not in event(said, 'run'), said
    assert event(said, 'run')['colours'] == 'torchvision_ssd'


def test_heads_of_other_classes_begin_anew(data, tmp_path, here):
    path = narrow_file(tmp_path, 'amdegroot300', CLASSES + 1)
    code, said = here(train, *words(data, tmp_path / 'run', '--init_from=%s' % path))
    run = event(said, 'run')
    assert code == 0 and run['network'] == 'amdegroot300' and run['weights_anew'] == '60', said
    assert run['anew'] == 'classifiers'
    code, said = here(train, *words(data, tmp_path / 'own', '--init_from=%s' % (tmp_path / 'run'), '--synthetic'))
    run = event(said, 'run')
    assert code == 0 and run['classes'] == '20' and run['colours'] == 'amdegroot' and run['weights_anew'] == '60', said
    code, said = here(infer, '--checkpoint=%s' % path, '--data_path=%s' % data, '--output_path=%s' % (tmp_path / 'i'))
    assert code == 1 and 'expected 6 classes, as ' in event(said, 'fail')['message'], said
    assert not (tmp_path / 'i').exists()


def test_a_trunk_alone_is_loaded_and_the_log_says_what_begins_anew(data, tmp_path, here):
    shapes = {name: [8 if count == 64 else 8 if count == 128 else 16 if count == 256 else 32 if count == 512 else count
                     for count in shape] for name, shape in vgg_shapes().items()}
    path = as_npz(tmp_path, seeded_values(shapes))
    code, said = here(train, *words(data, tmp_path / 'run', '--vgg_dir=%s' % path))
    run = event(said, 'run')
    assert code == 0 and run['weights_loaded'] == '26' and run['network'] == 'vgg300', said
    assert 'mod_conv6' in run['anew'].split() and 'begin anew' in event(said, 'warn')['message']


def test_what_does_not_fit_leaves_nothing_behind(data, tmp_path, here):
    np.savez(str(tmp_path / 'other.npz'), a=np.zeros(3), b=np.zeros([1, 2, 3, 4]))
    for flag, path, told in (('init_from', 'other.npz', 'found 0 such convolutions among 2 arrays, a, b'),
                             ('vgg_dir', 'other.npz', 'found 0 such'), ('init_from', '.', 'no whole checkpoint')):
        code, said = here(train, *words(data, tmp_path / 'run', '--%s=%s' % (flag, tmp_path / path)))
        assert code == 1 and told in event(said, 'fail')['message'] and 'Traceback' not in said, said
    assert os.listdir(str(tmp_path)) == ['other.npz']
    with pytest.raises(SystemExit):
        train.parse_args(['--init_from=a', '--vgg_dir=b'])
