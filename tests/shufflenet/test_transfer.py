# SPDX-License-Identifier: Apache-2.0
"""Own pictures and other weights: class folders as people have them, --init_from, --freeze, as a user runs them."""
import importlib.util
import json
import os
import shutil
import struct
import sys

import numpy as np
import programs
import pytest
from conftest import ROOT
from programs import event
from torchvision_tensors import random_tensors

FOLDER = os.path.join(ROOT, 'ShufflenetV2_ID0371_For_Tensorflow')
sys.path.insert(0, FOLDER)
import eval as evaluation  # noqa: E402
import explore_imagenet  # noqa: E402
import predict  # noqa: E402
import pretrained  # noqa: E402
import train  # noqa: E402
from common.files import DataError  # noqa: E402

smoke = pytest.mark.smoke
SMALL = (16, 64)  # channels of the small network that programs have in tests, of one stage of two units
QUICK = ['--batch_size=4', '--lr=0.01', '--warmup_epochs=0', '--iterations_per_loop=1', '--max_train_steps=2']


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The small network's width is known; what --prepare makes goes to a temporary folder."""
    monkeypatch.setattr(pretrained, '_WIDTHS', {**pretrained._WIDTHS, SMALL: '0.5'})
    for module in (train, evaluation):
        monkeypatch.setattr(module, 'HERE', str(tmp_path / 'model'))
    return random_tensors(SMALL, 1000, stages=((2, 2),))


@pytest.fixture(scope='module')
def ten(tmp_path_factory):
    """Ten drawn classes: 60 + 20 JPEGs."""
    from tools import sampledata
    folder = tmp_path_factory.mktemp('ten') / 'images'
    sampledata.draw_imagenet(str(folder), train=60, test=20)
    return folder


@pytest.fixture
def pets(ten, tmp_path):
    """DIR/<class>/* of three classes with 6, 6 and 1 pictures."""
    for name, of_ten, count in (('cat', 'n00000001', 6), ('dog', 'n00000002', 6), ('newt', 'n00000003', 1)):
        source = ten / 'train' / of_ten
        (tmp_path / 'pets' / name).mkdir(parents=True)
        for file in sorted(os.listdir(str(source)))[:count]:
            shutil.copy(str(source / file), str(tmp_path / 'pets' / name / file))
    return tmp_path / 'pets'


def write_safetensors(path, tensors):
    pytest.importorskip('safetensors')
    from safetensors.numpy import save_file
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, str(path))
    return path


@smoke
def test_own_classes_from_the_weights_of_others(ten, pets, small, tmp_path, here):
    first, second = tmp_path / 'first', tmp_path / 'second'
    code, said = here(train, '--data_dir=%s' % ten, '--prepare', '--log_dir=%s' % first, *QUICK)
    assert code == 0 and event(said, 'run')['classes'] == '10' and 'held out' not in said, said
    words = ['--data_dir=%s' % pets, '--prepare', '--log_dir=%s' % second, '--init_from=%s' % first, '--freeze=1',
             '--mode=train_and_evaluate'] + QUICK
    code, said = here(train, *words)
    assert code == 0 and 'held out to judge by: 2 of 13 images' in said, said
    run = event(said, 'run')
    assert (run['classes'], run['images'], run['weights_anew']) == ('3', '11', '2')
    assert run['anew'] == 'classifier' and 'unused' not in run
    assert run['init_from'].startswith(str(first)) and event(said, 'eval')['images'] == '2'
    before, after = (programs.weights(folder / 'ckpt' / 'step-00000002' / 'model') for folder in (first, second))
    frozen = [name for name in after if name.startswith('ShuffleNetV2/Conv1/')]
    assert len(frozen) == 5 and len(frozen) + int(run['weights_loaded']) < len(after)
    for name in frozen:
        average = before.get(name + '/ExponentialMovingAverage')
        assert np.array_equal(after[name], before[name] if average is None else average), name
    state = json.loads((second / 'ckpt' / 'step-00000002' / 'state.json').read_text())
    assert state['classes'] == ['cat', 'dog', 'newt'] and state['num_classes'] == 3
    code, said = here(evaluation, '--data_dir=%s' % pets, '--prepare', '--checkpoint_dir=%s' % second, '--seed=5')
    assert code == 0 and event(said, 'eval')['images'] == '2', said
    assert 'held out' not in said  # the same ones as before
    code, said = here(predict, '--checkpoint=%s' % second, '--output_path=%s' % (tmp_path / 'p'), str(pets))
    assert code == 0
    predicted = json.loads((tmp_path / 'p' / 'predictions.json').read_text())
    assert predicted['classes'] == ['cat', 'dog', 'newt'] and len(predicted['pictures']) == 13


