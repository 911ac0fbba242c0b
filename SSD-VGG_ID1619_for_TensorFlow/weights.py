# SPDX-License-Identifier: Apache-2.0
"""Where weights come from: a run of ours, a checkpoint of the published reference, files of other programs."""
import collections
import os

import layouts
import weight_files
from common import checkpoint, graph_files
from common.files import DataError
from layouts import VGG

Source = collections.namedtuple("Source", "path what colours state arrays")
Source.__doc__ = """Weights to use: the file, or a checkpoint's path prefix; what it is; of layouts.COLOURS the name; a
dict of what is known of preset, classes, norm and step, of another program's file preset and num_classes; {our name:
array}, None while they are in TensorFlow's files, which arrays_of() reads."""

_OURS, _UNRECORDED = "a checkpoint of SSD-VGG", "a checkpoint without a record"
_FIRST_HEAD, _FC6, _LAST_OF_TRUNK = "classifiers/classifier0_0/biases", "mod_conv6/filter", "conv5_3/filter"
# Root mean square of a trained VGG-16's last map after pool5, as measured on photographs (18). A new mod_conv6 takes it
# off, or all maps behind it begin so large, and the loss at hundreds.
TRUNK_MAP_SIZE = 16.0


def find(path, best=False, colours=None):
    """The Source that a user means by a path.

    Args:
      path: a run folder or a checkpoint, as for checkpoint.find_checkpoint; a SavedModel's folder, or the folder above
        it, with the variables of VGG-16; a file of weights (weight_files.read).
      best: of a run, the checkpoint that evaluated best.
      colours: of layouts.COLOURS, for weights that do not say; None for what their layout means.
    Raises:
      DataError: there is nothing, or something else.
    """
    if os.path.isfile(path):
        return _from_file(path, colours)
    saved_model = _saved_model(path)
    if saved_model:
        return Source(saved_model, VGG, colours or "keras", {}, None)
    return described(*checkpoint.find_checkpoint(path, best), colours)


def find_vgg16(path, colours=None):
    """The same, of a VGG-16 alone. Raises DataError for another one."""
    if not os.path.isfile(path) and not _saved_model(path):
        raise DataError(path, "VGG-16: a file, or a SavedModel with variables/variables.index",
                        "neither" if os.path.exists(path) else "no such file", "correct --vgg_dir")
    source = find(path, colours=colours)
    if source.what != VGG:
        raise DataError(path, VGG, source.what, "give it to --init_from")
    return source


def _saved_model(path):
    """Path prefix of the variables of a SavedModel in a folder, or None."""
    prefixes = [os.path.join(path, place, "variables", "variables") for place in ("", "vgg")]  # as the archive unpacks
    return next((prefix for prefix in prefixes if os.path.exists(prefix + ".index")), None)


def described(prefix, state, colours=None):
    """The Source of a checkpoint; `prefix` and `state` from checkpoint.find_checkpoint."""
    if "preset" in state:
        return Source(prefix, _OURS, state.get("colours", "keras"), state, None)
    return Source(prefix, _UNRECORDED, colours or "reference", state, None)


def _from_file(path, colours):
    layout = layouts.understand(weight_files.read(path), path)
    colours = colours or layout.colours
    if colours is None:
        raise DataError(path, "names that tell the colours, as features.0.weight does", "others", "give --colours")
    state = {"preset": layout.preset, "num_classes": layout.classes} if layout.preset else {}
    return Source(path, layout.what, colours, state, layouts.fold(layout.arrays, colours))


def arrays_of(tf, source):
    """{our name: array} of a Source, the first convolution taking BGR less layouts.mean_bgr(source.colours)."""
    if source.arrays is not None:
        return source.arrays
    arrays = _read_checkpoint(tf, source.path)
    if source.what == _OURS:
        return arrays
    if source.what == VGG:
        if _FIRST_HEAD in arrays:
            raise DataError(source.path, VGG, "an exported SSD-VGG", "give the run's folder to --init_from")
        arrays = layouts.understand(arrays, source.path).arrays
    return layouts.fold(arrays, source.colours) if "conv1_1/filter" in arrays else arrays


def _read_checkpoint(tf, prefix):
    """{name: array} without what optimizers keep below a variable."""
    stored = graph_files.stored_shapes(tf, prefix)
    reader = tf.train.load_checkpoint(prefix)
    try:
        return {name: reader.get_tensor(name) for name in sorted(stored) if os.path.dirname(name) not in stored}
    except (tf.errors.OpError, ValueError, IndexError) as error:  # TensorFlow 2 gives the last for a short file
        raise DataError(prefix, "a whole TensorFlow checkpoint", str(error).split("\n")[0],
                        "give another one") from error


def add_colours(parser):
    """Adds --colours, which find() takes."""
    parser.add_argument("--colours", choices=sorted(layouts.COLOURS),
                        help="whose colours, mean and scale weights of other programs are for, where that is not what "
                             "their names and format tell (README, \"Weights to start from\")")


