# SPDX-License-Identifier: Apache-2.0
"""From image folders to tables."""
import io
import json
import os
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'ShufflenetV2_ID0371_For_Tensorflow'))
pytest.importorskip('tensorflow')
Image = pytest.importorskip('PIL.Image')

from small_imagenet import jpeg, make, table, write  # noqa: E402

import explore_imagenet  # noqa: E402
import input_pipeline  # noqa: E402
from common import pictures  # noqa: E402
from common.files import DataError  # noqa: E402


def test_the_tables_of_class_folders(image_folders, tmp_path):
    write(image_folders / 'train' / 'n01' / 'notes.txt', b'x')
    write(image_folders / 'train' / 'n01' / 'empty.JPEG', b'')
    write(image_folders / 'train' / 'n02' / 'words.JPEG', b'not an image')
    write(image_folders / 'train' / 'n02' / 'cut.JPEG', jpeg()[:-200])
    write(image_folders / 'train' / 'n03' / 'grey.JPEG', jpeg(mode='L'))
    assert explore_imagenet.main(['--data_dir=%s' % image_folders, '--output=%s' % (tmp_path / 't')]) == 0
    training, validation = (table(tmp_path / 't' / (name + '_metadata.csv')) for name in ('training', 'validation'))
    assert len(training) == 13 and len(validation) == 6
    assert all(os.path.isabs(row['path']) and '/%s/' % row['wordnet_id'] in row['path']
               for row in training + validation)
    assert json.loads((tmp_path / 't' / 'integer_encoding.json').read_text()) == {'n01': 0, 'n02': 1, 'n03': 2}
    assert np.load(str(tmp_path / 't' / 'boxes.npy'), allow_pickle=False).shape == (0, 5)
    bad = {os.path.basename(row['path']): (row['reason'], row['action'])
           for row in table(tmp_path / 't' / 'bad_files.csv')}
    assert bad['notes.txt'][1] == bad['empty.JPEG'][1] == bad['words.JPEG'][1] == bad['cut.JPEG'][1] == 'left out'
    assert bad['grey.JPEG'] == ('grayscale', 'will be converted') and bad['empty.JPEG'][0] == 'empty' and len(bad) == 5


@pytest.mark.parametrize('name, text, synsets', [
    ('ILSVRC2012_validation_ground_truth.txt', '3\n1\n', 'n01 tench\nn02 goldfish\nn03 shark\n'),
    ('val_labels.txt', 'n03\nn01\n', None),
    ('LOC_val_solution.csv', 'ImageId,PredictionString\nval_2,n01 1 2 3 4\nval_1,n03 5 6 7 8 n03 1 2 3 4\n', None),
    ('ground_truth.txt', 'val_1.JPEG n03\nval_2.JPEG\tn01\n', None)])
def test_a_flat_val_folder(image_folders, tmp_path, name, text, synsets):
    shutil.rmtree(str(image_folders / 'val'))
    for number in (1, 2):
        write(image_folders / 'val' / ('val_%d.JPEG' % number), jpeg())
    with pytest.raises(DataError, match='ground-truth file'):
        explore_imagenet.explore(str(image_folders), str(tmp_path / 't'))
    (image_folders / name).write_text(text)
    if synsets:
        with pytest.raises(DataError, match='--synsets'):
            explore_imagenet.explore(str(image_folders), str(tmp_path / 't'))
        (image_folders / 'synsets').write_text(synsets)
        synsets = str(image_folders / 'synsets')
    explore_imagenet.explore(str(image_folders), str(tmp_path / 't'), synsets=synsets)
    assert [(row['just_name'], row['wordnet_id']) for row in table(tmp_path / 't' / 'validation_metadata.csv')] == [
        ('val_1', 'n03'), ('val_2', 'n01')]
    (image_folders / name).write_text(text.splitlines()[0])
    with pytest.raises(DataError, match='found'):
        explore_imagenet.explore(str(image_folders), str(tmp_path / 't'), synsets=synsets)


def test_bad_image_folders_are_named(image_folders, tmp_path, capsys):
    (image_folders / 'train' / 'n04').mkdir()
    assert explore_imagenet.main(['--data_dir=%s' % image_folders, '--output=%s' % (tmp_path / 't')]) == 1
    said = capsys.readouterr().err
    assert str(image_folders / 'train' / 'n04') in said and 'at least one image of this class' in said
    assert explore_imagenet.main(['--output=%s' % (tmp_path / 't')]) == 1
    assert '--data_dir' in capsys.readouterr().err
    assert explore_imagenet.main(['--data_dir=%s' % (tmp_path / 'none')]) == 1
    for name in ('n02', 'n03', 'n04'):
        for split in ('train', 'val'):
            shutil.rmtree(str(image_folders / split / name), ignore_errors=True)
    with pytest.raises(DataError, match='at least two classes'):
        explore_imagenet.explore(str(image_folders), str(tmp_path / 't'))
    assert not (tmp_path / 't').exists()


def annotation(name, *boxes, size=(200, 100)):
    items = ''.join('<object><name>%s</name><bndbox><xmin>%g</xmin><ymin>%g</ymin><xmax>%g</xmax><ymax>%g</ymax>'
                    '</bndbox></object>' % ((name,) + box) for box in boxes)
    return ('<annotation><size><width>%d</width><height>%d</height></size>%s</annotation>' % (size + (items,))).encode()


