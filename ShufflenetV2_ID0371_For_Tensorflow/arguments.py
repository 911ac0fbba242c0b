# SPDX-License-Identifier: Apache-2.0
"""The flags that train.py and eval.py share; the defaults are the documented ones."""
import argparse
import os

from common import flags

HERE = os.path.dirname(os.path.abspath(__file__))
TRAINING_MODES = ("train", "train_and_evaluate")
MODES = TRAINING_MODES + ("evaluate", "predict", "export")
IMAGE_PX = 224
NUM_CLASSES = 1000  # where neither a flag nor the data says it
WIDTHS = ("0.5", "1.0", "1.5", "2.0", "2.0_224")  # architecture.WIDTHS, which needs TensorFlow
VARIANTS = ("published", "torchvision")  # architecture.VARIANTS
PARTS = ("Conv1", "Stage2", "Stage3", "Stage4", "Conv5")  # what --freeze counts
VERSIONS = ("he_uniform", "xavier_uniform")  # architecture.INITIALIZERS


def parse_args(argv=None, mode="train"):
    """Parses the command line.

    Args:
      argv: list of str; None takes the process's own.
      mode: default of --mode; eval.py, which does not train, has "evaluate".
    Returns:
      argparse.Namespace. To evaluate, predict or export, checkpoint_dir is a run folder by default, and output_path
      lies beside it: a launcher opens output_path for a new run, and moves a finished one aside. classes_from_data says
      that num_classes is none of the user's; who knows the data sets it and takes that field away.
    """
    parser = flags.Parser(prog="train.py" if mode == "train" else "eval.py",
                          description="Trains ShuffleNetV2 on ImageNet, evaluates it, tries it and exports it.")
    _add_recipe_group(parser)
    flags.add_run_group(parser, epochs=133, batch_size=128, precision_mode="allow_fp32_to_fp16",
                        spelling={"log_every": "--save_summary_steps"})
    parser.set_defaults(save_every=1000)
    _add_documented_names(parser, mode)
    data = parser.add_argument_group("data")
    parser.add_bool(data, "--prepare", False, help="when --data_dir holds class folders, make shards of them first")
    data.add_argument("--max_bad_records", type=flags.integer(0), default=10, help="damaged records to pass over")
    data.add_argument("--threads", type=flags.integer(0), default=0, help="images decoded at a time; 0 for one a core")
    flags.add_transfer_group(parser, PARTS)
    _add_use_group(parser)
    parsed = parser.parse_args(argv)
    if parsed.confusion_png and parsed.mode != "evaluate":
        parser.error("argument --confusion_png: is for --mode=evaluate")
    parsed.classes_from_data = parsed.num_classes is None
    parsed.num_classes = parsed.num_classes or NUM_CLASSES
    if parsed.variant == "torchvision" and parsed.depth_multiplier == "2.0_224":
        parser.error("argument --depth_multiplier: 2.0_224 is the published code's; torchvision has 0.5, 1.0, 1.5, 2.0")
    if parsed.freeze and not parsed.init_from:
        parser.error("argument --freeze: needs --init_from, or random layers would stay as they are")
    if parsed.images and parsed.mode != "predict":
        parser.error("found '%s', expected flags; image files are for --mode=predict" % parsed.images[0])
    if parsed.mode == "predict" and not parsed.images:
        parser.error("argument --mode: predict needs image files or folders, as in --mode=predict a.jpg")
    if parsed.mode not in TRAINING_MODES and parsed.ranks != "1":
        parser.error("argument --mode: %s is for one card, and RANK_SIZE is %s" % (parsed.mode, parsed.ranks))
    run_folder = parsed.output_path or flags.default_output_path(HERE)
    parsed.output_path = run_folder
    if parsed.mode not in TRAINING_MODES:
        parsed.checkpoint_dir = parsed.checkpoint_dir or run_folder
        parsed.export_dir = parsed.export_dir or os.path.join(run_folder, "export")
        parsed.output_path = os.path.join(os.path.dirname(run_folder), "evaluate-" + os.path.basename(run_folder))
    return parsed