def network_options(source):
    """Arguments of ssdvgg.predictions that these weights decide: norm, mean_bgr."""
    return {"norm": source.state.get("norm", "none"), "mean_bgr": layouts.mean_bgr(source.colours)}


def preset_of(source, wanted, default="vgg300"):
    """The name of the preset that weights are for.

    Args:
      wanted: what --preset says, or None.
      default: what weights without a record are taken for.
    Raises:
      DataError: `wanted` is another one.
    """
    recorded = source.state.get("preset")
    if recorded and wanted and recorded != wanted:
        raise DataError("--preset", "%s, which %s was trained with" % (recorded, source.path), wanted,
                        "give --preset=%s" % recorded)
    return recorded or wanted or default


def check_norm(source, norm):
    """DataError when these weights' layers are normalised otherwise than --norm says; published ones never are."""
    recorded = network_options(source)["norm"]
    if recorded != norm:
        raise DataError("--norm", "%s, which %s was trained with" % (recorded, source.path), norm,
                        "give --norm=%s" % recorded)


def check_classes(source, classes, data):
    """DataError when weights say that they are for other classes than those of the data.

    Args:
      classes: names, in order.
      data: where they come from, for the message.
    """
    count = source.state.get("num_classes", len(classes))
    if count != len(classes):
        raise DataError(data, "%d classes, as %s has" % (count, source.path), len(classes),
                        "give the data that it was trained with")
    checkpoint.check_classes(source.path, source.state, classes, data)


def columns(source, classes, data):
    """Where the classes of the data are in the result of a network for these weights, which may know more.

    Args:
      classes, data: as for check_classes.
    Returns:
      (number of the network's classes, list of int: columns of these classes, of the background, of the offsets).
    Raises:
      DataError: the weights are for other classes.
    """
    count = source.state.get("num_classes", len(classes))
    names = _names_of(source, count) if count != len(classes) else source.state.get("classes", list(classes))
    if not names or not set(classes) <= set(names):
        check_classes(source, classes, data)
    return len(names), [names.index(name) for name in classes] + list(range(len(names), len(names) + 5))


def restore(tf, session, source, preset_name):
    """Loads the network's variables in the current graph, all of them.

    Args:
      tf: tensorflow.compat.v1.
      session: tf.Session.
      preset_name: what the graph was built for, for the message.
    Raises:
      DataError: these are the weights of something else; names the first variable that differs.
    """
    arrays, network = arrays_of(tf, source), {variable.op.name: variable for variable in tf.model_variables()}
    # The variables of SSD300 are a part of SSD512's, so what is left over tells them apart.
    foreign = sorted(name for name in arrays if name not in network and
                     name.startswith(("conv", "classifiers/")) and name.endswith(("/filter", "/biases")))
    if foreign:
        raise DataError(source.path, "a checkpoint of %s" % preset_name, "variable %s, which %s does not have" % (
            foreign[0], preset_name), "give the --preset that it was trained with")
    graph_files.check_variables({name: list(array.shape) for name, array in arrays.items()},
                                {name: variable.shape.as_list() for name, variable in network.items()}, source.path)
    graph_files.load_fitting(tf, session, arrays, source.path, network)


def load_fitting(tf, session, source, classes):
    """Gives the network's variables their values where the source has such; heads of other classes begin anew.

    Args:
      classes: names of the network's, in order.
    Returns:
      graph_files.Loaded; its `anew` are the names of variables that stay as they are initialised.
    Raises:
      DataError: nothing fits; says what there is instead.
    """
    network = {variable.op.name: variable for variable in tf.model_variables()}
    names = None if source.what == VGG else _names_of(source, _count_classes(tf, source))
    heads = [name for name in network if names not in (None, classes) and name.startswith("classifiers/")]
    loaded = graph_files.load_fitting(tf, session, arrays_of(tf, source), source.path, network, heads)
    if _FC6 in loaded.anew and _LAST_OF_TRUNK not in loaded.anew:
        session.run(network[_FC6].assign(network[_FC6] / TRUNK_MAP_SIZE))
    return loaded


def class_names(tf, source):
    """Names of the classes, in order: those that are recorded, Pascal VOC's for 20, COCO's for 90, else numbers."""
    count = _count_classes(tf, source)
    return _names_of(source, count) or ["class %d" % number for number in range(count)]


def _count_classes(tf, source):
    if source.arrays is not None:
        return source.state["num_classes"]
    biases = graph_files.stored_shapes(tf, source.path).get(_FIRST_HEAD)
    if biases is None:
        raise DataError(source.path, "a checkpoint of SSD-VGG", "no variable " + _FIRST_HEAD, "give another one")
    return biases[0] - 5  # background and four offsets


def _names_of(source, count):
    from source_pascal_voc import CLASSES
    known = next((list(names) for names in (CLASSES, layouts.COCO_CLASSES) if len(names) == count), None)
    return source.state.get("classes", known)
