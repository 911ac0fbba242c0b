# SPDX-License-Identifier: Apache-2.0
"""Where weights come from: a VGG-16 trained on ImageNet, a run of ours, a checkpoint of the published reference."""
import itertools
import os
import zipfile

import numpy as np

import ssdutils
from common import graph_files
from common.files import DataError

_BLOCKS = ssdutils.VGG_BLOCKS
_FC_CHANNELS = 4096  # of fc6 and fc7 (Simonyan and Zisserman 2014, configuration D)
_DO = "give a VGG-16 for ImageNet with its fully connected layers"


def _vgg16_shapes():
    """{name in the SavedModel: shapes that are taken}, the second one of fc6 and fc7 being decimated already."""
    shapes, channels_in = {}, 3
    for block, (channels, convolutions) in enumerate(_BLOCKS, 1):
        for number in range(1, convolutions + 1):
            shapes["conv%d_%d/filter" % (block, number)] = [(3, 3, channels_in, channels)]
            shapes["conv%d_%d/biases" % (block, number)] = [(channels,)]
            channels_in = channels
    all_, kept = _FC_CHANNELS, _FC_CHANNELS // 4
    shapes.update({"fc6/weights": [(7, 7, channels_in, all_), (3, 3, channels_in, kept)],
                   "fc7/weights": [(1, 1, all_, all_), (1, 1, kept, kept)],
                   "fc6/biases": [(all_,), (kept,)], "fc7/biases": [(all_,), (kept,)]})
    return shapes


def read_vgg16(path):
    """Reads VGG-16's weights and decimates fc6 and fc7 to the network's mod_conv6 and mod_conv7.

    fc6, a 7x7 convolution to 4096 channels, keeps every third pixel and every fourth channel; fc7 every fourth channel
    on both sides. The first convolution takes BGR in all three formats, as in this network.

    Args:
      path: one of
        a SavedModel's folder, or the folder above it: conv1_1/filter, conv1_1/biases ... fc6/weights, fc7/biases;
        an .npz with arrays of these names;
        an .h5 of Keras' VGG16 with its top (layers block1_conv1 ... fc1, fc2).
    Returns:
      ({variable: float32 array} of conv1_1 to conv5_3, mod_conv6, mod_conv7; names of arrays that nothing needs).
    Raises:
      DataError: no such file, another format, an array that is missing or has another shape.
    Source: Liu et al. 2016, section 3, after Chen et al. 2014.
    """
    path = os.path.normpath(path)
    if os.path.isdir(path):
        arrays = _read_saved_model(path)
    elif path.endswith(".npz"):
        arrays = _read_npz(path)
    elif path.endswith((".h5", ".hdf5")):
        arrays = _read_keras(path)
    else:
        raise DataError(path, "a SavedModel's folder, an .npz or an .h5 of VGG-16",
                        "another file" if os.path.exists(path) else "no such file", "correct --vgg_dir")
    weights, shapes = {}, _vgg16_shapes()
    if not any(name.startswith("fc") for name in arrays):
        shapes = {name: wanted for name, wanted in shapes.items() if not name.startswith("fc")}
    missing = sorted(set(shapes) - set(arrays))
    if missing:
        raise DataError(path, "VGG-16's %d arrays" % len(shapes), "no " + ", no ".join(missing), _DO)
    for name, wanted in shapes.items():
        array = arrays[name]
        if array.shape not in wanted:
            raise DataError(path, "array %s of shape %s" % (name, " or ".join(map(str, map(list, wanted)))),
                            "shape %s" % list(array.shape), _DO)
        if name.startswith("fc") and array.shape == wanted[0]:
            array = array[{"fc6/weights": np.s_[::3, ::3, :, ::4], "fc7/weights": np.s_[:, :, ::4, ::4]}.get(
                name, np.s_[::4])]
        ours = name.replace("fc", "mod_conv").replace("/weights", "/filter")
        weights[ours] = np.array(array, np.float32, order="C")  # a copy, so that the 4096 channels can go
    return weights, sorted(set(arrays) - set(shapes))


def _read_saved_model(folder):
    import tensorflow.compat.v1 as tf
    for place in (folder, os.path.join(folder, "vgg")):  # as the published archive unpacks
        prefix = os.path.join(place, "variables", "variables")
        if os.path.exists(prefix + ".index"):
            try:
                reader = tf.train.load_checkpoint(prefix)
                return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
            except (tf.errors.OpError, ValueError, IndexError) as error:  # TensorFlow 2 gives the last for a short file
                raise DataError(prefix, "whole variables of a SavedModel", str(error).split("\n")[0],
                                "fetch it again") from error
    raise DataError(folder, "a SavedModel with variables/variables.index", "none", "correct --vgg_dir")


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(path, "an .npz of plain arrays", str(error), "write it with numpy.savez") from error