def _add_recipe_group(parser):
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--depth_multiplier", choices=WIDTHS, default="0.5",
                        help="width of the network; 2.0_224 is what the published code calls 2.0")
    recipe.add_argument("--variant", choices=VARIANTS, default="published",
                        help="the published TensorFlow reference's network, or torchvision's, for its weights")
    recipe.add_argument("--num_classes", type=flags.integer(2),
                        help="default: as many as the shards say they have, else %d" % NUM_CLASSES)
    recipe.add_argument("--lr", type=flags.number(above=0), default=0.06, help="rate after warm-up")
    recipe.add_argument("--decay", choices=("linear", "cosine"), default="linear", help="of the rate, to the end")
    recipe.add_argument("--warmup_epochs", type=flags.number(at_least=0), default=5.0, help="linear warm-up")
    recipe.add_argument("--momentum", type=flags.number(at_least=0, below=1), default=0.9, help="Nesterov momentum")
    recipe.add_argument("--weight_decay", type=flags.number(at_least=0), default=4e-5,
                        help="of kernels that are not depthwise")
    recipe.add_argument("--label_smoothing", type=flags.number(at_least=0, below=1), default=0.1)
    recipe.add_argument("--version", type=_initializer, default="he_uniform", metavar="{%s}" % ",".join(VERSIONS),
                        help="how weights start")
    recipe.add_argument("--ema_decay", type=flags.number(at_least=0, below=1), default=0.993,
                        help="of the moving averages of the weights")
    parser.add_bool(recipe, "--augment", True, "random crops, mirrors and colours; False: an image's centre")
    recipe.add_argument("--train_px", type=flags.integer(64, IMAGE_PX), default=IMAGE_PX, metavar="PX", help=(
        "side of training images; fewer pixels are faster, and objects then look as large as in evaluation at %d "
        "(Touvron et al. 2019, arXiv:1906.06423)" % IMAGE_PX))
    recipe.add_argument("--min_crop_area", type=flags.number(above=0, below=1), default=0.1,
                        help="smallest training crop, as a fraction of the image")
    recipe.add_argument("--colour_jitter", type=flags.number(at_least=0, below=1), default=0.0,
                        help="brightness, contrast, saturation vary by up to this fraction")


def _add_documented_names(parser, mode):
    run = parser.add_argument_group("documented names")
    for name, ours in (("--data_dir", "data_path"), ("--log_dir", "output_path")):
        run.add_argument(name, dest=ours, default=argparse.SUPPRESS, help="the same as --" + ours,
                         type=flags.input_path if ours == "data_path" else flags.output_path)
    for name, ours in (("--max_epochs", "epochs"), ("--max_train_steps", "train_steps"),
                       ("--save_checkpoints_steps", "save_every")):
        run.add_argument(name, dest=ours, type=flags.integer(1), default=argparse.SUPPRESS,
                         help="the same as --" + ours)
    run.add_argument("--mode", choices=[name for name in MODES if mode == "train" or name not in TRAINING_MODES],
                     default=mode, help="train evaluates nothing; evaluate, predict and export need a checkpoint")
    run.add_argument("--log_name", default="alexnet_training.log", type=_file_name,
                     help="file of the run folder that gets the event lines")
    run.add_argument("--checkpoint_dir", type=flags.input_path,
                     help="to evaluate, predict or export: a run folder, a checkpoint's folder or its path prefix; "
                          "default the run folder")
    parser.add_bool(run, "--do_checkpoint", True, help="save checkpoints")
    run.add_argument("--rank_size", type=flags.integer(1), default=1, help="number of cards, as RANK_SIZE says")
    run.add_argument("--iterations_per_loop", type=flags.integer(1), default=10,
                     help="steps between two looks of the host at the loss and at requests to stop; on an NPU the "
                          "device does that many by itself")


def _add_use_group(parser):
    use = parser.add_argument_group("evaluate, predict, export")
    parser.add_bool(use, "--best", False, help="of a run folder, the checkpoint that evaluated best")
    use.add_argument("--confusion_png", type=flags.output_path, metavar="FILE.png",
                     help="of --mode=evaluate: print the accuracy of every class and write the confusion matrix as a "
                          "picture")
    add_class_names(use)
    use.add_argument("--export_dir", type=flags.output_path, help="new folder for the exported model; default export/ "
                     "in the run folder")
    use.add_argument("images", nargs="*", help="image files or folders for --mode=predict")


def add_class_names(group):
    """Adds --class_names."""
    group.add_argument("--class_names", type=flags.existing_path,
                       help='JSON {class id: name} or {"0": [class id, name], ...} for the names that are printed')


def _initializer(text):
    name = {"he_uniorm": "he_uniform"}.get(text, text)  # as the document spells it
    if name not in VERSIONS:
        raise argparse.ArgumentTypeError("found '%s', expected one of %s" % (text, ", ".join(VERSIONS)))
    return name


def _file_name(text):
    if not text or os.path.basename(text) != text:
        raise argparse.ArgumentTypeError("found '%s', expected a file name; the folder is --log_dir" % text)
    return text