def test_boxes_go_from_xml_to_crops(image_folders, tmp_path):
    pytest.importorskip('defusedxml')
    places = image_folders / 'annotations'
    write(places / 'n01' / 'n01_0.xml', annotation('n01', (20, 10, 120, 60), (190, 90, 260, 130), (50, 50, 50, 60)))
    write(places / 'n01' / 'n01_1.xml', annotation('n09', (20, 10, 120, 60)))  # of another class
    write(places / 'n02' / 'n02_0.xml', b'<annotation><size>')
    write(places / 'n02' / 'n02_1.xml', b'<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>')
    write(places / 'n02' / 'n02_2.xml', annotation('n02', (1, 1, 2, 2), size=(0, 0)))
    write(places / 'n02' / 'n02_3.xml', b'<?xml version="1.0" encoding="nonsense"?><annotation/>')
    counts = explore_imagenet.explore(str(image_folders), str(tmp_path / 'out' / 'tables'))
    assert counts['boxes'] == 3 and counts['bad_files'] == 3
    found = np.load(str(tmp_path / 'out' / 'tables' / 'boxes.npy'), allow_pickle=False)
    np.testing.assert_allclose(found, [[0, 0.1, 0.1, 0.6, 0.6], [0, 0.95, 0.9, 1, 1],
                                       [6, 1 / 40, 1 / 30, 2 / 40, 2 / 30]])
    shards = input_pipeline.Shards(str(make(image_folders, tmp_path / 'out') / 'train_shards'), 3)
    items = [shards.read(record) for record in range(len(shards))]
    with_boxes, _ = sorted((item for item in items if len(item.boxes)), key=lambda item: item.label)
    assert with_boxes.label == 0
    np.testing.assert_allclose(with_boxes.boxes, [[0.1, 0.1, 0.6, 0.6], [0.95, 0.9, 1, 1]], rtol=1e-6)


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
@pytest.mark.parametrize('labelled', ['stored', 'upright', 'no size'])
def test_a_box_stays_on_its_object_when_exif_turns_the_image(image_folders, tmp_path, orientation, labelled):
    image = Image.new('L', (400, 300))
    image.paste(255, (40, 30, 120, 90))  # x 0.1 to 0.3, y 0.1 to 0.3
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.convert('RGB').save(out, 'JPEG', exif=exif.tobytes())
    path = write(image_folders / 'train' / 'n01' / 'n01_0.JPEG', out.getvalue())
    upright = np.array(Image.open(io.BytesIO(pictures.usable_jpeg(out.getvalue())[0])).convert('L'))
    height_px, width_px = upright.shape
    y, x = (upright > 128).nonzero()
    box, size = (x.min(), y.min(), x.max() + 1, y.max() + 1), (width_px, height_px)
    expected = np.array(box) / np.array(size * 2)
    if labelled == 'no size':
        size = (0, 0)
    elif labelled == 'stored' and orientation != 3:  # upside down has the same size: taken as drawn upright
        box, size = (40, 30, 120, 90), (400, 300)
    write(image_folders / 'annotations' / 'n01_0.xml', annotation('n01', tuple(map(int, box)), size=size))
    explore_imagenet.explore(str(image_folders), str(tmp_path / 't'))
    found = np.load(str(tmp_path / 't' / 'boxes.npy'), allow_pickle=False)
    np.testing.assert_allclose(found[0, 1:], expected, atol=0.02, err_msg=str(path))


def test_classes_of_validation_that_training_lacks_are_refused(image_folders, tmp_path):
    for old, new in (('n01', '1'), ('n02', '2'), ('n03', '3')):
        (image_folders / 'val' / old).rename(image_folders / 'val' / new)
    with pytest.raises(DataError, match=r'val/1/n01_0.JPEG: expected an image of a class of training '
                                        r'\(n01, n02, n03\); found one of 1, 2, 3'):
        explore_imagenet.explore(str(image_folders), str(tmp_path / 't'))
    (tmp_path / 'labels.json').write_text('{"n01": 0, "n02": 1, "n03": 2, "1": 3, "2": 4, "3": 5}')
    explore_imagenet.explore(str(image_folders), str(tmp_path / 't'), labels=str(tmp_path / 'labels.json'))
    with pytest.raises(DataError, match='no file'):
        explore_imagenet.explore(str(image_folders), str(tmp_path / 't'), labels=str(tmp_path / 'none.json'))
    shutil.rmtree(str(image_folders / 'val' / '1'))
    shutil.rmtree(str(image_folders / 'val' / '2'))
    (image_folders / 'val' / '3').rename(image_folders / 'val' / 'n03')
    assert explore_imagenet.explore(str(image_folders), str(tmp_path / 't'))['classes'] == 3  # fewer are no fault


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_tiny_imagenet_is_read_as_it_comes(image_folders, tmp_path, encoding):
    for name in ('n01', 'n02', 'n03'):
        shutil.move(str(image_folders / 'train' / name), str(image_folders / 'moved' / 'images'))
        shutil.move(str(image_folders / 'moved'), str(image_folders / 'train' / name))
    shutil.rmtree(str(image_folders / 'val'))
    lines = []
    for number in range(6):
        write(image_folders / 'val' / 'images' / ('val_%d.JPEG' % number), jpeg())
        lines.append('val_%d.JPEG\tn0%d\t0\t32\t44\t62\n' % (number, 3 - number % 3))
    (image_folders / 'val' / 'val_annotations.txt').write_bytes(''.join(lines).encode(encoding))
    counts = explore_imagenet.explore(str(image_folders), str(tmp_path / 't'))
    assert (counts['classes'], counts['training'], counts['validation'], counts['bad_files']) == (3, 12, 6, 0)
    assert [row['wordnet_id'] for row in table(tmp_path / 't' / 'validation_metadata.csv')] == [
        'n03', 'n02', 'n01'] * 2
