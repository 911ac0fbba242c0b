# SPDX-License-Identifier: Apache-2.0
"""COCO's JSON gives the arrays that the same boxes in VOC's XML give; what is wrong in it is said."""
import json
import os
import shutil
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT

FOLDER = os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow')
sys.path.insert(0, FOLDER)
pytest.importorskip('cv2')

import process_dataset  # noqa: E402
from common.files import DataError  # noqa: E402
from tools import sampledata  # noqa: E402
from training_data import TrainingData  # noqa: E402

LAYOUTS = {  # set -> (JSON, folder of the pictures)
    'coco': {'trainval': ('annotations/instances_train2017.json', 'train2017'),
             'test': ('annotations/instances_val2017.json', 'val2017')},
    'images': {'trainval': ('instances_train.json', 'images'), 'test': ('instances_test.json', 'images')},
    'Roboflow': {'trainval': ('train/_annotations.coco.json', 'train'),
                 'test': ('valid/_annotations.coco.json', 'valid')},
    'CVAT': {'trainval': ('annotations/instances_default.json', 'images/default')}}
SIDES = ('xmin', 'ymin', 'xmax', 'ymax')


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """A VOC2007 folder with 6 drawn images in trainval, 3 in test."""
    folder = tmp_path_factory.mktemp('voc') / 'drawn'
    sampledata.draw_voc(str(folder), train=6, test=3)
    return folder / 'VOCdevkit' / 'VOC2007'


def instances(voc, ids):
    """COCO's JSON, as dict, of images of a VOC folder."""
    names = sorted(sampledata.VOC_CLASSES)
    content = {'images': [], 'annotations': [], 'categories': [{'id': 10 * number, 'name': name}
                                                                for number, name in enumerate(names)]}
    for number, image_id in enumerate(ids, 100):
        tree = ElementTree.parse(str(voc / 'Annotations' / (image_id + '.xml')))
        content['images'].append({'id': number, 'file_name': image_id + '.jpg', 'width': int(
            tree.findtext('size/width')), 'height': int(tree.findtext('size/height'))})
        for one in tree.findall('object'):
            left, top, right, bottom = (int(one.findtext('bndbox/' + side)) for side in SIDES)
            content['annotations'].append({
                'id': len(content['annotations']) + 1, 'image_id': number, 'iscrowd': 0,
                'category_id': 10 * names.index(one.findtext('name')),
                'bbox': [left - 1, top - 1, right - left + 1, bottom - top + 1]})
    return content


def as_coco(voc, folder, layout, change=lambda content: None):
    """Writes the drawn images in a layout; change(content) alters the training set's JSON."""
    for name, (file, pictures) in LAYOUTS[layout].items():
        ids = (voc / 'ImageSets' / 'Main' / (name + '.txt')).read_text().split()
        content = instances(voc, ids)
        if name == 'trainval':
            change(content)
        for path in (folder / file, folder / pictures / 'x'):
            path.parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(content))
        for image_id in ids:
            shutil.copy(str(voc / 'JPEGImages' / (image_id + '.jpg')), str(folder / pictures))
    return str(folder)


@pytest.mark.parametrize('layout', sorted(LAYOUTS))
def test_the_same_arrays_as_from_xml(drawn, tmp_path, layout):
    coco = as_coco(drawn, tmp_path / 'in', layout)
    ours, theirs = (TrainingData(process_dataset.process(path, str(tmp_path / name)))
                    for path, name in ((coco, 'coco'), (str(drawn), 'voc')))
    splits = ('train', 'valid') if layout != 'CVAT' else ('train',)
    assert ours.num_valid == (3 if 'valid' in splits else 0) and set(ours.classes) <= set(theirs.classes)
    for split in splits:
        assert ours.num_images(split) == theirs.num_images(split) > 0
        for index in range(ours.num_images(split)):
            assert os.path.basename(ours.image_path(index, split)) == os.path.basename(theirs.image_path(index, split))
            (mine, class_ids, _), (other, other_ids, _) = (data.objects_px(index, split) for data in (ours, theirs))
            np.testing.assert_array_equal(mine, other)
            assert [ours.classes[one] for one in class_ids] == [theirs.classes[one] for one in other_ids]
            assert ours.image(index, split).shape == theirs.image(index, split).shape


def _annotation(**fields):
    return lambda content: content['annotations'][0].update(fields)


def _image(**fields):
    return lambda content: content['images'][0].update(fields)


