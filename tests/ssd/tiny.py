# SPDX-License-Identifier: Apache-2.0
"""Runs a program of the SSD folder with a network of toy size: preset `tiny`, 64 pixels, 372 default boxes.

    python tiny.py train.py --preset=tiny ...
"""
import os
import runpy
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDER = os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow')


def install(set_item=dict.__setitem__, set_attribute=setattr):
    """Adds the preset and makes the network narrow and two maps shorter; pytest's monkeypatch can do it for a test."""
    sys.path[:0] = [path for path in (FOLDER, ROOT) if path not in sys.path]
    import ssdutils
    import ssdvgg
    few = (2, 1 / 2)
    set_item(ssdutils.PRESETS, 'tiny', ssdutils.Preset('tiny', 64, (8, 4, 2, 1), (0.15, 0.35, 0.55, 0.75), 0.95,
                                                       (few, few + (3, 1 / 3), few, few)))
    set_attribute(ssdvgg, 'VGG_BLOCKS', ((8, 2), (8, 2), (16, 3), (32, 3), (32, 3)))
    set_attribute(ssdvgg, 'FC_CHANNELS', 32)
    set_attribute(ssdvgg, '_extra_layers', lambda preset: [('conv8', 16, 32, 2, 'SAME'), ('conv9', 16, 32, 2, 'SAME')])


if __name__ == '__main__':
    install()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name='__main__')
