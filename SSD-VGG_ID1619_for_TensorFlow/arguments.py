# SPDX-License-Identifier: Apache-2.0
"""The flags of train.py; the defaults are the documented ones."""
import argparse
import os

import ssdutils
import weights
from common import flags

HERE = os.path.dirname(os.path.abspath(__file__))
EVAL_SETS = ("valid", "train")


def parse_args(argv=None):
    """Parses the command line.

    Args:
      argv: list of str; None takes the process's own.
    Returns:
      argparse.Namespace; output_path is a run folder, name a folder's name in it. preset is None where --init_from says
      which network it is, which find_data of train.py looks up.
    """
    parser = flags.Parser(prog="train.py", description="Trains SSD on Pascal VOC.")
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--preset", choices=sorted(ssdutils.PRESETS),
                        help="the network; None: that of --init_from, else vgg300")
    recipe.add_argument("--vgg_dir", type=flags.input_path,
                        help="VGG-16 to start from, of Keras, PyTorch or the published reference (README); default "
                             "vgg_graph/ or vgg/ of --data_path when it is there; else from scratch")
    weights.add_colours(recipe)
    recipe.add_argument("--optimizer", choices=("momentum", "adam"), default="momentum", help="of the weights")
    recipe.add_argument("--lr_values", type=_list_of(flags.number(above=0)), default="0.00075;0.0001;0.00001",
                        help="learning rates, one after the other")
    recipe.add_argument("--lr_boundaries", type=_list_of(flags.integer(1)), default="320000;400000",
                        help="steps after which the next rate holds")
    recipe.add_argument("--schedule", choices=("steps", "cosine"), default="steps",
                        help="cosine: from the first rate down to 0 at the end, whatever the other rates say")
    recipe.add_argument("--warmup_steps", type=flags.integer(0), default=0, help="linear warm-up")
    recipe.add_argument("--momentum", type=flags.number(at_least=0, below=1), default=0.9,
                        help="of the optimizer; Adam's beta1")
    recipe.add_argument("--weight_decay", type=flags.number(at_least=0), default=5e-4, help="L2 factor of kernels")
    recipe.add_argument("--clip_norm", type=flags.number(at_least=0), default=0.0,
                        help="largest length of the gradient of all weights together; 0 for any")
    recipe.add_argument("--norm", choices=("none", "batch"), default="none",
                        help="batch: normalisation in the layers that SSD adds to VGG-16, for training from scratch; "
                             "published checkpoints do not load then")
    parser.add_bool(recipe, "--augment", True, help="the paper's random distortions, crops and mirrors")
    flags.add_run_group(parser, epochs=200, batch_size=8, precision_mode="allow_fp32_to_fp16")
    flags.add_transfer_group(parser, ["conv%d_x" % block for block in range(1, len(ssdutils.VGG_BLOCKS) + 1)])
    parser.set_defaults(log_every=20, eval_every=10, save_every=200, data_dump_path="/home/HwHiAiUser/")

    run = parser.add_argument_group("documented names")
    run.add_argument("--checkpoint_interval", dest="save_every", type=flags.integer(1), default=argparse.SUPPRESS,
                     metavar="STEPS", help="the same as --save_every")
    run.add_argument("--continue_training", dest="resume", nargs="?", const="True", type=_resume,
                     default=argparse.SUPPRESS, metavar="True|False",
                     help="True: there must be a run to continue; False: --resume=auto")
    run.add_argument("--name", type=_folder_name, default="ckpt",
                     help="project: the folder of the run folder that gets the checkpoints; a path: it and its parent, "
                          "which is the run folder")
    run.add_argument("--num_workers", type=flags.integer(0),
                     help="processes that make batches; 0 makes them in the training process; default one a core")

    data = parser.add_argument_group("data")
    data.add_argument("--train_images", type=flags.integer(1), help="train on the first N images only")
    data.add_argument("--eval_images", type=flags.integer(0), help="evaluate on the first N images only; 0 for none")
    data.add_argument("--eval_set", choices=EVAL_SETS, default="valid",
                      help="what is evaluated; train: the images that --train_images leaves")
    data.add_argument("--eval_precision", choices=("training", "float32"), default="training",
                      help="of evaluations before the last one, which is in float32; training: as the steps")
    parsed = parser.parse_args(argv)
    if len(parsed.lr_values) != len(parsed.lr_boundaries) + 1:
        parser.error("--lr_values: found %d rates for %d boundaries, expected one more than --lr_boundaries has" % (
            len(parsed.lr_values), len(parsed.lr_boundaries)))
    if sorted(set(parsed.lr_boundaries)) != parsed.lr_boundaries:
        parser.error("--lr_boundaries: found %s, expected rising steps" % ";".join(map(str, parsed.lr_boundaries)))
    if parsed.norm == "batch" and parsed.batch_size == 1:
        parser.error("--batch_size: found 1, expected at least 2 with --norm=batch: the last map is one pixel")
    if parsed.vgg_dir and parsed.init_from:
        parser.error("--init_from: found --vgg_dir as well, expected one of the two")
    run_folder, parsed.name = os.path.split(parsed.name)
    if run_folder and parsed.output_path not in (None, run_folder):
        parser.error("--name: found a folder in %s, expected one in --output_path=%s" % (
            run_folder, parsed.output_path))
    parsed.output_path = parsed.output_path or run_folder or flags.default_output_path(HERE)
    if not parsed.init_from:
        parsed.preset = parsed.preset or "vgg300"
        parsed.vgg_dir = parsed.vgg_dir or _published_vgg(parsed)
    return parsed


def _published_vgg(parsed):
    """VGG-16's folder in the data, where the published scripts take it from, or None."""
    places = [os.path.join(parsed.data_path or os.path.join(HERE, "data"), name) for name in ("vgg_graph", "vgg")]
    return next(filter(os.path.isdir, [] if parsed.synthetic else places), None)


def _list_of(one):
    return lambda text: [one(part) for part in text.split(";") if part.strip()]


def _resume(text):
    return "True" if flags.boolean(text) else "auto"


def _folder_name(text):
    if os.path.basename(text) in ("", ".", ".."):
        raise argparse.ArgumentTypeError("found '%s', expected the name or the path of a folder" % text)
    return flags.output_path(text) if os.path.dirname(text) else text
