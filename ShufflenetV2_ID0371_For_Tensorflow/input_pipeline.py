# SPDX-License-Identifier: Apache-2.0
"""From shards to batches: records at random access, random choices in numpy, decoding in tf.data.

What an epoch shows in which order and how each image is cut are functions of (seed, step): a run that continues at a
step takes up there, without reading what came before. Every rank gets other images of the same epoch.
"""
import collections
import operator
import os

import numpy as np

import records
from common.files import DataError
from create_tfrecords import INDEX_FILE, read_manifest

IMAGE_PX = 224
EVAL_FRACTION = 224 / 256  # of the shorter side, cut from the centre
# To evaluate as torchvision's published figures are, the shorter side becomes this; 224 of it are cut from the centre.
TORCHVISION_SHORTER_PX = {"0.5": 256, "1.0": 256, "1.5": 232, "2.0": 232}
ASPECT_RANGE = (3 / 4, 4 / 3)  # width / height of a training crop (Szegedy et al. 2015, section 6)
ATTEMPTS = 10  # crops drawn for an image until one fits
BOX_COVERED = 0.5  # of some box, where an image has boxes
_OPEN_FILES = 200
_JPEG = b"\xff\xd8"
_AGAIN = "copy the folder again, or write it anew with create_tfrecords.py"
_GREY = np.array([0.2989, 0.587, 0.114], np.float32)  # ITU-R BT.601

Item = collections.namedtuple("Item", "image label boxes size_px")  # bytes, int, float [n, 4], (height, width)


