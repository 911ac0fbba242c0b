# SPDX-License-Identifier: Apache-2.0
"""Flags -> the NpuOptimizer entry of a session: each option with the one field that the adapter reads it from."""
import json
import os

from common.datacheck import DataError

# option -> field of AttrValue; a value in any other field is lost without a word.
_FIELDS = {
    "use_off_line": "b", "precision_mode": "s", "modify_mixlist": "s", "fusion_switch_file": "s", "enable_dump": "b",
    "enable_dump_debug": "b", "dump_path": "s", "dump_step": "s", "dump_mode": "s", "dump_debug_mode": "s",
    "profiling_mode": "b", "profiling_options": "s", "hcom_parallel": "b",
}


def session_parameters(parsed, ranks):
    """Checks the diagnostics flags and gives the session's options.

    Args:
      parsed: namespace with the flags of flags.add_run_group.
      ranks: number of processes.
    Returns:
      {option: bool or str}.
    Raises:
      DataError: a path does not exist, or options exclude one another.
    """
    options = {"use_off_line": True, "precision_mode": parsed.precision_mode}
    if ranks > 1:
        options["hcom_parallel"] = True
    if parsed.over_dump and parsed.data_dump_flag:
        raise DataError("--over_dump", "one kind of dump", "--data_dump_flag as well", "give one of them")
    if parsed.over_dump or parsed.data_dump_flag:
        options["dump_path"] = _writable_folder("--data_dump_path", parsed.data_dump_path)
    if parsed.over_dump:
        options.update(enable_dump_debug=True, dump_debug_mode="all")
    if parsed.data_dump_flag:
        options.update(enable_dump=True, dump_step=parsed.data_dump_step, dump_mode="all")
    if parsed.profiling:
        folder = _writable_folder("--profiling_dump_path", parsed.profiling_dump_path)
        options.update(profiling_mode=True, profiling_options=json.dumps(
            {"output": folder, "training_trace": "on", "task_trace": "on", "aicpu": "on"}))
    if parsed.use_mixlist:
        if not parsed.precision_mode.startswith("allow_mix_precision"):
            raise DataError("--use_mixlist", "--precision_mode=allow_mix_precision", parsed.precision_mode,
                            "change one of them")
        options["modify_mixlist"] = _file("--mixlist_file", parsed.mixlist_file)
    if parsed.fusion_off_flag:
        options["fusion_switch_file"] = _file("--fusion_off_file", parsed.fusion_off_file)
    return options


def fill_session_config(config, options):
    """Adds the options to a ConfigProto and turns off the rewrites that the device compiler cannot take."""
    rewrites = config.graph_options.rewrite_options
    entry = rewrites.custom_optimizers.add()
    entry.name = "NpuOptimizer"
    for name, value in options.items():
        setattr(entry.parameter_map[name], _FIELDS[name], value.encode() if _FIELDS[name] == "s" else value)
    rewrites.remapping = rewrites.OFF
    rewrites.memory_optimization = rewrites.OFF  # 2, which this field prints as MANUAL: the value the adapter uses


def fill_global_options(options, parameters):
    """Sets the same options in npu_device.global_options(), where dumps and profiles have subtrees of their own.

    Args:
      options: npu_device.global_options().
      parameters: from session_parameters.
    """
    for name, value in parameters.items():
        if name == "use_off_line":  # the device is opened, or it is not
            continue
        tree = options
        if name.startswith(("enable_dump", "dump_")):
            tree = options.dump_config
        elif name.startswith("profiling_"):
            tree = options.profiling_config
        setattr(tree, "enable_profiling" if name == "profiling_mode" else name, value)


def _writable_folder(flag, path):
    if not path or not os.path.isdir(path) or not os.access(path, os.W_OK):
        raise DataError(flag, "an existing folder that can be written", repr(path), "make it and give its path")
    return os.path.abspath(path)


def _file(flag, path):
    if not path or not os.path.isfile(path):
        raise DataError(flag, "a file", repr(path), "give its path")
    return os.path.abspath(path)
