# SPDX-License-Identifier: Apache-2.0
"""From tables to shards."""
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

FOLDER = os.path.join(ROOT, 'ShufflenetV2_ID0371_For_Tensorflow')
sys.path.insert(0, FOLDER)
tf = pytest.importorskip('tensorflow.compat.v1')
tf.disable_v2_behavior()
Image = pytest.importorskip('PIL.Image')

from small_imagenet import jpeg, make, table, write  # noqa: E402

import create_tfrecords  # noqa: E402
import explore_imagenet  # noqa: E402
import input_pipeline  # noqa: E402
from common.files import DataError  # noqa: E402

EDGE_CASES = os.path.join(ROOT, '..', 'shared', 'data', 'imagenet_sample')


def test_odd_images_become_upright_rgb_jpegs_or_are_left_out(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    zero = Image.Exif()
    zero[0x0112] = 0
    odd = {'grey': (jpeg(mode='L'), 'grayscale'), 'cmyk': (jpeg(mode='CMYK'), 'cmyk'),
           'png': (jpeg(kind='PNG'), 'not_jpeg_but_png'),
           'png_grey': (jpeg(kind='PNG', mode='L'), 'not_jpeg_but_png grayscale'),
           'turned': (jpeg(exif=exif.tobytes()), 'exif_rotated')}
    for name, (content, reason) in odd.items():
        made, repairs = create_tfrecords.usable_jpeg(content)
        assert ' '.join(repairs) == reason
        image = Image.open(io.BytesIO(made))
        assert (image.format, image.mode) == ('JPEG', 'RGB')
        assert image.size == ((30, 40) if name == 'turned' else (40, 30))
        pixels = np.array(image).astype(int)
        bright, dark = (pixels[-4:], pixels[:4]) if name == 'turned' else (pixels[:, -4:], pixels[:, :4])
        assert bright.mean() > dark.mean() + 80, name
        assert image.getexif().get(0x0112, 1) == 1
    for content in (jpeg(), jpeg(exif=zero.tobytes()), jpeg(progressive=True)):
        assert create_tfrecords.usable_jpeg(content) == (content, [])
    for content, reason in ((b'', 'empty'), (b'words', 'not an image'), (jpeg(size=(400, 300))[:-900], 'truncated')):
        with pytest.raises(create_tfrecords.BadImage, match=reason):
            create_tfrecords.usable_jpeg(content)


def test_the_documented_commands_fill_one_folder_with_both_splits(image_folders, tmp_path, capsys):
    tables, output = tmp_path / 't', tmp_path / 'out'
    assert explore_imagenet.main(['--data_dir=%s' % image_folders, '--output=%s' % tables]) == 0
    (image_folders / 'train' / 'n01' / 'n01_0.JPEG').write_bytes(b'')
    (image_folders / 'train' / 'n01' / 'n01_1.JPEG').unlink()
    (image_folders / 'train' / 'n01' / 'n01_2.JPEG').write_bytes(jpeg(mode='L'))
    for name, more in (('training', ['--boxes=%s' % (tables / 'boxes.npy'), '--num_shards=1000']),
                       ('validation', ['-s', '2'])):
        assert create_tfrecords.main(['--metadata_file=%s' % (tables / (name + '_metadata.csv')),
                                      '--output=%s/' % output,
                                      '--labels=%s' % (tables / 'integer_encoding.json')] + more) == 0
    said = capsys.readouterr().out
    assert 'converted: 1 grayscale' in said and 'left out: 1 empty' in said and 'left out: 1 no such file' in said
    assert sorted(os.listdir(str(output))) == ['eval_shards', 'train_shards']
    manifest = create_tfrecords.read_manifest(str(output / 'train_shards'))
    assert manifest['images'] == 10 and manifest['classes'] == ['n01', 'n02', 'n03']
    assert manifest['images_per_class'] == [2, 4, 4] and len(manifest['shards']) == 12  # not more than images
    assert len(table(output / 'train_shards' / 'bad_files.csv')) == 3
    import hashlib
    for shard in manifest['shards']:
        content = (output / 'train_shards' / shard['name']).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard['sha256'] and len(content) == shard['bytes']
    labels = sorted(input_pipeline.Shards(str(output / 'eval_shards'), 3).read(record).label for record in range(6))
    assert labels == [0, 0, 1, 1, 2, 2]


def test_the_number_of_processes_does_not_change_the_shards(image_folders, tmp_path, monkeypatch):
    one = make(image_folders, tmp_path / 'one')
    monkeypatch.setattr(create_tfrecords, '_IN_PROCESS_IMAGES', 1)
    two = make(image_folders, tmp_path / 'two', workers=2)
    for name in os.listdir(str(one / 'train_shards')):
        if name.endswith('.tfrecords'):
            assert (one / 'train_shards' / name).read_bytes() == (two / 'train_shards' / name).read_bytes()


def test_only_what_it_wrote_is_replaced(image_folders, tmp_path):
    out = make(image_folders, tmp_path / 'out')
    words = [str(out / 'tables' / 'training_metadata.csv'), str(out), str(out / 'tables' / 'integer_encoding.json'),
             str(out / 'tables' / 'boxes.npy'), 3]
    assert create_tfrecords.create(*words)[2] is False  # made already of the same files
    write(image_folders / 'train' / 'n01' / 'n01_0.JPEG', jpeg(99))
    assert create_tfrecords.create(*words)[2] is True
    make(image_folders, tmp_path / 'out', num_shards=2)
    assert len(create_tfrecords.read_manifest(str(out / 'train_shards'))['shards']) == 2
    write(out / 'train_shards' / 'mine.txt', b'x')
    with pytest.raises(DataError, match='mine.txt in it.*nothing was deleted'):
        make(image_folders, tmp_path / 'out')
    write(tmp_path / 'foreign' / 'train_shards' / 'shard-0000.tfrecords', b'x')
    with pytest.raises(DataError, match='shard-0000.tfrecords in it'):
        make(image_folders, tmp_path / 'foreign')
    assert (out / 'train_shards' / 'mine.txt').exists()
    assert (tmp_path / 'foreign' / 'train_shards' / 'shard-0000.tfrecords').read_bytes() == b'x'


def test_a_killed_run_leaves_nothing_that_is_taken_for_whole(image_folders, tmp_path):
    tables = tmp_path / 't'
    explore_imagenet.explore(str(image_folders), str(tables))
    code = ('import os, sys; sys.path.insert(0, %r); import create_tfrecords as c\n'
            'c._finish = lambda *a: os.kill(os.getpid(), 9)\n'
            'c.create(%r, %r, %r, num_shards=2)' % (FOLDER, str(tables / 'training_metadata.csv'),
                                                    str(tmp_path / 'out'), str(tables / 'integer_encoding.json')))
    assert subprocess.call([sys.executable, '-c', code]) == -9
    assert os.listdir(str(tmp_path / 'out')) == ['.train_shards.partial']
    make(image_folders, tmp_path / 'out')
    assert sorted(os.listdir(str(tmp_path / 'out'))) == ['eval_shards', 'tables', 'train_shards']


def test_the_published_boxes_are_read(image_folders, tmp_path):
    """A pickled dict of names and arrays, as numpy.save writes it."""
    out, boxes = tmp_path / 'out', np.array([[0.1, 0.2, 0.5, 0.75], [0, 0, 1, 1]])
    make(image_folders, out)
    metadata, labels = str(out / 'tables' / 'training_metadata.csv'), str(out / 'tables' / 'integer_encoding.json')
    name = create_tfrecords.read_metadata(metadata, create_tfrecords.read_labels(labels))[0][0]
    np.save(str(tmp_path / 'boxes.npy'), {os.path.splitext(os.path.basename(name))[0]: boxes, 'another': boxes[:1]})
    create_tfrecords.create(metadata, str(tmp_path / 'new'), labels, str(tmp_path / 'boxes.npy'))
    shards = input_pipeline.Shards(str(tmp_path / 'new' / 'train_shards'), 3)
    found = [item.boxes for item in map(shards.read, range(len(shards))) if len(item.boxes)]
    assert len(found) == 1
    np.testing.assert_allclose(found[0], boxes, rtol=1e-6)


def test_tables_are_made_without_flags(tmp_path):
    said = subprocess.run([sys.executable, os.path.join(FOLDER, 'explore_imagenet.py')], cwd=str(tmp_path), text=True,
                          stderr=subprocess.PIPE)
    assert said.returncode == 1 and os.path.join(FOLDER, 'data', 'train') in said.stderr, said.stderr
    assert 'give --data_dir=DIR' in said.stderr and said.stderr.count('\n') == 1


def test_bad_tables_are_named(image_folders, tmp_path):
    tables = tmp_path / 'out' / 'tables'
    make(image_folders, tmp_path / 'out')

    def create(**changed):
        given = dict(metadata_file=str(tables / 'training_metadata.csv'), output=str(tmp_path / 'new'),
                     labels=str(tables / 'integer_encoding.json'))
        return create_tfrecords.create(**dict(given, **changed))

    for content, said in (({'no_image': [(0, 0, 1, 1)]}, 'no_image and other names'),
                          ([1, 'a'], 'old.npy: .*found list'),
                          ({'n01_0': [(0, 0, 2, 1)]}, 'max <= 1; .*n01_0'), ({'n01_0': ['a']}, 'boxes .* of n01_0'),
                          ({'n01_0': open}, 'it imports .*open')):
        wrapped = np.empty((), object)
        wrapped[()] = content
        np.save(str(tmp_path / 'old.npy'), wrapped, allow_pickle=True)
        with pytest.raises(DataError, match=said):
            create(boxes=str(tmp_path / 'old.npy'))
    np.save(str(tmp_path / 'wide.npy'), np.array([[0, 0.5, 0.1, 1.5, 0.2]]))
    with pytest.raises(DataError, match='0 <= min < max <= 1'):
        create(boxes=str(tmp_path / 'wide.npy'))
    np.save(str(tmp_path / 'many.npy'), np.array([[99, 0.5, 0.1, 0.9, 0.2]]))
    with pytest.raises(DataError, match='row 99'):
        create(boxes=str(tmp_path / 'many.npy'))
    for text in ('{"n01": 0}', '{"n01": 0, "n02": 2}', '[]', '{"n01": "0", "n02": "1"}'):
        (tmp_path / 'labels.json').write_text(text)
        with pytest.raises(DataError, match='labels.json'):
            create(labels=str(tmp_path / 'labels.json'))
    (tmp_path / 'labels.json').write_text('{"n01": 0, "n02": 1}')
    with pytest.raises(DataError, match="line .*'n03'"):
        create(labels=str(tmp_path / 'labels.json'))
    (tmp_path / 'odd.csv').write_text('file,class\n')
    with pytest.raises(DataError, match='--split'):
        create(metadata_file=str(tmp_path / 'odd.csv'))
    with pytest.raises(DataError, match='columns path and wordnet_id'):
        create(metadata_file=str(tmp_path / 'odd.csv'), split='train')
    assert not (tmp_path / 'new').exists()


def test_the_real_edge_cases(tmp_path):
    if not os.path.isdir(EDGE_CASES):
        pytest.skip('the real images are not beside this repository (%s)' % EDGE_CASES)
    expected = {}
    with open(os.path.join(EDGE_CASES, 'EDGE_CASES.tsv')) as file:
        for line in file:
            if not line.startswith('#'):
                path, _, why = line.rstrip('\n').split('\t')
                if 'grayscale' in why or 'orientation 6' in why:
                    expected[os.path.basename(path)] = 'grayscale' if 'grayscale' in why else 'exif_rotated'
    ids = sorted(os.listdir(os.path.join(EDGE_CASES, 'train')) + os.listdir(os.path.join(EDGE_CASES, 'val')))
    (tmp_path / 'labels.json').write_text(json.dumps({name: label for label, name in enumerate(ids)}))
    out = make(EDGE_CASES, tmp_path / 'out', num_shards=4, labels=str(tmp_path / 'labels.json'))
    found = {}
    for split in ('train', 'eval'):
        for row in table(out / (split + '_shards') / 'bad_files.csv'):
            found[os.path.basename(row['path'])] = row['reason']
            assert row['action'] == 'converted'
    assert found == expected
    shards = input_pipeline.Shards(str(out / 'train_shards'), 229)
    assert len(shards) == 184
    batch = input_pipeline.training_batch(shards, 0, 32, 0, 0.1, 0.0)
    image, window = tf.placeholder(tf.string, []), tf.placeholder(tf.int32, [4])
    decoded = input_pipeline.decode(tf, image, window, tf.constant(False))
    with tf.Session() as session:
        for content, place in zip(batch.images, batch.windows):
            assert session.run(decoded, {image: content, window: place}).std() > 0
