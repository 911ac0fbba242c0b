# SPDX-License-Identifier: Apache-2.0
"""Weights that the published folder's train.py saved (cspdarknet53.ckpt), under the names of this network.

That network normalises every pixel by the batch, without scale, shift or statistics, and adds nothing to the residual
blocks; kernels and classifier are alike in both. So they are taken, of a kernel whose outer taps would only meet
padding those that are left (models/layers.py), and the rest begins anew. The biases before a normalisation do nothing.
"""
from models import cspdarknet53


def is_published(stored):
    """Whether {name: shape} is of such a checkpoint."""
    return {"w_s1c1", "w_conv", "wfc", "bfc"} <= set(stored)


def kernels():
    """{name of a convolution here: name there}, without "/weights" and "w_"."""
    names = {"stem": "s1c1"}
    for number, stage in enumerate(cspdarknet53.STAGES, 1):
        here, there = "stage%d/" % number, "s%d" % (number + 1)
        first = number == 1  # the later stages begin with what is the merge of the stage before here
        names[here + "down"] = there + ("c1" if first else "c2")
        names[here + "carried"], names[here + "transformed"] = there + "s0", there + "s1"
        for block in range(1, stage.blocks + 1):
            there_block = [there + "c2", there + "c3"] if first else ["%sb%dc%d" % (there, block, part)
                                                                      for part in (1, 2)]
            names["%sblock%d/narrow" % (here, block)], names["%sblock%d/widen" % (here, block)] = there_block
        names[here + "transition"] = there + ("c4" if first else "c3")
        names[here + "merge"] = "conv" if number == len(cspdarknet53.STAGES) else "s%dc1" % (number + 2)
    return names


def read(tf, prefix, shapes):
    """The weights of a published checkpoint.

    Args:
      tf: tensorflow.compat.v1.
      prefix: path prefix of the checkpoint.
      shapes: {name of a variable of this network: its shape}.
    Returns:
      {name of a variable of this network: array}.
    """
    reader = tf.train.load_checkpoint(prefix)
    arrays = dict(zip(cspdarknet53.HEAD, (reader.get_tensor(name) for name in ("wfc", "bfc"))))
    for here, there in kernels().items():
        name = "%s/%s/weights" % (cspdarknet53.NAME, here)
        arrays[name] = crop(reader.get_tensor("w_" + there), shapes.get(name, (3,))[0])
    return arrays


def crop(kernel, taps):
    """The taps x taps of a 3x3 kernel that a map of one or two pixels meets.

    On a map that stays one pixel wide that is the centre. Where two pixels become one, SAME padding is all
    behind, and the first two rows and columns are what meets the map.
    """
    first = 1 if taps == 1 and len(kernel) == 3 else 0
    return kernel[first:first + taps, first:first + taps]
