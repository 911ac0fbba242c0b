# SPDX-License-Identifier: Apache-2.0
"""Weights to start from, or to evaluate: of our runs, of the published reference, of torchvision."""
import os
import re

from common import checkpoint, graph_files, tensor_files
from common.files import DataError, read_json

_AVERAGE = "/ExponentialMovingAverage"
_NO_WEIGHTS = (_AVERAGE, "/Momentum", "global_step")  # of a checkpoint

# Channels of Stage2 and Conv5 -> --depth_multiplier: architecture.WIDTHS, which needs TensorFlow.
_WIDTHS = {(48, 1024): "0.5", (116, 1024): "1.0", (176, 1024): "1.5", (244, 2048): "2.0", (224, 2048): "2.0_224"}
# torchvision's block and place of a convolution in it -> ours; its batch normalisation has the next place.
_LAYERS = {("conv1", 0): "Conv1", ("conv5", 0): "Conv5", ("branch1", 0): "second_branch/depthwise",
           ("branch1", 2): "second_branch/conv1x1_after", ("branch2", 0): "conv1x1_before", ("branch2", 3): "depthwise",
           ("branch2", 5): "conv1x1_after"}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_HEAD = {"fc.weight": "classifier/weights", "fc.bias": "classifier/biases"}
_NAME = re.compile(r"(?:stage(\d)\.(\d+)\.)?(conv1|conv5|branch[12])\.(\d)\.(\w+)")


def find(path, best=False):
    """The weights that a user means by a path.

    Args:
      path: a file of torchvision's shufflenet_v2 (.safetensors, .pth), or what checkpoint.find_checkpoint takes.
      best: as there.
    Returns:
      (where, weights, state): the file or path prefix, for messages; {name of our variable: array}, or the path prefix
      of a checkpoint; dict: variant, depth_multiplier, num_classes, classes as far as they are known.
    Raises:
      DataError: there is nothing of the kind.
    """
    if os.path.isfile(path) and not os.path.exists(path + ".index"):
        weights = from_torchvision(path, tensor_files.read(path))
        return path, weights, dict(described(path, weights), variant="torchvision")
    prefix, state = checkpoint.find_checkpoint(path, best)
    if "network" in state:
        state.setdefault("variant", "published")  # of a run from before there were two
    return prefix, prefix, state


def described(where, values):
    """What values() says of a network that says nothing of itself: dict as find() gives it, of the published variant.

    Raises:
      DataError: they are of no width that there is.
    """
    try:
        channels = (2 * values["ShuffleNetV2/Stage2/unit_1/conv1x1_after/weights"].shape[3],
                    values["ShuffleNetV2/Conv5/weights"].shape[3])
        return {"variant": "published", "depth_multiplier": _WIDTHS[channels],
                "num_classes": values["classifier/weights"].shape[1]}
    except (KeyError, IndexError) as error:
        raise DataError(where, "weights of a ShuffleNetV2 of width %s" % ", ".join(_WIDTHS.values()),
                        "others (%s)" % error, "give weights of this network") from error


