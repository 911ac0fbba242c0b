# SPDX-License-Identifier: Apache-2.0
"""The models with a few narrow layers each: what a test asks of a run does not depend on how long a step takes."""
import importlib
import importlib.machinery
import sys


def _cspnet(module, change):
    change(module, 'STEM_CHANNELS', 8)
    change(module, 'STAGES', (module.Stage(8, 8, 1, 4),) * 2)


def _shufflenet(module, change):
    change(module, 'STAGES', (('Stage2', 2),))
    change(module, 'WIDTHS', dict(module.WIDTHS, **{'0.5': module.Width(16, 64)}))


def _cutmix(module, change):
    change(module, 'STAGES', (8, 16))
    change(module, 'BLOCKS', 1)


def _ssd_shapes(module, change):
    """Narrow blocks, and one more preset, `tiny`: 64 pixels, 372 default boxes."""
    change(module, 'VGG_BLOCKS', ((8, 2), (8, 2), (16, 3), (32, 3), (32, 3)))
    few = (2, 1 / 2)
    change(module, 'PRESETS', dict(module.PRESETS, tiny=module.Preset(
        'tiny', 64, (8, 4, 2, 1), (0.15, 0.35, 0.55, 0.75), 0.95, (few, few + (3, 1 / 3), few, few))))


def _ssd(module, change):
    change(module, 'FC_CHANNELS', 32)
    extra_layers = module._extra_layers
    change(module, '_extra_layers', lambda preset: [
        (name, 16, 32) + tuple(more) for name, _, _, *more in extra_layers(preset)][:len(preset.map_cells) - 2])


_CHANGES = {'models.cspdarknet53': _cspnet, 'architecture': _shufflenet, 'resnet': _cutmix, 'ssdutils': _ssd_shapes,
            'ssdvgg': _ssd}


def install(change):
    """Changes those of the modules that can be imported here; change(module, name, value)."""
    for name, make_small in _CHANGES.items():
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        make_small(module, change)


class _Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        spec = super().find_spec(fullname, path, target) if fullname in _CHANGES else None
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                _CHANGES[fullname](module, setattr)
            spec.loader.exec_module = exec_module
        return spec


def install_on_import():
    """Changes each of the modules as soon as it is imported."""
    sys.meta_path.insert(0, _Finder)
