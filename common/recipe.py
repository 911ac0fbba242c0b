# SPDX-License-Identifier: Apache-2.0
"""Ingredients that recipes for small images share: their flags, each with its source, and the rate over a run."""
import math

from common import flags

SCHEDULES = ("cosine", "constant", "linear", "one-cycle")
ONE_CYCLE_RISE = 0.3  # share of the run
AVERAGE_EVERY_STEPS = 5  # an average reads all weights, so not at every step (Jordan 2024, arXiv:2404.00498, Lookahead)
_NAMES = ("schedule", "label_smoothing", "flip", "crop", "ema_decay", "norm_momentum", "hold_out")


def add_flags(parser, group, schedule, norm_momentum):
    """Adds the ingredients to a group of a flags.Parser; what is not given leaves the documented recipe as it is.

    Args:
      schedule, norm_momentum: the folder's defaults.
    """
    group.add_argument("--schedule", choices=SCHEDULES, default=schedule, help=(
        "rate after warm-up: cosine to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983), constant, linear to 0 (Li et "
        "al. 2020, arXiv:1905.04753); one-cycle: a warm-up of %g of the run, then cosine (Smith and Topin 2017, "
        "arXiv:1708.07120)" % ONE_CYCLE_RISE))
    group.add_argument("--label_smoothing", type=flags.number(at_least=0, below=1), default=0.0, help=(
        "share of each label that goes to all classes alike (Szegedy et al. 2015, arXiv:1512.00567, section 7)"))
    group.add_argument("--flip", choices=("random", "alternating"), default="random", help=(
        "which images an epoch mirrors: half at random; or half in the first, then in turns (Jordan 2024, "
        "arXiv:2404.00498)"))
    group.add_argument("--crop", choices=("zeros", "reflect"), default="zeros", help=(
        "what a crop sees beyond the border: zeros, or the image reflected (Jordan 2024)"))
    group.add_argument("--ema_decay", type=flags.number(at_least=0, below=1), default=0.0, metavar="DECAY", help=(
        "average weights and statistics with this decay a step; evaluation, best checkpoint, prediction and export "
        "are then of the averages (Polyak and Juditsky 1992), top1_no_ema is of the weights; with a smaller "
        "--norm_momentum, says Jordan 2024"))
    group.add_argument("--norm_momentum", type=flags.number(at_least=0, below=1), default=norm_momentum,
                       help="of batch normalisation's moving statistics")
    parser.add_bool(group, "--tta", False, "also evaluate the mean of an image's and its mirror's scores: top1_tta")
    group.add_argument("--hold_out", type=flags.number(at_least=0, below=1), default=0.0, metavar="FRACTION", help=(
        "evaluate on this share of the training images, of each class, drawn by --seed, instead of the test images: "
        "to choose a recipe without those"))


def describe(parsed):
    """Fields of the [run] line: which ingredients are on."""
    return {name: getattr(parsed, name) for name in _NAMES}


def learning_rate(step, total_steps, warmup_steps, schedule, peak):
    """The rate of a step, an int from 0.

    It rises linearly to `peak` over warmup_steps, at most half the run, then follows a schedule of SCHEDULES, of which
    "cosine" is Loshchilov and Hutter's equation 5 with one period, down to 0.
    """
    if schedule == "one-cycle":
        warmup_steps = round(ONE_CYCLE_RISE * total_steps)
    warmup_steps = min(warmup_steps, total_steps // 2)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done_fraction = (step - warmup_steps) / (total_steps - warmup_steps)
    return peak * {"constant": 1.0, "linear": 1.0 - done_fraction}.get(
        schedule, 0.5 * (1.0 + math.cos(math.pi * done_fraction)))