def from_torchvision(path, tensors):
    """torchvision's tensors as our variables: {name: array}; names that it does not have stay as they are.

    Raises:
      DataError: they are of another network, or half of one.
    """
    weights = {}
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        if name.endswith("num_batches_tracked"):
            continue
        if name in _HEAD:
            weights[_HEAD[name]] = tensor.T
            continue
        stage, unit, block, place, kind = found.groups() if found else (None,) * 5
        is_norm = found and tensor.ndim == 1
        layer = found and _LAYERS.get((block, int(place) - is_norm))
        if not layer or tensor.ndim not in (1, 4) or (is_norm and kind not in _NORM):
            weights[name] = tensor
            continue
        scope = "ShuffleNetV2/" + ("Stage%s/unit_%d/" % (stage, int(unit) + 1) if stage else "") + layer
        if is_norm:
            weights["%s/batch_norm/%s" % (scope, _NORM[kind])] = tensor
        elif layer.endswith("depthwise"):
            weights[scope + "/depthwise_weights"] = tensor.transpose(2, 3, 0, 1)  # [C, 1, 3, 3] -> [3, 3, C, 1]
        else:
            weights[scope + "/weights"] = tensor.transpose(2, 3, 1, 0)  # [O, I, H, W] -> [H, W, I, O]
    for ours, theirs, rank in (("ShuffleNetV2/Conv1/weights", "conv1.0.weight", 4),
                               ("ShuffleNetV2/Stage2/unit_1/conv1x1_after/weights", "stage2.0.branch2.5.weight", 4),
                               ("ShuffleNetV2/Conv5/weights", "conv5.0.weight", 4),
                               ("classifier/weights", "fc.weight", 2)):
        if ours not in weights or weights[ours].ndim != rank:
            names = sorted(tensors)
            raise DataError(path, "torchvision's shufflenet_v2, with %s" % theirs, "%d tensors without it%s" % (
                len(names), ", such as " + ", ".join(names[:3]) if names else ""), "give weights of this network")
    return weights


def values(tf, where, weights, averaged):
    """What find() found as {variable name: array}; None when moving averages are asked for and there are none.

    Raises:
      DataError: a checkpoint is not whole.
    """
    if isinstance(weights, dict):
        return None if averaged else weights
    stored = graph_files.stored_shapes(tf, weights)
    if averaged and not any(name.endswith(_AVERAGE) for name in stored):
        return None
    try:
        reader = tf.train.load_checkpoint(weights)
        # What was frozen has no average: it did not move.
        return {name: reader.get_tensor(name + _AVERAGE if averaged and name + _AVERAGE in stored else name)
                for name in stored if not name.endswith(_NO_WEIGHTS)}
    except (tf.errors.OpError, ValueError) as error:
        raise DataError(where, "a whole TensorFlow checkpoint", str(error).split("\n")[0],
                        "give another one") from error


def class_names(path, state, count, of_data=None):
    """What to call the classes: list of str, class id and name as far as they are known.

    Args:
      path: JSON file {class id: name}, or {"0": [class id, name], ...}; or None.
      state: of find().
      count: int, of classes.
      of_data: class ids of the data, where the weights do not know theirs.
    Raises:
      DataError: the file holds no JSON object.
    """
    ids = state.get("classes") or of_data
    names = list(ids or ("class %d" % label for label in range(count)))
    given = read_json(path) if path else {}
    if not isinstance(given, dict):
        raise DataError(path, 'a JSON object {class id: name} or {"0": [class id, name], ...}', "something else",
                        "correct the file")
    # torchvision's classes, like Keras' index of them, are ImageNet's class ids in sorted order; others' may not be.
    in_order = not ids and state.get("variant") == "torchvision"
    for key, value in given.items():
        if isinstance(value, list) and len(value) > 1:
            key, value = (key, " ".join(map(str, value[:2]))) if in_order else value[:2]
        for label in range(count):
            if names[label] == key or (not ids and str(label) == key):
                names[label] = "%s %s" % (names[label], value) if ids or not in_order else value
    return names


def head_of_others(state, classes):
    """Names of the variables that are of no use because the classes are known to be others, whatever their number."""
    known = classes and state.get("classes")
    return ("classifier/weights", "classifier/biases") if known and state["classes"] != classes else ()


def check_same_network(parsed, where, state):
    """DataError when weights are known to be of another variant or width than the flags say."""
    for name in ("variant", "depth_multiplier"):
        if name in state and state[name] != getattr(parsed, name):
            raise DataError("--init_from", "weights of --%s=%s" % (name, getattr(parsed, name)),
                            "%s in %s" % (state[name], where), "give --variant=%s --depth_multiplier=%s, or "
                            "other weights" % (state.get("variant"), state.get("depth_multiplier")))
