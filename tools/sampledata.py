# SPDX-License-Identifier: Apache-2.0
"""Draws small, learnable data sets in the layouts of the real ones, to try training without a download.

    python -m tools.sampledata cifar10 --output DIR [--train 2000] [--test 500] [--seed 0]
    python -m tools.sampledata imagenet --output DIR [--train 400] [--test 100] [--seed 0]
    python -m tools.sampledata voc --output DIR [--train 300] [--test 100] [--seed 0]

The numbers that a model reaches on drawn data say that it learns; they say nothing about the real data set.
"""
import functools
import os
import pickle
import sys
from collections import namedtuple
from pathlib import Path
from typing import List, Tuple

from common import flags
from common.cifar10 import CIFAR10_FOLDER, CIFAR10_META_FILE, CIFAR10_TEST_FILE, CIFAR10_TRAIN_FILES
from common.files import DataError, whole_folder
from common.lazy import np

# Each looks the same in a mirror, because training flips its images.
SHAPES = ('disc', 'ring', 'square', 'frame', 'triangle', 'plus', 'cross', 'rows', 'columns', 'checks')
IMAGENET_CLASSES = tuple('n%08d' % number for number in range(1, len(SHAPES) + 1))  # made up, in the order of SHAPES
# Name, whose last word is the shape, and hue; a shape belongs to one class alone, because training may swap channels.
VOC_CLASSES = {'blue square': 0.62, 'green ring': 0.36, 'purple cross': 0.8, 'red disc': 0.0, 'yellow triangle': 0.15}

# Raised when the drawing changes, so that an older folder is drawn anew.
_DRAWING_VERSION = 2
_CHUNK = 1000
_MADE_BY = 'tools.sampledata'


def _signed_distance(shape, u, v):
    """Float32 [n, 32, 32], below 0 inside; u points right and v down, in radii of the shape."""
    radius, box = np.hypot(u, v), np.maximum(np.abs(u), np.abs(v))
    if shape in ('rows', 'columns', 'checks'):  # they fill a square with two and a half periods
        waves = {'rows': np.sin(7.8 * v), 'columns': np.sin(7.8 * u), 'checks': np.sin(6.0 * u) * np.sin(6.0 * v)}
        return np.maximum(-waves[shape] / 7.8, box - 0.95)
    if shape in ('plus', 'cross'):
        along, across = (u, v) if shape == 'plus' else ((u + v) * 0.7071, (u - v) * 0.7071)
        bars = np.minimum(np.abs(along), np.abs(across)) - 0.28
        return np.maximum(bars, box - (0.95 if shape == 'plus' else 0.85))
    return {'disc': radius - 0.95, 'ring': np.abs(radius - 0.75) - 0.22, 'square': box - 0.85,
            'frame': np.abs(box - 0.7) - 0.2,
            'triangle': np.maximum(v - 0.7, 0.894 * np.abs(u) - 0.447 * (v + 1.0))}[shape]


def _rgb_of_hue(hue, saturation, value):
    """HSV in 0..1, each [n], to RGB float32 [n, 3] in 0..255."""
    sector = (hue[:, None] * 6 + np.array([0, 4, 2])) % 6
    full = np.clip(np.abs(sector - 3) - 1, 0, 1)  # [n, 3]
    return (255 * value[:, None] * (1 - saturation[:, None] * (1 - full))).astype(np.float32)


def _draw_chunk(labels, rng):
    """Draws one image per label, int [n]; returns uint8 [n, 32, 32, 3]."""
    n = len(labels)
    y, x = np.mgrid[0:32, 0:32].astype(np.float32)  # [32, 32] each

    def column(low, high):
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


def _draw_batch(count, rng, title):
    """The content of a CIFAR-10 batch file."""
    labels = rng.permutation(np.arange(count) % len(SHAPES))
    data = np.empty((count, 3 * 32 * 32), np.uint8)
    for first in range(0, count, _CHUNK):
        images = _draw_chunk(labels[first:first + _CHUNK], rng)
        data[first:first + _CHUNK] = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    names = [('%s_s_%06d.png' % (SHAPES[label], row)).encode('ascii') for row, label in enumerate(labels)]
    return {b'data': data, b'labels': labels.tolist(), b'filenames': names, b'batch_label': title}


def _write_pickle(content, path):
    with open(path, 'wb') as stream:
        pickle.dump(content, stream, protocol=2)


