# SPDX-License-Identifier: Apache-2.0
"""Other programs' weights under this network's names and in its order: VGG-16 of any file, SSD300 of two in PyTorch.

Ours: kernels are [height, width, in, out], the first one takes BGR from 0 to 255 less a mean; a classifier's columns
are the classes, the background, the four offsets; a box's kinds are 1, the ratios, then the square between two scales.
"""
import collections

import ssdutils
from common.files import DataError
from common.lazy import np
from weight_files import layer_of

# What a first convolution was trained on, as (order of the channels, mean, standard deviation), of 0 to 255, by the
# program whose weights are so. "reference": its graph turns RGB to BGR before the mean, and it is fed OpenCV's BGR.
Colours = collections.namedtuple("Colours", "order mean std")
_CAFFE_BGR, _ONE = (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)
COLOURS = {
    "keras": Colours("BGR", _CAFFE_BGR, _ONE),
    "reference": Colours("RGB", _CAFFE_BGR, _ONE),
    "amdegroot": Colours("RGB", (123.0, 117.0, 104.0), _ONE),
    "torchvision": Colours("RGB", tuple(255 * part for part in (0.485, 0.456, 0.406)),
                           tuple(255 * part for part in (0.229, 0.224, 0.225))),
    "torchvision_ssd": Colours("RGB", tuple(255 * part for part in (0.48235, 0.45882, 0.40784)), _ONE),
}

Layout = collections.namedtuple("Layout", "what arrays colours preset classes")
Layout.__doc__ = """What is in a file: in words; {our name: float32 array}, the first convolution as it stands there; of
COLOURS the name, or None where nothing tells; the preset's name and the number of classes, None for a trunk."""
VGG = "a VGG-16"

_FC_CHANNELS, _FC_SIDE_PX = 4096, 7  # of fc6 and fc7, of the map that fc6 sees
_STATISTICS = 4  # arrays of a batch normalisation: scale, shift, mean, variance
_FEW = 6  # arrays, names or shapes that a message shows

# Modules of PyTorch by our names. `heads`: of the offsets, of the classes.
_Torch = collections.namedtuple("_Torch", "what mark convolutions fc extras heads preset colours")
_VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of the convolutions in torchvision's VGG-16
_SSD300 = (
    _Torch("torchvision's SSD300", "backbone.scale_weight",
           ["backbone.features.%d" % place for place in _VGG_PLACES[:10]] + [
               "backbone.extra.0.%d" % place for place in (1, 3, 5)],
           ["backbone.extra.0.7.1", "backbone.extra.0.7.3"],
           ["backbone.extra.%d.%d" % (block, place) for block in (1, 2, 3, 4) for place in (0, 2)],
           ("head.regression_head.module_list.%d", "head.classification_head.module_list.%d"),
           "torchvision300", "torchvision_ssd"),
    _Torch("SSD300 of amdegroot's ssd.pytorch", "L2Norm.weight", ["vgg.%d" % place for place in _VGG_PLACES],
           ["vgg.31", "vgg.33"], ["extras.%d" % place for place in range(8)], ("loc.%d", "conf.%d"),
           "amdegroot300", "amdegroot"),
)
# Both have the kinds as 1, the square in between, 2, 1/2, 3, 1/3.
_KINDS = {4: [0, 2, 3, 1], 6: [0, 2, 4, 3, 5, 1]}

# Of torchvision's COCO_V1, without the background; COCO leaves some numbers out.
COCO_CLASSES = [name.strip() for name in """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, N/A, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, N/A, backpack, umbrella,
    N/A, N/A, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
    skateboard, surfboard, tennis racket, bottle, N/A, wine glass, cup, fork, knife, spoon, bowl, banana, apple,
    sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, N/A, dining table,
    N/A, N/A, toilet, N/A, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
    refrigerator, N/A, book, clock, vase, scissors, teddy bear, hair drier, toothbrush""".split(",")]


def understand(arrays, path):
    """Layout of the arrays of a file.

    Args:
      arrays: {name: numpy array}, in the order of the layers (weight_files.read).
      path: the file, for messages.
    Raises:
      DataError: it is no VGG-16 and no SSD300 that is known here; says what it is instead.
    """
    torch = next((torch for torch in _SSD300 if torch.mark in arrays), None)
    layout = _ssd300(arrays, torch, path) if torch else _vgg16(arrays, path)
    bad = next((name for name, array in layout.arrays.items() if not np.isfinite(array).all()), None)
    if bad:
        raise DataError(path, "finite numbers", "others in %s" % bad, "download or copy it again")
    return layout


