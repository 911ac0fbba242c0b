# SPDX-License-Identifier: Apache-2.0
"""Small VOCdevkit trees, and what processing leaves of them."""
import csv
import os

import cv2
import numpy as np

ANNOTATION = """<annotation>
<size><width>40</width><height>30</height></size>
%s
</annotation>
"""
OBJECT = """<object>
  <name>%s</name>
  <difficult>%s</difficult>
  <bndbox><xmin>%s</xmin><ymin>%s</ymin><xmax>%s</xmax><ymax>%s</ymax></bndbox>
</object>"""


class Tree:
    """Writes a small VOCdevkit tree, image by image."""

    def __init__(self, folder, year='VOC2007'):
        self.folder, self.year = folder, folder / 'VOCdevkit' / year
        for name in ('Annotations', 'JPEGImages', os.path.join('ImageSets', 'Main')):
            (self.year / name).mkdir(parents=True)

    def add(self, image_id, *objects, **more):
        """objects: (class, xmin, ymin, xmax, ymax) or (..., difficult); xml and jpeg replace the usual content."""
        lines = '\n'.join(OBJECT % (one[0], one[5] if len(one) > 5 else 0, one[1], one[2], one[3], one[4])
                          for one in objects)
        self.annotation(image_id).write_text(more.get('xml', ANNOTATION % lines))
        self.image(image_id).write_bytes(more['jpeg'] if 'jpeg' in more else jpeg())

    def annotation(self, image_id):
        return self.year / 'Annotations' / (image_id + '.xml')

    def image(self, image_id):
        return self.year / 'JPEGImages' / (image_id + '.jpg')

    def sets(self, **ids):
        for name, chosen in ids.items():
            (self.year / 'ImageSets' / 'Main' / (name + '.txt')).write_text(''.join(one + '\n' for one in chosen))


def jpeg(width=40, height=30, extension='.jpg'):
    ramp = np.arange(height * width * 3).reshape(height, width, 3) % 251
    return cv2.imencode(extension, ramp.astype(np.uint8))[1].tobytes()


def bad_rows(folder):
    with open(os.path.join(folder, 'bad.csv'), newline='') as file:
        return [(os.path.basename(row['path']), int(row['line']), row['reason'], row['action'])
                for row in csv.DictReader(file)]


def listing(folder):
    return {os.path.join(place, name): os.stat(os.path.join(place, name)).st_mtime_ns
            for place, folders, names in os.walk(str(folder)) for name in folders + names}