class Shards:
    """The records of one folder.

    Args:
      folder: path with shards, ours (with manifest.json) or of the published create_tfrecords.py.
      num_classes: labels are 0 .. num_classes - 1.
      max_bad_records: damaged records to pass over before the run is stopped.
    Attributes:
      folder, num_classes.
      classes: class ids in the order of their labels, or None when there is no manifest.
      bad: {number of a record: what is wrong with it}, of those met so far.
      error: DataError that a reading thread met, or None.
    Raises:
      DataError: there are no shards, one is missing or has another size, they are of another number of classes or hold
        other features.
    """

    def __init__(self, folder, num_classes, max_bad_records=0):
        self.folder, self.num_classes, self.max_bad_records = folder, num_classes, max_bad_records
        self.bad, self.error = {}, None
        self._unsaid, self._files = [], collections.OrderedDict()
        manifest = read_manifest(folder)
        self.classes = manifest["classes"] if manifest else None
        if manifest:
            self._paths = [os.path.join(folder, shard["name"]) for shard in manifest["shards"]]
            self._check_manifest(manifest)
            self._shard, self._offset, self._length, labels = self._read_index(manifest).T
            self._check_labels(labels)
        else:
            self._paths = records.shard_files(folder)
            if not self._paths:
                raise DataError(folder, "*.tfrecords", "none", "make them with create_tfrecords.py")
            self._scan()
        self._checked = bytearray(len(self))  # 1 for a record whose checksum this process has verified
        if not manifest:
            self._check_features()

    def _check_manifest(self, manifest):
        for path, shard in zip(self._paths, manifest["shards"]):
            size = os.path.getsize(path) if os.path.isfile(path) else None
            if size != shard["bytes"]:
                raise DataError(path, "a shard of %d bytes" % shard["bytes"],
                                "none" if size is None else "%d bytes" % size, _AGAIN)
        if manifest["num_classes"] != self.num_classes:
            raise DataError("--num_classes", "%d, as in %s" % (manifest["num_classes"], self.folder), self.num_classes,
                            "give --num_classes=%d, or other shards" % manifest["num_classes"])

    def _read_index(self, manifest):
        path = os.path.join(self.folder, INDEX_FILE)
        try:
            index = np.load(path, allow_pickle=False)
        except Exception as error:  # also SyntaxError: numpy reads the header as Python; MemoryError of a large number
            raise DataError(path, "the index of the shards", getattr(error, "strerror", None) or "a damaged file",
                            _AGAIN) from error
        if (not isinstance(index, np.ndarray) or index.shape != (manifest["images"], 4) or index.dtype != np.int64
                or not ((index[:, 0] >= 0) & (index[:, 0] < len(self._paths))).all()):
            raise DataError(path, "the index of %d records in %d shards" % (manifest["images"], len(self._paths)),
                            "another one", _AGAIN)
        return index

    def _check_labels(self, labels):
        wrong = (labels < 0) | (labels >= self.num_classes)
        if wrong.any():
            record = int(wrong.argmax())
            raise DataError(self.name(record), "a label in 0..%d" % (self.num_classes - 1), int(labels[record]),
                            "write the shards anew, or correct --num_classes")

    def _scan(self):
        places, numbers = [], []
        for number, path in enumerate(self._paths):
            of_shard, problem = records.scan(path)
            if problem:
                self._note(-1 - number, "%s: %s; what follows it is lost" % (path, problem))
            places.append(of_shard)
            numbers.append(np.full(len(of_shard), number))
        self._offset, self._length = np.concatenate(places).T
        self._shard = np.concatenate(numbers)
        if not len(self):
            raise DataError(self.folder, "records in its %d shards" % len(self._paths), "none",
                            "make them with create_tfrecords.py")

    def _check_features(self):
        """Says at once what shards of another program hold; a damaged record is passed over when its turn comes."""
        try:
            features = records.decode_example(self._payload(0))
        except ValueError:
            return
        kinds = {name: type(values[0]).__name__ if len(values) else "empty" for name, values in features.items()}
        do = "write them so, or make shards of the images with create_tfrecords.py"
        if (kinds.get("image"), kinds.get("label")) != ("bytes", "int"):
            raise DataError(self.name(0), "the features image (the bytes of a JPEG file) and label (an integer)",
                            ", ".join("%s (%s)" % kind for kind in sorted(kinds.items())) or "none", do)
        if not features["image"][0].startswith(_JPEG):
            raise DataError(self.name(0), "a JPEG file in the feature image",
                            "%d bytes that begin with %r" % (len(features["image"][0]), features["image"][0][:4]), do)

    def __len__(self):
        return len(self._shard)

    def name(self, record):
        """Where a record lies, for messages."""
        shard = self._shard[record]
        return "%s, record %d" % (self._paths[shard], record - np.searchsorted(self._shard, shard))

    def read(self, record):
        """One record as an Item; None when it is damaged, which is noted.

        Its checksum is verified the first time that this process reads it.
        """
        if record in self.bad:
            return None
        try:
            payload = self._payload(record)
            features = records.decode_example(payload)
            image, label = features["image"][0], operator.index(features["label"][0])
            size_px = records.jpeg_size(image)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            self._note(record, "%s: %s" % (self.name(record), error if isinstance(error, ValueError) else
                                           "no feature image or label"))
            return None
        if not 0 <= label < self.num_classes:
            self.error = DataError(self.name(record), "a label in 0..%d" % (self.num_classes - 1), label,
                                   "correct --num_classes, or use other shards")
            raise self.error
        corners = [features.get(name, ()) for name in ("xmin", "ymin", "xmax", "ymax")]
        return Item(image, label, np.array(corners, np.float32).T.reshape(-1, 4), size_px)

    def read_next_good(self, record):
        """The record, or the next one that is whole."""
        for further in range(len(self)):
            item = self.read((record + further) % len(self))
            if item:
                return item
        raise DataError(self.folder, "records that can be read", "none", "write the shards anew")

    def new_problems(self):
        """What has been met since the last call: list of str."""
        said, self._unsaid = self._unsaid, []
        return said

    def _payload(self, record):
        shard, offset, length = self._shard[record], int(self._offset[record]), int(self._length[record])
        data = os.pread(self._open(shard), length + records.FOOTER_BYTES, offset)
        if not self._checked[record]:
            stored = int.from_bytes(data[length:], "little")
            if len(data) != length + records.FOOTER_BYTES or stored != records.masked_crc32c(data[:length]):
                raise ValueError("a wrong checksum")
            self._checked[record] = 1
        return data[:length]

    def _open(self, shard):
        if shard not in self._files:
            if len(self._files) >= _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = os.open(self._paths[shard], os.O_RDONLY)
        return self._files[shard]

    def _note(self, record, problem):
        self.bad[record] = problem
        self._unsaid.append(problem)
        if len(self.bad) > self.max_bad_records:
            self.error = DataError(self.folder, "at most %d damaged records (--max_bad_records)" % self.max_bad_records,
                                   "%d, the last: %s" % (len(self.bad), problem),
                                   "copy the shards again, or allow more with --max_bad_records")
            raise self.error


Batch = collections.namedtuple("Batch", "images labels windows mirrored colours")
Batch.__doc__ = """What is decoded next: JPEGs object [B] of bytes, labels int32 [B], windows int32 [B, 4] of y, x,
height, width in pixels, mirrored bool [B], colours float32 [B, 3, 4]: a matrix for RGB and an offset (of 255)."""


