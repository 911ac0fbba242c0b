# SPDX-License-Identifier: Apache-2.0
"""Flags -> Ascend's options: what may be set, in which one field, to which values, and what must hold besides.

The adapter reads each option from one field of AttrValue and loses what lies in another without a word; some wrong
values end the process without a Python exception. So everything is checked here, before a session or device exists.
"""
import argparse
import collections
import json
import os

from common import flags
from common.files import DataError

Rule = collections.namedtuple("Rule", "expected holds")  # str for messages; function(value of the field's type) -> bool
Option = collections.namedtuple("Option", "field flag rule")  # field of AttrValue: b, i or s; flag: who sets it

_TYPES = {"b": bool, "i": int, "s": str}


def _one_of(*values):
    return Rule("one of " + ", ".join(values), values.__contains__)


def _is_json_object(text):
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _holds_json_object(path):
    try:
        with open(path, encoding="utf-8") as file:
            return _is_json_object(file.read())
    except (OSError, UnicodeDecodeError):
        return False


def _is_writable_folder(path):
    return os.path.isdir(path) and os.access(path, os.R_OK | os.W_OK)


def _are_dump_steps(text):
    try:
        return flags.dump_steps(text) == text
    except argparse.ArgumentTypeError:
        return False


_SWITCH = Rule("True or False", lambda value: True)
_FOLDER = Rule("an existing folder that can be read and written", _is_writable_folder)

OPTIONS = {
    "use_off_line": Option("b", "--device", _SWITCH),
    "precision_mode": Option("s", "--precision_mode", _one_of(*flags.PRECISION_MODES)),
    "modify_mixlist": Option("s", "--mixlist_file", Rule("a file that holds a JSON object", _holds_json_object)),
    "fusion_switch_file": Option("s", "--fusion_off_file", Rule("an existing file", os.path.isfile)),
    "enable_dump": Option("b", "--data_dump_flag", _SWITCH),
    "enable_dump_debug": Option("b", "--over_dump", _SWITCH),
    "dump_path": Option("s", "--data_dump_path", _FOLDER),
    "dump_step": Option("s", "--data_dump_step", Rule(flags.DUMP_STEPS, _are_dump_steps)),
    "dump_mode": Option("s", "--data_dump_flag", _one_of("input", "output", "all")),
    "dump_debug_mode": Option("s", "--over_dump", _one_of("aicore_overflow", "atomic_overflow", "all")),
    "profiling_mode": Option("b", "--profiling", _SWITCH),
    "profiling_options": Option("s", "--profiling_dump_path", Rule("a JSON object", _is_json_object)),
    "iterations_per_loop": Option("i", "--iterations_per_loop", Rule("at least 1", lambda steps: steps >= 1)),
    "enable_data_pre_proc": Option("b", "--iterations_per_loop", _SWITCH),
    "hcom_parallel": Option("b", "RANK_SIZE", _SWITCH),
}


def session_parameters(parsed, ranks, steps_per_run=1):
    """The options that the flags ask for. Makes the folders of dumps and profiles where the run folder is to hold them.

    Args:
      parsed: namespace with the flags of flags.add_device_group, and output_path where there is a run folder.
      ranks: number of processes.
      steps_per_run: training steps that the device does in one run of the session.
    Returns:
      {option: bool, int or str}.
    Raises:
      DataError: a value is wrong, or options exclude one another.
    """
    options = {"use_off_line": True, "precision_mode": parsed.precision_mode}
    if ranks > 1:
        options["hcom_parallel"] = True
    if steps_per_run != 1:
        options.update(iterations_per_loop=steps_per_run, enable_data_pre_proc=True)
    if parsed.over_dump and parsed.data_dump_flag:
        raise DataError("--over_dump", "one kind of dump a run", "--data_dump_flag as well", "give one of them")
    if parsed.over_dump:
        options.update(enable_dump_debug=True, dump_debug_mode="all",
                       dump_path=_folder(parsed, "--data_dump_path", "overflow_dump"))
    if parsed.data_dump_flag:
        options.update(enable_dump=True, dump_mode="all", dump_step=parsed.data_dump_step,
                       dump_path=_folder(parsed, "--data_dump_path", "data_dump"))
    if parsed.profiling:
        options.update(profiling_mode=True, profiling_options=json.dumps({
            "output": _folder(parsed, "--profiling_dump_path", "profiling"),
            "training_trace": "on", "task_trace": "on", "aicpu": "on"}))
    if parsed.use_mixlist:
        options["modify_mixlist"] = parsed.mixlist_file or ""
    if parsed.fusion_off_flag:
        options["fusion_switch_file"] = parsed.fusion_off_file or ""
    if parsed.autotune:
        raise DataError("--autotune", "False, since the adapter does not read it", "True",
                        "set AOE_MODE=2 in the environment to tune operators")
    check(options)
    return options


