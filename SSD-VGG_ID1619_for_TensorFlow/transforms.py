# SPDX-License-Identifier: Apache-2.0
"""The paper's augmentation: photometric distortion, expansion, a crop that keeps objects, a mirror.

Liu et al. 2016, sections 2.2 ("Data augmentation") and 3.6; where the paper gives no number, that of the authors' code.
The view (which part of a plane around the image is seen) is drawn first, from the boxes alone. Then only the
visible part of the image is resized and distorted, at its final size: no expanded image is ever built.
Images are uint8 [H, W, 3] BGR. `boxes_xyxy_px` are pixels, half-open: a box of the whole image is 0, 0, W, H.
"""
import ssdutils
from common.lazy import cv2, np

FILL_BGR = (104, 117, 123)  # ImageNet's mean, around an image that was expanded

MAX_BRIGHTNESS, MAX_CONTRAST, MAX_SATURATION, MAX_HUE = 32, 0.5, 0.5, 18  # the last in half degrees, as OpenCV counts
MAX_EXPANSION = 4
MIN_CROP_SCALE = 0.3  # of the side, which is about the paper's 0.1 of the area
MAX_CROP_ASPECT = 2
CROP_TRIALS = 50
# Whole image, least overlap (IoU) with an object, or any patch.
_WHOLE, _ANY = None, 0.0
CROPS = (_WHOLE, 0.1, 0.3, 0.5, 0.7, 0.9, _ANY)


def augment(image, boxes_xyxy_px, image_px, random):
    """One random variant of an image for training.

    Args:
      image: uint8 [H, W, 3] BGR.
      boxes_xyxy_px: float32 [G, 4], inside the image, with an area; G may be 0.
      image_px: side of the result.
      random: numpy.random.RandomState, which decides everything.
    Returns:
      uint8 [image_px, image_px, 3]; float32 [K, 4] boxes_xyxy relative to it, clipped; int [K], which boxes these are:
      those whose centre is in view. K is at least 1 when G is.
    """
    view_px = sample_view(image.shape[1], image.shape[0], boxes_xyxy_px, random)
    mirror = random.rand() < 0.5
    interpolation = (cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_NEAREST, cv2.INTER_CUBIC,
                     cv2.INTER_LANCZOS4)[random.randint(5)]
    part, place = _visible(image.shape[1], image.shape[0], view_px, image_px)
    kept = np.flatnonzero(_centres_in(view_px[None], boxes_xyxy_px)[0])
    scale = (place[2:] - place[:2]) / np.maximum(part[2:] - part[:2], 1)
    seen = (boxes_xyxy_px[kept].reshape(-1, 2, 2) - part[:2]) * scale + place[:2]
    boxes = np.clip(seen.reshape(-1, 4) / image_px, 0, 1).astype(np.float32)

    left, top, right, bottom = place.tolist()
    out = np.empty((image_px, image_px, 3), np.uint8)
    if place.tolist() != [0, 0, image_px, image_px]:
        out[:] = FILL_BGR
    if right > left and bottom > top:
        picture = cv2.resize(image[part[1]:part[3], part[0]:part[2]], (right - left, bottom - top),
                             interpolation=interpolation)
        out[top:bottom, left:right] = distort(picture, random)
    if mirror:
        out = cv2.flip(out, 1)
        boxes[:, [0, 2]] = 1 - boxes[:, [2, 0]]
    return out, boxes, kept


def resize(image, boxes_xyxy_px, image_px):
    """An image as evaluation sees it: uint8 [image_px, image_px, 3] and its float32 [G, 4] boxes_xyxy, relative."""
    sides_px = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
    return cv2.resize(image, (image_px, image_px)), np.clip(boxes_xyxy_px / sides_px, 0, 1).astype(np.float32)


