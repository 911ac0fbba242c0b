# SPDX-License-Identifier: Apache-2.0
"""From a VOCdevkit tree to arrays: lists, layouts, sets, classes, and what is replaced on disk."""
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT

FOLDER = os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow')
sys.path.insert(0, FOLDER)
cv2 = pytest.importorskip('cv2')
pytest.importorskip('defusedxml')

from voc_trees import ANNOTATION, OBJECT, Tree, bad_rows, jpeg, listing  # noqa: E402

import process_dataset  # noqa: E402
import source_pascal_voc  # noqa: E402
from common.files import DataError  # noqa: E402
from tools import sampledata  # noqa: E402
from training_data import TrainingData  # noqa: E402

pytestmark = pytest.mark.smoke


def test_every_box_and_difficult_mark_arrives(drawn_voc, processed_voc):
    data = TrainingData(processed_voc)
    assert (data.num_train, data.num_valid, data.num_classes) == (10, 6, 5)
    assert data.classes == tuple(sorted(sampledata.VOC_CLASSES)) and bad_rows(processed_voc) == []
    for split, count in (('train', 10), ('valid', 6)):
        histogram = {name: [0] * 5 for name in ('images', 'objects', 'difficult')}
        for index in range(count):
            path = data.image_path(index, split)
            tree = ElementTree.parse(path.replace('JPEGImages', 'Annotations').replace('.jpg', '.xml'))
            boxes_px, class_ids, marks = data.objects_px(index, split)
            expected = [[float(one.find('bndbox/' + side).text) for side in ('xmin', 'ymin', 'xmax', 'ymax')]
                        for one in tree.findall('object')]
            # 1-based with the last pixel included becomes 0-based and half-open.
            assert (boxes_px + [1, 1, 0, 0]).tolist() == expected
            assert [data.classes[one] for one in class_ids] == [one.find('name').text for one in tree.findall('object')]
            assert marks.tolist() == [one.find('difficult').text == '1' for one in tree.findall('object')]
            for class_id, mark in zip(class_ids.tolist(), marks.tolist()):
                histogram['objects'][class_id] += 1
                histogram['difficult'][class_id] += mark
            for class_id in set(class_ids.tolist()):
                histogram['images'][class_id] += 1
            assert data.image(index, split).shape[1::-1] == data.size_px(index, split)
            width, height = data.size_px(index, split)
            relative = data.truth(index, split).boxes_xyxy
            np.testing.assert_allclose(relative * ([width, height] * 2), boxes_px, rtol=1e-5)
        assert process_dataset.read_description(processed_voc)['splits'][split]['per_class'] == histogram


def test_the_real_sample_has_its_known_counts(real_voc, tmp_path):
    folder = process_dataset.process(real_voc, str(tmp_path / 'out'), workers=2)
    data = TrainingData(folder)
    with open(os.path.join(real_voc, 'counts.json')) as file:
        counts = json.load(file)
    for split, name in (('train', 'trainval'), ('valid', 'test')):
        _, _, marks = map(np.concatenate, zip(*(data.objects_px(one, split) for one in range(data.num_images(split)))))
        assert (data.num_images(split), len(marks), int((~marks).sum())) == (
            counts[name]['images'], counts[name]['objects'], counts[name]['non_difficult'])
    assert bad_rows(folder) == []
    alone = process_dataset.process(real_voc, str(tmp_path / 'alone'), workers=1)
    assert process_dataset.read_description(folder) == process_dataset.read_description(alone)


