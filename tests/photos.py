# SPDX-License-Identifier: Apache-2.0
"""Class folders of small photos, for tests of own pictures."""
import os

import numpy as np

COLOURS = {'red': (190, 40, 40), 'green': (40, 170, 60), 'blue': (50, 60, 190)}


def draw(folder, count, seed=0):
    """Writes `count` pictures of each colour, JPEG and PNG by turns, 40 to 80 pixels wide and high."""
    from PIL import Image
    random = np.random.RandomState(seed)
    for name, colour in COLOURS.items():
        os.makedirs(os.path.join(folder, name))
        for number in range(count):
            width_px, height_px = random.randint(40, 81, 2)
            pixels = random.normal(colour, 25, (height_px, width_px, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(os.path.join(folder, name, '%d.%s' % (number, ('jpg', 'png')[number % 2])))
    return folder
