# SPDX-License-Identifier: Apache-2.0
"""Default boxes, matching, encoding and non-maximum suppression: the geometry of SSD, in numpy alone.

Boxes are float32 and relative to the image (0..1, x right, y down). `_cxcywh` is centre and size, `_xyxy` is left, top,
right, bottom. N counts the default boxes of a preset, in the order of the network's output: map by map, then kind of
box, then row, then column.
"""
import functools
from collections import namedtuple

from common.lazy import np

# VGG-16 (Simonyan and Zisserman 2014, configuration D): channels and convolutions of a block. A 2x2 pool of stride 2
# follows each but the last.
VGG_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

Preset = namedtuple("Preset", "name image_px map_cells scales last_scale ratios steps_px clipped_from even_padding",
                    defaults=(None, 4, False))
Preset.__doc__ = """One size of the network: side of the image, cells a side of every map, scale of every map, the scale
that follows the last map's, aspect ratios of every map besides 1 (Liu et al. 2016, sections 2.2, 3.1 and 3.3); pixels
between the centres of cells, None for image_px / cells; the first of a box's cx, cy, w, h that is clipped to 0..1, 4
for none; whether conv9_2 has a pixel of padding on every side, where SAME has it below and right alone."""

_FEW, _MANY = (2, 1 / 2), (2, 3, 1 / 2, 1 / 3)

PRESETS = {
    "vgg300": Preset("vgg300", 300, (38, 19, 10, 5, 3, 1), (0.1, 0.2, 0.375, 0.55, 0.725, 0.9), 1.075,
                     (_FEW, _MANY, _MANY, _MANY, _FEW, _FEW)),
    "vgg512": Preset("vgg512", 512, (64, 32, 16, 8, 4, 2, 1), (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9), 1.05,
                     (_FEW, _MANY, _MANY, _MANY, _MANY, _FEW, _FEW)),
}
_STEPS_PX = (8, 16, 32, 64, 100, 300)
PRESETS["torchvision300"] = PRESETS["vgg300"]._replace(  # whose weights fit these boxes alone
    name="torchvision300", scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87), last_scale=1.05, steps_px=_STEPS_PX,
    clipped_from=2, even_padding=True)
PRESETS["amdegroot300"] = PRESETS["vgg300"]._replace(  # of amdegroot's ssd.pytorch
    name="amdegroot300", scales=tuple(px / 300 for px in (30, 60, 111, 162, 213, 264)), last_scale=315 / 300,
    steps_px=_STEPS_PX, clipped_from=0, even_padding=True)

# "Variances" of the authors' code: they bring the four offsets to comparable sizes.
_CENTRE_FACTOR, _LOG_SIZE_FACTOR = 10, 5
# exp of it is far beyond any box and still leaves areas finite, whatever an untrained network says.
_MAX_LOG_SIZE = 10
MAX_DETECTIONS = 200  # of an image, over all classes (Liu et al. 2016, section 3, "Inference time")


def kinds(preset, map_index):
    """Number of default boxes in every cell of a map: 4 or 6."""
    return len(preset.ratios[map_index]) + 2


@functools.lru_cache(maxsize=None)
def default_boxes(preset):
    """All default boxes of a preset.

    A map of scale s has the ratios r as boxes of s sqrt(r) x s / sqrt(r), and a square of sqrt(s s') that leans towards
    the scale s' of the next map. Those of the paper are not clipped.

    Returns:
      float32 [N, 4], boxes_cxcywh, read-only: 8,732 for 300 pixels, 24,564 for vgg512.
    Source: Liu et al. 2016, section 2.2, "Choosing scales and aspect ratios for default boxes".
    """
    boxes = []
    steps = preset.steps_px or [preset.image_px / cells for cells in preset.map_cells]
    for cells, step_px, scale, next_scale, ratios in zip(
            preset.map_cells, steps, preset.scales, preset.scales[1:] + (preset.last_scale,), preset.ratios):
        between = np.sqrt(scale * next_scale)
        sizes = [(scale * np.sqrt(ratio), scale / np.sqrt(ratio)) for ratio in (1,) + ratios] + [(between, between)]
        cy, cx = (np.mgrid[0:cells, 0:cells] + 0.5) * step_px / preset.image_px  # [cells, cells] each
        for width, height in sizes:
            boxes.append(np.stack([cx, cy, np.full_like(cx, width), np.full_like(cx, height)], -1).reshape(-1, 4))
    boxes = np.concatenate(boxes).astype(np.float32)
    boxes[:, preset.clipped_from:] = boxes[:, preset.clipped_from:].clip(0, 1)
    boxes.flags.writeable = False
    return boxes