LISTS = {
    'UTF-16': ('a\r\nb\r\n'.encode('utf-16'), ['a', 'b']), 'UTF-8 with a mark': (b'\xef\xbb\xbfa\nb', ['a', 'b']),
    'GBK': ('图片一\n图片 二\n'.encode('gbk'), ['图片一', '图片 二']), 'no images': (b'\n \n', []),
    'blanks': (b'img (1)\n img (2)\t\ncat 1\n', ['img (1)', 'img (2)', 'cat 1']),
    'endings': (b'a.jpg\nb.v2.jpg\nb.v2\n', ['a', 'b.v2']), 'flags': (b'a  1\nb -1\nc  0\n', ['a', 'b', 'c']),
    'endings and flags': (b'a.jpg 1\nimg (1).jpg -1\n', ['a', 'img (1)']),
    'paths': (b'JPEGImages/a.jpg\n/home/me/VOC2007/JPEGImages/below/b.jpg\nbelow/b', ['a', 'below/b'])}


@pytest.mark.parametrize('case', sorted(LISTS))
def test_lists_are_read_as_users_have_them(tmp_path, case):
    content, ids = LISTS[case]
    tree = Tree(tmp_path / 'in')
    for image_id in ids + ['cat', 'img', 'b', '图片']:
        tree.image(image_id).parent.mkdir(exist_ok=True)
        tree.image(image_id).write_bytes(b'')
    (tree.year / 'ImageSets' / 'Main' / 'trainval.txt').write_bytes(content)
    refs, _, _ = source_pascal_voc.list_images(*source_pascal_voc.find(str(tmp_path / 'in')))
    assert [ref.image_path for ref in refs['train']] == [str(tree.image(image_id)) for image_id in ids]
    assert [ref.annotation_path for ref in refs['train']] == [str(tree.annotation(image_id)) for image_id in ids]


def test_a_missing_image_is_not_taken_for_another(tmp_path):
    tree = Tree(tmp_path / 'in')
    for image_id in ('cat', 'dog'):
        tree.add(image_id, ('cat', 1, 1, 40, 30))
    tree.sets(trainval=['cat 2', 'dog', 'cat 1'], test=['cat'])
    out = process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'))
    assert [row[2].split('/')[-1] for row in bad_rows(out)] == ['cat 2.jpg', 'cat 1.jpg']
    assert TrainingData(out).num_train == 1


XML = '<annotation>\n<path>D:\\数据</path>\n' + OBJECT % ('dog', 0, 1, 2, 20, 30) + '</annotation>'


@pytest.mark.parametrize('declared, encoding', [
    ('gbk', 'gbk'), ('gb2312', 'gb2312'), ('GB18030', 'gb18030'), ('utf8', 'utf-8'), ('foo-8', 'utf-8'),
    ('ANSI', 'gbk'), ('utf-8', 'gbk'), ('utf-16', 'utf-16'), ('utf-16', 'utf-8'), ('zip', 'utf-8'), ('big5', 'big5'),
    ('', 'gbk'), ('utf-8', 'utf-8-sig')])
def test_annotations_are_read_in_any_encoding(tmp_path, declared, encoding):
    xml = XML.replace('数据', '資料') if encoding == 'big5' else XML
    tree = Tree(tmp_path / 'in')
    tree.sets(trainval=['a'])
    tree.image('a').write_bytes(jpeg())
    for before in ('', '\n\n'):
        head = before + '<?xml version="1.0" encoding="%s"?>\n' % declared if declared else ''
        tree.annotation('a').write_bytes((head + xml.replace('>dog<', '>unicorn<') + xml[12:]).encode(encoding))
        assert len(source_pascal_voc.read(source_pascal_voc.ImageRef(str(tree.image('a')), str(
            tree.annotation('a')), 'list', 1))[1]) == 1  # two roots: not XML, and said so
        tree.annotation('a').write_bytes((head + xml).encode(encoding))
        sample, problems = source_pascal_voc.read(source_pascal_voc.ImageRef(
            str(tree.image('a')), str(tree.annotation('a')), 'list', 1))
        assert problems == [] and sample.boxes_xyxy_px.tolist() == [[0, 1, 20, 30]]


