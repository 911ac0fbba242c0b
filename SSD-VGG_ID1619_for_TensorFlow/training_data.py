# SPDX-License-Identifier: Apache-2.0
"""The folder that process_dataset.py writes, and what training and evaluation read of it.

    dataset.json              classes, counts, the root of the images, checksums
    train.npz, valid.npz      image_paths, sizes_px, box_starts, boxes_xyxy_px, class_ids, difficult
    bad.csv                   what was wrong: file, line, reason, what was done

Which image a step sees, and how it is distorted, is a function of (seed, step, position) alone: training continues at
any step, and workers need no common state.
"""
import functools
import hashlib
import io
import os
from collections import namedtuple

import ssdutils
import transforms
from common.files import DataError, read_json
from common.lazy import cv2, np
from utils import read_image

DATASET_FILE, ARRAYS_FILE, BAD_FILE = "dataset.json", "%s.npz", "bad.csv"
FORMAT, MADE_BY = 1, "SSD-VGG process_dataset.py"
SPLITS = ("train", "valid")

Truth = namedtuple("Truth", "boxes_xyxy class_ids difficult")
Truth.__doc__ = """The objects of an image: float32 [G, 4] relative to it, int32 [G], bool [G]."""


def read_description(folder):
    """dataset.json of a processed folder; None when process_dataset.py did not write one there."""
    description = read_json(os.path.join(folder, DATASET_FILE))
    return description if isinstance(description, dict) and description.get("made_by") == MADE_BY else None


class TrainingData:
    """A processed data set. Pickles as its folder: workers load it again.

    Args:
      folder: what process_dataset.py wrote.
    Attributes: folder; root, the folder of the images; classes, tuple of str; num_classes (without the background);
      num_train, num_valid, numbers of images.
    Raises:
      DataError: it is not such a folder, was changed since, or the images are gone.
    """

    def __init__(self, folder):
        self.folder = folder
        description = read_description(folder)
        if description is None or description.get("format") != FORMAT:
            raise DataError(folder, "a folder that process_dataset.py wrote", "no %s of format %d in it" % (
                DATASET_FILE, FORMAT), "run ./process_dataset.py")
        try:
            self.classes, self.root = tuple(map(str, description["classes"])), os.fspath(description["root"])
            sha256_of = {split: description["splits"][split]["sha256"] for split in SPLITS}
        except (KeyError, TypeError) as error:
            raise DataError(os.path.join(folder, DATASET_FILE), "what process_dataset.py writes", "something else",
                            "delete the folder and run ./process_dataset.py again") from error
        self._splits = {split: self._load(split, sha256_of[split]) for split in SPLITS}
        self.num_classes = len(self.classes)
        self.num_train, self.num_valid = (self.num_images(split) for split in SPLITS)
        if not os.path.isdir(self.root):
            raise DataError(folder, "its images below %s" % self.root, "no such folder",
                            "put it back, or run ./process_dataset.py where the images are now")

    def _load(self, split, sha256):
        path = os.path.join(self.folder, ARRAYS_FILE % split)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise DataError(path, "the arrays of the data set", error.strerror, "run ./process_dataset.py") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DataError(path, "the checksum that %s has" % DATASET_FILE, "another",
                            "delete the folder and run ./process_dataset.py again")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)

    def __reduce__(self):
        return TrainingData, (self.folder,)

    def num_images(self, split):
        return len(self._splits[split]["image_paths"])

    def image_path(self, index, split="valid"):
        return os.path.join(self.root, str(self._splits[split]["image_paths"][index]))

    def size_px(self, index, split="valid"):
        """(width, height) of the image that image() returns."""
        return tuple(self._splits[split]["sizes_px"][index].tolist())

    def objects_px(self, index, split="valid"):
        """float32 [G, 4] boxes_xyxy in pixels (0-based, half-open), int32 [G] class ids, bool [G] difficult."""
        arrays = self._splits[split]
        rows = slice(arrays["box_starts"][index], arrays["box_starts"][index + 1])
        return tuple(arrays[name][rows] for name in ("boxes_xyxy_px", "class_ids", "difficult"))

    def truth(self, index, split="valid"):
        """Truth of an image: what evaluation compares detections with."""
        boxes_px, class_ids, difficult = self.objects_px(index, split)
        return Truth(boxes_px / np.array(self.size_px(index, split) * 2, np.float32), class_ids, difficult)

    def image(self, index, split="valid"):
        """Decodes an image: uint8 [H, W, 3] BGR, as stored, or turned by its EXIF where only that has the size that the
        annotation says."""
        path, expected = self.image_path(index, split), self.size_px(index, split)
        try:
            for upright in (False, True):
                image = read_image(path, upright, check_size=False)
                if image.shape[1::-1] == expected:
                    return image
            reason = "%d x %d" % image.shape[1::-1]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "a file that %s" % error
        raise DataError(path, "an image of %d x %d pixels" % expected, reason, "run ./process_dataset.py again")

    def validation_sample(self, index, image_px, split="valid"):
        """One image as evaluation sees it: uint8 [image_px, image_px, 3] BGR, and its Truth."""
        return cv2.resize(self.image(index, split), (image_px, image_px)), self.truth(index, split)


