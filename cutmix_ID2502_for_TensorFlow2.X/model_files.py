# SPDX-License-Identifier: Apache-2.0
"""Weights, whole model and optimizer state on disk, and back.

A checkpoint folder holds, beside common.checkpoint's state.json:
  model.h5             whole model, Keras' hdf5 format; both Keras generations read its weights
  model.weights.h5     weights alone, for network.load_weights
  model.optimizer.npz  the optimizer's variables, in its order
export/saved_model of a run folder serves: uint8 images [N, H, W, 3] -> scores and probabilities [N, classes].
"""
import os
import warnings
import zipfile

import numpy as np

from common import checkpoint, files
from common.files import DataError
from common.graph_files import check_variables

INPUTS, OUTPUTS = "images", ("scores", "probabilities")
_HDF5_OVERHEAD_BYTES = 1000000
_ANOTHER = "give export/saved_model, export/model.h5 or a checkpoint of a run folder"


def save(prefix, network, optimizer):
    """Writes the files of a checkpoint.

    Args:
      prefix: path up to ".h5".
      network: keras.Model made of Keras' own layers.
      optimizer: keras.optimizers.Optimizer.
    Raises:
      DataError: the disk is full.
      OSError: they cannot be written.
    """
    state_bytes = 4 * sum(int(np.prod(variable.shape)) for variable in optimizer_variables(optimizer))
    try:
        _save_network(prefix, network, state_bytes)
        np.savez(prefix + ".optimizer.npz", *[variable.numpy() for variable in optimizer_variables(optimizer)])
    except DataError:
        raise
    except Exception as error:  # hdf5 raises OSError, RuntimeError and others
        raise OSError("%s: expected to write a checkpoint; found %s: %s; the last whole one is untouched" % (
            prefix, type(error).__name__, " ".join(str(error).split()))) from error


