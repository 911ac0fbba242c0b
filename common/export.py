# SPDX-License-Identifier: Apache-2.0
"""A network for other programs: SavedModel, frozen graph, ONNX, and model.json that says how to use them.

    EXPORT/saved_model/      for TensorFlow, TensorFlow Serving
    EXPORT/frozen_graph.pb   for atc, which makes an .om for Ascend of it, and for session code
    EXPORT/model.onnx        where tf2onnx and onnxruntime are installed: constraints/onnx.txt
    EXPORT/model.json        classes, preprocessing, names, types and shapes of input and outputs

The folder appears when each of them was read back, run on a batch and gave what the checkpoint gives; or not at all.
"""
import collections
import contextlib
import importlib.util
import json
import os
import shutil
import tempfile

from common.files import DataError, check_new_folder, read_json
from common.lazy import np

SAVED_MODEL, FROZEN_GRAPH, ONNX, DESCRIPTION = "saved_model", "frozen_graph.pb", "model.onnx", "model.json"
TOLERANCE, ONNX_TOLERANCE = 1e-5, 1e-4  # of the largest output, or of 1 where that is smaller
_ONNX_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
_ONNX_OPSET = 13

Exported = collections.namedtuple("Exported", "description run")
Exported.__doc__ = """An export that was opened: description, the dict of model.json; run(array) -> {output: array}."""


def export_session(tf, session, folder, images, outputs, example, about, arrays=()):
    """Writes the network of the current graph.

    Args:
      tf: tensorflow.compat.v1.
      session: holds the checkpoint's values.
      folder: new; appears whole or not at all.
      images: placeholder [None, ...], the one input; its name is the signature's.
      outputs: {name in the signature: tensor}.
      example: array for `images`, a batch to compare on.
      about: JSON-able dict for model.json: model, classes, preprocessing, checkpoint, step.
      arrays: [(file name, array)] to lie beside it.
    Raises:
      DataError: the folder holds something, or what was written gives other results than the checkpoint.
    """
    expected = dict(zip(outputs, session.run(list(outputs.values()), {images: example})))
    with new_folder(folder) as partial:
        _write_saved_model(tf, session, os.path.join(partial, SAVED_MODEL), images, outputs)
        frozen = tf.graph_util.convert_variables_to_constants(
            session, tf.get_default_graph().as_graph_def(), [tensor.op.name for tensor in outputs.values()])
        finish(tf, partial, frozen, images, outputs, example, expected, about)
        for name, array in arrays:
            np.save(os.path.join(partial, name), array)
    tell(folder)


@contextlib.contextmanager
def new_folder(folder, replace=False):
    """Yields a folder to fill, which becomes `folder` when the block ends well; else nothing is left of it.

    Args:
      folder: new, unless what is there is to be replaced.
    """
    if not replace:
        check_new_folder(folder, "--export_dir")
    parent, name = os.path.split(os.path.abspath(folder))
    try:
        os.makedirs(parent, exist_ok=True)
        partial = tempfile.mkdtemp(prefix=".%s." % name, dir=parent)
    except OSError as error:
        raise DataError(folder, "a place that can be written", error.strerror or str(error),
                        "give another place") from error
    try:
        yield partial
        os.chmod(partial, 0o755)
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def finish(tf, folder, frozen, images, outputs, example, expected, about, onnx=True):
    """What follows a SavedModel in a folder: frozen graph, ONNX, comparisons, model.json.

    Args:
      tf: tensorflow.compat.v1.
      folder: holds SAVED_MODEL.
      frozen: GraphDef without variables.
      images, outputs: a tensor and {name: tensor}, or anything with name, dtype and shape.
      example: array for `images`; expected: {name: array}, the checkpoint's outputs for it.
      about: as for export_session.
      onnx: whether to write that as well, where it can be: it takes longest.
    Raises:
      DataError: something gives other results than the checkpoint.
    """
    with open(os.path.join(folder, FROZEN_GRAPH), "wb") as file:
        file.write(frozen.SerializeToString())
    description = dict(about, input=_described(images), outputs={name: _described(tensor)
                                                                 for name, tensor in outputs.items()},
                       files={"saved_model": SAVED_MODEL, "frozen_graph": FROZEN_GRAPH}, difference={})
    checks = [("saved_model", SAVED_MODEL, run_saved_model, TOLERANCE),
              ("frozen_graph", FROZEN_GRAPH, run_frozen_graph, TOLERANCE)]
    if onnx and _write_onnx(frozen, os.path.join(folder, ONNX), images, outputs):
        description["files"]["onnx"] = ONNX
        checks.append(("onnx", ONNX, run_onnx, ONNX_TOLERANCE))
    for name, file_name, run, tolerance in checks:
        found = run(tf, os.path.join(folder, file_name), description)(example)
        description["difference"][name] = _compare(file_name, expected, found, tolerance)
    with open(os.path.join(folder, DESCRIPTION), "w", encoding="utf-8") as file:
        json.dump(description, file, indent=1)


