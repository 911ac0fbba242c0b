# SPDX-License-Identifier: Apache-2.0
"""Command-line flags: one dialect for all folders, checked before TensorFlow is imported.

Hyphens and underscores are the same, abbreviations are refused, an unknown flag is answered with the nearest
name, and a boolean is written --x, --no_x, --x=True or --x=False.
"""
import argparse
import collections
import difflib
import math
import os
import re
import sys

from common import ranks

# Published spellings of a flag -> ours. A folder that defines the published spelling itself keeps it.
ALIASES = {
    "--train_epochs": "--epochs",
    "--max_epochs": "--epochs",
    "--max_train_steps": "--train_steps",
    "--data_dir": "--data_path",
    "--data_dump": "--data_dump_flag",
    "--dump_path": "--data_dump_path",
    "--checkpoint": "--checkpoint_dir",
    "--checkpoint_dir": "--checkpoint",
    "--CKPT_PATH": "--checkpoint",
    "--CIFAR_PATH": "--data_path",
    "--over_dump_path": "--data_dump_path",
    "--num_epochs": "--epochs",
    "--train_batch_size": "--batch_size",
    "--initial_learning_rate": "--lr",
    "--epochs_between_evals": "--eval_every",
    "--max_train_step": "--train_steps",
    "--train_data_dir": "--data_path",
    "--model_dir": "--output_path",
    "--log_steps": "--log_every",
    "--data_source": "--source",
}
# Published flags that would change nothing, and why.
NEEDLESS = {
    "--bind_core": "several ranks are bound to their cores without it",
    "--end_learning_rate": "the rate falls to 0",
    "--eval_batch_size": "every image is evaluated once, whatever the batch",
    "--eval_data_dir": "what is evaluated lies beside what is trained on",
    "--train_dataset_size": "the images are counted",
    "--eval_dataset_size": "the images are counted",
}

# What a precision mode means. bfloat16: off Ascend products are computed in it, where the device has it; mixlist: it
# admits --use_mixlist; float16: gradients may pass through it on Ascend, so that the loss has to be scaled there.
PrecisionMode = collections.namedtuple("PrecisionMode", "bfloat16 mixlist float16")
PRECISION_MODES = {  # as CANN documents them for session mode
    "allow_mix_precision": PrecisionMode(True, True, True),
    "allow_mix_precision_fp16": PrecisionMode(True, True, True),
    "allow_mix_precision_bf16": PrecisionMode(True, True, False),
    "allow_fp32_to_fp16": PrecisionMode(False, False, True),
    "allow_fp32_to_bf16": PrecisionMode(True, False, False),
    "force_fp16": PrecisionMode(True, False, True),
    "force_fp32": PrecisionMode(False, False, False),
    "must_keep_origin_dtype": PrecisionMode(False, False, False),
    "cube_fp16in_fp32out": PrecisionMode(False, False, True),
}
# Flags of the group "NPU diagnostics" that ask for something.
NPU_SWITCHES = ("over_dump", "data_dump_flag", "profiling", "use_mixlist", "fusion_off_flag", "autotune")

DUMP_STEPS = "steps and ascending ranges such as 0|5|10-20, at most 100 of them"

# These may differ between a run and its continuation: they change what is shown, kept or recorded, not the weights.
FREE_TO_CHANGE = frozenset([
    "data_path", "output_path", "SUMMARY", "log_every", "eval_every", "save_every", "resume", "extend", "over_dump",
    "data_dump_flag", "data_dump_step", "data_dump_path", "profiling", "profiling_dump_path", "log_name", "threads",
    "iterations_per_loop", "max_bad_records", "do_checkpoint", "prepare", "num_workers", "eval_images", "eval_set",
    "eval_precision", "tta",
])

# What runs did before there was the flag, of those whose default is neither None nor false.
_BEFORE = {"flip": ("random",), "crop": ("zeros",), "norm_momentum": (0.9, 0.99), "bias_rate": (1,), "train_px": (224,)}


