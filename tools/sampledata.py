# SPDX-License-Identifier: Apache-2.0
"""Draws small, learnable data sets in the layouts of the real ones, to try training without a download.

    python -m tools.sampledata cifar10 --output DIR [--train 2000] [--test 500] [--seed 0]
    python -m tools.sampledata imagenet --output DIR [--train 400] [--test 100] [--seed 0]
    python -m tools.sampledata voc --output DIR [--train 200] [--test 50] [--seed 0]

The numbers that a model reaches on drawn data say that it learns; they say nothing about the real data set.
"""
import argparse
import os
import pickle
import sys
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from common.cifar10 import CIFAR10_FOLDER, CIFAR10_META_FILE, CIFAR10_TEST_FILE, CIFAR10_TRAIN_FILES
from common.files import DataError, whole_folder

# Each looks the same in a mirror, because training flips its images.
SHAPES = ('disc', 'ring', 'square', 'frame', 'triangle', 'plus', 'cross', 'rows', 'columns', 'checks')
IMAGENET_CLASSES = tuple('n%08d' % number for number in range(1, len(SHAPES) + 1))  # made up, in the order of SHAPES
# Pascal VOC's first ten names, in the order of SHAPES: readers of that layout know no others.
VOC_CLASSES = ('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow')

# Raised when the drawing changes, so that an older folder is drawn anew.
_DRAWING_VERSION = 1
_CHUNK = 1000
_MADE_BY = 'tools.sampledata'