def test_all_spellings_of_difficult_are_known(tmp_path):
    tree = Tree(tmp_path / 'in')
    marks = ['1', 'true', ' True\n', 'yes', '1.0', '0', 'false', '', 'Unspecified', 'no']
    lines = '\n'.join(OBJECT % ('dog', mark, 1, 2, 20, 30) for mark in marks)
    tree.add('a', xml=(ANNOTATION % lines).replace('<difficult>yes</difficult>', '<Difficult>1</Difficult>'))
    tree.sets(trainval=['a'])
    data = TrainingData(process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out')))
    assert data.objects_px(0, 'train')[2].tolist() == [True] * 5 + [False] * 5


def test_images_that_are_validated_with_do_not_train(tmp_path, capsys):
    tree = Tree(tmp_path / 'in')
    for image_id in 'abc':
        tree.add(image_id, ('cat', 1, 1, 40, 30))
    tree.sets(trainval=['a', 'b'], test=['c', 'b'])
    out = process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'))
    data = TrainingData(out)
    assert [os.path.basename(data.image_path(0, 'train')), data.num_train, data.num_valid] == ['a.jpg', 1, 2]
    (name, line, reason, action), = bad_rows(out)
    assert (name, line, action) == ('trainval.txt', 2, 'image left out')
    assert reason.startswith('b.jpg is validated with') and reason.endswith('test.txt, line 2)')
    assert reason in capsys.readouterr().out
    same = process_dataset.process(str(tmp_path / 'in'), out, train_sets=['VOC2007:test'], valid_sets=['VOC2007:test'])
    assert TrainingData(same).num_train == 2 and bad_rows(same) == []  # who asks for it gets it
    tree.sets(trainval=['b'])
    with pytest.raises(DataError, match='none in 0 images; the first problem: .*b.jpg is validated with'):
        process_dataset.process(str(tmp_path / 'in'), out)


def test_only_voc_and_a_year_is_a_year(tmp_path):
    tree = Tree(tmp_path / 'in')
    tree.add('a', ('cat', 1, 1, 40, 30))
    tree.sets(trainval=['a'])
    devkit = tmp_path / 'in' / 'VOCdevkit'
    shutil.copytree(str(tree.year), str(devkit / 'VOC2007_backup'))
    out = process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'), on_bad='stop')
    assert TrainingData(out).num_train == 1
    assert bad_rows(out) == [('VOC2007_backup', 0, 'is not named VOC<year>', 'folder passed over')]
    tree.year.rename(devkit / 'helmets')
    with pytest.raises(DataError, match='VOCdevkit: expected folders named .*VOC2007_backup, helmets; give one of'):
        process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'))
    chosen = process_dataset.process(str(devkit / 'helmets'), str(tmp_path / 'out'))
    assert TrainingData(chosen).num_train == 1 and bad_rows(chosen) == []
    shutil.rmtree(str(devkit / 'VOC2007_backup'))
    assert source_pascal_voc.find(str(tmp_path / 'in')) == (str(devkit), ['helmets'])


@pytest.mark.parametrize('lists, counts', [
    ({'default': ['a', 'b']}, (2, 0)), ({'Train': ['a'], 'Validation': ['b', 'c']}, (1, 2)),
    ({'cat_train': ['a.jpg 1', 'b.jpg -1'], 'dog_train': ['a.jpg -1', 'b.jpg 1'], 'dog_val': ['c.jpg 1']}, (2, 1)),
    ({'cat_train': ['a'], 'train': ['b', 'c'], 'val': ['a']}, (2, 1))])
def test_lists_of_other_programs_are_known(tmp_path, lists, counts):
    tree = Tree(tmp_path / 'in')
    for image_id in 'abc':
        tree.add(image_id, ('cat', 1, 1, 40, 30))
    tree.sets(**lists)
    out = process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'))
    assert (TrainingData(out).num_train, TrainingData(out).num_valid) == counts and bad_rows(out) == []
    name = 'VOC2007:' + sorted(lists)[0]  # each can also be named as its file is
    named = process_dataset.process(str(tmp_path / 'in'), out, train_sets=[name], valid_sets=[name])
    assert TrainingData(named).num_train == TrainingData(named).num_valid == len(lists[sorted(lists)[0]])
    with pytest.raises(DataError, match='name sets that exist: VOC2007:.*' + sorted(lists)[0]):
        process_dataset.process(str(tmp_path / 'in'), out, train_sets=['VOC2007:nothing'])


def test_pictures_with_their_xml_beside_them_are_read(tmp_path):
    mine = tmp_path / 'mine'
    for split, image_ids in (('train', ['a', 'b', 'c']), ('valid', ['a'])):
        (mine / split).mkdir(parents=True)
        for image_id in image_ids:
            (mine / split / (image_id + '_jpg.rf.01.jpg')).write_bytes(jpeg())
            (mine / split / (image_id + '_jpg.rf.01.xml')).write_text(ANNOTATION % OBJECT % ('dog', 0, 1, 2, 20, 30))
    (mine / 'train' / 'b_jpg.rf.01.xml').unlink()
    (mine / 'train' / 'c_jpg.rf.01.jpg').unlink()
    out = process_dataset.process(str(mine), str(tmp_path / 'out'))
    data = TrainingData(out)
    assert (data.num_train, data.num_valid, data.objects_px(0)[0].tolist()) == (1, 1, [[0, 1, 20, 30]])
    assert [row[2].split()[:2] for row in bad_rows(out)] == [['no', 'annotation'], ['no', 'image']]


@pytest.mark.parametrize('given', ['', 'pascal-voc'])
def test_the_published_layout_is_read(given, tmp_path):
    for part, years in (('trainval', ('VOC2007', 'VOC2012')), ('test', ('VOC2007',))):
        for year in years:
            tree = Tree(tmp_path / 'pascal-voc' / part, year)
            tree.add(year + part, ('dog', 2, 2, 20, 20))
            tree.sets(**{part: [year + part]})
    out = process_dataset.process(str(tmp_path / given), str(tmp_path / 'out'))
    data = TrainingData(out)
    assert (data.num_train, data.num_valid) == (2, 1) and bad_rows(out) == []
    assert {data.image_path(index, 'train').split('pascal-voc/')[1] for index in range(2)} == {
        'trainval/VOCdevkit/%s/JPEGImages/%strainval.jpg' % (year, year) for year in ('VOC2007', 'VOC2012')}
    assert data.image_path(0, 'valid').endswith('pascal-voc/test/VOCdevkit/VOC2007/JPEGImages/VOC2007test.jpg')


def test_other_layouts_are_told_what_to_move_where(tmp_path):
    (tmp_path / 'flat').mkdir()
    (tmp_path / 'flat' / 'a.xml').write_text(XML)
    with pytest.raises(DataError, match='flat: .*annotations in the folder itself; move the pictures .* into train/'):
        process_dataset.process(str(tmp_path / 'flat'), str(tmp_path / 'out'))
    for name in ('VOCtrainval_06-Nov-2007', 'VOCtest_06-Nov-2007'):
        Tree(tmp_path / 'nested' / name)
    with pytest.raises(DataError, match='VOCtest_06-Nov-2007/VOCdevkit and .*trainval.*/VOCdevkit; give one'):
        process_dataset.process(str(tmp_path / 'nested'), str(tmp_path / 'out'))


@pytest.mark.parametrize('linked', ['Annotations', 'JPEGImages', 'VOC2007'])
def test_what_is_behind_links_counts(tmp_path, linked):
    tree = Tree(tmp_path / 'in')
    tree.add('a', ('cat', 1, 1, 40, 30))
    tree.sets(trainval=['a'])
    place = tree.year if linked == 'VOC2007' else tree.year / linked
    place.rename(tmp_path / 'elsewhere')
    place.symlink_to(tmp_path / 'elsewhere')
    cache = str(tmp_path / 'cache')
    first = process_dataset.prepare(str(tmp_path / 'in'), cache)
    assert process_dataset.prepare(str(tmp_path / 'in'), cache) == first
    if linked == 'JPEGImages':
        os.utime(str(tree.image('a')))
    else:
        tree.annotation('a').write_text(ANNOTATION % OBJECT % ('dog', 0, 1, 2, 20, 30))
    second = process_dataset.prepare(str(tmp_path / 'in'), cache)
    assert second != first
    assert TrainingData(second).classes == ('cat' if linked == 'JPEGImages' else 'dog',)


def test_a_deep_annotation_is_no_danger(tmp_path):
    tree = Tree(tmp_path / 'in')
    deep = '<x>' * 100000 + '</x>' * 100000
    tree.add('a', xml='<!DOCTYPE annotation>\n<annotation xmlns="http://x">' + deep + OBJECT % ('dog', 1, 2, 3, 20, 30)
             + '</annotation>')
    tree.sets(trainval=['a'])
    data = TrainingData(process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out')))
    assert data.objects_px(0, 'train')[0].tolist() == [[1, 2, 20, 30]]


def test_what_is_missing_is_said(tmp_path):
    for path in (tmp_path / 'nothing', tmp_path):
        with pytest.raises(DataError, match='VOCdevkit/VOC<year>.*dataset.json.*download-data.sh'):
            process_dataset.prepare(str(path), str(tmp_path / 'cache'))
    tree = Tree(tmp_path / 'in')
    tree.add('a', ('cat', 1, 1, 40, 30))
    with pytest.raises(DataError, match='ImageSets/Main: expected train.txt.*none of them'):
        process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'))
    tree.sets(trainval=['a'])
    with pytest.raises(DataError, match='VOC2012/ImageSets/Main/test.txt'):
        process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'), valid_sets=['VOC2012:test'])
    tree.add('a', ('unicorn', 9, 1, 3, 30))
    with pytest.raises(DataError, match='at least one object.*xmin=9'):
        process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'))
    assert sorted(os.listdir(str(tmp_path))) == ['in']


def test_which_sets_train_and_which_validate(tmp_path):
    first = Tree(tmp_path / 'in')
    for image_id in 'abcd':
        first.add(image_id, ('cat', 1, 1, 40, 30))
    first.sets(train=['a'], val=['b'], trainval=['a', 'b'])

    def ids(**sets):
        refs, _, problems = source_pascal_voc.list_images(*source_pascal_voc.find(str(tmp_path / 'in')), **sets)
        assert not problems
        return [''.join(os.path.basename(ref.image_path)[0] for ref in refs[split]) for split in ('train', 'valid')]

    assert ids() == ['a', 'b']
    assert ids(train_sets=['VOC2007:trainval'], valid_sets=[]) == ['ab', '']
    assert ids(train_sets=['VOC2007:trainval'], valid_sets=['VOC2007:trainval']) == ['ab', 'ab']
    assert ids(valid_sets=['VOC2007:train']) == ['b', 'a'] and ids(valid_sets=['VOC2007:trainval']) == ['', 'ab']
    third = Tree(tmp_path / 'in', 'VOC2009')
    third.add('z', ('cat', 1, 1, 40, 30))
    third.sets(trainval=['z'])
    assert ids() == ['az', 'b']
    shutil.rmtree(str(third.year))
    first.sets(test=['c', 'd'])
    assert ids() == ['ab', 'cd']
    second = Tree(tmp_path / 'in', 'VOC2012')
    second.add('x', ('cat', 1, 1, 40, 30))
    second.add('y', ('cat', 1, 1, 40, 30))
    second.sets(train=['x'], val=['y'])
    assert ids() == ['abxy', 'cd']
    second.sets(trainval=['x', 'y'], test=['secret'])  # the published test set of 2012 has no annotations
    assert ids() == ['abxy', 'cd']


def test_without_a_validation_set_a_tenth_is_held_out(tmp_path, capsys):
    tree = Tree(tmp_path / 'in')
    ids = ['%02d' % number for number in range(21)]
    for image_id in ids:
        tree.add(image_id, ('cat', 1, 1, 40, 30))
    tree.sets(trainval=ids)

    def split(name, **choices):
        data = TrainingData(process_dataset.process(str(tmp_path / 'in'), str(tmp_path / name), **choices))
        return [[os.path.basename(data.image_path(index, split))[:2] for index in range(data.num_images(split))]
                for split in ('train', 'valid')]
    train, valid = split('a')
    assert '2 images to validate (a tenth, held out)' in capsys.readouterr().out
    assert sorted(train + valid) == ids and len(valid) == 2 and split('b') == [train, valid] and train == sorted(train)
    assert split('c', valid_sets=[]) == split('d', train_sets=['VOC2007:trainval']) == [ids, []]
    tree.sets(trainval=ids[:9])
    assert split('e') == [ids[:9], []]


def test_the_tree_is_found_from_three_places(drawn_voc):
    devkit = os.path.join(drawn_voc, 'VOCdevkit')
    for path in (drawn_voc, devkit, os.path.join(devkit, 'VOC2007')):
        assert source_pascal_voc.find(path) == (devkit, ['VOC2007'])
    assert source_pascal_voc.find(os.path.join(devkit, 'VOC2007', 'JPEGImages')) is None


def test_classes_are_those_of_the_annotations_or_of_a_list(tmp_path):
    tree = Tree(tmp_path / 'in', 'mine')
    tree.add('a', ('nut', 1, 1, 40, 30), ('bolt M6', 1, 1, 40, 30), ('x' * 101, 1, 1, 40, 30))
    tree.add('b', ('螺母', 1, 1, 40, 30), ('ring', 30, 1, 10, 30))  # no box that can be used is of a ring
    tree.sets(trainval=['a'], test=['b'])
    data = TrainingData(process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out')))
    assert data.classes == ('bolt M6', 'nut', '螺母') and data.objects_px(0, 'train')[1].tolist() == [1, 0]
    assert [row[2][:15] for row in bad_rows(data.folder)] == ["unknown class '", 'box xmin=30 ymi']
    names = tmp_path / 'names.txt'
    names.write_bytes('washer\r\n螺母\r\nnut\r\n'.encode('gbk'))
    data = TrainingData(process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'), classes=str(names)))
    assert data.classes == ('washer', '螺母', 'nut') and data.objects_px(0, 'train')[1].tolist() == [2]
    assert "unknown class 'bolt M6'" in [row[2] for row in bad_rows(data.folder)]
    assert tuple(sorted(source_pascal_voc.CLASSES)) == source_pascal_voc.CLASSES


@pytest.mark.parametrize('content, said', [
    (b'nut\nbolt\nnut\n', "line 3: expected the name of a class; found 'nut' a second time"),
    (b'nut\n\nbolt\n', 'line 2: expected the name of a class; found a blank line'),
    (b'', 'found an empty file'), (None, 'found No such file')])
def test_a_bad_list_of_classes_is_one_sentence(drawn_voc, tmp_path, capsys, content, said):
    if content is not None:
        (tmp_path / 'names.txt').write_bytes(content)
    assert process_dataset.main(['--data_path=' + drawn_voc, '--output_path=%s' % (tmp_path / 'out'),
                                 '--classes=%s' % (tmp_path / 'names.txt')]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1 and not (tmp_path / 'out').exists()


def test_nothing_of_others_is_replaced_and_a_failed_run_leaves_the_old(tmp_path, drawn_voc):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('x')
    with pytest.raises(DataError, match='thesis.tex in it'):
        process_dataset.process(drawn_voc, str(tmp_path / 'mine'))
    out = process_dataset.process(drawn_voc, str(tmp_path / 'out'), annotate=2)
    names = os.listdir(os.path.join(out, 'annotated'))
    assert len(names) == 2 and all(cv2.imread(os.path.join(out, 'annotated', name)) is not None for name in names)
    before = listing(out)
    tree = Tree(tmp_path / 'in')
    tree.add('a', ('cat', 30, 1, 10, 30))
    tree.sets(trainval=['a'])
    with pytest.raises(DataError, match='at least one object to train on'):
        process_dataset.process(str(tmp_path / 'in'), out)
    assert listing(out) == before
    (tmp_path / '.out.partial').mkdir()  # of a run that was killed
    (tmp_path / '.out.partial' / '.whole.json').write_text((tmp_path / 'out' / '.whole.json').read_text())
    (tmp_path / '.out.partial' / 'train.npz').write_text('half')
    assert process_dataset.process(drawn_voc, out) == out and listing(out) == before  # nothing has changed
    os.utime(os.path.join(drawn_voc, 'VOCdevkit', 'VOC2007', 'JPEGImages', '000001.jpg'))
    process_dataset.process(drawn_voc, out)
    assert sorted(os.listdir(out)) == ['.whole.json', 'bad.csv', 'dataset.json', 'train.npz', 'valid.npz']
    assert sorted(os.listdir(str(tmp_path))) == ['in', 'mine', 'out']


def test_a_folder_of_an_earlier_version_is_read_and_may_be_replaced(tmp_path, drawn_voc):
    out = process_dataset.process(drawn_voc, str(tmp_path / 'out'))
    os.remove(os.path.join(out, '.whole.json'))
    before = listing(out)
    assert process_dataset.prepare(out, str(tmp_path / 'cache')) == out and listing(out) == before
    process_dataset.process(drawn_voc, out)
    assert os.path.exists(os.path.join(out, '.whole.json')) and TrainingData(out).num_train == 10
    os.remove(os.path.join(out, '.whole.json'))
    (tmp_path / 'out' / 'thesis.tex').write_text('x')
    with pytest.raises(DataError, match='thesis.tex in it'):
        process_dataset.process(drawn_voc, out)


def test_a_tree_is_prepared_once_and_never_inside_the_users_data(drawn_voc, tmp_path, capsys):
    tree, cache = str(tmp_path / 'users'), str(tmp_path / 'cache')
    shutil.copytree(drawn_voc, tree)
    before = listing(tree)
    folder = process_dataset.prepare(tree, cache)
    assert os.path.dirname(folder) == cache and 'processing' in capsys.readouterr().out and listing(tree) == before
    written = listing(cache)
    assert process_dataset.prepare(tree, cache) == folder == process_dataset.prepare(
        tree, cache, **{name: value for name, value in vars(process_dataset.parse_args([])).items()
                        if name not in ('data_path', 'output_path')})
    assert listing(cache) == written and capsys.readouterr().out == ''
    assert process_dataset.prepare(folder, cache) == folder  # a processed_voc folder is taken as it is
    with open(os.path.join(folder, 'valid.npz'), 'ab') as file:
        file.write(b'x')
    assert process_dataset.prepare(tree, cache) == folder and 'processing' in capsys.readouterr().out
    TrainingData(folder)
    os.utime(os.path.join(tree, 'VOCdevkit', 'VOC2007', 'Annotations', '000001.xml'))
    changed = process_dataset.prepare(tree, cache)
    assert changed != folder and sorted(os.listdir(cache)) == sorted(map(os.path.basename, (folder, changed)))


def test_without_a_place_to_write_the_users_cache_is_taken_and_said(drawn_voc, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'mine'))
    shared = process_dataset.prepare(drawn_voc, str(tmp_path / 'shared'))
    capsys.readouterr()
    monkeypatch.setattr(os, 'access', lambda *_: False)
    assert process_dataset.prepare(drawn_voc, str(tmp_path / 'shared')) == shared and capsys.readouterr().out == ''
    folder = process_dataset.prepare(drawn_voc, str(tmp_path / 'prepared'))
    said = capsys.readouterr().out.splitlines()[0]
    assert said == '%s cannot be written; prepared data goes to %s' % (tmp_path / 'prepared', os.path.dirname(folder))
    assert TrainingData(folder).num_train == 10
    assert os.path.dirname(folder) == str(tmp_path / 'mine' / 'SSD-VGG_ID1619_for_TensorFlow')


def test_ranks_that_start_together_process_once(drawn_voc, tmp_path):
    code = 'import sys; sys.path[:0] = %r; import process_dataset; print(process_dataset.prepare(%r, %r))' % (
        [FOLDER, ROOT], drawn_voc, str(tmp_path / 'cache'))
    ranks = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, universal_newlines=True)
             for _ in range(3)]
    said = [rank.communicate()[0].splitlines() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert len({lines[-1] for lines in said}) == 1 and sum('processing' in lines[0] for lines in said) == 1


def test_the_command_runs_as_documented(drawn_voc, tmp_path):
    script = os.path.join(FOLDER, 'process_dataset.py')
    assert os.access(script, os.X_OK)
    environment = dict(os.environ, PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH'])
    made = subprocess.run([script, '--data-path', drawn_voc, '--output-path=out', '--annotate=1'], cwd=str(tmp_path),
                          env=environment, capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, '')
    assert made.stdout.splitlines()[-1] == 'train with --data_path=%s' % (tmp_path / 'out')
    rows = {' '.join(line.split()[:-6]): line.split()[-6:] for line in made.stdout.splitlines()[:-1]}
    assert rows['all'][0] == '10' and rows['all'][3] == '6'
    assert sum(int(rows[name][1]) for name in sampledata.VOC_CLASSES) == int(rows['all'][1])
    assert (tmp_path / 'out' / 'annotated').is_dir()
    environment['PYTHONIOENCODING'] = 'ascii'
    made = subprocess.run([script, '--data-path', drawn_voc, '--output-path=图片'], cwd=str(tmp_path), env=environment,
                          capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, '') and '\\u56fe' in made.stdout


def test_arrays_that_were_changed_are_refused(processed_voc, tmp_path):
    folder = str(tmp_path / 'copy')
    for damage in ('byte', 'gone', 'images', 'foreign'):
        shutil.copytree(processed_voc, folder)
        path = os.path.join(folder, 'dataset.json' if damage in ('images', 'foreign') else 'train.npz')
        if damage == 'byte':
            with open(path, 'r+b') as file:
                file.seek(200)
                file.write(b'\x07')
        elif damage == 'gone':
            os.remove(path)
        elif damage == 'images':
            text = open(path).read().replace('VOCdevkit"', 'moved away"')
            open(path, 'w').write(text)
        else:
            open(path, 'w').write('{}')
        with pytest.raises(DataError, match='process_dataset.py'):
            TrainingData(folder)
        shutil.rmtree(folder)


def test_an_image_that_changed_is_refused(tmp_path):
    tree = Tree(tmp_path / 'in')
    tree.add('a', ('cat', 1, 1, 40, 30))
    tree.sets(trainval=['a'])
    data = TrainingData(process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out')))
    for content in (jpeg(30, 40), b'words', b''):
        tree.image('a').write_bytes(content)
        with pytest.raises(DataError, match='a.jpg.*40 x 30'):
            data.image(0, 'train')
    tree.image('a').unlink()
    with pytest.raises(DataError, match='a.jpg'):
        data.image(0, 'train')


def kill_the_reader(ref):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_reader_ends_the_command():
    with pytest.raises(DataError, match='--workers: expected 2 processes; found that one was killed'):
        list(process_dataset._read(kill_the_reader, [None] * 300, 2, 'train'))
    assert not multiprocessing.active_children()