def check(options):
    """Raises DataError for the first option that the adapter would lose, refuse or die of."""
    for name, value in options.items():
        if name not in OPTIONS:
            raise DataError(name, "one of " + ", ".join(sorted(OPTIONS)), "another option", "add it to OPTIONS first")
        field, flag, rule = OPTIONS[name]
        if type(value) is not _TYPES[field] or not rule.holds(value):
            raise DataError("%s (%s)" % (flag, name), rule.expected, repr(value), "correct it")
    mixed_modes = [name for name, mode in flags.PRECISION_MODES.items() if mode.mixlist]
    if "modify_mixlist" in options and options.get("precision_mode") not in mixed_modes:
        raise DataError("--use_mixlist", "--precision_mode=" + " or ".join(mixed_modes),
                        options.get("precision_mode"), "change one of them")
    if options.get("enable_dump") and options.get("enable_dump_debug"):
        raise DataError("enable_dump", "one kind of dump", "enable_dump_debug as well", "set one of them")
    if (options.get("enable_dump") or options.get("enable_dump_debug")) and "dump_path" not in options:
        raise DataError("dump_path", _FOLDER.expected, "none", "set it")
    if options.get("iterations_per_loop", 1) > 1 and not options.get("enable_data_pre_proc"):
        raise DataError("iterations_per_loop", "enable_data_pre_proc with it", "none", "set both")


def fill_session_config(config, options):
    """Adds the options to a ConfigProto and turns off the rewrites that the device compiler cannot take."""
    check(options)
    rewrites = config.graph_options.rewrite_options
    entry = rewrites.custom_optimizers.add()
    entry.name = "NpuOptimizer"
    for name, value in options.items():
        field = OPTIONS[name].field
        setattr(entry.parameter_map[name], field, value.encode() if field == "s" else value)
    rewrites.remapping = rewrites.OFF
    rewrites.memory_optimization = rewrites.OFF  # 2, which this field prints as MANUAL: the value the adapter uses


def fill_global_options(tree, options):
    """Sets the same options in the adapter's options for eager TensorFlow, where dumps and profiles have subtrees.

    Args:
      tree: what the adapter's global_options() returns.
      options: from session_parameters, for one step a run.
    """
    check(options)
    for name, value in options.items():
        if name == "use_off_line":  # the device is opened, or it is not
            continue
        branch = tree
        if name.startswith(("enable_dump", "dump_")):
            branch = tree.dump_config
        elif name.startswith("profiling_"):
            branch = tree.profiling_config
        setattr(branch, "enable_profiling" if name == "profiling_mode" else name, value)


def _folder(parsed, flag, name):
    """Where results of this kind go: the flag's folder, below it for dumps; without the flag, in the run folder."""
    given = getattr(parsed, flag[2:])
    run_folder = getattr(parsed, "output_path", None)
    if given and not _is_writable_folder(given) or not given and not run_folder:
        raise DataError(flag, _FOLDER.expected, repr(given), "make it and give its path")
    path = os.path.abspath(given or run_folder or "")
    if not given or flag == "--data_dump_path":  # overflows and data never share a folder
        path = os.path.join(path, name)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise DataError(path, "a folder that can be made", error.strerror, "give another %s" % flag) from error
    return path
