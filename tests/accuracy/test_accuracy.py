# SPDX-License-Identifier: Apache-2.0
"""A short training of each model by its script ends as accurate as three seeds were: not worse, and not too good.

    ACCURACY=all pytest tests/accuracy                        by bands.json, some 15 minutes on two quiet cores
    ACCURACY=cspnet,ssd pytest tests/accuracy                 of these models
    ACCURACY=cspnet SEEDS=0,1,2 pytest -s tests/accuracy      measures anew: prints the figures for bands.json

A figure above its band is a leak as long as nobody knows a better reason; then the seeds are measured anew.
"""
import json
import os
import statistics
import sys

import programs
import pytest
from conftest import ROOT

WANTED = os.environ.get('ACCURACY', '').split(',')
BANDS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'bands.json')
IMAGENETTE = os.path.join(ROOT, '..', 'shared', 'data', 'imagenette224')

# What the [eval] line calls it, the folder, the flags behind those of test/train_full_1p.sh.
RUNS = {
    'cspnet': ('top1', 'CSPNet_ID0840_for_TensorFlow', '--epochs=1'),
    'cutmix': ('top1', 'cutmix_ID2502_for_TensorFlow2.X', '--epochs=1'),
    'shufflenet': ('top1', 'ShufflenetV2_ID0371_For_Tensorflow',
                   '--prepare --num_classes=10 --batch_size=32 --max_epochs=20 --lr=0.05 --decay=cosine '
                   '--weight_decay=5e-4 --train_px=160 --min_crop_area=0.2 --colour_jitter=0.4 --eval_every=0'),
    'ssd': ('map', 'SSD-VGG_ID1619_for_TensorFlow',
            '--precision_mode=allow_mix_precision --eval_every=0 --batch_size=4 --norm=batch --freeze=2 --no_augment '
            '--optimizer=adam --lr_values=0.0005 --lr_boundaries= --schedule=cosine --warmup_steps=30 --epochs=3'),
}


def band(figures):
    """(lowest, highest) that a run may end with.

    Three standard deviations, at least 0.01, beyond the worst and the best of three or more seeds: four would leave
    SSD no upper bound.
    """
    margin = max(3 * statistics.stdev(figures), 0.01)
    return min(figures) - margin, max(figures) + margin


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """model -> folder of its data; skips where that is not there."""
    made = {}

    def of(model):
        from tools import sampledata
        layout = {'cspnet': 'cifar10', 'cutmix': 'cifar10'}.get(model, model)
        if layout not in made:
            folder = IMAGENETTE if model == 'shufflenet' else str(tmp_path_factory.mktemp(layout))
            if model == 'ssd':
                sampledata.main(['voc', '--output', folder])
            elif layout == 'cifar10':
                script = os.path.join(ROOT, '..', 'shared', 'data', 'cifar10', 'make_cifar10.py')
                code, said = programs.finish([sys.executable, script, '--out', folder]) if os.path.exists(script) else (
                    1, 'the real CIFAR-10 is not beside this repository (%s)' % script)
                if code:
                    pytest.skip(said)
            elif not os.path.isdir(folder):
                pytest.skip('the sample of ImageNet is not beside this repository (%s)' % folder)
            made[layout] = folder
        return made[layout]
    return of


def trained(model, seed, data_path, folder):
    """The last evaluation's figure of one run."""
    name, place, words = RUNS[model]
    code, said = programs.finish(
        ['bash', os.path.join(ROOT, place, 'test', 'train_full_1p.sh'), '--data_path=' + data_path,
         '--output_path=' + folder, '--seed=%d' % seed] + words.split(), timeout=3600, env={'PYTHONPATH': ROOT})
    assert code == 0, said[-3000:]
    return float(programs.event(said, 'eval')[name])


@pytest.mark.parametrize('model', RUNS)
def test_a_short_training_is_as_accurate_as_it_was(model, data, tmp_path):
    if model not in WANTED and 'all' not in WANTED:
        pytest.skip('takes minutes: ACCURACY=all or ACCURACY=%s' % model)
    if os.environ.get('SEEDS'):
        figures = [trained(model, int(seed), data(model), str(tmp_path / seed))
                   for seed in os.environ['SEEDS'].split(',')]
        pytest.skip('measured "%s": %s' % (model, json.dumps(figures)))
    with open(BANDS) as file:
        figures = json.load(file)[model]['figures']
    if len(figures) < 3:
        pytest.skip('no band: measure three seeds first')
    lowest, highest = band(figures)
    figure = trained(model, 0, data(model), str(tmp_path / 'run'))
    assert lowest <= figure, 'accuracy was lost: %.4f, and three seeds had %s' % (figure, figures)
    assert figure <= highest, 'too good to be true, look for a leak: %.4f, three seeds had %s' % (figure, figures)


def test_bands_are_measured_ones():
    with open(BANDS) as file:
        bands = json.load(file)
    assert sorted(bands) == sorted(RUNS)
    for known in bands.values():
        assert not known['figures'] or len(known['figures']) >= 3 and known['commit'] and known['device']
    lowest, highest = band([0.50, 0.52, 0.51])
    assert (lowest, highest) == (pytest.approx(0.47), pytest.approx(0.55))
    assert band([0.5, 0.5, 0.5]) == (pytest.approx(0.49), pytest.approx(0.51))