BOX, IMAGE = 'box left out', 'image left out'
BAD = {
    'crowd': (_annotation(iscrowd=1), 'annotation 1 is a crowd', BOX),
    'no area': (_annotation(bbox=[5, 5, 0, 9]), 'annotation 1, box 5 5 0 9, has no area', BOX),
    'reversed': (_annotation(bbox=[50, 50, -9, 9]), 'has no area', BOX),
    'three numbers': (_annotation(bbox=[5, 5, 9]), 'annotation 1 has a box that is not four numbers', BOX),
    'no number': (_annotation(bbox=[5, 'x', 9, 9]), 'not four numbers', BOX),
    'infinite': (_annotation(bbox=[5, 5, 9, float('inf')]), 'not four numbers', BOX),
    'outside': (_annotation(bbox=[5, 5, 9999, 9]), 'annotation 1, box 5 5 9999 9, is outside the image', BOX),
    'touches': (_annotation(bbox=[-0.5, 5, 20, 9]), 'is outside the image', 'box clipped'),
    'unknown category': (_annotation(category_id=7), 'category 7, which is not in categories', BOX),
    'nameless category': (lambda content: [one.update(name=' ') for one in content['categories'] if one['id'] ==
                                           content['annotations'][0]['category_id']], "unknown class ''", BOX),
    'no picture': (_image(file_name='gone.jpg'), 'no image ', IMAGE),
    'huge': (_annotation(bbox=[5, 5, 10 ** 400, 9]), 'not four numbers', BOX),
    'no text': (_image(file_name='\ud800.jpg'), 'is not a path in the folder', IMAGE),
    'elsewhere': (_image(file_name='../images.jpg'), "image '../images.jpg' is not a path in the folder", IMAGE),
    'twice': (lambda content: content['images'].append(content['images'][0]), 'is there a second time', IMAGE),
    'other size': (_image(width=7), 'says 7 x ', IMAGE),
}


@pytest.mark.parametrize('case', sorted(BAD))
def test_what_is_wrong_is_listed_and_the_rest_stays(drawn, tmp_path, capsys, case):
    change, reason, action = BAD[case]
    coco = as_coco(drawn, tmp_path / 'in', 'coco', change)
    assert process_dataset.main(['--data_path=' + coco, '--output_path=%s' % (tmp_path / 'out'), '--workers=1']) == 0
    with open(str(tmp_path / 'out' / 'bad.csv')) as file:
        rows = file.read().splitlines()[1:]
    assert rows and all(reason in row and row.endswith(action) for row in rows)
    data = TrainingData(str(tmp_path / 'out'))
    assert data.num_train == (5 if action == IMAGE and case != 'twice' else 6) and data.num_valid == 3
    capsys.readouterr()
    stopped = process_dataset.main(['--data_path=' + coco, '--output_path=%s' % (tmp_path / 'stop'), '--on_bad=stop'])
    error = capsys.readouterr().err
    assert stopped == (action != 'box clipped') and error.count('\n') == stopped
    assert (tmp_path / 'stop').exists() != stopped


@pytest.mark.parametrize('change, said', [
    (lambda content: content.pop('images'), 'found no list images'),
    (lambda content: content.update(annotations={}), 'found no list annotations'),
    (lambda content: content['annotations'].append([1]), r'annotations\[\d+\]: expected an object with image_id'),
    (lambda content: content['images'][1].pop('file_name'), r'images\[1\]: expected an object with id, file_name'),
    (lambda content: content['categories'][0].update(id=[1]), r'categories\[0\]: expected an object with id, name'),
    (lambda content: [one.update(bbox=[]) for one in content['annotations']], 'at least one object to train on')])
def test_a_file_that_is_not_cocos_is_one_sentence_and_nothing_is_written(drawn, tmp_path, change, said):
    with pytest.raises(DataError, match=said):
        process_dataset.process(as_coco(drawn, tmp_path / 'in', 'coco', change), str(tmp_path / 'out'))
    assert os.listdir(str(tmp_path)) == ['in']


def test_broken_json_and_sets_that_are_missing(drawn, tmp_path):
    coco = as_coco(drawn, tmp_path / 'in', 'coco')
    with pytest.raises(DataError, match='the set val2014; found train2017, val2017; name sets that exist'):
        process_dataset.process(coco, str(tmp_path / 'out'), valid_sets=['val2014'])
    file = tmp_path / 'in' / 'annotations' / 'instances_train2017.json'
    for content in (file.read_bytes()[:-20], b'', b'\xff\xfe', b'[' * 100000, b'[]'):
        file.write_bytes(content)
        with pytest.raises(DataError, match="instances_train2017.json: expected COCO's JSON"):
            process_dataset.process(coco, str(tmp_path / 'out'))
    file.unlink()
    with pytest.raises(DataError, match='a set to train with; found val2017'):
        process_dataset.process(coco, str(tmp_path / 'out'))
    data = TrainingData(process_dataset.process(os.path.join(coco, 'annotations'), str(tmp_path / 'out'),
                                                train_sets=['val2017'], valid_sets=['val2017']))
    assert (data.num_train, data.num_valid) == (3, 3)