def _signed_distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns float32 [n, 32, 32], below 0 inside; u points right and v down, in radii of the shape."""
    radius, box = np.hypot(u, v), np.maximum(np.abs(u), np.abs(v))
    if shape == 'disc':
        return radius - 0.95
    if shape == 'ring':
        return np.abs(radius - 0.75) - 0.22
    if shape == 'square':
        return box - 0.85
    if shape == 'frame':
        return np.abs(box - 0.7) - 0.2
    if shape == 'triangle':
        return np.maximum(v - 0.7, 0.894 * np.abs(u) - 0.447 * (v + 1.0))
    if shape == 'plus':
        return np.maximum(np.minimum(np.abs(u), np.abs(v)) - 0.28, box - 0.95)
    if shape == 'cross':
        along, across = (u + v) * 0.7071, (u - v) * 0.7071
        return np.maximum(np.minimum(np.abs(along), np.abs(across)) - 0.28, box - 0.85)
    # The textures fill a square with two and a half periods.
    waves = {'rows': np.sin(7.8 * v), 'columns': np.sin(7.8 * u), 'checks': np.sin(6.0 * u) * np.sin(6.0 * v)}
    return np.maximum(-waves[shape] / 7.8, box - 0.95)


def _rgb_of_hue(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """HSV in 0..1, each [n], to RGB float32 [n, 3] in 0..255."""
    sector = (hue[:, None] * 6 + np.array([0, 4, 2])) % 6
    full = np.clip(np.abs(sector - 3) - 1, 0, 1)  # [n, 3]
    return (255 * value[:, None] * (1 - saturation[:, None] * (1 - full))).astype(np.float32)


def _draw_chunk(labels: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Draws one image per label, int [n]; returns uint8 [n, 32, 32, 3]."""
    n = len(labels)
    y, x = np.mgrid[0:32, 0:32].astype(np.float32)  # [32, 32] each

    def column(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

    # Background: a slope between two dull colours, plus a coarse pattern of 5 x 5 cells.
    angle, offset = column(0, 2 * np.pi), column(-0.3, 0.3)
    slope = np.clip(0.5 + offset + (np.cos(angle) * (x - 15.5) + np.sin(angle) * (y - 15.5)) / 40, 0, 1)
    ends = [_rgb_of_hue(rng.rand(n), rng.uniform(0, 0.5, n), rng.uniform(0.15, 0.85, n)) for _ in range(2)]
    slope = slope[..., None]
    images = slope * ends[0][:, None, None] + (1 - slope) * ends[1][:, None, None]  # [n, 32, 32, 3]
    cells = rng.normal(0, 8, (n, 7, 7, 3)).astype(np.float32)
    images += np.repeat(np.repeat(cells, 5, axis=1), 5, axis=2)[:, :32, :32]

    # A small blob of any colour keeps "there is something coloured" from being a clue.
    blob_x, blob_y, blob_radius_px = column(5, 27), column(5, 27), column(2, 4)
    cover = np.clip(blob_radius_px - np.hypot(x - blob_x, y - blob_y), 0, 1)[..., None]
    colour = _rgb_of_hue(rng.rand(n), rng.uniform(0.3, 0.9, n), rng.uniform(0.3, 1.0, n))
    images += cover * (colour[:, None, None] - images)

    # The object: position, size and a small turn vary; its hue leans to the class, but neighbours share it.
    radius_px = column(9, 14)
    centre_x = 15.5 + column(-1, 1) * (16 - radius_px)
    centre_y = 15.5 + column(-1, 1) * (16 - radius_px)
    turn = column(-0.22, 0.22)
    dx, dy = (x - centre_x) / radius_px, (y - centre_y) / radius_px
    u, v = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
    distance = np.empty((n, 32, 32), np.float32)
    for label, shape in enumerate(SHAPES):
        mine = labels == label
        distance[mine] = _signed_distance(shape, u[mine], v[mine])
    cover = np.clip(0.5 - distance * radius_px, 0, 1)[..., None]  # about one pixel of soft edge
    hue = (labels * 0.3 + rng.normal(0, 0.05, n)) % 1.0
    colour = _rgb_of_hue(hue, rng.uniform(0.55, 1.0, n), rng.uniform(0.5, 1.0, n))
    images += column(0.75, 1.0)[..., None] * cover * (colour[:, None, None] - images)

    images *= column(0.75, 1.15)[..., None]
    images += rng.normal(0, 9, images.shape).astype(np.float32)
    return np.clip(images, 0, 255).astype(np.uint8)


def _draw_batch(count: int, rng: np.random.RandomState) -> Dict[bytes, Any]:
    labels = rng.permutation(np.arange(count) % len(SHAPES))
    data = np.empty((count, 3 * 32 * 32), np.uint8)
    for first in range(0, count, _CHUNK):
        images = _draw_chunk(labels[first:first + _CHUNK], rng)
        data[first:first + _CHUNK] = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    names = [('%s_s_%06d.png' % (SHAPES[label], row)).encode('ascii') for row, label in enumerate(labels)]
    return {b'data': data, b'labels': labels.tolist(), b'filenames': names}


def _write_pickle(content: Dict[bytes, Any], path: str) -> None:
    with open(path, 'wb') as stream:
        pickle.dump(content, stream, protocol=2)


def _write_cifar10(output: str, train: int, test: int, seed: int) -> None:
    folder = os.path.join(output, CIFAR10_FOLDER)
    os.mkdir(folder)
    counts = [train // 5 + (index < train % 5) for index in range(5)] + [test]
    for index, (name, count) in enumerate(zip(CIFAR10_TRAIN_FILES + (CIFAR10_TEST_FILE,), counts)):
        batch = _draw_batch(count, np.random.RandomState([seed, index]))
        batch[b'batch_label'] = (b'testing batch 1 of 1' if name == CIFAR10_TEST_FILE
                                 else b'training batch %d of 5' % (index + 1))
        _write_pickle(batch, os.path.join(folder, name))
    meta = {b'num_cases_per_batch': counts[0], b'num_vis': 3 * 32 * 32,
            b'label_names': [shape.encode('ascii') for shape in SHAPES]}
    _write_pickle(meta, os.path.join(folder, CIFAR10_META_FILE))


def _write_imagenet(output: str, train: int, test: int, seed: int) -> None:
    from PIL import Image
    for split, count, index in (('train', train, 0), ('val', test, 1)):
        rng = np.random.RandomState([seed, index])
        labels = rng.permutation(np.arange(count) % len(SHAPES))
        for class_id in IMAGENET_CLASSES:
            os.makedirs(os.path.join(output, split, class_id))
        images = _draw_chunk(labels, rng)
        # Sizes and shapes vary as in the real set; a pixel of the drawing becomes three to five.
        sizes_px = rng.randint(96, 161, (count, 2)).tolist()
        for row, (pixels, label, size_px) in enumerate(zip(images, labels, sizes_px)):
            name = '%s_%d.JPEG' % (IMAGENET_CLASSES[label], row)
            image = Image.fromarray(pixels).resize(size_px, Image.Resampling.BICUBIC)
            image.save(os.path.join(output, split, IMAGENET_CLASSES[label], name), 'JPEG', quality=90)


def _draw_scene(rng: np.random.RandomState) -> Tuple[np.ndarray, List[Tuple[int, bool, List[int]]]]:
    """Draws one to four objects; returns uint8 [H, W, 3] RGB and for each (label, difficult, box).

    A box is xmin, ymin, xmax, ymax in pixels that count from 1, the last one included.
    """
    width_px, height_px = int(rng.randint(240, 401)), int(rng.randint(180, 341))
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.clip(0.5 + np.cos(angle) * (x / width_px - 0.5) + np.sin(angle) * (y / height_px - 0.5), 0, 1)
    slope = slope[..., None]
    ends = _rgb_of_hue(rng.rand(2), rng.uniform(0, 0.5, 2), rng.uniform(0.15, 0.85, 2))
    image = slope * ends[0] + (1 - slope) * ends[1]  # [H, W, 3]
    objects: List[Tuple[int, bool, List[int]]] = []
    taken = np.zeros((height_px, width_px), bool)
    for _ in range(rng.randint(1, 5)):
        difficult = bool(rng.rand() < 0.1)  # those are small and faint
        for _ in range(10):  # trials: objects keep apart
            radius_px = rng.uniform(9, 13) if difficult else rng.uniform(0.12, 0.36) * min(width_px, height_px)
            reach_px = 1.25 * radius_px
            centre_x, centre_y = (rng.uniform(reach_px, side - reach_px) for side in (width_px, height_px))
            square = tuple(slice(int(centre - reach_px), int(centre + reach_px) + 1) for centre in (centre_y, centre_x))
            if not taken[square].any():
                break
        else:
            continue
        taken[square] = True
        label, turn = int(rng.randint(len(SHAPES))), rng.uniform(-0.22, 0.22)
        dx, dy = (x[square] - centre_x) / radius_px, (y[square] - centre_y) / radius_px
        u, v = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
        cover = np.clip(0.5 - _signed_distance(SHAPES[label], u, v) * radius_px, 0, 1)
        colour = _rgb_of_hue(np.array([(label * 0.3 + rng.normal(0, 0.05)) % 1.0]), rng.uniform(0.55, 1.0, 1),
                             rng.uniform(0.5, 1.0, 1))[0]
        image[square] += (0.4 if difficult else 0.9) * cover[..., None] * (colour - image[square])
        edges = [int(axis.start + side) + 1 for axis, other in ((square[1], 0), (square[0], 1))
                 for side in np.flatnonzero((cover > 0.5).any(other))[[0, -1]]]  # xmin, xmax, ymin, ymax
        objects.append((label, difficult, [edges[0], edges[2], edges[1], edges[3]]))
    image += rng.normal(0, 6, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), objects


def _write_voc(output: str, train: int, test: int, seed: int) -> None:
    from PIL import Image
    year = os.path.join(output, 'VOCdevkit', 'VOC2007')
    annotations, pictures, lists = (os.path.join(year, *names) for names in (
        ('Annotations',), ('JPEGImages',), ('ImageSets', 'Main')))
    for folder in (annotations, pictures, lists):
        os.makedirs(folder)
    ids = ['%06d' % number for number in range(1, train + test + 1)]
    for number, image_id in enumerate(ids):
        image, objects = _draw_scene(np.random.RandomState([seed, number]))
        Image.fromarray(image).save(os.path.join(pictures, image_id + '.jpg'), 'JPEG', quality=90)
        lines = ['<annotation>', '\t<filename>%s.jpg</filename>' % image_id, '\t<size>',
                 '\t\t<width>%d</width>' % image.shape[1], '\t\t<height>%d</height>' % image.shape[0],
                 '\t\t<depth>3</depth>', '\t</size>']
        for label, difficult, box in objects:
            lines += ['\t<object>', '\t\t<name>%s</name>' % VOC_CLASSES[label],
                      '\t\t<difficult>%d</difficult>' % difficult, '\t\t<bndbox>']
            lines += ['\t\t\t<%s>%d</%s>' % (side, edge, side)
                      for side, edge in zip(('xmin', 'ymin', 'xmax', 'ymax'), box)]
            lines += ['\t\t</bndbox>', '\t</object>']
        with open(os.path.join(annotations, image_id + '.xml'), 'w', encoding='utf-8') as stream:
            stream.write('\n'.join(lines + ['</annotation>', '']))
    half = train // 2
    for name, chosen in (('train', ids[:half]), ('val', ids[half:train]), ('trainval', ids[:train]),
                         ('test', ids[train:])):
        with open(os.path.join(lists, name + '.txt'), 'w', encoding='utf-8') as stream:
            stream.write(''.join(image_id + '\n' for image_id in chosen))


def draw_cifar10(output: str, train: int = 2000, test: int = 500, seed: int = 0) -> bool:
    """Draws ten classes of shapes and textures as OUTPUT/cifar-10-batches-py, in CIFAR-10's own file layout.

    The folder appears whole or not at all. One that this function made is reused when the settings agree and
    drawn anew when they do not; any other existing folder is left alone.

    Args:
        output: str, the folder to make; its marker file is .whole.json.
        train: int >= 5, images in data_batch_1 to data_batch_5 together, classes balanced within each.
        test: int >= 1, images in test_batch.
        seed: int >= 0; the same seed gives the same images.

    Returns:
        bool, True when images were drawn, False when the folder was there already.

    Raises:
        DataError: the folder holds something else, or it cannot be written.
    """
    return _draw(_write_cifar10, 'cifar10', output, train, test, seed, lowest=(5, 1))


def draw_imagenet(output: str, train: int = 400, test: int = 100, seed: int = 0) -> bool:
    """Draws the same ten classes as JPEGs of 96 to 160 pixels a side in OUTPUT/train/<class>/ and OUTPUT/val/<class>/.

    Arguments, result and errors are those of `draw_cifar10`; each split has at least one image of each class.
    """
    return _draw(_write_imagenet, 'imagenet', output, train, test, seed, lowest=(10, 10))


def draw_voc(output: str, train: int = 200, test: int = 50, seed: int = 0) -> bool:
    """Draws one to four of the same ten shapes per picture, with their boxes, as OUTPUT/VOCdevkit/VOC2007.

    The shapes go by the names of VOC_CLASSES. Training images are in trainval.txt, one half in train.txt, the other in
    val.txt. About one object in six is small, faint and marked difficult. Arguments, result and errors are those of
    `draw_cifar10`; train is at least 2.
    """
    return _draw(_write_voc, 'voc', output, train, test, seed, lowest=(2, 1))


def _draw(write: Callable[[str, int, int, int], None], layout: str, output: str, train: int, test: int, seed: int,
          lowest: Tuple[int, int]) -> bool:
    for name, value, least in (('train', train, lowest[0]), ('test', test, lowest[1]), ('seed', seed, 0)):
        if value < least:
            raise DataError('--' + name, 'a number of at least %d' % least, str(value), 'give a larger one')
    settings = {'layout': layout, 'version': _DRAWING_VERSION, 'train': train, 'test': test, 'seed': seed}
    with whole_folder(output, settings, _MADE_BY) as fresh:
        if fresh:
            write(fresh, train, test, seed)
    return fresh is not None


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command line.

    Args:
        argv: list of str, the arguments; None takes the process's own.

    Returns:
        int, the exit code: 0, or 1 when the folder cannot be made (the reason goes to stderr).
    """
    parser = argparse.ArgumentParser(prog='python -m tools.sampledata', allow_abbrev=False,
                                     description='Draws small, learnable sample data.')
    layouts = parser.add_subparsers(dest='layout', metavar='LAYOUT')
    layouts.required = True
    for layout, said, gets, train, test in (
            ('cifar10', 'ten classes of 32x32 images', 'cifar-10-batches-py', 2000, 500),
            ('imagenet', 'ten class folders of JPEGs', 'train and val', 400, 100),
            ('voc', 'JPEGs of one to four objects with their boxes', 'VOCdevkit', 200, 50)):
        one = layouts.add_parser(layout, allow_abbrev=False, help=said,
                                 formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        one.add_argument('--output', required=True, metavar='DIR', help='folder to make; it gets ' + gets)
        one.add_argument('--train', type=int, default=train, metavar='N', help='training images')
        one.add_argument('--test', type=int, default=test, metavar='N', help='test images')
        one.add_argument('--seed', type=int, default=0, metavar='N', help='seed of the drawing')
    args = parser.parse_args(argv)
    draw = {'cifar10': draw_cifar10, 'imagenet': draw_imagenet, 'voc': draw_voc}[args.layout]
    try:
        if draw(args.output, args.train, args.test, args.seed):
            print('Drew %d training and %d test images in %s' % (args.train, args.test, args.output))
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