def _save_network(prefix, network, more_bytes=0):
    """DataError for a full disk, also for what is to follow: asked before, because hdf5 can crash on one."""
    files.check_free_space(prefix, 8 * network.count_params() + more_bytes + _HDF5_OVERHEAD_BYTES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 3 recommends another format than the documented one
        network.save(prefix + ".h5", include_optimizer=False)
    network.save_weights(prefix + ".weights.h5")


def restore_optimizer(prefix, optimizer):
    """Gives an optimizer, built for its network, the state of a checkpoint.

    Raises:
      DataError: the file cannot be read, or is of another optimizer.
    """
    path, variables = prefix + ".optimizer.npz", optimizer_variables(optimizer)
    expected = [variable.numpy() for variable in variables]
    try:
        with zipfile.ZipFile(path) as packed:
            count, unpacked_bytes = len(packed.namelist()), sum(member.file_size for member in packed.infolist())
        plausible = count == len(expected) and unpacked_bytes < sum(array.nbytes + 1000 for array in expected)
        with np.load(path, allow_pickle=False) as stored:
            values = [stored["arr_%d" % index] for index in range(count)] if plausible else []
    except Exception as error:  # numpy and zipfile raise OSError, ValueError, KeyError and others
        raise DataError(path, "the state of an optimizer", _reason(path, error), _ANOTHER) from error
    if [(value.shape, value.dtype.kind) for value in values] != [(array.shape, array.dtype.kind) for array in expected]:
        raise DataError(path, "the %d variables of %s" % (len(expected), type(optimizer).__name__),
                        "%d, or other shapes" % count, "continue with the flags of the run that wrote it")
    for variable, value in zip(variables, values):
        variable.assign(value)


def _reason(path, error):
    """Why a file could not be read, in a line."""
    if not os.path.exists(path):
        return "no such file"
    with open(path, "rb") as file:
        if file.read(20) == b"version https://git-":
            return "a pointer of Git LFS to the file, which `git lfs pull` fetches"
    return "%s: %.150s" % (type(error).__name__, str(error).strip().split("\n")[0].rstrip(":"))


def optimizer_variables(optimizer):
    """Step count and slots: a method in Keras 2, a property in Keras 3."""
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


def network_variables(network):
    """{"layer/variable": variable} of a keras.Model, under the same names in Keras 2 and 3."""
    return {"%s/%s" % (layer.name, variable.name.split("/")[-1].split(":")[0]): variable
            for layer in network.layers for variable in layer.weights}


def copy_weights(source, target):
    """Gives one network the weights and statistics of another with the same names."""
    values = network_variables(source)
    for name, variable in network_variables(target).items():
        variable.assign(values[name])


def load_weights(network, path):
    """Fills a network from an hdf5 file of weights or of a whole model.

    Raises:
      DataError: the file cannot be read, or is of another network.
    """
    import h5py
    datasets, variables = {}, network_variables(network)

    def collect(name, item):
        if isinstance(item, h5py.Dataset):
            datasets["/".join(name.split(":")[0].split("/")[-2:])] = item

    try:
        with h5py.File(path, "r") as file:
            layers_by_class = "layers" in file  # Keras 3's *.weights.h5
            if not layers_by_class:
                file.visititems(collect)
                check_variables({name: list(item.shape) for name, item in datasets.items()},
                                {name: list(item.shape) for name, item in variables.items()}, path)
                for name, variable in variables.items():
                    variable.assign(datasets[name][()])
        if layers_by_class:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # one for each layer that is not found
                network.load_weights(path)
    except DataError:
        raise
    except Exception as error:  # h5py and Keras raise OSError, KeyError, RuntimeError and others
        raise DataError(path, "hdf5 weights of %s" % network.name, _reason(path, error), _ANOTHER) from error


def export(tf, folder, network):
    """Writes folder/model.h5, folder/model.weights.h5 and folder/saved_model."""
    os.makedirs(folder, exist_ok=True)
    _save_network(os.path.join(folder, "model"), network)

    def serve(images):
        scores = network(images, training=False)
        return dict(zip(OUTPUTS, (scores, tf.nn.softmax(scores))))

    module = tf.Module()
    module.network = network
    module.serve = tf.function(serve, input_signature=[
        tf.TensorSpec([None] + list(network.input_shape[1:]), tf.uint8, INPUTS)])
    tf.saved_model.save(module, os.path.join(folder, "saved_model"), signatures=module.serve)


def check_is_there(path):
    """DataError unless something is at a path, if only an .h5 file that it is the prefix of."""
    if not os.path.exists(path) and not os.path.exists(path + ".h5"):
        raise DataError(path, "a run folder, a checkpoint, an .h5 file or a SavedModel", "nothing",
                        "train first, or correct the path")


def find_scores(tf, path, make_network, make_score_function):
    """The inference function behind a path.

    Args:
      path: a SavedModel folder, an .h5 file, or what checkpoint.find_checkpoint takes.
      make_network: () -> keras.Model.
      make_score_function: keras.Model -> function of a batch.
    Returns:
      (uint8 [B, H, W, 3] -> float32 [B, classes], the file or folder it came from, its step or 0).
    Raises:
      DataError: nothing is there, or it is of another network.
    """
    path, state, network = os.path.expanduser(path), {}, make_network()
    if os.path.exists(os.path.join(path, "saved_model.pb")):
        return _served_scores(tf, path, network), path, 0
    if os.path.exists(path + ".h5"):
        path += ".h5"
    elif not path.endswith((".h5", ".hdf5")):
        if os.path.isfile(path):
            raise DataError(path, "an .h5 file or a folder", "another file", _ANOTHER)
        prefix, state = checkpoint.find_checkpoint(path)
        path = prefix + ".h5"
    load_weights(network, path)
    return make_score_function(network), path, state.get("step", 0)


def _served_scores(tf, path, network):
    def described(*sides):
        return " -> ".join(", ".join("%s %s %s" % (name, tensor.dtype.name, tensor.shape)
                                     for name, tensor in sorted(side.items())) for side in sides)

    scores = tf.TensorSpec([None] + list(network.output_shape[1:]))
    expected = described({INPUTS: tf.TensorSpec([None] + list(network.input_shape[1:]), tf.uint8)},
                         dict.fromkeys(OUTPUTS, scores))
    try:
        loaded = tf.saved_model.load(path)
        serve = loaded.signatures["serving_default"]
        offered = described(serve.structured_input_signature[1], serve.structured_outputs)
    except Exception as error:  # TensorFlow raises OSError, KeyError, its own and others
        raise DataError(path, "a SavedModel with serving_default",
                        _reason(os.path.join(path, "saved_model.pb"), error), _ANOTHER) from error
    if offered != expected:
        raise DataError(path, "a SavedModel that serves " + expected, offered, _ANOTHER)
    # The signature lives as long as its module, so that is held as well.
    return lambda images, _module=loaded: serve(**{INPUTS: tf.constant(images)})[OUTPUTS[0]].numpy()