def shorter_px_of(variant, width):
    """How images come to a network: None for the published reference's way, for torchvision's the shorter side."""
    return TORCHVISION_SHORTER_PX[width] if variant == "torchvision" else None


def described(variant, width):
    """How a picture becomes the network's input, for other programs: JSON-able dict."""
    common = {"channels": "RGB, 0 to 255", "size_px": IMAGE_PX, "interpolation": "bilinear"}
    shorter_px = shorter_px_of(variant, width)
    if shorter_px:
        return dict(common, antialias=True, shorter_side_px=shorter_px, crop_fraction=IMAGE_PX / shorter_px,
                    steps="resize the shorter side to shorter_side_px, cut the central size_px x size_px")
    return dict(common, antialias=False, crop_fraction=EVAL_FRACTION,
                steps="cut the central square of crop_fraction of the shorter side, resize it to size_px x size_px")


def training_batch(shards, step, batch_size, seed, min_crop_area, colour_jitter, rank=0, ranks=1, augment=True,
                   shorter_px=None):
    """One rank's part of a step: a function of (seed, step). An epoch's remainder is dropped.

    Args:
      shards: Shards.
      step: int from 0.
      batch_size: images of this rank.
      min_crop_area: smallest crop, as a fraction of the image.
      colour_jitter: brightness, contrast and saturation change by up to this fraction; 0 for none.
      augment: False for the centre of each image, as in an evaluation.
      shorter_px: of shorter_px_of.
    Returns:
      Batch.
    """
    epoch, place = divmod(step, len(shards) // (batch_size * ranks))
    first = (place * ranks + rank) * batch_size
    chosen = epoch_order(len(shards), epoch, seed)[first:first + batch_size]
    items = [shards.read_next_good(int(record)) for record in chosen]
    if not augment:
        return _centres(items, shorter_px)
    random = np.random.RandomState([seed, 1, step, rank])
    return _batch(items, random_windows(items, random, min_crop_area), random.randint(0, 2, batch_size).astype(bool),
                  random_colours(batch_size, random, colour_jitter))


def eval_batch(shards, number, batch_size, shorter_px=None):
    """Records number * batch_size ... of an evaluation, at static size.

    Returns:
      (Batch, counted float32 [B]: 0 for padding and for damaged records).
    """
    wanted = range(number * batch_size, (number + 1) * batch_size)
    items = [shards.read(record) if record < len(shards) else None for record in wanted]
    counted = np.array([item is not None for item in items], np.float32)
    filler = next((item for item in items if item), None) or shards.read_next_good(0)
    items = [item or filler for item in items]
    return _centres(items, shorter_px), counted


def eval_batches(shards, batch_size):
    """How many batches cover every record once."""
    return -(-len(shards) // batch_size)


_orders = collections.OrderedDict()


def epoch_order(count, epoch, seed):
    """The order in which an epoch visits the records: int64 [count], a function of (seed, epoch)."""
    key = (count, epoch, seed)
    if key not in _orders:
        _orders[key] = np.random.RandomState([seed, 0, epoch]).permutation(count)
        while len(_orders) > 2:
            _orders.popitem(last=False)
    return _orders[key]


def _batch(items, windows, mirrored, colours):
    images = np.empty(len(items), object)
    images[:] = [item.image for item in items]
    return Batch(images, np.array([item.label for item in items], np.int32), windows, mirrored, colours)


def _centres(items, shorter_px):
    """The Batch of the images' centres."""
    return _batch(items, np.array([centre_window(*item.size_px, shorter_px=shorter_px) for item in items], np.int32),
                  np.zeros(len(items), bool), random_colours(len(items), None, 0.0))


def centre_window(height_px, width_px, shorter_px=None):
    """(y, x, height, width) of what evaluation decodes: the central square, or all, which is then resized and cut."""
    if shorter_px:
        return 0, 0, height_px, width_px
    side_px = max(1, int(round(EVAL_FRACTION * min(height_px, width_px))))
    return (height_px - side_px) // 2, (width_px - side_px) // 2, side_px, side_px


def random_windows(items, random, min_crop_area):
    """A random crop of each image: area uniform in [min_crop_area, 1], aspect ratio uniform in ASPECT_RANGE.

    The first of ATTEMPTS that lies within the image and, where there are boxes, covers BOX_COVERED of one of them;
    without such a one the largest square of the centre.

    Returns:
      int32 [B, 4] of y, x, height, width in pixels.
    """
    height_px, width_px = np.array([item.size_px for item in items]).T[:, :, None]  # [B, 1] each
    area, ratio, down, right = random.uniform(size=[4, len(items), ATTEMPTS])
    area = (min_crop_area + (1 - min_crop_area) * area) * height_px * width_px
    ratio = ASPECT_RANGE[0] + (ASPECT_RANGE[1] - ASPECT_RANGE[0]) * ratio
    crop_height_px = np.rint(np.sqrt(area / ratio)).astype(int).clip(1)
    crop_width_px = np.rint(np.sqrt(area * ratio)).astype(int).clip(1)
    fits = (crop_height_px <= height_px) & (crop_width_px <= width_px)
    y = (down * (height_px - crop_height_px + 1)).astype(int)
    x = (right * (width_px - crop_width_px + 1)).astype(int)
    windows = np.stack([y, x, crop_height_px, crop_width_px], 2)  # [B, ATTEMPTS, 4]
    for number, item in enumerate(items):
        if len(item.boxes):
            fits[number] &= _covered(windows[number], item) >= BOX_COVERED
    chosen = windows[np.arange(len(items)), fits.argmax(1)]
    for number in np.flatnonzero(~fits.any(1)):
        high_px, wide_px = items[number].size_px
        side_px = min(high_px, wide_px)
        chosen[number] = (high_px - side_px) // 2, (wide_px - side_px) // 2, side_px, side_px
    return chosen.astype(np.int32)


def _covered(windows, item):
    """The largest fraction of any box that each window covers: float [ATTEMPTS]."""
    y, x, high_px, wide_px = windows.T[:, :, None]
    xmin, ymin, xmax, ymax = item.boxes.T * np.array([item.size_px[1], item.size_px[0]] * 2)[:, None]
    shared = ((np.minimum(x + wide_px, xmax) - np.maximum(x, xmin)).clip(0)
              * (np.minimum(y + high_px, ymax) - np.maximum(y, ymin)).clip(0))
    return (shared / ((xmax - xmin) * (ymax - ymin))).max(1)


def random_colours(count, random, jitter):
    """Brightness, contrast (about mid-grey) and saturation as one matrix and offset: float32 [count, 3, 4]."""
    drawn = random.uniform(1 - jitter, 1 + jitter, [3, count]) if jitter else np.ones([3, count])
    brightness, contrast, saturation = drawn
    grey = np.tile(_GREY, [3, 1])
    matrix = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * grey
    scale = brightness * contrast
    offset = np.tile((127.5 * (1 - contrast))[:, None, None], [1, 3, 1])
    return np.concatenate([matrix * scale[:, None, None], offset], 2).astype(np.float32)


def decode(tf, image, window, mirrored, colour=None, antialias=False, shorter_px=None, side_px=IMAGE_PX):
    """One JPEG -> uint8 [side_px, side_px, 3]: decoded and cropped in one operation, resized, mirrored, recoloured.

    Args:
      tf: tensorflow.compat.v1.
      image: string []; window: int32 [4]; mirrored: bool []; colour: float32 [3, 4] or None.
      antialias: resize as torchvision and Pillow do, by a filter as wide as what a pixel covers, and decode exactly.
      shorter_px: int, with antialias: the shorter side becomes this, and the centre is cut; None to fill all.
      side_px: of the result.
    """
    crop = tf.image.decode_and_crop_jpeg(image, window, channels=3,
                                         dct_method="INTEGER_ACCURATE" if antialias else "INTEGER_FAST")
    if antialias:
        size_px = tf.shape(crop)[:2]
        wanted_px = size_px * shorter_px // tf.reduce_min(size_px) if shorter_px else tf.constant([side_px, side_px])
        cut_px = tf.round(tf.cast(wanted_px - side_px, tf.float32) / 2.0)
        resized = tf.raw_ops.ScaleAndTranslate(
            images=crop[None], size=[side_px, side_px], scale=tf.cast(wanted_px, tf.float32) / tf.cast(
                size_px, tf.float32), translation=-cut_px, kernel_type="triangle", antialias=True)[0]
    else:
        resized = tf.image.resize_bilinear(crop[None], [side_px, side_px], half_pixel_centers=True)[0]
    if colour is not None:
        flat = tf.matmul(tf.reshape(resized, [-1, 3]), colour[:, :3], transpose_b=True) + colour[:, 3]
        resized = tf.clip_by_value(tf.reshape(flat, [side_px, side_px, 3]), 0.0, 255.0)
    pixels = tf.cast(resized + 0.5, tf.uint8)
    pixels = tf.cond(mirrored, lambda: tf.reverse(pixels, [1]), lambda: pixels)
    pixels.set_shape([side_px, side_px, 3])
    return pixels


def training_data(tf, shards, first_step, last_step, batch_size, threads, coloured, rate_of=None, shorter_px=None,
                  augment=True, side_px=IMAGE_PX, **chosen):
    """The batches of the steps first_step ... last_step - 1.

    Args:
      tf: tensorflow.compat.v1.
      threads: images decoded at a time; 0 for one a core.
      coloured: Python bool, whether colours change.
      rate_of: step, an int from 0 -> learning rate; for a step that nobody feeds.
      shorter_px: of shorter_px_of; side_px: of the images.
      augment, **chosen: augment, seed, min_crop_area, colour_jitter, rank, ranks of training_batch.
    Returns:
      iterator tensors (images uint8 [batch_size, side_px, side_px, 3], labels int32 [batch_size], with rate_of rate
      float32 []) and its initializer.
    """
    def read(step):
        return tuple(training_batch(shards, int(step), batch_size, augment=augment, shorter_px=shorter_px, **chosen))

    def decode_example(image, label, window, mirrored, colour):
        return decode(tf, image, window, mirrored, colour if coloured else None, antialias=shorter_px is not None,
                      shorter_px=None if augment else shorter_px, side_px=side_px), label

    types = (tf.string, tf.int32, tf.int32, tf.bool, tf.float32)
    data = _map_numpy(tf, tf.data.Dataset.range(first_step, last_step), read, types).prefetch(2)
    data = data.flat_map(lambda *batch: tf.data.Dataset.from_tensor_slices(_shaped(batch, batch_size)))
    data = data.map(decode_example, num_parallel_calls=threads or _cores())
    data = data.batch(batch_size, drop_remainder=True).prefetch(2)
    return _iterate(tf, _with_rates(tf, data, first_step, last_step, rate_of) if rate_of else data)


def repeated_batch(tf, batch, first_step, last_step, rate_of):
    """The same batch (images, labels) for each step, with the step's learning rate: as training_data with rate_of."""
    data = tf.data.Dataset.from_tensors(batch).repeat()
    return _iterate(tf, _with_rates(tf, data, first_step, last_step, rate_of))


def _with_rates(tf, batches, first_step, last_step, rate_of):
    rates = _map_numpy(tf, tf.data.Dataset.range(first_step, last_step), lambda step: np.float32(rate_of(int(step))),
                       tf.float32)
    return tf.data.Dataset.zip((batches, rates)).map(lambda batch, rate: batch + (tf.ensure_shape(rate, []),))


def _map_numpy(tf, data, function, types):
    """data.map(function), a function of NumPy values.

    TensorFlow 2.6 places it on a device of its eager context, which a server of several ranks does not have, unless the
    graph is entered as a context.
    """
    with tf.get_default_graph().as_default():
        return data.map(lambda number: tf.numpy_function(function, [number], types))


def _iterate(tf, data):
    iterator = tf.data.make_initializable_iterator(data)
    return iterator.get_next(), iterator.initializer


def eval_data(tf, shards, batch_size, threads, rank=0, ranks=1, shorter_px=None):
    """Every record once, in order; the last batch is padded. Of several ranks each has every `ranks`-th batch.

    Returns:
      iterator tensors (images uint8 [batch_size, 224, 224, 3], labels int32, counted float32), and its initializer.
    """
    def read(number):
        batch, counted = eval_batch(shards, int(number), batch_size, shorter_px)
        return tuple(batch) + (counted,)

    types = (tf.string, tf.int32, tf.int32, tf.bool, tf.float32, tf.float32)
    data = _map_numpy(tf, tf.data.Dataset.range(rank, eval_batches(shards, batch_size), ranks), read, types).prefetch(2)
    data = data.flat_map(lambda *batch: tf.data.Dataset.from_tensor_slices(_shaped(batch, batch_size)))
    data = data.map(lambda image, label, window, mirrored, _, counted:
                    (decode(tf, image, window, mirrored, None, shorter_px is not None, shorter_px), label, counted),
                    num_parallel_calls=threads or _cores())
    return _iterate(tf, data.batch(batch_size, drop_remainder=True).prefetch(2))


def _shaped(batch, batch_size):
    shapes = ([batch_size], [batch_size], [batch_size, 4], [batch_size], [batch_size, 3, 4], [batch_size])
    for tensor, shape in zip(batch, shapes):
        tensor.set_shape(shape)
    return batch


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