def _read_keras(path):
    """Arrays of an .h5 under the SavedModel's names.

    Somewhere in a path is the layer's name; in Keras 3's .weights.h5 it is the class's name with a number instead.
    """
    import h5py
    layers = {"fc1": "fc6", "fc2": "fc7", "dense": "fc6", "dense_1": "fc7"}
    places = [(block, number) for block, (_, convolutions) in enumerate(_BLOCKS, 1)
              for number in range(1, convolutions + 1)]
    for count, place in enumerate(places):
        layers["block%d_conv%d" % place] = layers["conv2d_%d" % count if count else "conv2d"] = "conv%d_%d" % place
    arrays = {}

    def visit(name, item):
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer"):
            return
        layer = next((layers[part] for part in name.split("/") if part in layers), None)
        if layer is None:
            arrays[name] = np.empty(item.shape, np.float32)
            return
        kernel = "/weights" if layer.startswith("fc") else "/filter"
        array = item[()]
        side_px = 7 if layer == "fc6" else 1  # of the map that a product's input was flattened from
        if array.ndim == 2 and array.shape[0] % side_px ** 2 == 0:
            array = array.reshape(side_px, side_px, -1, array.shape[1])
        arrays[layer + ("/biases" if array.ndim == 1 else kernel)] = array

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except OSError as error:
        raise DataError(path, "an .h5 file", str(error), "fetch it again, or correct --vgg_dir") from error
    return arrays


def assign(tf, session, weights):
    """Gives variables of the current graph these values: {variable: array}."""
    by_name = {variable.op.name: variable for variable in tf.global_variables()}
    for name, array in weights.items():
        session.run(by_name[name].initializer, {by_name[name].initial_value: array})


def preset_of(prefix, state, wanted, default="vgg300"):
    """The name of the preset that a checkpoint was trained with.

    Args:
      prefix, state: from checkpoint.find_checkpoint.
      wanted: what --preset says, or None.
      default: what a checkpoint without a record is taken for.
    Raises:
      DataError: `wanted` is another one.
    """
    recorded = state.get("preset")
    if recorded and wanted and recorded != wanted:
        raise DataError("--preset", "%s, which %s was trained with" % (recorded, prefix), wanted, "leave --preset out")
    return recorded or wanted or default


def check_norm(prefix, state, norm):
    """DataError when a checkpoint's layers are normalised otherwise than --norm says; published ones never are."""
    recorded = state.get("norm", "none")
    if recorded != norm:
        raise DataError("--norm", "%s, which %s was trained with" % (recorded, prefix), norm,
                        "give --norm=%s" % recorded)


def check_classes(prefix, state, classes, data):
    """DataError when a checkpoint says that it was trained on other classes than those of the data.

    Args:
      prefix, state: from checkpoint.find_checkpoint.
      classes: names, in order.
      data: where they come from, for the message.
    """
    recorded = state.get("classes", list(classes))
    for number, (name, other) in enumerate(itertools.zip_longest(recorded, classes)):
        if name != other:
            raise DataError(data, "the classes of %s, whose class %d is %s" % (prefix, number, name or "absent"),
                            other or "no such class", "give the data that it was trained with")


def restore(tf, session, prefix, preset_name):
    """Loads the network's variables in the current graph from a checkpoint, whatever optimizer wrote it.

    Args:
      tf: tensorflow.compat.v1.
      session: tf.Session.
      prefix: path prefix of a checkpoint of ours or of the published reference.
      preset_name: what the graph was built for, for the message.
    Raises:
      DataError: it is a checkpoint of something else; names the first variable that differs.
    """
    network = {variable.op.name: variable for variable in tf.model_variables()}
    # The variables of SSD300 are a part of SSD512's, so what is left over tells them apart.
    foreign = sorted(name for name in graph_files.stored_shapes(tf, prefix) if name not in network and
                     name.startswith(("conv", "classifiers/")) and name.endswith(("/filter", "/biases")))
    if foreign:
        raise DataError(prefix, "a checkpoint of %s" % preset_name, "variable %s, which %s does not have" % (
            foreign[0], preset_name), "give the --preset that it was trained with")
    graph_files.restore(tf, session, prefix, network)


def class_names(tf, prefix):
    """Names for the classes of a checkpoint that does not say: Pascal VOC's when it has 20, numbers otherwise."""
    try:
        values, = graph_files.stored_shapes(tf, prefix)["classifiers/classifier0_0/biases"]
    except KeyError as error:
        raise DataError(prefix, "a checkpoint of SSD-VGG", "no variable %s" % error, "give another one") from error
    from source_pascal_voc import CLASSES
    count = values - 5  # background and four offsets
    return list(CLASSES) if count == len(CLASSES) else ["class %d" % number for number in range(count)]
