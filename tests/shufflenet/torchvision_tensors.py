# SPDX-License-Identifier: Apache-2.0
"""Weights as torchvision's ShuffleNetV2 has them, random ones."""
import numpy as np

WIDTHS = {'0.5': (48, 1024), '1.0': (116, 1024), '1.5': (176, 1024), '2.0': (244, 2048)}  # out of stage2, conv5
STAGES = ((2, 4), (3, 8), (4, 4))  # number, units


def random_tensors(width, classes=1000, seed=0, stages=STAGES):
    """torchvision's tensors of this width with random values that keep the maps' size: {name: array}."""
    stage2, last = WIDTHS[width] if width in WIDTHS else width
    random, tensors = np.random.RandomState(seed), {}

    def conv_and_norm(conv, norm, out, channels_in, taps):
        tensors[conv + '.weight'] = random.normal(0, (2 / (channels_in * taps * taps)) ** 0.5,
                                                  [out, channels_in, taps, taps])
        for kind, low, high in (('weight', 0.5, 1.5), ('bias', -0.3, 0.3), ('running_mean', -0.3, 0.3),
                                ('running_var', 0.65, 2.0)):
            tensors['%s.%s' % (norm, kind)] = random.uniform(low, high, out)
        tensors[norm + '.num_batches_tracked'] = np.array(7)

    conv_and_norm('conv1.0', 'conv1.1', 24, 3, 3)
    channels = 24
    for stage, units in stages:
        half = stage2 * 2 ** (stage - 2) // 2
        for unit in range(units):
            name = 'stage%d.%d.branch' % (stage, unit)
            if unit == 0:
                conv_and_norm(name + '1.0', name + '1.1', channels, 1, 3)
                conv_and_norm(name + '1.2', name + '1.3', half, channels, 1)
            conv_and_norm(name + '2.0', name + '2.1', half, channels if unit == 0 else half, 1)
            conv_and_norm(name + '2.3', name + '2.4', half, 1, 3)
            conv_and_norm(name + '2.5', name + '2.6', half, half, 1)
        channels = 2 * half
    conv_and_norm('conv5.0', 'conv5.1', last, channels, 1)
    tensors['fc.weight'] = random.normal(0, last ** -0.5, [classes, last])
    tensors['fc.bias'] = random.normal(size=classes)
    return {name: array.astype(np.float32 if array.dtype.kind == 'f' else np.int64) for name, array in tensors.items()}