def fold(arrays, colours):
    """{our name: array} with a first convolution that takes BGR from 0 to 255 less mean_bgr(colours).

    Args:
      arrays: {our name: array}, conv1_1/filter as weights of these colours, a key of COLOURS, have it.
    """
    kernel = arrays["conv1_1/filter"] / np.array(COLOURS[colours].std)[:, None]
    if COLOURS[colours].order == "RGB":
        kernel = kernel[:, :, ::-1]
    return dict(arrays, **{"conv1_1/filter": kernel.astype(np.float32)})


def mean_bgr(colours):
    """What the graph takes off, three floats: it cannot be folded into biases, because the map is padded with zeros."""
    order, mean, _ = COLOURS[colours]
    return mean[::-1] if order == "RGB" else mean


def convolution_names():
    """conv1_1 ... conv5_3."""
    return ["conv%d_%d" % (block, number) for block, (_, convolutions) in enumerate(ssdutils.VGG_BLOCKS, 1)
            for number in range(1, convolutions + 1)]


def _ssd300(arrays, torch, path):
    ours, taken = {"l2_norm_conv4_3/scale": arrays[torch.mark]}, {torch.mark}

    def module(name):
        for name_of_one, dimensions in ((name + ".weight", 4), (name + ".bias", 1)):
            if name_of_one not in arrays or arrays[name_of_one].ndim != dimensions:
                raise DataError(path, "%s with %s, of %d dimensions" % (torch.what, name_of_one, dimensions),
                                "no such array", "download or copy it again")
            taken.add(name_of_one)
        return arrays[name + ".weight"].transpose(2, 3, 1, 0), arrays[name + ".bias"]

    extras = ["conv%d_%d" % (layer, number) for layer in (8, 9, 10, 11) for number in (1, 2)]
    for name, theirs in zip(convolution_names() + ["mod_conv6", "mod_conv7"] + extras,
                            torch.convolutions + torch.fc + torch.extras):
        ours[name + "/filter"], ours[name + "/biases"] = module(theirs)
    preset = ssdutils.PRESETS[torch.preset]
    for number in range(len(preset.map_cells)):
        kinds = ssdutils.kinds(preset, number)
        (offsets, offset_biases), (scores, score_biases) = (module(name % number) for name in torch.heads)
        classes = len(score_biases) // kinds
        for array, columns in ((scores, classes), (score_biases, classes), (offsets, 4), (offset_biases, 4)):
            if classes < 2 or array.shape[:-1] not in ((), scores.shape[:3]) or array.shape[-1] != kinds * columns:
                raise DataError(path, "%s with %d kinds of boxes on map %d" % (torch.what, kinds, number),
                                "an array of shape %s in its heads" % list(array.shape),
                                "give weights of SSD300 itself")
        for kind, theirs in enumerate(_KINDS[kinds]):
            of_kind = slice(theirs * classes, (theirs + 1) * classes)
            of_box = slice(theirs * 4, (theirs + 1) * 4)
            name = "classifiers/classifier%d_%d/" % (number, kind)
            for end, score, offset in (("filter", scores, offsets), ("biases", score_biases, offset_biases)):
                columns = np.roll(score[..., of_kind], -1, -1)  # theirs begin with the background
                ours[name + end] = np.concatenate([columns, offset[..., of_box]], -1)
    strange = sorted(set(arrays) - taken)
    if strange:
        raise DataError(path, torch.what, "one with %s besides" % _few(strange), "give weights of SSD300 itself")
    return Layout(torch.what, ours, torch.colours, torch.preset, classes - 1)


def _vgg16(arrays, path):
    """The thirteen convolutions by their shapes and order, whatever their names; fc6 and fc7 where they are."""
    channels = [3] + [channels for channels, convolutions in ssdutils.VGG_BLOCKS for _ in range(convolutions)]
    wanted = list(zip(channels, channels[1:]))
    in_torch = any(array.shape == (channels[1], 3, 3, 3) for array in arrays.values())
    layers = collections.defaultdict(list)
    for name in arrays:
        layers[layer_of(name)].append(name)
    _check_no_normalisation(arrays, layers, path)
    kernels, biases = _kernels(arrays, layers, in_torch), {}
    found = [layer for layer, kernel in kernels.items() if kernel.shape[:-2] == (3, 3) and kernel.shape[-2:] in wanted]
    shapes = [kernels[layer].shape[-2:] for layer in found]
    if sorted(shapes) != sorted(wanted):
        raise DataError(path, "VGG-16, %d convolutions of 3x3 from 3 to %d channels, or SSD300 of torchvision or "
                        "amdegroot" % (len(wanted), channels[-1]), "%d such convolutions among %d arrays, %s" % (
                            len(found), len(arrays), _few(list(arrays))), "give other weights")
    if shapes != wanted:
        raise DataError(path, "VGG-16's convolutions in their order, by name", "them in the order " + _few(found),
                        "name them so that sorting gives their order, as block1_conv1")
    for layer in kernels:
        width = kernels[layer].shape[-1:]
        of_width = [name for name in layers[layer] if arrays[name].shape == width]
        biases[layer] = arrays[of_width[0]] if len(of_width) == 1 else None
    ours, taken = {}, {}
    for name, layer in zip(convolution_names(), found):
        taken[layer] = name
        if biases[layer] is None:
            raise DataError(path, "VGG-16's convolutions with their biases", "none beside %s" % layer,
                            "give the weights as they were published")
    taken.update(_fully_connected(kernels, biases, found))
    for layer, name in taken.items():
        ours[name + "/filter"], ours[name + "/biases"] = kernels[layer], biases[layer]
    colours = _colours_by_name(taken, in_torch, "mod_conv6/filter" in ours)
    return Layout(VGG, _decimated(ours), colours, None, None)