def cxcywh_to_xyxy(boxes_cxcywh):
    """[..., 4] centre and size -> [..., 4] corners."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], -1)


def xyxy_to_cxcywh(boxes_xyxy):
    """[..., 4] corners -> [..., 4] centre and size."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], -1)


def iou(boxes_a_xyxy, boxes_b_xyxy):
    """Intersection over union of every pair.

    Args:
      boxes_a_xyxy: float [A, 4].
      boxes_b_xyxy: float [B, 4].
    Returns:
      float [A, B]; 0 where both boxes are empty.
    """
    left_a, top_a, right_a, bottom_a = boxes_a_xyxy.T[..., None]  # [A, 1] each
    left_b, top_b, right_b, bottom_b = np.ascontiguousarray(boxes_b_xyxy.T)  # [B] each
    width = np.minimum(right_a, right_b) - np.maximum(left_a, left_b)
    height = np.minimum(bottom_a, bottom_b) - np.maximum(top_a, top_b)
    both = np.maximum(width, 0) * np.maximum(height, 0)
    either = (right_a - left_a) * (bottom_a - top_a) + (right_b - left_b) * (bottom_b - top_b) - both
    return both / np.maximum(either, 1e-12)


def encode(boxes_cxcywh, defaults_cxcywh):
    """Boxes as offsets from their default boxes.

    Args:
      boxes_cxcywh, defaults_cxcywh: float [..., 4], sizes above 0.
    Returns:
      float [..., 4]: (cx, cy) x 10 / default size, log(size / default size) x 5.
    Source: Liu et al. 2016, equation 2, with the factors of the authors' code.
    """
    centre = (boxes_cxcywh[..., :2] - defaults_cxcywh[..., :2]) / defaults_cxcywh[..., 2:]
    log_size = np.log(boxes_cxcywh[..., 2:] / defaults_cxcywh[..., 2:])
    return np.concatenate([centre * _CENTRE_FACTOR, log_size * _LOG_SIZE_FACTOR], -1)


def decode(offsets, defaults_cxcywh):
    """The inverse of encode: float [..., 4] offsets -> float [..., 4] boxes_cxcywh."""
    centre = offsets[..., :2] / _CENTRE_FACTOR * defaults_cxcywh[..., 2:] + defaults_cxcywh[..., :2]
    log_size = np.minimum(offsets[..., 2:] / _LOG_SIZE_FACTOR, _MAX_LOG_SIZE)
    return np.concatenate([centre, np.exp(log_size) * defaults_cxcywh[..., 2:]], -1)


def match(boxes_xyxy, defaults_xyxy, threshold=0.5):
    """Says which object each default box has to find.

    First every object gets the free default box that overlaps it most; the pair with the largest overlap chooses
    first, so two objects never share one. Then every other default box whose best overlap is above the threshold gets
    that object.

    Args:
      boxes_xyxy: float [G, 4], the objects.
      defaults_xyxy: float [N, 4].
      threshold: overlap (IoU) that a default box must exceed.
    Returns:
      int32 [N]: index of the object, or -1 for background. An object that no free default box touches gets none.
    Source: Liu et al. 2016, section 2.2, "Matching strategy".
    """
    if not len(boxes_xyxy):
        return np.full(len(defaults_xyxy), -1, np.int32)
    overlap = iou(boxes_xyxy, defaults_xyxy)  # [G, N]
    matched = overlap.argmax(0).astype(np.int32)
    matched[overlap.max(0) <= threshold] = -1

    choice = overlap.argmax(1)
    value = overlap[np.arange(len(choice)), choice]
    waiting, owner = set(range(len(choice))), {}
    while waiting:
        best = max(waiting, key=lambda g: (value[g], -g))
        if choice[best] in owner:  # somebody with more overlap was first: the next free one
            overlap[best, list(owner)] = 0
            choice[best] = overlap[best].argmax()
            value[best] = overlap[best, choice[best]]
            if value[best] > 0:
                continue
        waiting.remove(best)
        if value[best] > 0:
            owner[choice[best]] = best
    matched[list(owner)] = list(owner.values())
    return matched