def sample_view(width_px, height_px, boxes_xyxy_px, random):
    """Draws what is seen: the image, an expanded plane around it, or a patch of either.

    A patch is drawn by one of seven rules, each as likely: the whole, an overlap (IoU) of at least 0.1, 0.3, 0.5, 0.7
    or 0.9 with an object, or any. It also shows the centre of at least one object, if there is one. A rule that finds
    no such patch in 50 trials gives way to another.

    Returns:
      int [4], left, top, right, bottom in pixels of the image; it reaches beyond the image when that was expanded.
    """
    size = np.array([width_px, height_px])
    corner = np.zeros(2)
    if random.rand() < 0.5:
        expanded = size * random.uniform(1, MAX_EXPANSION)
        corner, size = -random.uniform(0, expanded - size), expanded
    whole = np.round(np.concatenate([corner, corner + size])).astype(int)
    for least_iou in [CROPS[rule] for rule in random.permutation(len(CROPS))]:
        if least_iou is _WHOLE:
            return whole
        scale = random.uniform(MIN_CROP_SCALE, 1, CROP_TRIALS)
        aspect = random.uniform(np.maximum(1 / MAX_CROP_ASPECT, scale ** 2), np.minimum(MAX_CROP_ASPECT, scale ** -2))
        sides = np.stack([scale * np.sqrt(aspect), scale / np.sqrt(aspect)], -1)  # [trials, 2], of the plane
        low = random.uniform(0, 1, (CROP_TRIALS, 2)) * (1 - sides)
        patches = np.round(np.concatenate([low, low + sides], -1) * np.tile(size, 2) + np.tile(corner, 2)).astype(int)
        patches[:, 2:] = np.maximum(patches[:, 2:], patches[:, :2] + 1)
        good = _centres_in(patches, boxes_xyxy_px).any(1)
        if least_iou > 0:
            good &= (ssdutils.iou(patches, boxes_xyxy_px) >= least_iou).any(1)
        elif not len(boxes_xyxy_px):
            good[0] = True
        if good.any():
            return patches[good.argmax()]


def distort(image, random):
    """Brightness, contrast, saturation, hue and order of channels, each with probability 1/2.

    Contrast comes before or after the colours. One look-up table per step, as in 8-bit arithmetic.

    Source: Howard 2013 (the paper's reference 14), with the ranges of the authors' code.
    """
    brightness, contrast, saturation, hue, swap, contrast_last = random.rand(6) < 0.5
    levels = all_levels = np.arange(256)
    if brightness:
        levels = np.clip(levels + random.uniform(-MAX_BRIGHTNESS, MAX_BRIGHTNESS), 0, 255)
    factor = random.uniform(1 - MAX_CONTRAST, 1 + MAX_CONTRAST) if contrast else 1
    colour = saturation or hue
    if not (contrast_last and colour):
        levels, factor = np.clip(levels * factor, 0, 255), 1
    if brightness or contrast:
        image = cv2.LUT(image, np.round(levels).astype(np.uint8))
    if colour:
        table = np.stack([all_levels] * 3, -1)[None]  # [1, 256, 3] of hue, saturation, value
        if hue:
            table[..., 0] = (all_levels + random.randint(-MAX_HUE, MAX_HUE + 1)) % 180
        if saturation:
            table[..., 1] = np.clip(all_levels * random.uniform(1 - MAX_SATURATION, 1 + MAX_SATURATION), 0, 255)
        image = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table.astype(np.uint8))
        image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    if factor != 1:
        image = cv2.LUT(image, np.round(np.clip(all_levels * factor, 0, 255)).astype(np.uint8))
    if swap:
        order = random.permutation(3).tolist()
        swapped = np.empty_like(image)
        cv2.mixChannels([image], [swapped], [place for pair in zip(order, range(3)) for place in pair])
        image = swapped
    return image


def _visible(width_px, height_px, view_px, image_px):
    """(int [4] the part of the image within the view, int [4] its place in a result of image_px a side)."""
    part = np.clip(view_px, 0, [width_px, height_px] * 2)
    exact = (part - np.tile(view_px[:2], 2)) * image_px / np.tile(view_px[2:] - view_px[:2], 2)
    # Outwards: however thin the part is, it fills at least one pixel and its boxes keep an area.
    return part, np.concatenate([np.floor(exact[:2]), np.ceil(exact[2:])]).astype(int)


def _centres_in(patches_xyxy, boxes_xyxy):
    """bool [P, G]: whether a box's centre is inside a patch."""
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2  # [G, 2]
    low, high = patches_xyxy[:, None, :2], patches_xyxy[:, None, 2:]
    return ((centres > low) & (centres < high)).all(-1)