def _write_cifar10(output, train, test, seed):
    folder = os.path.join(output, CIFAR10_FOLDER)
    os.mkdir(folder)
    files = [(name, train // 5 + (index < train % 5), b'training batch %d of 5' % (index + 1))
             for index, name in enumerate(CIFAR10_TRAIN_FILES)] + [(CIFAR10_TEST_FILE, test, b'testing batch 1 of 1')]
    for index, (name, count, title) in enumerate(files):
        _write_pickle(_draw_batch(count, np.random.RandomState([seed, index]), title), os.path.join(folder, name))
    meta = {b'num_cases_per_batch': files[0][1], b'num_vis': 3 * 32 * 32,
            b'label_names': [shape.encode('ascii') for shape in SHAPES]}
    _write_pickle(meta, os.path.join(folder, CIFAR10_META_FILE))


def _write_imagenet(output, train, test, seed):
    from PIL import Image
    for index, (split, count) in enumerate((('train', train), ('val', test))):
        rng = np.random.RandomState([seed, index])
        labels = rng.permutation(np.arange(count) % len(SHAPES))
        for class_id in IMAGENET_CLASSES:
            os.makedirs(os.path.join(output, split, class_id))
        images = _draw_chunk(labels, rng)
        # Sizes and shapes vary as in the real set; a pixel of the drawing becomes three to five.
        sizes_px = rng.randint(96, 161, (count, 2)).tolist()
        for row, (pixels, label, size_px) in enumerate(zip(images, labels, sizes_px)):
            class_id = IMAGENET_CLASSES[label]
            Image.fromarray(pixels).resize(size_px, Image.Resampling.BICUBIC).save(
                os.path.join(output, split, class_id, '%s_%d.JPEG' % (class_id, row)), 'JPEG', quality=90)


def _draw_scene(rng):
    """Draws one to three objects, apart, on a dull background; returns uint8 [H, W, 3] RGB and for each (name, box).

    A box is xmin, ymin, xmax, ymax in pixels that count from 1, the last one included; its longer side is a quarter to
    a half of the picture's shorter one.
    """
    from PIL import Image
    width_px, height_px = int(rng.randint(300, 421)), int(rng.randint(240, 321))
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.float32)
    # A slope between two colours of little saturation, clouds of 40 pixels, a grain.
    angle = rng.uniform(0, 2 * np.pi)
    slope = 0.5 + np.cos(angle) * (x / width_px - 0.5) + np.sin(angle) * (y / height_px - 0.5)
    ends = _rgb_of_hue(rng.rand(2), rng.uniform(0, 0.25, 2), rng.uniform(0.25, 0.8, 2))
    clouds = Image.fromarray(rng.normal(0, 12, (height_px // 40, width_px // 40)).astype(np.float32))
    grain = np.asarray(clouds.resize((width_px, height_px), Image.Resampling.BICUBIC)) + rng.normal(0, 5, slope.shape)
    image = ends[0] + slope[..., None] * (ends[1] - ends[0]) + grain[..., None].astype(np.float32)  # [H, W, 3]

    objects: List[Tuple[str, List[int]]] = []
    taken = np.zeros((height_px, width_px), bool)
    names = sorted(VOC_CLASSES)
    for _ in range(rng.randint(1, 4)):
        for _ in range(20):  # trials: objects keep apart
            radius_px = rng.uniform(0.14, 0.26) * height_px
            reach_px = 1.15 * radius_px
            centre_x, centre_y = (rng.uniform(reach_px, side - reach_px) for side in (width_px, height_px))
            square = tuple(slice(int(centre - reach_px), int(centre + reach_px) + 1) for centre in (centre_y, centre_x))
            if not taken[square].any():
                break
        else:
            continue
        taken[square] = True
        name, turn = names[rng.randint(len(names))], rng.uniform(-0.22, 0.22)
        dx, dy = (x[square] - centre_x) / radius_px, (y[square] - centre_y) / radius_px
        u, v = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
        cover = np.clip(0.5 - _signed_distance(name.split()[-1], u, v) * radius_px, 0, 1)
        colour = _rgb_of_hue(np.array([(VOC_CLASSES[name] + rng.normal(0, 0.01)) % 1.0]), rng.uniform(0.75, 1.0, 1),
                             rng.uniform(0.7, 1.0, 1))[0]
        image[square] += cover[..., None] * (colour + grain[square][..., None] - image[square])
        edges = [int(axis.start + side) + 1 for axis, other in ((square[1], 0), (square[0], 1))
                 for side in np.flatnonzero((cover > 0.5).any(other))[[0, -1]]]  # xmin, xmax, ymin, ymax
        objects.append((name, [edges[0], edges[2], edges[1], edges[3]]))
    return np.clip(image, 0, 255).astype(np.uint8), objects


_OBJECT = ('\t<object>\n\t\t<name>%s</name>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>%d</xmin>\n'
           '\t\t\t<ymin>%d</ymin>\n\t\t\t<xmax>%d</xmax>\n\t\t\t<ymax>%d</ymax>\n\t\t</bndbox>\n\t</object>\n')
_ANNOTATION = ('<annotation>\n\t<filename>%s.jpg</filename>\n\t<size>\n\t\t<width>%d</width>\n\t\t<height>%d</height>\n'
               '\t\t<depth>3</depth>\n\t</size>\n%s</annotation>\n')


def _write_voc(output, train, test, seed):
    from PIL import Image
    year = os.path.join(output, 'VOCdevkit', 'VOC2007')
    for inside in ('Annotations', 'JPEGImages', os.path.join('ImageSets', 'Main')):
        os.makedirs(os.path.join(year, inside))
    ids = ['%06d' % number for number in range(1, train + test + 1)]
    for number, image_id in enumerate(ids):
        image, objects = _draw_scene(np.random.RandomState([seed, number]))
        Image.fromarray(image).save(os.path.join(year, 'JPEGImages', image_id + '.jpg'), 'JPEG', quality=90)
        boxes = ''.join(_OBJECT % ((name,) + tuple(box)) for name, box in objects)
        Path(year, 'Annotations', image_id + '.xml').write_text(
            _ANNOTATION % (image_id, image.shape[1], image.shape[0], boxes), encoding='utf-8')
    half = train // 2
    for name, chosen in (('train', ids[:half]), ('val', ids[half:train]), ('trainval', ids[:train]),
                         ('test', ids[train:])):
        Path(year, 'ImageSets', 'Main', name + '.txt').write_text(''.join(image_id + '\n' for image_id in chosen))


# How a layout is written, what it shows and makes, its usual and its lowest numbers of images for training and test.
_Layout = namedtuple('_Layout', 'write shows makes train test lowest')
_LAYOUTS = {
    'cifar10': _Layout(_write_cifar10, 'ten classes of 32x32 images', CIFAR10_FOLDER, 2000, 500, (5, 1)),
    'imagenet': _Layout(_write_imagenet, 'ten class folders of JPEGs', 'train and val', 400, 100, (10, 10)),
    'voc': _Layout(_write_voc, 'JPEGs of one to three objects with their boxes', 'VOCdevkit', 300, 100, (2, 1)),
}


def draw(layout, output, train=None, test=None, seed=0):
    """Draws a small data set into a folder, which appears whole or not at all.

    One that this function made is used again when the settings agree and drawn anew when they do not; any other
    existing folder is left alone.

    Args:
      layout: 'cifar10': ten classes of shapes and textures in CIFAR-10's own files, balanced in each; 'imagenet': the
        same as JPEGs of 96 to 160 pixels a side in train/<class>/ and val/<class>/; 'voc': one to three objects
        of VOC_CLASSES in a picture, with boxes, as VOCdevkit/VOC2007, one half of trainval in train, the other in val.
      train, test: numbers of images; None for the layout's.
      seed: int >= 0; the same seed gives the same images.
    Returns:
      True when images were drawn, False when the folder was there already.
    Raises:
      DataError: a number is too low, the folder holds something else, or it cannot be written.
    """
    rules = _LAYOUTS[layout]
    settings = {'layout': layout, 'version': _DRAWING_VERSION, 'train': rules.train if train is None else train,
                'test': rules.test if test is None else test, 'seed': seed}
    for name, least in zip(('train', 'test', 'seed'), rules.lowest + (0,)):
        if settings[name] < least:
            raise DataError('--' + name, 'a number of at least %d' % least, settings[name], 'give a larger one')
    with whole_folder(output, settings, _MADE_BY) as fresh:
        if fresh:
            rules.write(fresh, settings['train'], settings['test'], seed)
    return fresh is not None


draw_cifar10, draw_imagenet, draw_voc = (functools.partial(draw, layout) for layout in _LAYOUTS)


def main(argv=None):
    """Runs the command line; returns the exit code."""
    parser = flags.Parser(prog='python -m tools.sampledata', description='Draws small, learnable sample data.')
    layouts = parser.add_subparsers(dest='layout', metavar='LAYOUT', parser_class=flags.Parser)
    layouts.required = True
    for name, rules in _LAYOUTS.items():
        command = layouts.add_parser(name, help=rules.shows)
        command.add_argument('--output', required=True, metavar='DIR', help='folder to make; it gets ' + rules.makes)
        command.add_argument('--train', type=int, default=rules.train, metavar='N', help='training images')
        command.add_argument('--test', type=int, default=rules.test, metavar='N', help='test images')
        command.add_argument('--seed', type=int, default=0, metavar='N', help='seed of the drawing')
    parsed = parser.parse_args(argv)
    try:
        if draw(**vars(parsed)):
            print('Drew %d training and %d test images in %s' % (parsed.train, parsed.test, parsed.output))
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
