# SPDX-License-Identifier: Apache-2.0
"""A graph's variables on disk: restored, saved, loaded where they fit. For models that run in sessions."""
import collections

from common.files import DataError

MOVING_STATISTICS = ("moving_mean", "moving_variance")
_AVERAGE = "/ExponentialMovingAverage"  # what tf.train.ExponentialMovingAverage adds to a variable's name


def stored_shapes(tf, prefix):
    """{variable name: shape as list of int} of a checkpoint; DataError when it is none."""
    try:
        return dict(tf.train.list_variables(prefix))
    except (tf.errors.OpError, ValueError, IndexError) as error:  # TensorFlow 2 gives the last for a short file
        raise _not_whole(prefix, error) from error


def _not_whole(prefix, error):
    return DataError(prefix, "a whole TensorFlow checkpoint", str(error).split("\n")[0], "give another one")


def check_variables(stored, expected, where):
    """Compares a checkpoint's variables with a network's, to fail with a name instead of a stack trace.

    Args:
      stored, expected: {variable name: shape as list of int}.
      where: the checkpoint, for the message.
    Raises:
      DataError: naming the first variable that is missing or has another shape.
    """
    for name in sorted(expected):
        if name not in stored or list(stored[name]) != list(expected[name]):
            there = "shape %s" % (list(stored[name]),) if name in stored else "no such variable"
            raise DataError(where, "variable %s of shape %s" % (name, list(expected[name])), there,
                            "give a checkpoint of this network")


def restore(tf, session, prefix, variables=None, may_be_missing=()):
    """Gives variables of the current graph their values in a checkpoint.

    Args:
      tf: tensorflow.compat.v1.
      variables: {name in the checkpoint: variable}; None for all of the graph, by their own names.
      may_be_missing: names that are left as they are when the checkpoint has none.
    Raises:
      DataError: the checkpoint is not whole, or of another network: names the first variable that differs.
    """
    stored = stored_shapes(tf, prefix)
    if variables is None:
        variables = {variable.op.name: variable for variable in tf.global_variables()}
    wanted = {name: variable for name, variable in variables.items() if name in stored or name not in may_be_missing}
    check_variables(stored, {name: variable.shape.as_list() for name, variable in wanted.items()}, prefix)
    try:
        tf.train.Saver(wanted).restore(session, prefix)
    except (tf.errors.OpError, ValueError) as error:
        raise _not_whole(prefix, error) from error


def restore_averaged(tf, session, prefix):
    """restore() for a network that is not trained on: averages of the weights where the checkpoint has them."""
    stored = stored_shapes(tf, prefix)
    restore(tf, session, prefix, {_averaged(stored, variable.op.name): variable for variable in tf.global_variables()})


def _averaged(stored, name):
    return name + _AVERAGE if name + _AVERAGE in stored else name


def network_variables(tf):
    """{name: variable} of the current graph's network: what trains, and the moving statistics; no optimizer's."""
    moving = [variable for variable in tf.global_variables() if variable.op.name.endswith(MOVING_STATISTICS)]
    return {variable.op.name: variable for variable in tf.trainable_variables() + moving}


Loaded = collections.namedtuple("Loaded", "names anew unused")
Loaded.__doc__ = """Names: variables that were loaded, variables that begin anew, what the source has besides."""


def load_fitting(tf, session, source, where, variables=None, anew=()):
    """Gives the variables that fit, by name and shape, their values in other weights; the rest stay as they are.

    Args:
      tf: tensorflow.compat.v1.
      session: variables are initialised.
      source: {name: array}, or path prefix of a checkpoint.
      where: the file, for messages.
      variables: {name in the source: variable}; None for network_variables().
      anew: names to leave as they are whatever the source holds, as the head of other classes.
    Returns:
      Loaded, lists sorted by name; unused are names in the source, slots and step of an optimizer left out.
    Raises:
      DataError: the source cannot be read, or nothing of it fits.
    """
    variables = network_variables(tf) if variables is None else variables
    from_checkpoint = isinstance(source, str)
    stored = stored_shapes(tf, source) if from_checkpoint else {name: list(array.shape)
                                                                for name, array in source.items()}
    loaded = fitting(stored, {name: variable.shape.as_list() for name, variable in variables.items()}, where, anew)
    if from_checkpoint:
        restore(tf, session, source, {_averaged(stored, name): variables[name] for name in loaded.names})
    else:
        session.run([variables[name].initializer for name in loaded.names],
                    {variables[name].initial_value: source[name] for name in loaded.names})
    return loaded


def fitting(stored, wanted, where, anew=()):
    """What of stored weights fits a network, by name and shape.

    Args:
      stored, wanted: {name: shape as list of int}.
      where, anew: as for load_fitting.
    Returns:
      Loaded.
    Raises:
      DataError: nothing fits.
    """
    fits = sorted(name for name, shape in wanted.items()
                  if name not in anew and name in stored and list(stored[name]) == list(shape))
    if not fits:
        name = min(wanted)
        raise DataError(where, "weights of this network, such as %s of shape %s" % (name, list(wanted[name])),
                        _listed(stored), "give a run or a checkpoint of this network")
    unused = sorted(name for name in stored if name not in wanted and name != "global_step" and
                    not any(name.startswith(other + "/") for other in wanted))
    return Loaded(fits, sorted(set(wanted) - set(fits)), unused)


def _listed(stored):
    names = sorted(stored)
    return "%d others, such as %s" % (len(names), ", ".join("%s of shape %s" % (name, stored[name])
                                                            for name in names[:2])) if names else "none"


def transfer_fields(where, loaded):
    """Fields of the [run] line that say what came from --init_from; of a layer that begins anew its name will do."""
    fields = {"init_from": where, "weights_loaded": len(loaded.names), "weights_anew": len(loaded.anew)}
    in_part = {_layer(name) for name in loaded.names}
    anew = dict.fromkeys(name if _layer(name) in in_part else _layer(name) for name in loaded.anew)
    for key, names in (("anew", anew), ("unused", loaded.unused)):
        fields.update({key: " ".join(names)} if names else {})
    return fields


def _layer(name):
    return name.split("/")[0]


def save(tf, saver, session, prefix):
    """Writes a checkpoint; a full disk and other trouble in TensorFlow's writer become OSError."""
    try:
        saver.save(session, prefix, write_meta_graph=False, write_state=False)
    except (tf.errors.OpError, ValueError) as error:
        reason = "a full disk" if "No space left" in str(error) else "%s: %s" % (type(error).__name__, error)
        raise OSError("%s: expected to write a checkpoint; found %s; the last whole one is untouched: free some space "
                      "and give the same command again" % (prefix, " ".join(reason.split()))) from error