_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class Parser(argparse.ArgumentParser):
    """ArgumentParser with the house's dialect; every error is one line on stderr and exit code 2."""

    def __init__(self, **kwargs):
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(add_help=False, **kwargs)
        self.add_argument("-h", "--help", nargs=0, action=_Help, default=argparse.SUPPRESS,
                          help="show this, with what was given before it as defaults, and exit")
        self._booleans = set()

    def error(self, message):
        self.exit(2, "%s: %s; see --help\n" % (self.prog, message))

    def add_bool(self, group, name, default, help):
        """Adds --name, --no_name and --name=True|False to a group of this parser."""
        dest = name[2:]
        self._booleans.add(name)
        group.add_argument(name, nargs="?", const=True, default=default, type=boolean, metavar="True|False", help=help)
        group.add_argument("--no_" + dest, dest=dest, action="store_false", default=argparse.SUPPRESS,
                           help=argparse.SUPPRESS)

    def parse_args(self, args=None, namespace=None):
        known = self._option_string_actions
        words = [self._house_spelling(word, known) for word in (sys.argv[1:] if args is None else args)]
        for place, word in enumerate(words):
            if word in self._booleans and (words[place + 1:] or [""])[0].lower() not in _TRUE + _FALSE:
                words[place] = word + "=True"  # or argparse would take a positional argument for its value
        parsed, unknown = self.parse_known_args(words, namespace)
        if unknown:
            name = unknown[0].split("=")[0]
            if name in NEEDLESS:
                self.error("leave '%s' out: %s" % (name, NEEDLESS[name]))
            accepted = [o for o in known if o.startswith("--")] + [o for o, ours in ALIASES.items() if ours in known]
            near = difflib.get_close_matches(name, accepted, 1, 0.5)
            self.error("unknown flag '%s'%s" % (name, "; did you mean '%s'" % near[0] if near else ""))
        return parsed

    @staticmethod
    def _house_spelling(word, known):
        if not word.startswith("--") or word == "--":
            return word
        name, equals, value = word.partition("=")
        if name not in known:
            name = "--" + name[2:].replace("-", "_")
        if name not in known and ALIASES.get(name) in known:
            name = ALIASES[name]
        return name + equals + value


class _Help(argparse.Action):
    """--help shows the values that stand before it as defaults: a script's are in front of its user's flags."""

    def __call__(self, parser, namespace, values, option_string=None):
        parser.set_defaults(**vars(namespace))
        parser.print_help()
        parser.exit()


def boolean(text):
    """'True' or 'False' in any case, also 1/0, yes/no, on/off -> bool."""
    value = str(text).lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise argparse.ArgumentTypeError("found '%s', expected True or False" % text)


def integer(at_least, at_most=None):
    """A flag type: an int that is at least `at_least` and, if given, at most `at_most`."""
    wanted = "of at least %d" % at_least if at_most is None else "from %d to %d" % (at_least, at_most)

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < at_least or (at_most is not None and value > at_most):
            raise argparse.ArgumentTypeError("found '%s', expected an integer %s" % (text, wanted))
        return value
    return parse