def test_the_first_steps_loss_is_that_of_the_weights(ten, small, tmp_path, here):
    """Weights, statistics and averages are the source's when training starts: nothing has moved after a step of 0."""
    words = ['--data_dir=%s' % ten, '--prepare', '--mode=train_and_evaluate', '--freeze=3', '--ema_decay=0.5'] + QUICK
    weights = write_safetensors(tmp_path / 'w.safetensors', random_tensors(SMALL, 10, stages=((2, 2),)))
    code, said = here(train, '--variant=torchvision', '--init_from=%s' % weights, '--log_dir=%s' % (tmp_path / 'run'),
                      *(words + ['--lr=1e-12', '--max_train_steps=1']))
    assert code == 0 and event(said, 'run')['weights_anew'] == '0', said
    assert event(said, 'run')['variant'] == 'torchvision'
    code, of_file = here(evaluation, '--data_dir=%s' % ten, '--prepare', '--checkpoint_dir=%s' % weights)
    assert code == 0 and 'holds no moving averages' in of_file, of_file
    for key in ('loss', 'top1', 'top5', 'top1_no_ema'):
        assert event(said, 'eval')[key] == event(of_file, 'eval')[key]
    code, said = here(evaluation, '--mode=export', '--checkpoint_dir=%s' % weights,
                      '--export_dir=%s' % (tmp_path / 'e'))
    described = json.loads((tmp_path / 'e' / 'model.json').read_text())
    assert code == 0 and described['preprocessing']['shorter_side_px'] == 256 and len(described['classes']) == 10


def test_a_head_of_other_classes_of_the_same_number_begins_anew():
    assert pretrained.head_of_others({'classes': ['a', 'b']}, ['a', 'c']) and not pretrained.head_of_others(
        {'classes': ['a', 'b']}, ['a', 'b'])
    assert not pretrained.head_of_others({}, ['a']) and not pretrained.head_of_others({'classes': ['a']}, None)


@smoke
def test_names_of_classes(tmp_path):
    path = tmp_path / 'names.json'
    path.write_text(json.dumps({'0': ['n02', 'two'], '1': ['n01', 'one']}))
    assert pretrained.class_names(str(path), {'classes': ['n01', 'n02']}, 2) == ['n01 one', 'n02 two']
    assert pretrained.class_names(str(path), {'variant': 'torchvision'}, 2) == ['n02 two', 'n01 one']
    assert pretrained.class_names(None, {}, 2, ['a', 'b']) == ['a', 'b']
    assert pretrained.class_names(None, {}, 2) == ['class 0', 'class 1']
    path.write_text('[]')
    with pytest.raises(DataError, match='a JSON object'):
        pretrained.class_names(str(path), {}, 2)


@smoke
def test_few_pictures_work_or_it_is_said_what_is_missing(pets, tmp_path, capsys):
    def explore():
        return explore_imagenet.explore(str(pets), str(tmp_path / 'tables'), held_out_seed=0)
    counts = explore()
    assert (counts['classes'], counts['training'], counts['validation']) == (3, 11, 2)
    assert 'held out to judge by: 2 of 13 images, a tenth of each class (seed 0)' in capsys.readouterr().out
    assert explore_imagenet.explore(str(pets), str(tmp_path / 'tables'))['validation'] == 0
    for name in ('cat', 'dog'):
        for file in sorted(os.listdir(str(pets / name)))[1:]:
            (pets / name / file).unlink()
    with pytest.raises(DataError, match='a class with two images'):
        explore()
    for name in ('cat', 'dog'):
        shutil.rmtree(str(pets / name))
    with pytest.raises(DataError, match='at least two classes; found 1'):
        explore()


