# SPDX-License-Identifier: Apache-2.0
"""Weights, whole model and optimizer state on disk, and back.

A checkpoint folder holds, beside common.checkpoint's state.json:
  model.h5             whole model, Keras' hdf5 format; both Keras generations read its weights
  model.weights.h5     weights alone, for network.load_weights
  model.optimizer.npz  the optimizer's variables, in its order; where model.h5 has averages, the weights after them
An export has the first two and serves: uint8 images [N, H, W, 3] -> scores and probabilities [N, classes].
"""
import io
import os
import warnings
import zipfile

from common import checkpoint, files
from common import export as exporting
from common.files import DataError, kind_of, read_json
from common.graph_files import check_variables, fitting
from common.lazy import np

INPUTS, OUTPUTS = "images", ("scores", "probabilities")
PREPROCESSING = {"colours": "RGB, upright as EXIF says", "crop": "central square", "resize_px": [32, 32],
                 "resample": "bicubic, antialiased", "values": "0 to 255, as they are; the network standardises them"}
_KERAS_ENDINGS = (".h5", ".hdf5", ".keras")
_HDF5_OVERHEAD_BYTES = 1000000
_ANOTHER = "give export/saved_model, export/model.h5 or a checkpoint of a run folder"


def save(prefix, network, optimizer, beside=()):
    """Writes the files of a checkpoint.

    Args:
      prefix: path up to ".h5".
      network: keras.Model made of Keras' own layers.
      optimizer: keras.optimizers.Optimizer.
      beside: variables to keep with its own: the weights that learn, where `network` has their averages.
    Raises:
      DataError: the disk is full.
      OSError: they cannot be written.
    """
    variables = optimizer_variables(optimizer) + list(beside)
    state_bytes = 4 * sum(int(np.prod(variable.shape)) for variable in variables)
    try:
        _save_network(prefix, network, state_bytes)
        np.savez(prefix + ".optimizer.npz", *[variable.numpy() for variable in variables])
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


def restore_optimizer(prefix, optimizer, beside=()):
    """Gives an optimizer, built for its network, and what save() kept beside it, the state of a checkpoint.

    Raises:
      DataError: the file cannot be read, or is of another optimizer.
    """
    path, variables = prefix + ".optimizer.npz", optimizer_variables(optimizer) + list(beside)
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
    kind = kind_of(path)
    if kind and "HDF5" not in kind and "zip" not in kind:
        return kind
    return "%s: %.150s" % (type(error).__name__, str(error).strip().split("\n")[0].rstrip(":"))


def optimizer_variables(optimizer):
    """Step count and slots: a method in Keras 2, a property in Keras 3."""
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


def network_variables(network):
    """{"layer/variable": variable} of a keras.Model, under the same names in Keras 2 and 3."""
    return {"%s/%s" % (layer.name, _name_of(variable)): variable
            for layer in network.layers for variable in layer.weights}


def _name_of(variable):
    return variable.name.split("/")[-1].split(":")[0]


def copy_weights(source, target):
    """Gives one network the weights and statistics of another with the same names."""
    copy_values(network_variables(source), target)


def copy_values(values, target):
    """Gives a network the values of {"layer/variable": variable}."""
    for name, variable in network_variables(target).items():
        variable.assign(values[name])


def read_weights(path, network):
    """The weights in a Keras file: of a whole model or weights alone (.h5, .hdf5), .weights.h5 or .keras of Keras 3.

    Args:
      network: keras.Model; a .weights.h5 of Keras 3 has no names, so its layers are taken in the order of these.
    Returns:
      {"layer/variable": array}, as of network_variables().
    Raises:
      DataError: the file cannot be read.
    """
    import h5py
    found = {}

    def collect(name, item):
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            found["/".join(name.split(":")[0].split("/")[-2:])] = item[()]

    try:
        file_object = path
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                file_object = io.BytesIO(packed.read("model.weights.h5"))
        with h5py.File(file_object, "r") as file:
            if "layers" not in file:
                file.visititems(collect)
                return found
            numbered = file["layers"]
            for layer, place in _keras3_places(network).items():
                variables = numbered[place]["vars"] if place in numbered else {}
                found.update({"%s/%s" % (layer.name, _name_of(variable)): variables[str(number)][()]
                              for number, variable in enumerate(layer.weights) if str(number) in variables})
            return found
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError and others
        raise DataError(path, "hdf5 weights of %s" % network.name, _reason(path, error), _ANOTHER) from error


def _keras3_places(network):
    """{layer: its folder in a .weights.h5 of Keras 3}: the class's name, numbered from the second on."""
    counts, places = {}, {}
    for layer in network.layers:
        names = [_name_of(variable) for variable in layer.weights]
        if names:
            kind = {1: "batch_normalization", 2: "dense", 4: "conv2d"}[len(layer.weights[0].shape)]
            counts[kind] = counts.get(kind, 0) + 1
            places[layer] = kind if counts[kind] == 1 else "%s_%d" % (kind, counts[kind] - 1)
    return places


