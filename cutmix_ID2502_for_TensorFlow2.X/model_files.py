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

import numpy as np

from common import checkpoint, files
from common.files import DataError
from common.graph_files import check_variables

INPUTS, OUTPUTS = "images", ("scores", "probabilities")
_HDF5_OVERHEAD_BYTES = 1000000


def save(prefix, network, optimizer):
    """Writes the files of a checkpoint.

    Args:
      prefix: path up to ".h5".
      network: keras.Model made of Keras' own layers.
      optimizer: keras.optimizers.Optimizer.
    Raises:
      DataError: the disk is full. Asked before, because hdf5 can crash on a full disk.
      OSError: they cannot be written.
    """
    values = 2 * network.count_params() + sum(int(np.prod(v.shape)) for v in optimizer_variables(optimizer))
    files.check_free_space(prefix, 4 * values + _HDF5_OVERHEAD_BYTES)
    try:
        _save_network(prefix, network)
        np.savez(prefix + ".optimizer.npz", *[variable.numpy() for variable in optimizer_variables(optimizer)])
    except Exception as error:  # hdf5 raises OSError, RuntimeError and others
        raise OSError("%s: expected to write a checkpoint; found %s: %s; the last whole one is untouched" % (
            prefix, type(error).__name__, " ".join(str(error).split()))) from error


def _save_network(prefix, network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 3 recommends another format than the documented one
        network.save(prefix + ".h5", include_optimizer=False)
    network.save_weights(prefix + ".weights.h5")


def restore_optimizer(prefix, optimizer):
    """Gives an optimizer, built for its network, the state of a checkpoint.

    Raises:
      DataError: the file is of another optimizer.
    """
    path, variables = prefix + ".optimizer.npz", optimizer_variables(optimizer)
    with np.load(path, allow_pickle=False) as stored:
        values = [stored["arr_%d" % index] for index in range(len(stored.files))]
    if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
        raise DataError(path, "the %d variables of %s" % (len(variables), type(optimizer).__name__),
                        "%d, or other shapes" % len(values), "continue with the flags of the run that wrote it")
    for variable, value in zip(variables, values):
        variable.assign(value)


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
    found = {}
    try:
        with h5py.File(path, "r") as file:
            layers_by_class = "layers" in file  # Keras 3's *.weights.h5
            file.visititems(lambda name, item: found.update({"/".join(name.split(":")[0].split("/")[-2:]): item[()]})
                            if isinstance(item, h5py.Dataset) else None)
    except OSError as error:
        raise DataError(path, "an hdf5 file of weights", str(error), "give another one") from error
    if layers_by_class:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # one for each layer that is not found
                network.load_weights(path)
        except Exception as error:  # Keras raises ValueError, KeyError and others
            raise DataError(path, "weights of %s that this Keras can read" % network.name,
                            str(error).strip().split("\n")[0], "give the model.h5 beside it, or another one") from error
        return
    variables = network_variables(network)
    check_variables({name: list(value.shape) for name, value in found.items()},
                               {name: list(variable.shape) for name, variable in variables.items()}, path)
    for name, variable in variables.items():
        variable.assign(found[name])


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
    if os.path.exists(os.path.join(path, "saved_model.pb")):
        try:
            loaded = tf.saved_model.load(path)
            serve = loaded.signatures["serving_default"]
        except Exception as error:  # TensorFlow raises OSError, KeyError, its own and others
            raise DataError(path, "a SavedModel with serving_default", str(error).split("\n")[0],
                            "give export/saved_model of a run folder") from error

        def scores(images, _loaded=loaded):  # the signature lives as long as its module
            return serve(**{INPUTS: tf.constant(images)})[OUTPUTS[0]].numpy()
        return scores, path, 0
    state = {}
    if os.path.exists(path + ".h5"):
        path += ".h5"
    elif not path.endswith((".h5", ".hdf5")):
        prefix, state = checkpoint.find_checkpoint(path)
        path = prefix + ".h5"
    network = make_network()
    load_weights(network, path)
    return make_score_function(network), path, state.get("step", 0)