class TrainingSamples:
    """Makes the samples of one rank; for data_queue.BatchQueue.

    The images of an epoch are a permutation, dealt to the ranks without overlap; the next epoch follows at once, also
    within a batch. Objects marked difficult are trained with, as the authors do.

    Args:
      data: TrainingData.
      preset: ssdutils.Preset.
      seed: int >= 0.
      batch_size: samples per step and rank.
      rank, ranks: int.
      augment: False only resizes.
      images: use the first so many training images only; None for all.
    """

    def __init__(self, data, preset, seed, batch_size, rank=0, ranks=1, augment=True, images=None):
        self.data, self.preset, self.seed, self.augment = data, preset, seed, augment
        self.batch_size, self.rank, self.ranks = batch_size, rank, ranks
        self.images = min(images or data.num_train, data.num_train)

    def steps_per_epoch(self):
        """Steps in which all ranks together see every image: int >= 1, rounded up."""
        return -(-self.images // (self.batch_size * self.ranks))

    def place(self, step, position):
        """(number of the sample since the start of training, index of its image)."""
        number = (step * self.ranks + self.rank) * self.batch_size + position
        epoch, place = divmod(number, self.images)
        return number, int(epoch_order(self.images, epoch, self.seed)[place])

    def __call__(self, step, position):
        """The sample at a position of a step.

        Returns:
          image uint8 [P, P, 3] BGR, class_ids int32 [N] (background is num_classes), offsets float32 [N, 4].
        """
        number, index = self.place(step, position)
        image = self.data.image(index, "train")
        boxes_px, class_ids, _ = self.data.objects_px(index, "train")
        if self.augment:
            image, boxes, kept = transforms.augment(image, boxes_px, self.preset.image_px,
                                                    np.random.RandomState([self.seed, 1, number]))
            class_ids = class_ids[kept]
        else:
            image, boxes = transforms.resize(image, boxes_px, self.preset.image_px)
        return (image,) + ssdutils.targets(ssdutils.xyxy_to_cxcywh(boxes), class_ids,
                                           ssdutils.default_boxes(self.preset), self.data.num_classes)


class EvaluationImages:
    """Makes (image,) uint8 [image_px, image_px, 3] for data_queue.BatchQueue: image step * batch_size + position of a
    split, in order; black beyond the last one."""

    def __init__(self, data, image_px, batch_size, split="valid"):
        self.data, self.image_px, self.batch_size, self.split = data, image_px, batch_size, split

    def __call__(self, step, position):
        index = step * self.batch_size + position
        if index >= self.data.num_images(self.split):
            return (np.zeros((self.image_px, self.image_px, 3), np.uint8),)
        return (self.data.validation_sample(index, self.image_px, self.split)[0],)


@functools.lru_cache(maxsize=2)
def epoch_order(images, epoch, seed):
    """The order in which an epoch visits the training images: int64 [images]."""
    return np.random.RandomState([seed, 0, epoch]).permutation(images)
