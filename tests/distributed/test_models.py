# SPDX-License-Identifier: Apache-2.0
"""The four models, with small networks, as two ranks: through their scripts, their evaluation, what they learn."""
import functools
import json
import os
import sys

import numpy as np
import programs
import pytest
from conftest import ROOT

HERE = os.path.dirname(os.path.abspath(__file__))
CSPNET, SSD = 'CSPNet_ID0840_for_TensorFlow', 'SSD-VGG_ID1619_for_TensorFlow'
CUTMIX, SHUFFLENET = 'cutmix_ID2502_for_TensorFlow2.X', 'ShufflenetV2_ID0371_For_Tensorflow'

# Data of its own, the flags that make a short run, and the folder's evaluation of that run.
SCRIPTS = {
    CSPNET: (['--batch_size=8', '--VAL_EPOCH=0', '--ema_decay=0.9'], ['test.py', '--checkpoint=RUN']),
    CUTMIX: (['--batch_size=8', '--ema_decay=0.9'], ['train.py', '--mode=evaluate', '--checkpoint_dir=RUN']),
    SHUFFLENET: (['--batch_size=4', '--num_classes=10', '--prepare'],
                 ['eval.py', '--checkpoint_dir=RUN', '--num_classes=10', '--prepare']),
    SSD: (['--batch_size=1', '--preset=tiny'], ['infer.py', '--checkpoint=RUN', '--output_path=RUN/infer']),
}


@pytest.fixture(scope='session')
def drawn(tmp_path_factory):
    """{folder: data}; the numbers of test images are odd, so that the ranks' parts differ."""
    from tools import sampledata
    folder = tmp_path_factory.mktemp('drawn')
    sampledata.draw_cifar10(str(folder / 'cifar10'), train=100, test=51)
    sampledata.draw_imagenet(str(folder / 'imagenet'), train=40, test=60)
    sampledata.draw_voc(str(folder / 'voc'), train=24, test=11)
    return {CSPNET: folder / 'cifar10', CUTMIX: folder / 'cifar10', SHUFFLENET: folder / 'imagenet',
            SSD: folder / 'voc'}


@pytest.mark.parametrize('folder', [
    pytest.param(folder, marks=[pytest.mark.smoke] if folder == SHUFFLENET else []) for folder in SCRIPTS])
def test_the_script_trains_two_ranks_whose_evaluation_is_that_of_one(folder, drawn, new_run, tmp_path):
    run, (words, evaluation) = new_run(), SCRIPTS[folder]
    data, renames = '--data_path=%s' % drawn[folder], tmp_path / 'renames'
    said = run.finish(2, data, '--train_steps=5', *words, RANK_SIZE='2', cwd=os.path.join(ROOT, folder),
                      command=['bash', os.path.join('test', 'train_full_8p.sh')], RENAMES=str(renames))
    assert len(set(run.checksums(2))) == 1 and 'Final Performance' in said and '_2p_acc' in ' '.join(
        os.listdir(str(run.folder)))
    assert renames.read_text().split('\n') == ['0 step-00000005', '']  # rank 0 alone saves
    together = run.events('eval')[-1]
    code, alone = programs.finish(
        [sys.executable] + [word.replace('RUN', str(run.folder)) for word in evaluation] + [data, '--device=cpu'],
        cwd=os.path.join(ROOT, folder))
    assert code == 0, alone
    fields = programs.event(alone, 'eval')
    compared = [name for name in ('loss', 'top1', 'top5', 'map', 'map_area', 'objects', 'images') if name in together]
    assert len(compared) == 4
    for name in compared:
        assert float(fields[name]) == pytest.approx(together[name], rel=1e-3, abs=1e-4), (name, alone)


def test_ssd_trains_two_ranks_in_bfloat16(drawn, new_run):
    """Its convolutions have biases and activations, which TensorFlow fuses; on a CPU without bfloat16 it is float32."""
    run = new_run()
    run.finish(2, '--data_path=%s' % drawn[SSD], '--train_steps=2', '--batch_size=1', '--preset=tiny',
               '--eval_images=2', '--precision_mode=allow_mix_precision', RANK_SIZE='2',
               cwd=os.path.join(ROOT, SSD), command=['bash', os.path.join('test', 'train_full_8p.sh')])
    assert len(set(run.checksums(2))) == 1 and run.events('eval')


@pytest.mark.parametrize('folder', [CSPNET, CUTMIX, SHUFFLENET])
def test_two_ranks_with_one_batch_learn_what_one_learns(folder, tmp_path):
    from launcher import ranktable
    addresses = ranktable.endpoints(ranktable.local_table(2))
    cores = sorted(os.sched_getaffinity(0))
    started = [programs.start(
        [sys.executable, os.path.join(HERE, 'same_shards.py'), folder, str(tmp_path)],
        env=dict(RANK_ID=str(rank), RANK_SIZE='2', TF_CONFIG=json.dumps(
            {'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': rank}})),
        preexec_fn=functools.partial(os.sched_setaffinity, 0, {cores[rank % len(cores)]})) for rank in range(2)]
    for process in started:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    with np.load(str(tmp_path / 'alone.npz')) as alone, np.load(str(tmp_path / 'together.npz')) as together:
        assert len(alone.files) == len(together.files) > 10
        for name in alone.files:
            np.testing.assert_allclose(together[name], alone[name], rtol=0, atol=1e-5)


def test_ssd_learns_from_two_times_four_images_what_it_learns_from_eight(drawn, new_run, here):
    """SSD has no batch normalisation. Long gradients of fresh weights would let rounding grow: see clip_norm."""
    one, two = new_run(), new_run()
    words = ['--data_path=%s' % drawn[SSD], '--preset=tiny', '--precision_mode=force_fp32', '--eval_images=0',
             '--num_workers=0', '--lr-values=0.001', '--lr-boundaries=', '--clip_norm=1', '--train_steps=5']
    sys.path.insert(0, os.path.join(ROOT, SSD))
    import train
    code, said = here(train, '--batch_size=8', '--output_path=%s' % one.folder, *words)
    assert code == 0, said
    two.finish(2, '--batch_size=4', *words, command=[sys.executable, '-m', 'launcher', '--case=acc', '--ranks=2',
                                                     'train.py'], cwd=os.path.join(ROOT, SSD))
    alone, together = ({name: value for name, value in run.variables().items() if 'Momentum' not in name}
                       for run in (one, two))
    assert set(alone) == set(together) and 'conv1_1/filter' in alone
    for name in alone:
        np.testing.assert_allclose(together[name], alone[name], rtol=0, atol=1e-5, err_msg=name)
    # The agreement is not that of weights which hardly changed: biases start at 0.
    assert max(np.abs(value).max() for name, value in alone.items() if name.endswith('biases')) > 1e-4