def number(at_least=None, above=None, below=None):
    """A flag type: a finite float within the bounds that are given."""
    bounds = [(at_least, "at least", lambda v: v >= at_least), (above, "above", lambda v: v > above),
              (below, "below", lambda v: v < below)]
    said = " and ".join("%s %g" % (word, bound) for bound, word, _ in bounds if bound is not None)

    def parse(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not all(holds(value) for bound, _, holds in bounds if bound is not None):
            raise argparse.ArgumentTypeError("found '%s', expected a number %s" % (text, said))
        return value
    return parse


def dump_steps(text):
    """A flag type: steps to dump, see DUMP_STEPS; the text itself."""
    ranges = [re.fullmatch(r"(\d+)(?:-(\d+))?", part) for part in text.split("|")]
    if len(ranges) > 100 or not all(found and (not found.group(2) or int(found.group(1)) < int(found.group(2)))
                                    for found in ranges):
        raise argparse.ArgumentTypeError("found '%s', expected %s" % (text, DUMP_STEPS))
    return text


def input_path(text):
    """A flag type: a path to read. A relative one counts from where the user stands, else from the model folder.

    The scripts in test/ change into the model folder and export CALLED_FROM; published scripts took paths from there.
    """
    places = [os.environ.get("CALLED_FROM") or os.getcwd(), os.getcwd()]
    candidates = [os.path.abspath(os.path.join(place, os.path.expanduser(text))) for place in places]
    return next((path for path in candidates if os.path.exists(path)), candidates[0]) if text else text


def existing_path(text):
    """A flag type: an input_path of something that is there, if only as the prefix of a checkpoint's files."""
    path = input_path(text)
    if not path or not any(os.path.exists(path + ending) for ending in ("", ".index", ".h5")):
        raise argparse.ArgumentTypeError("found no file %s" % (path or "''"))
    return path


def output_path(text):
    """A flag type: a path to write. A relative one counts from where the user stands."""
    return os.path.abspath(os.path.join(os.environ.get("CALLED_FROM") or os.getcwd(), os.path.expanduser(text)))


def resume(text):
    """A flag type: "auto", "True", "False", or the path of something that is there."""
    if text.lower() in ("auto",) + _TRUE + _FALSE:
        return "auto" if text.lower() == "auto" else str(boolean(text))
    path = input_path(text)
    if not os.path.exists(path) and not os.path.exists(path + ".index"):
        raise argparse.ArgumentTypeError("found '%s', expected auto, True, False or the path of a run or checkpoint, "
                                         "and nothing is at %s" % (text, path))
    return path


def add_run_group(parser, epochs, batch_size, precision_mode, spelling=None):
    """Adds the flags that every folder has, those of add_device_group among them.

    Args:
      parser: a Parser.
      epochs, batch_size, precision_mode: the folder's documented defaults; batch_size is per card.
      spelling: {our name: documented spelling} where the folder's document has its own, e.g.
        {"log_every": "--DISPLAY_STEP"}. Both spellings work.
    """
    def names(ours):
        documented = (spelling or {}).get(ours)
        return ([documented] if documented else []) + ["--" + ours]

    run = parser.add_argument_group("run")
    run.add_argument("--data_path", type=input_path, help="the data; the folder's README says in which layouts")
    run.add_argument("--output_path", type=output_path,
                     help="run folder; default test/output/$ASCEND_DEVICE_ID of the model folder")
    run.add_argument("--epochs", type=integer(1), default=epochs, help="passes over the training images")
    run.add_argument("--train_steps", type=integer(1), help="length of the run in steps, instead of --epochs")
    run.add_argument("--batch_size", type=integer(1), default=batch_size, help="images per step and card")
    run.add_argument(*names("log_every"), dest="log_every", type=integer(1), default=100, metavar="STEPS",
                     help="steps between two [train] lines")
    run.add_argument(*names("eval_every"), dest="eval_every", type=integer(0), default=1, metavar="EPOCHS",
                     help="epochs between two evaluations; 0 for one at the end only")
    run.add_argument("--save_every", type=integer(1), default=500, metavar="STEPS",
                     help="steps between two checkpoints")
    run.add_argument("--resume", nargs="?", const="True", default="auto", type=resume, metavar="auto|True|False|PATH",
                     help="auto: continue what output_path holds when it is unfinished; True: there must be something "
                          "to continue; False: start anew (what is there is moved aside); PATH: train on from that "
                          "run's checkpoint with all that it holds, step and optimizer included, to the longer end "
                          "that --epochs or --train_steps says")
    parser.add_bool(run, "--extend", False, "train the run of output_path on, finished or not, to a larger --epochs or "
                                            "--train_steps; from there on the schedule is that of the longer run")
    run.add_argument("--seed", type=integer(0), default=0, help="of weights, data order and augmentation")
    run.add_argument("--SUMMARY", "--tensorboard_dir", dest="SUMMARY", type=output_path, metavar="DIR",
                     help="TensorBoard folder; default tb in the run folder")
    parser.add_bool(run, "--synthetic", False, help="train on random images; needs no data")
    # No flag, but recorded with them: other ranks would read other data, and count other steps an epoch.
    parser.set_defaults(ranks=ranks.size_text())
    add_device_group(parser, precision_mode)


def add_transfer_group(parser, parts):
    """Adds what a run reads that starts from other weights.

    Args:
      parser: a Parser.
      parts: what --freeze counts, first to last, e.g. ("conv1_x", "conv2_x").
    """
    group = parser.add_argument_group("transfer learning")
    group.add_argument("--init_from", type=existing_path, metavar="PATH",
                       help="start anew from these weights: a run, a checkpoint, or published weights (README); what "
                            "does not fit, as the head of other classes, begins anew. To continue a run: --resume")
    group.add_argument("--freeze", type=integer(0, len(parts)), default=0, metavar="N",
                       help="leave the first N of %s as they are, statistics included" % ", ".join(parts))


def add_device_group(parser, precision_mode):
    """Adds what runtime.Runtime reads: device, precision and the group "NPU diagnostics".

    Args:
      parser: a Parser.
      precision_mode: the default, one of PRECISION_MODES.
    """
    device = parser.add_argument_group("device")
    device.add_argument("--device", choices=("auto", "npu", "gpu", "cpu"), default="auto", help="what to compute on")
    device.add_argument("--precision_mode", choices=list(PRECISION_MODES), default=precision_mode,
                        help="Ascend's precision mode; the mixed modes mean bfloat16 on a CPU that has it")

    npu = parser.add_argument_group("NPU diagnostics", "without effect on GPU and CPU, where a [warn] line says so")
    parser.add_bool(npu, "--over_dump", False, help="detect overflow and dump it; not together with --data_dump_flag")
    parser.add_bool(npu, "--data_dump_flag", False, help="dump inputs and outputs of operators")
    npu.add_argument("--data_dump_step", type=dump_steps, default="10", metavar="STEPS",
                     help="when to dump them: " + DUMP_STEPS)
    npu.add_argument("--data_dump_path", type=input_path,
                     help="existing folder: dumps go into its overflow_dump/ and data_dump/; None: the run folder")
    parser.add_bool(npu, "--profiling", False, help="record a profile")
    npu.add_argument("--profiling_dump_path", type=input_path,
                     help="existing folder for profiles; None: profiling/ in the run folder")
    parser.add_bool(npu, "--use_mixlist", False, help="use --mixlist_file; for the modes allow_mix_precision*")
    npu.add_argument("--mixlist_file", type=existing_path, help="JSON lists of operators for mixed precision")
    parser.add_bool(npu, "--fusion_off_flag", False, help="use --fusion_off_file")
    npu.add_argument("--fusion_off_file", type=existing_path, help="fusion switches")
    parser.add_bool(npu, "--autotune", False, help="refused on an NPU: its adapter no longer reads it; set AOE_MODE")


def add_checkpoint_group(parser, run_folder):
    """Adds what a program reads that evaluates or exports a run; the default is run_folder."""
    group = parser.add_argument_group("checkpoint")
    group.add_argument("--checkpoint", type=input_path, default=run_folder,
                       help="a run folder (its newest checkpoint), one checkpoint's folder, or its path prefix")
    parser.add_bool(group, "--best", False, "of a run folder, the checkpoint that evaluated best")


def add_predict_group(parser, run_folder):
    """Adds what predict.py reads, --checkpoint among it; the default of that is run_folder."""
    group = parser.add_argument_group("pictures")
    group.add_argument("pictures", nargs="+", type=input_path, metavar="PICTURES",
                       help="files, or folders with all that is in them")
    group.add_argument("--output_path", type=output_path, default=output_path("predictions"), metavar="FOLDER",
                       help="where predictions.csv, predictions.json and a contact sheet go")
    group.add_argument("--top", type=integer(1), default=5, help="classes to name for each picture")
    add_checkpoint_group(parser, run_folder)
    group.add_argument("--model", type=existing_path, metavar="EXPORT",
                       help="an exported model's folder, instead of --checkpoint")


def default_output_path(model_folder):
    """test/output/<ASCEND_DEVICE_ID, or 0> of a model folder."""
    return os.path.join(model_folder, "test", "output", os.environ.get("ASCEND_DEVICE_ID") or "0")


def first_difference(old, new):
    """The first flag, by name, whose value makes a continuation another training run, or None.

    Args:
      old, new: {flag: value}, as saved in flags.json and as given now.
    Returns:
      (name, old value, new value) or None.
    """
    for name in sorted(set(old) | set(new)):
        if name not in old and new[name] in _BEFORE.get(name, ()):
            continue
        if name not in FREE_TO_CHANGE and (old.get(name) or None) != (new.get(name) or None):
            return name, old.get(name), new.get(name)
    return None
