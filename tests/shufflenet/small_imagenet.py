# SPDX-License-Identifier: Apache-2.0
"""Small image folders, their tables and shards."""
import csv
import io

import numpy as np
from PIL import Image

import create_tfrecords
import explore_imagenet


def jpeg(shade=128, size=(40, 30), mode='RGB', kind='JPEG', **options):
    """Bytes of an image that is dark at the left and as bright as `shade` at the right."""
    ramp = np.linspace(0, shade, size[0]).astype(np.uint8)
    image = Image.fromarray(np.tile(ramp, [size[1], 1])).convert(mode)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def table(path):
    with open(str(path), newline='') as file:
        return list(csv.DictReader(file))


def make(folders, output, num_shards=3, labels=None, **more):
    """Tables and shards of both splits; returns the folder with train_shards and eval_shards."""
    tables = output / 'tables'
    explore_imagenet.explore(str(folders), str(tables), labels=labels)
    for name, boxes in (('training', str(tables / 'boxes.npy')), ('validation', '')):
        create_tfrecords.create(str(tables / (name + '_metadata.csv')), str(output),
                                str(tables / 'integer_encoding.json'), boxes, num_shards, **more)
    return output


def draw(folder):
    """Writes three classes, 4 + 2 images each, every one of another brightness; returns the folder."""
    for split, count in (('train', 4), ('val', 2)):
        for number, name in enumerate(('n02', 'n01', 'n03')):
            for image in range(count):
                write(folder / split / name / ('%s_%d.JPEG' % (name, image)), jpeg(60 + 50 * number + 10 * image))
    return folder
