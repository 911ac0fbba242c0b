# SPDX-License-Identifier: Apache-2.0
"""--data_dir: which folder it means, and shards that are made once."""
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

FOLDER = os.path.join(ROOT, 'ShufflenetV2_ID0371_For_Tensorflow')
sys.path.insert(0, FOLDER)
pytest.importorskip('tensorflow')
pytest.importorskip('PIL.Image')

from small_imagenet import jpeg, write  # noqa: E402

import create_tfrecords  # noqa: E402
import prepare  # noqa: E402
from common.files import DataError  # noqa: E402


def test_training_and_evaluation_shards_have_the_same_classes(image_folders, shards_folder, tmp_path):
    shutil.rmtree(str(shards_folder / 'eval_shards'))
    (tmp_path / 'other.json').write_text('{"n03": 0, "n02": 1, "n01": 2}')
    create_tfrecords.create(str(shards_folder / 'tables' / 'validation_metadata.csv'), str(shards_folder),
                            str(tmp_path / 'other.json'))
    with pytest.raises(DataError, match='eval_shards: expected the classes of .*train_shards, in the same order'):
        prepare.find_shards(str(shards_folder), str(tmp_path), 'train_and_evaluate', False)


def test_prepared_data_goes_to_the_users_cache_where_the_checkout_is_read_only(image_folders, tmp_path, monkeypatch,
                                                                               capsys):
    os.mkdir(str(tmp_path / 'default'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    access = os.access
    monkeypatch.setattr(os, 'access', lambda path, mode: 'default' not in str(path) and access(path, mode))
    made = prepare.find_shards(str(image_folders), str(tmp_path / 'default'), 'train', True)
    said = capsys.readouterr().out
    cache = str(tmp_path / 'cache' / 'ShufflenetV2_ID0371_For_Tensorflow')
    prepared = tmp_path / 'default' / 'prepared'
    assert said.startswith('%s cannot be written; prepared data goes to %s' % (prepared, cache))
    assert made[0].startswith(cache) and os.path.isdir(made[0]) and not os.listdir(str(tmp_path / 'default'))


def test_changes_behind_links_are_seen(image_folders, tmp_path):
    os.mkdir(str(tmp_path / 'default'))
    for split in ('train', 'val'):
        (tmp_path / 'linked' / split).mkdir(parents=True)
        for name in ('n01', 'n02', 'n03'):
            (tmp_path / 'linked' / split / name).symlink_to(image_folders / split / name)

    def count():
        training, _ = prepare.find_shards(str(tmp_path / 'linked'), str(tmp_path / 'default'), 'train', True)
        return create_tfrecords.read_manifest(training)['images']
    assert count() == 12
    write(image_folders / 'train' / 'n01' / 'new.JPEG', jpeg())
    assert count() == 13


def test_the_folder_that_data_dir_means(image_folders, shards_folder, tmp_path):
    default = str(tmp_path / 'default')
    os.mkdir(default)
    both = tuple(str(shards_folder / name) for name in ('train_shards', 'eval_shards'))
    assert prepare.find_shards(str(shards_folder), default, 'train_and_evaluate', False) == both
    assert prepare.find_shards(str(shards_folder / 'train_shards') + '/', default, 'train_and_evaluate', False) == both
    with pytest.raises(DataError, match='add --prepare'):
        prepare.find_shards(str(image_folders), default, 'train', False)
    with pytest.raises(DataError, match='--data_dir: expected .* found nothing'):
        prepare.find_shards(None, default, 'train', False)
    with pytest.raises(DataError, match='no folder'):
        prepare.find_shards(str(tmp_path / 'none'), default, 'train', False)
    shutil.rmtree(both[1])
    assert prepare.find_shards(str(shards_folder), default, 'train', False) == (both[0], None)
    with pytest.raises(DataError, match='eval_shards: expected shards .*train with --mode=train'):
        prepare.find_shards(str(shards_folder), default, 'train_and_evaluate', False)


def test_prepare_makes_shards_once_and_not_in_the_users_folder(image_folders, tmp_path, capsys):
    default = str(tmp_path / 'default')
    os.mkdir(default)
    before = sorted(os.walk(str(image_folders)))
    first = prepare.find_shards(str(image_folders), default, 'train', True)
    assert capsys.readouterr().out.count('prepared /') == 2
    assert prepare.find_shards(str(image_folders), default, 'train', True) == first
    assert capsys.readouterr().out == '' and sorted(os.walk(str(image_folders))) == before
    assert all(folder.startswith(os.path.join(default, 'prepared')) for folder in first)
    write(image_folders / 'train' / 'n01' / 'new.JPEG', jpeg())
    assert prepare.find_shards(str(image_folders), default, 'train', True) != first


def test_of_two_that_prepare_at_once_one_waits(image_folders, tmp_path):
    code = ('import os, sys; sys.path.insert(0, %r); import prepare\n'
            'print(prepare.find_shards(%r, %r, "train", True))' % (
                FOLDER, str(image_folders), str(tmp_path / 'default')))
    os.mkdir(str(tmp_path / 'default'))
    both = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(text.count('prepared /') for text in said) == [0, 2]
    assert len({text.splitlines()[-1] for text in said}) == 1
    assert len(os.listdir(str(tmp_path / 'default' / 'prepared'))) == 1