def _kernels(arrays, layers, in_torch):
    """{layer: kernel as [.., in, out]} of the layers that have one; that of a product that sees fc6's map is 4-D."""
    kernels = {}
    for layer, names in layers.items():
        matrices = [arrays[name] for name in names if arrays[name].ndim in (2, 4)]
        if len(matrices) != 1:
            continue
        kernel, side = matrices[0], _FC_SIDE_PX
        if kernel.ndim == 2 and in_torch and kernel.shape[1] == ssdutils.VGG_BLOCKS[-1][0] * side ** 2:
            kernel = kernel.reshape(len(kernel), -1, side, side)
        elif kernel.ndim == 2 and kernel.shape[0] == ssdutils.VGG_BLOCKS[-1][0] * side ** 2:
            kernel = kernel.reshape(side, side, -1, kernel.shape[1])
        elif kernel.ndim == 2:
            kernel = kernel[:, :, None, None] if in_torch else kernel[None, None]
        kernels[layer] = kernel.transpose(2, 3, 1, 0) if in_torch else kernel
    return kernels


def _check_no_normalisation(arrays, layers, path):
    normalised = [layer for layer, names in layers.items()
                  if [arrays[name].ndim for name in names if arrays[name].ndim] == [1] * _STATISTICS]
    if len(normalised) >= len(convolution_names()):
        raise DataError(path, "VGG-16 without batch normalisation", "one in " + _few(normalised),
                        "give a VGG-16 whose convolutions are followed by ReLU alone")


def _fully_connected(kernels, biases, convolutions):
    """{layer: "mod_conv6" or "mod_conv7"}, empty unless both are there and were trained."""
    channels, kept, side = ssdutils.VGG_BLOCKS[-1][0], _FC_CHANNELS // 4, _FC_SIDE_PX
    for shapes in (((side, side, channels, _FC_CHANNELS), (1, 1, _FC_CHANNELS, _FC_CHANNELS)),
                   ((3, 3, channels, kept), (1, 1, kept, kept))):
        pair = [[layer for layer, kernel in kernels.items() if kernel.shape == shape and biases[layer] is not None]
                for shape in shapes]
        if [len(layers) for layers in pair] == [1, 1]:
            (fc6,), (fc7,) = pair
            # torchvision's IMAGENET1K_FEATURES fills them with what is none.
            whole = all(np.isfinite(part[layer]).all() for layer in (fc6, fc7) for part in (kernels, biases))
            if whole and (biases[fc6].any() or not biases[convolutions[-1]].any()):
                return {fc6: "mod_conv6", fc7: "mod_conv7"}
    return {}


def _decimated(arrays):
    """fc6, a 7x7 convolution to 4096 channels, keeps every third pixel and every fourth channel; fc7 every fourth
    channel on both sides (Liu et al. 2016, section 3, after Chen et al. 2014). Where there are 1024, they stay."""
    arrays = dict(arrays)
    if len(arrays.get("mod_conv6/biases", ())) == _FC_CHANNELS:
        for name, part in (("mod_conv6/filter", np.s_[::3, ::3, :, ::4]), ("mod_conv6/biases", np.s_[::4]),
                           ("mod_conv7/filter", np.s_[:, :, ::4, ::4]), ("mod_conv7/biases", np.s_[::4])):
            arrays[name] = arrays[name][part]
    # Copies, so that the 4096 channels can go.
    return {name: np.array(array, np.float32, order="C") for name, array in arrays.items()}


def _colours_by_name(layers, in_torch, connected):
    if not in_torch:
        return "keras"
    if any(layer.startswith("features.") for layer in layers):
        return "torchvision" if connected else "torchvision_ssd"
    return "amdegroot" if connected and all(layer.isdigit() for layer in layers) else None


def _few(names):
    return ", ".join(names[:_FEW]) + ", ..." * (len(names) > _FEW)