def load_weights(network, path):
    """Fills a network from a Keras file.

    Raises:
      DataError: the file cannot be read, or is of another network.
    """
    values, variables = read_weights(path, network), network_variables(network)
    check_variables({name: list(value.shape) for name, value in values.items()},
                    {name: list(variable.shape) for name, variable in variables.items()}, path)
    for name, variable in variables.items():
        variable.assign(values[name])


def load_fitting(network, path, anew=()):
    """Fills what fits of a network from a Keras file; the rest stays as it is.

    Args:
      anew: names of variables that are to stay whatever the file holds, as the head of other classes.
    Returns:
      graph_files.Loaded.
    Raises:
      DataError: the file cannot be read, or nothing of it fits.
    """
    values, variables = read_weights(path, network), network_variables(network)
    loaded = fitting({name: list(value.shape) for name, value in values.items()},
                     {name: list(variable.shape) for name, variable in variables.items()}, path, anew)
    for name in loaded.names:
        variables[name].assign(values[name])
    return loaded


def export(tf, folder, network, about, replace=False):
    """Writes model.h5, model.weights.h5 and what common/export.py says to a folder that appears whole or not at all.

    Args:
      tf: TensorFlow 2.
      network: keras.Model made of Keras' own layers.
      about: JSON-able dict for model.json: classes, checkpoint, step.
      replace: an export that is there, without ONNX, as at the end of a run.
    Raises:
      DataError: the folder holds something, or what was written gives other results than the network.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    def serve(images):
        scores = network(images, training=False)
        return dict(zip(OUTPUTS, (scores, tf.nn.softmax(scores))))

    module = tf.Module()
    module.network = network
    module.serve = tf.function(serve, input_signature=[
        tf.TensorSpec([None] + list(network.input_shape[1:]), tf.uint8, INPUTS)])
    example = exporting.example_images(network.input_shape[1])
    expected = {name: value.numpy() for name, value in serve(tf.constant(example)).items()}
    with exporting.new_folder(folder, replace) as partial:
        _save_network(os.path.join(partial, "model"), network)
        tf.saved_model.save(module, os.path.join(partial, exporting.SAVED_MODEL), signatures=module.serve)
        frozen = convert_variables_to_constants_v2(module.serve.get_concrete_function())
        with tf.Graph().as_default() as graph:
            found = tf.graph_util.import_graph_def(
                frozen.graph.as_graph_def(), name="", return_elements=[frozen.inputs[0].name] + [
                    output.name for output in frozen.outputs])
            outputs = {name: tf.identity(tensor, name) for name, tensor in zip(sorted(OUTPUTS), found[1:])}
        exporting.finish(tf.compat.v1, partial, graph.as_graph_def(), found[0], outputs, example, expected, dict(
            about, model="CutMix", preprocessing=PREPROCESSING), onnx=not replace)


def find_file(path):
    """The file behind a path, and what is known of it.

    Args:
      path: a SavedModel folder, an export's, a Keras file, or what checkpoint.find_checkpoint takes.
    Returns:
      (path of the file or SavedModel, state: classes, seed, step as far as they are known).
    Raises:
      DataError: nothing is there.
    """
    path = os.path.expanduser(path)
    if os.path.exists(os.path.join(path, "saved_model.pb")):
        return path, _beside(path)
    if os.path.exists(path + ".h5"):
        return path + ".h5", _beside(path)
    if path.endswith(_KERAS_ENDINGS):
        return path, _beside(path)
    if os.path.isfile(path):
        raise DataError(path, "a file of Keras (%s) or a folder" % ", ".join(_KERAS_ENDINGS),
                        kind_of(path) or "another file", _ANOTHER)
    prefix, state = checkpoint.find_checkpoint(path)
    return prefix + ".h5", state


def _beside(path):
    """What a checkpoint's state.json or an export's model.json beside a file says."""
    folder = os.path.dirname(os.path.abspath(path))
    known = [read_json(os.path.join(folder, name)) for name in (checkpoint.STATE_FILE, exporting.DESCRIPTION)]
    return next((content for content in known if isinstance(content, dict)), {})


def check_is_there(path):
    """DataError unless something is at a path, if only an .h5 file that it is the prefix of."""
    if not os.path.exists(path) and not os.path.exists(path + ".h5"):
        raise DataError(path, "a run folder, a checkpoint, an .h5 file or a SavedModel", "nothing",
                        "train first, or correct the path")


def find_scores(tf, path, make_network, make_score_function):
    """The inference function behind a path of find_file().

    Args:
      path: a SavedModel folder or a Keras file.
      make_network: () -> keras.Model.
      make_score_function: keras.Model -> function of a batch.
    Returns:
      uint8 [B, H, W, 3] -> float32 [B, classes].
    Raises:
      DataError: it is of another network.
    """
    network = make_network()
    if os.path.isdir(path):
        return _served_scores(tf, path, network)
    load_weights(network, path)
    return make_score_function(network)


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