def targets(boxes_cxcywh, class_ids, defaults_cxcywh, num_classes, threshold=0.5):
    """What the network should say about one image.

    Args:
      boxes_cxcywh: float [G, 4], the objects; G may be 0.
      class_ids: int [G], 0..num_classes - 1.
      defaults_cxcywh: float32 [N, 4].
      num_classes: int, without the background.
      threshold: as for match.
    Returns:
      (int32 [N] class ids, background being num_classes; float32 [N, 4] offsets, 0 for background).
    """
    matched = match(cxcywh_to_xyxy(boxes_cxcywh), cxcywh_to_xyxy(defaults_cxcywh), threshold)
    found = np.flatnonzero(matched >= 0)
    objects = matched[found]
    target_ids = np.full(len(defaults_cxcywh), num_classes, np.int32)
    target_ids[found] = np.asarray(class_ids, np.int32)[objects]
    offsets = np.zeros((len(defaults_cxcywh), 4), np.float32)
    offsets[found] = encode(np.asarray(boxes_cxcywh)[objects], defaults_cxcywh[found])
    return target_ids, offsets


def detect(scores, offsets, defaults_cxcywh, confidence=0.01, iou_threshold=0.45, candidates=400,
           keep=MAX_DETECTIONS):
    """Decoding and non-maximum suppression, class by class, for one image.

    Suppression goes through the candidates of all classes from the most to the least confident. Whether one survives
    depends only on more confident ones, so the work ends with the last detection that is kept.

    Args:
      scores: float32 [N, C + 1], softmax over the classes and the background, which is last.
      offsets: float32 [N, 4], as from encode.
      defaults_cxcywh: float32 [N, 4].
      confidence: a score must be above it.
      iou_threshold: overlap above which the less confident of two boxes of a class goes.
      candidates: the most confident boxes of each class that enter.
      keep: detections at most, over all classes.
    Returns:
      boxes_xyxy float32 [K, 4] clipped to the image, class_ids int32 [K], confidences float32 [K]; by falling
      confidence, equal ones by class, then default box.
    Source: Liu et al. 2016, section 3, "Inference time"; 400 is the authors' setting.
    """
    places, ends = [], []
    by_class = np.ascontiguousarray(scores[:, :-1].T)  # [C, N]
    for of_class in by_class:
        above = np.flatnonzero(of_class > confidence)
        values = of_class[above]
        if len(above) > candidates:
            enough = values >= np.partition(values, len(values) - candidates)[len(values) - candidates]
            above, values = above[enough], values[enough]
        places.append(above[np.argsort(-values, kind="stable")[:candidates]])
        ends.append(len(places[-1]))
    class_ids = np.repeat(np.arange(len(ends), dtype=np.int32), ends)
    places, ends = np.concatenate(places), np.cumsum(ends).tolist()
    confidences = by_class[class_ids, places]

    boxes = cxcywh_to_xyxy(decode(offsets[places], defaults_cxcywh[places]))
    low, high = np.ascontiguousarray(boxes[:, :2].T), np.ascontiguousarray(boxes[:, 2:].T)  # [2, candidates] each
    area = (high - low).prod(0)
    alive = np.ones(len(places), bool)
    kept = []
    for one in np.argsort(-confidences, kind="stable").tolist():
        if not alive[one]:
            continue
        kept.append(one)
        if len(kept) == keep:
            break
        rest = slice(one + 1, ends[class_ids[one]])
        sides = np.minimum(high[:, rest], high[:, one, None]) - np.maximum(low[:, rest], low[:, one, None])
        np.maximum(sides, 0, out=sides)
        both = sides[0] * sides[1]
        alive[rest] &= both <= iou_threshold * (area[rest] + area[one] - both)
    return np.clip(boxes[kept], 0, 1), class_ids[kept], confidences[kept]