@smoke
def test_weights_that_do_not_fit_are_one_sentence_and_nothing_is_written(ten, small, tmp_path, capsys):
    header = json.dumps({name: {'dtype': 'F32', 'shape': list(array.shape), 'data_offsets': [0, 4 * array.size]}
                         for name, array in [('layer1.weight', np.zeros([2]))]}).encode()
    files = {'pointer.pth': b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n',
             'resnet.safetensors': struct.pack('<Q', len(header)) + header + b'\0' * 8,
             'half.safetensors': struct.pack('<Q', len(header)) + header + b'\0' * 3}
    said = {'pointer.pth': 'a Git LFS pointer',
            'resnet.safetensors': "torchvision's shufflenet_v2, with conv1.0.weight",
            'half.safetensors': 'a whole .safetensors file', '': 'no whole checkpoint'}
    words = ['--data_dir=%s' % ten, '--prepare', '--log_dir=%s' % (tmp_path / 'out')]
    if not importlib.util.find_spec('safetensors'):
        said.update({name: 'pip install safetensors' for name in files if name.endswith('safetensors')})
    for name, sentence in said.items():
        if name:
            (tmp_path / name).write_bytes(files[name])
        assert train.main(words + ['--init_from=%s' % (tmp_path / name)]) == 1
        line, = [line for line in capsys.readouterr().out.splitlines() if '[fail]' in line]
        assert sentence in line and name in line
    assert not (tmp_path / 'out').exists()


@smoke
@pytest.mark.parametrize('words, said', [
    (['--freeze=1'], 'needs --init_from'), (['--init_from=' + FOLDER, '--freeze=6'], 'from 0 to 5'),
    (['--variant=torchvision', '--depth_multiplier=2.0_224'], 'torchvision has 0.5, 1.0, 1.5, 2.0')])
def test_flags_that_do_not_go_together_are_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        train.parse_args(words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count('\n') == 1


def test_a_run_of_another_network_is_refused_by_name(ten, small, tmp_path, here):
    code, said = here(train, '--data_dir=%s' % ten, '--prepare', '--log_dir=%s' % (tmp_path / 'run'), *QUICK)
    assert code == 0, said
    for words, sentence in ((['--variant=torchvision'], 'give --variant=published --depth_multiplier=0.5'),
                            (['--depth_multiplier=1.0'], 'expected weights of --depth_multiplier=1.0; found 0.5')):
        code, said = here(train, '--data_dir=%s' % ten, '--prepare', '--log_dir=%s' % (tmp_path / 'other'),
                          '--init_from=%s' % (tmp_path / 'run'), *(words + QUICK))
        assert code == 1 and sentence in event(said, 'fail')['message'], said
        assert not (tmp_path / 'other').exists()


def test_a_published_checkpoint_is_known_by_its_shapes(ten, small, tmp_path, here):
    import tensorflow.compat.v1 as tf
    tf.disable_v2_behavior()
    words = ['--data_dir=%s' % ten, '--prepare', '--log_dir=%s' % (tmp_path / 'run')] + QUICK
    for (stage2, last), sentence in (((116, 1024), 'expected weights of --depth_multiplier=0.5; found 1.0'),
                                     ((50, 60), 'weights of a ShuffleNetV2 of width'), (SMALL, '')):
        with tf.Graph().as_default(), tf.Session() as session:
            for name, shape in (('ShuffleNetV2/Stage2/unit_1/conv1x1_after/weights', [1, 1, 24, stage2 // 2]),
                                ('ShuffleNetV2/Conv5/weights', [1, 1, stage2, last]), ('global_step', []),
                                ('classifier/weights', [last, 7])):
                tf.get_variable(name, shape)
            session.run(tf.global_variables_initializer())
            prefix = tf.train.Saver().save(session, str(tmp_path / 'published.ckpt'))
        code, said = here(train, '--init_from=' + prefix, *words)
        if sentence:
            assert code == 1 and sentence in event(said, 'fail')['message'], said
            assert not os.listdir(str(tmp_path / 'run'))
        else:
            assert code == 0 and event(said, 'run')['weights_loaded'] == '2', said