def example_images(side_px, count=4):
    """uint8 [count, side_px, side_px, 3]: smooth, unlike noise, so that what differs in a network would show."""
    random = np.random.RandomState(0)
    coarse = random.randint(0, 256, (count, 8, 8, 3))
    repeats = -(-side_px // 8)
    return np.repeat(np.repeat(coarse, repeats, 1), repeats, 2)[:, :side_px, :side_px].astype(np.uint8)


def tell(folder):
    """Prints what an export holds."""
    description = read_json(os.path.join(folder, DESCRIPTION))
    for kind, name in sorted(description["files"].items()):
        print("exported: %s, largest difference from the checkpoint %.1e" % (
            os.path.join(folder, name), description["difference"][kind]))
    print("exported: %s" % os.path.join(folder, DESCRIPTION))
    if "onnx" not in description["files"] and _missing_for_onnx():
        print("no ONNX: %s" % _missing_for_onnx())
    for side, tensors in (("input", {description["input"]["name"]: description["input"]}),
                          ("output", description["outputs"])):
        for name, tensor in tensors.items():
            print("%s: %s %s %s" % (side, name, tensor["dtype"], tensor["shape"]))


def open_export(tf, folder, model):
    """Opens what was exported, by its frozen graph.

    Args:
      tf: tensorflow.compat.v1.
      folder: EXPORT.
      model: which model it must be of, as model.json says.
    Returns:
      Exported.
    Raises:
      DataError: it is no export, or of another model.
    """
    description = describe(folder, model)
    return Exported(description, run_frozen_graph(tf, os.path.join(folder, FROZEN_GRAPH), description))


def describe(folder, model):
    """The dict of an export's model.json; arguments and errors as for open_export."""
    description = read_json(os.path.join(folder, DESCRIPTION))
    do = "give the folder that the export of %s wrote, with %s and %s in it" % (model, DESCRIPTION, FROZEN_GRAPH)
    whole = isinstance(description, dict) and all(isinstance(description.get(name), kind) for name, kind in (
        ("classes", list), ("input", dict), ("outputs", dict), ("files", dict)))
    if not whole or not os.path.isfile(os.path.join(folder, FROZEN_GRAPH)):
        raise DataError(folder, "an exported model", "no whole %s" % (DESCRIPTION if not whole else FROZEN_GRAPH), do)
    if description.get("model") != model:
        raise DataError(folder, "an export of %s" % model, "one of %s" % description.get("model"), do)
    return description


def run_saved_model(tf, path, description):
    """A SavedModel as function(array) -> {output: array}; DataError when it is none."""
    if tf.executing_eagerly():  # where several ranks are connected, a session does not find the variables it has loaded
        import tensorflow
        with _damage_named(path, "a SavedModel"):
            loaded = tensorflow.saved_model.load(path)
            serve = loaded.signatures[tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY]
        name = description["input"]["name"]
        # The model lives as long as the function does.
        return lambda images, loaded=loaded: {
            output: value.numpy() for output, value in serve(**{name: tensorflow.constant(images)}).items()}
    session = tf.Session(graph=tf.Graph())
    with _damage_named(path, "a SavedModel"):
        with session.graph.as_default():
            loaded = tf.saved_model.load(session, [tf.saved_model.tag_constants.SERVING], path)
        signature = loaded.signature_def[tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY]
        fed = signature.inputs[description["input"]["name"]].name
        fetched = {name: signature.outputs[name].name for name in description["outputs"]}
    return lambda images: session.run(fetched, {fed: images})


def run_frozen_graph(tf, path, description):
    """A frozen graph as function(array) -> {output: array}; DataError when it is none."""
    graph, session_graph = tf.GraphDef(), tf.Graph()
    with _damage_named(path, "a frozen graph"):
        with open(path, "rb") as file:
            graph.ParseFromString(file.read())
        with session_graph.as_default():
            tf.import_graph_def(graph, name="")
        fetched = {name: session_graph.get_tensor_by_name(tensor["tensor"])
                   for name, tensor in description["outputs"].items()}
        fed = session_graph.get_tensor_by_name(description["input"]["tensor"])
    session = tf.Session(graph=session_graph)
    return lambda images: session.run(fetched, {fed: images})


@contextlib.contextmanager
def _damage_named(path, what):
    try:
        yield
    except Exception as error:  # protobuf's, TensorFlow's and Python's own for a foreign file
        raise DataError(path, "%s as %s says" % (what, DESCRIPTION), "%s: %.150s" % (
            type(error).__name__, str(error).split("\n")[0]), "export the model again") from error


def run_onnx(_tf, path, description):
    """An ONNX file as function(array) -> {output: array}."""
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = {name: tensor["tensor"] for name, tensor in description["outputs"].items()}
    return lambda images: dict(zip(names, session.run(list(names.values()), {description["input"]["tensor"]: images})))


def _write_saved_model(tf, session, path, images, outputs):
    builder = tf.saved_model.Builder(path)
    signature = tf.saved_model.build_signature_def(
        {images.op.name: tf.saved_model.build_tensor_info(images)},
        {name: tf.saved_model.build_tensor_info(tensor) for name, tensor in outputs.items()},
        tf.saved_model.signature_constants.PREDICT_METHOD_NAME)
    builder.add_meta_graph_and_variables(
        session, [tf.saved_model.tag_constants.SERVING],
        {tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY: signature})
    builder.save()


def _missing_for_onnx():
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    return missing and "%s not installed; pip install -r constraints/onnx.txt" % ", ".join(missing)


def _write_onnx(frozen, path, images, outputs):
    """Converts where that can be done; whether it was."""
    if _missing_for_onnx():
        return False
    import logging
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    import tf2onnx
    try:
        # From the frozen graph: tf2onnx reads neither Keras 3's models nor a newer TensorFlow's SavedModel by itself.
        tf2onnx.convert.from_graph_def(frozen, input_names=[images.name], opset=_ONNX_OPSET, output_path=path,
                                       output_names=[tensor.name for tensor in outputs.values()])
    except Exception as error:  # it fails in its own ways on an operation that it does not know
        print("tf2onnx: %s: %.200s" % (type(error).__name__, " ".join(str(error).split())))
        return False
    return True


def _described(tensor):
    return {"name": tensor.name.split(":")[0], "tensor": tensor.name, "dtype": tensor.dtype.name,
            "shape": [None if size is None else int(size) for size in tensor.shape.as_list()]}


def _compare(what, expected, found, tolerance):
    """The largest difference of two {name: array}, relative to the largest value where that is above 1."""
    largest = 0.0
    for name, array in expected.items():
        scale = max(1.0, float(np.abs(array).max()))
        difference = float(np.abs(array.astype(np.float64) - found[name]).max()) / scale
        if not difference <= tolerance:  # nor NaN
            raise DataError(what, "the checkpoint's %s within %g" % (name, tolerance),
                            "a difference of %g" % difference,
                            "nothing was kept: report this, with the versions of TensorFlow and of the packages")
        largest = max(largest, difference)
    return largest
