# SPDX-License-Identifier: Apache-2.0
"""From a VOCdevkit tree to batches: reading, processing, augmentation, order, workers."""
import csv
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT

FOLDER = os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow')
sys.path.insert(0, FOLDER)
cv2 = pytest.importorskip('cv2')
pytest.importorskip('defusedxml')

import data_queue  # noqa: E402
import process_dataset  # noqa: E402
import source_pascal_voc  # noqa: E402
import ssdutils  # noqa: E402
import transforms  # noqa: E402
from common.files import DataError  # noqa: E402
from data_queue import BatchQueue, WorkerDied  # noqa: E402
from tools import sampledata  # noqa: E402
from training_data import EvaluationImages, TrainingData, TrainingSamples  # noqa: E402
from utils import annotated, class_colours, font_path, read_image  # noqa: E402

pytestmark = pytest.mark.smoke
REAL_VOC = os.path.join(ROOT, '..', 'shared', 'data', 'voc')
PRESET = ssdutils.PRESETS['vgg300']


@pytest.fixture(scope='session')
def drawn(tmp_path_factory):
    """str, a folder with VOCdevkit/VOC2007: 10 drawn images in trainval, 6 in test."""
    pytest.importorskip('PIL')
    folder = str(tmp_path_factory.mktemp('voc') / 'drawn')
    sampledata.draw_voc(folder, train=10, test=6)
    return folder


@pytest.fixture(scope='session')
def processed(drawn, tmp_path_factory):
    return process_dataset.process(drawn, str(tmp_path_factory.mktemp('processed') / 'out'))


@pytest.fixture
def real_voc():
    if not os.path.isdir(REAL_VOC):
        pytest.skip('the real Pascal VOC sample is not beside this repository (%s)' % REAL_VOC)
    return REAL_VOC


ANNOTATION = """<annotation>
<size><width>40</width><height>30</height></size>
%s
</annotation>
"""
OBJECT = """<object>
  <name>%s</name>
  <difficult>%s</difficult>
  <bndbox><xmin>%s</xmin><ymin>%s</ymin><xmax>%s</xmax><ymax>%s</ymax></bndbox>
</object>"""


class Tree:
    """Writes a small VOCdevkit tree, image by image."""

    def __init__(self, folder, year='VOC2007'):
        self.folder, self.year = folder, folder / 'VOCdevkit' / year
        for name in ('Annotations', 'JPEGImages', os.path.join('ImageSets', 'Main')):
            (self.year / name).mkdir(parents=True)

    def add(self, image_id, *objects, **more):
        """objects: (class, xmin, ymin, xmax, ymax) or (..., difficult); xml and jpeg replace the usual content."""
        lines = '\n'.join(OBJECT % (one[0], one[5] if len(one) > 5 else 0, one[1], one[2], one[3], one[4])
                          for one in objects)
        self.annotation(image_id).write_text(more.get('xml', ANNOTATION % lines))
        self.image(image_id).write_bytes(more['jpeg'] if 'jpeg' in more else jpeg())

    def annotation(self, image_id):
        return self.year / 'Annotations' / (image_id + '.xml')

    def image(self, image_id):
        return self.year / 'JPEGImages' / (image_id + '.jpg')

    def sets(self, **ids):
        for name, chosen in ids.items():
            (self.year / 'ImageSets' / 'Main' / (name + '.txt')).write_text(''.join(one + '\n' for one in chosen))


def jpeg(width=40, height=30, extension='.jpg'):
    ramp = np.arange(height * width * 3).reshape(height, width, 3) % 251
    return cv2.imencode(extension, ramp.astype(np.uint8))[1].tobytes()


def bad_rows(folder):
    with open(os.path.join(folder, 'bad.csv'), newline='') as file:
        return [(os.path.basename(row['path']), int(row['line']), row['reason'], row['action'])
                for row in csv.DictReader(file)]


def listing(folder):
    return {os.path.join(place, name): os.stat(os.path.join(place, name)).st_mtime_ns
            for place, folders, names in os.walk(str(folder)) for name in folders + names}


# Reading and processing

def test_every_box_and_difficult_mark_arrives(drawn, processed):
    data = TrainingData(processed)
    assert (data.num_train, data.num_valid, data.num_classes) == (10, 6, 5)
    assert data.classes == tuple(sorted(sampledata.VOC_CLASSES)) and bad_rows(processed) == []
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
        assert process_dataset.read_description(processed)['splits'][split]['per_class'] == histogram


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


@pytest.mark.parametrize('box, reason, action', [
    (('dog', 41, 1, 60, 30), 'outside the image of 40 x 30', 'box left out'),
    (('dog', 1, 1, 60, 30), 'outside the image of 40 x 30', 'box left out'),
    (('dog', -5, 1, 20, 20), 'outside the image of 40 x 30', 'box left out'),
    (('dog', 30, 5, 10, 20), 'reversed or has no area', 'box left out'),
    (('dog', 10, 20, 30, 5), 'reversed or has no area', 'box left out'),
    (('dog', 10, 5, 10, 20), 'reversed or has no area', 'box left out'),
    (('unicorn', 1, 1, 10, 10), "unknown class 'unicorn'", 'box left out'),
    (('', 1, 1, 10, 10), "unknown class ''", 'box left out'),
    (('dog', 'left', 1, 10, 10), 'not four numbers', 'box left out'),
    (('dog', 'nan', 1, 10, 10), 'not four numbers', 'box left out'),
    (('dog', '', 1, 10, 10), 'not four numbers', 'box left out'),
    (('dog', 0, 0, 40, 30), 'outside the image of 40 x 30', 'box clipped'),
    (('dog', 1, 1, 41, 31), 'outside the image of 40 x 30', 'box clipped')])
def test_every_bad_box_is_listed_with_file_and_line(tmp_path, capsys, box, reason, action):
    tree = Tree(tmp_path / 'in')
    tree.add('a', ('cat', 1, 1, 40, 30), box, ('cow', 5.5, 6, 20, 21, 1))
    tree.sets(trainval=['a'])
    (tmp_path / 'in' / 'names').write_text('cat\ndog\ncow\n')
    out, words = str(tmp_path / 'out'), ['--data_path=%s' % (tmp_path / 'in'), '--classes=%s' % (
        tmp_path / 'in' / 'names')]
    assert process_dataset.main(words + ['--output_path=' + out]) == 0
    (name, line, said, done), = bad_rows(out)
    assert name == 'a.xml' and reason in said and done == action
    # Lines 3 to 7 are the first object; the second has its class in line 9 and its box in line 11.
    assert line == (9 if 'class' in reason else 11)
    assert 'a.xml:%d: ' % line in capsys.readouterr().out
    boxes_px, class_ids, difficult = TrainingData(out).objects_px(0, 'train')
    assert boxes_px[0].tolist() == [0, 0, 40, 30] and boxes_px[-1].tolist() == [4.5, 5, 20, 21]
    assert difficult.tolist()[-1] and [TrainingData(out).classes[one] for one in class_ids] == (
        ['cat', 'cow'] if action == 'box left out' else ['cat', 'dog', 'cow'])
    if action == 'box clipped':
        assert boxes_px[1].tolist() == [0, 0, 40, 30]

    stopped = process_dataset.main(words + ['--output_path=%s' % (tmp_path / 'stop'), '--on_bad=stop'])
    if action == 'box clipped':
        assert stopped == 0
    else:
        error = capsys.readouterr().err
        assert stopped == 1 and 'a.xml, line %d: ' % line in error and reason in error and error.count('\n') == 1
        assert sorted(os.listdir(str(tmp_path))) == ['in', 'out']


BOMB = """<?xml version="1.0"?>
<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation>&b;</annotation>"""
FOREIGN = """<!DOCTYPE x
 [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<annotation><object><name>&a;</name></object></annotation>"""
BAD_IMAGES = {
    'no image': ('trainval.txt', 2, 'no image '),
    'no annotation': ('trainval.txt', 2, 'no annotation '),
    'bomb': ('b.xml', 2, 'declares an entity'),
    'foreign entity': ('b.xml', 2, 'declares an entity'),
    'long xml': ('b.xml', 0, 'is longer than'),
    'cut xml': ('b.xml', 2, 'is not XML'),
    'empty xml': ('b.xml', 1, 'is not XML'),
    'other size': ('b.xml', 2, 'says 400 x 30 pixels, the image has 40 x 30'),
    'size is no number': ('b.xml', 2, 'says ? x 30 pixels'),
    'truncated': ('b.jpg', 0, 'is truncated'),
    'words': ('b.jpg', 0, 'is not an image'),
    'empty': ('b.jpg', 0, 'is empty'),
    'twice': ('trainval.txt', 2, 'a is listed a second time'),
    'a path': ('trainval.txt', 2, "'../a' is not an image id"),
}


@pytest.mark.parametrize('case', sorted(BAD_IMAGES))
def test_every_bad_image_is_listed_and_the_others_stay(tmp_path, case):
    tree = Tree(tmp_path / 'in')
    tree.add('a', ('cat', 1, 1, 40, 30))
    tree.add('b', ('cat', 2, 2, 20, 20))
    tree.add('c', ('dog', 2, 2, 20, 20))
    tree.sets(trainval=['a', {'twice': 'a', 'a path': '../a'}.get(case, 'b'), 'c'])
    xml = tree.annotation('b').read_text()
    bad_xml = {'bomb': BOMB, 'foreign entity': FOREIGN, 'cut xml': xml[:60], 'empty xml': '',
               'long xml': ' ' * (16 << 20) + xml, 'other size': xml.replace('<width>40<', '<width>400<'),
               'size is no number': xml.replace('<width>40<', '<width>x<')}
    if case in bad_xml:
        tree.annotation('b').write_text(bad_xml[case])
    elif case == 'no annotation':
        tree.annotation('b').unlink()
    elif case == 'no image':
        tree.image('b').unlink()
    elif case in ('truncated', 'words', 'empty'):
        tree.image('b').write_bytes({'truncated': jpeg()[:-100], 'words': b'not an image', 'empty': b''}[case])
    out = process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'))
    name, line, reason = BAD_IMAGES[case]
    (found, found_line, said, action), = bad_rows(out)
    assert (found, found_line, action) == (name, line, 'image left out') and reason in said
    assert TrainingData(out).num_train == 2
    with pytest.raises(DataError, match='%s.*on_bad=skip' % name.replace('.', '[.]')):
        process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'stop'), on_bad='stop')


def test_images_without_boxes_and_pngs_are_legal(tmp_path):
    tree = Tree(tmp_path / 'in')
    tree.add('a', ('cat', 1, 1, 40, 30))
    tree.add('none')
    tree.add('p', ('dog', 1, 1, 40, 30), xml='<annotation>' + OBJECT % ('dog', 0, 2, 3, 20, 30) + '</annotation>')
    tree.image('p').rename(tree.image('p').with_suffix('.png'))
    tree.image('p').with_suffix('.png').write_bytes(jpeg(extension='.png'))
    tree.sets(trainval=['none', 'a', 'p'])
    out = process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'))
    data = TrainingData(out)
    assert bad_rows(out) == [] and data.num_train == 3 and data.image_path(2, 'train').endswith('p.png')
    assert [len(data.objects_px(one, 'train')[1]) for one in range(3)] == [0, 1, 1]
    samples = TrainingSamples(data, PRESET, seed=0, batch_size=3)
    for position in range(3):
        image, class_ids, offsets = samples(0, position)
        assert image.shape == (300, 300, 3) and ((class_ids < 2).any() == (samples.place(0, position)[1] != 0))


QUARTERS_RGB = [(250, 30, 20), (20, 200, 40), (30, 40, 220), (128, 128, 128)]


def quarters(*values):
    """An image of 64 x 64 whose quarters have these values."""
    return np.array(values).reshape((2, 2) + np.shape(values[0])).repeat(32, 0).repeat(32, 1)


def drawn_modes():
    """{name: (ending, content, RGB of the quarters, how far off a pixel may be)}: every mode of pictures on disk."""
    from PIL import Image
    rgb = Image.fromarray(quarters(*QUARTERS_RGB).astype(np.uint8))
    grey = np.asarray(rgb.convert('L'))
    modes = {mode: rgb.convert(mode) for mode in ('RGB', 'L', 'P', 'CMYK', 'RGBA')}
    modes['P'] = rgb.quantize(colors=4, dither=Image.NONE)
    modes['1'] = Image.fromarray(quarters(0, 255, 255, 0).astype(np.uint8)).convert('1')
    modes['I;16'] = Image.fromarray(grey.astype(np.uint16) * 257)
    modes['I;16 dark'] = Image.fromarray(grey.astype(np.uint16))  # 255 of 65535 is nearly black
    modes['I'] = Image.fromarray(grey.astype(np.int32))
    modes['F'] = Image.fromarray(grey.astype(np.float32))
    modes['F to 1'] = Image.fromarray(grey.astype(np.float32) / 255)
    see_through = Image.fromarray(quarters(255, 255, 128, 128).astype(np.uint8))
    for mode in ('RGBA', 'LA'):
        modes[mode] = (rgb if mode == 'RGBA' else rgb.convert('L')).convert(mode)
        modes[mode].putalpha(see_through)
    modes['PA'] = modes['P'].convert('PA')

    def saved(mode, form, **how):
        file = io.BytesIO()
        modes[mode].save(file, form, **how)
        return file.getvalue()

    of_mode = {mode: [(level,) * 3 for level in grey[::32, ::32].ravel()] for mode in modes}
    of_mode['1'] = [(0,) * 3, (255,) * 3, (255,) * 3, (0,) * 3]
    of_mode.update(dict.fromkeys(('RGB', 'RGBA', 'P', 'PA', 'CMYK'), QUARTERS_RGB))
    pictures = {}
    for form, ending, names in (
            ('PNG', '.png', '1 L LA P RGB RGBA I;16'), ('TIFF', '.tif', '1 L LA P PA RGB RGBA CMYK I;16 I F'),
            ('BMP', '.BMP', '1 L P RGB'), ('GIF', '.gif', 'L P'), ('WEBP', '.webp', 'RGB RGBA'),
            ('JPEG', '.jfif', 'L RGB CMYK')):
        for mode in names.split():
            how = {'lossless': True} if form == 'WEBP' else {'quality': 98, 'subsampling': 0} if form == 'JPEG' else {}
            pictures['%s %s' % (form, mode)] = ending, saved(mode, form, **how), of_mode[mode], 3 * (form == 'JPEG')
    pictures['PNG I;16 dark'] = '.png', saved('I;16 dark', 'PNG'), [(0,) * 3] * 4, 1
    pictures['TIFF F to 1'] = '.tif', saved('F to 1', 'TIFF'), of_mode['L'], 1
    rgb16 = cv2.imencode('.png', quarters(*QUARTERS_RGB)[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    pictures['PNG RGB of 16 bits'] = '.png', rgb16, QUARTERS_RGB, 1
    # Adobe's YCCK: YCbCr of the inverted picture in the first three channels, and a mark that says so.
    ycc = np.asarray(Image.fromarray(255 - np.asarray(rgb)).convert('YCbCr'))
    modes['YCCK'] = Image.merge('CMYK', [Image.fromarray(255 - ycc[..., part]) for part in range(3)] + [
        Image.fromarray(np.zeros_like(grey))])
    ycck = bytearray(saved('YCCK', 'JPEG', quality=98, subsampling=0))
    ycck[ycck.index(b'Adobe') + 11] = 2
    pictures['JPEG YCCK'] = '.jpg', bytes(ycck), QUARTERS_RGB, 4
    for form, ending in (('GIF', '.gif'), ('WEBP', '.webp'), ('PNG', '.png'), ('TIFF', '.tif')):
        how = {'lossless': True} if form == 'WEBP' else {}
        mode = 'P' if form == 'GIF' else 'RGB'
        content = saved(mode, form, save_all=True, append_images=[modes[mode].rotate(90)], **how)
        pictures['%s with two frames' % form] = ending, content, QUARTERS_RGB, 0
    return pictures


def test_a_picture_of_any_mode_has_its_right_colours_in_training_and_detection(tmp_path):
    tree, pictures = Tree(tmp_path / 'in'), drawn_modes()
    tree.sets(trainval=sorted(pictures))
    for name, (ending, content, _, _) in pictures.items():
        tree.annotation(name).write_text('<annotation>%s</annotation>' % OBJECT % ('dog', 0, 1, 1, 32, 32))
        tree.image(name).with_suffix(ending).write_bytes(content)
    out = process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'), valid_sets=[])
    data = TrainingData(out)
    assert bad_rows(out) == [] and data.num_train == len(pictures)
    for index, name in enumerate(sorted(pictures)):
        _, _, colours, tolerance = pictures[name]
        image = data.image(index, 'train')
        assert image.dtype == np.uint8 and image.shape == (64, 64, 3), name
        off = np.abs(image[..., ::-1].astype(int) - quarters(*colours)).max()
        assert off <= tolerance, '%s is off by %d' % (name, off)
        assert (read_image(data.image_path(index, 'train'), upright=True) == image).all(), name  # as detect.py reads it


@pytest.mark.parametrize('form, ending', [('JPEG', '.jpg'), ('PNG', '.png'), ('TIFF', '.tif')])
def test_a_picture_that_would_fill_the_memory_is_not_decoded(tmp_path, form, ending):
    from PIL import Image
    path = str(tmp_path / ('a' + ending))
    Image.new('1', (20000, 5001)).save(path, form, **{'compression': 'group4'} if form == 'TIFF' else {})
    with pytest.raises(ValueError, match='has more than 100 million pixels'):
        read_image(path)


def turned(width, height, orientation, *tags):
    """A JPEG that its EXIF turns; tags are more entries of 12 bytes for its directory."""
    entries = [struct.pack('<HHIHH', 0x112, 3, 1, orientation, 0)] + list(tags)
    exif = b'Exif\0\0II*\0\x08\0\0\0' + struct.pack('<H', len(entries)) + b''.join(entries) + b'\0\0\0\0'
    content = jpeg(width, height)
    return content[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + content[2:]


SIZE = '<size><width>%d</width><height>%d</height></size>'


@pytest.mark.parametrize('stated, size_px, action', [
    ((40, 30), (40, 30), None), ((30, 40), (30, 40), 'image turned'), ((0, 0), (40, 30), 'image taken as stored'),
    (None, (40, 30), 'image taken as stored'), ((44, 33), None, 'image left out')])
def test_a_photo_is_taken_as_it_was_labelled_and_its_exif_named(tmp_path, stated, size_px, action):
    tree = Tree(tmp_path / 'in')
    tree.add('a', ('cat', 1, 1, 40, 30))
    tree.add('b', jpeg=turned(40, 30, 6), xml='<annotation>%s%s</annotation>' % (
        SIZE % stated if stated else '', OBJECT % ('dog', 0, 5, 6, 25, 28)))
    tree.sets(trainval=['a', 'b'])
    out = process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'), on_bad='skip')
    data, rows = TrainingData(out), bad_rows(out)
    assert [row[3] for row in rows] == ([action] if action else []) and all('EXIF' in row[2] for row in rows)
    assert data.num_train == (1 if size_px is None else 2)
    if size_px:
        image = data.image(1, 'train')
        assert data.size_px(1, 'train') == size_px == image.shape[1::-1]
        stored = cv2.imdecode(np.frombuffer(jpeg(), np.uint8), cv2.IMREAD_COLOR)
        assert (image == (stored if size_px == (40, 30) else cv2.rotate(stored, cv2.ROTATE_90_CLOCKWISE))).all()


@pytest.mark.parametrize('tag', [
    struct.pack('<HHI', 0x128, 4, 1) + b'\xff' * 4, struct.pack('<HHI', 0x11a, 2, 4) + b'abc\0',
    struct.pack('<HHI', 0x8769, 5, 9) + b'\xff' * 4, struct.pack('<HHI', 0x112, 12, 1) + b'\0' * 4])
def test_an_exif_that_makes_no_sense_changes_nothing(tmp_path, tag):
    tree = Tree(tmp_path / 'in')
    tree.add('a', ('cat', 1, 1, 40, 30), jpeg=turned(40, 30, 6, tag))
    tree.sets(trainval=['a'])
    out = process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'))
    assert bad_rows(out) == [] and (TrainingData(out).image(0, 'train') == cv2.imdecode(
        np.frombuffer(jpeg(), np.uint8), cv2.IMREAD_COLOR)).all()
    assert read_image(str(tree.image('a')), upright=True).shape == (40, 30, 3)


def test_sizes_of_zero_are_unknown_and_films_behind_photos_do_no_harm(tmp_path):
    tree = Tree(tmp_path / 'in')
    box = OBJECT % ('dog', 0, 5, 6, 25, 28)
    tree.add('zero', xml='<annotation>%s%s</annotation>' % (SIZE % (0, 0), box))
    film = np.random.RandomState(0).randint(0, 200, 9999).astype(np.uint8).tobytes()
    tree.add('film', xml='<annotation>%s%s</annotation>' % (SIZE % (40, 30), box), jpeg=jpeg() + b'MotionPhoto' + film)
    tree.sets(trainval=['zero', 'film'])
    out = process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out'))
    assert bad_rows(out) == [] and TrainingData(out).num_train == 2


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


def test_the_tree_is_found_from_three_places(drawn):
    devkit = os.path.join(drawn, 'VOCdevkit')
    for path in (drawn, devkit, os.path.join(devkit, 'VOC2007')):
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
def test_a_bad_list_of_classes_is_one_sentence(drawn, tmp_path, capsys, content, said):
    if content is not None:
        (tmp_path / 'names.txt').write_bytes(content)
    assert process_dataset.main(['--data_path=' + drawn, '--output_path=%s' % (tmp_path / 'out'),
                                 '--classes=%s' % (tmp_path / 'names.txt')]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1 and not (tmp_path / 'out').exists()


def test_nothing_of_others_is_replaced_and_a_failed_run_leaves_the_old(tmp_path, drawn):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('x')
    with pytest.raises(DataError, match='thesis.tex in it'):
        process_dataset.process(drawn, str(tmp_path / 'mine'))
    out = process_dataset.process(drawn, str(tmp_path / 'out'), annotate=2)
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
    assert process_dataset.process(drawn, out) == out and listing(out) == before  # nothing has changed
    os.utime(os.path.join(drawn, 'VOCdevkit', 'VOC2007', 'JPEGImages', '000001.jpg'))
    process_dataset.process(drawn, out)
    assert sorted(os.listdir(out)) == ['.whole.json', 'bad.csv', 'dataset.json', 'train.npz', 'valid.npz']
    assert sorted(os.listdir(str(tmp_path))) == ['in', 'mine', 'out']


def test_a_folder_of_an_earlier_version_is_read_and_may_be_replaced(tmp_path, drawn):
    out = process_dataset.process(drawn, str(tmp_path / 'out'))
    os.remove(os.path.join(out, '.whole.json'))
    before = listing(out)
    assert process_dataset.prepare(out, str(tmp_path / 'cache')) == out and listing(out) == before
    process_dataset.process(drawn, out)
    assert os.path.exists(os.path.join(out, '.whole.json')) and TrainingData(out).num_train == 10
    os.remove(os.path.join(out, '.whole.json'))
    (tmp_path / 'out' / 'thesis.tex').write_text('x')
    with pytest.raises(DataError, match='thesis.tex in it'):
        process_dataset.process(drawn, out)


def test_a_tree_is_prepared_once_and_never_inside_the_users_data(drawn, tmp_path, capsys):
    tree, cache = str(tmp_path / 'users'), str(tmp_path / 'cache')
    shutil.copytree(drawn, tree)
    before = listing(tree)
    folder = process_dataset.prepare(tree, cache)
    assert os.path.dirname(folder) == cache and 'processing' in capsys.readouterr().out and listing(tree) == before
    written = listing(cache)
    assert process_dataset.prepare(tree, cache) == folder == process_dataset.prepare(
        tree, cache, **{name: value for name, value in vars(process_dataset.parse_args([])).items()
                        if name not in ('data_path', 'output_path')})
    assert listing(cache) == written and capsys.readouterr().out == ''
    assert process_dataset.prepare(folder, cache) == folder  # a processed folder is taken as it is
    with open(os.path.join(folder, 'valid.npz'), 'ab') as file:
        file.write(b'x')
    assert process_dataset.prepare(tree, cache) == folder and 'processing' in capsys.readouterr().out
    TrainingData(folder)
    os.utime(os.path.join(tree, 'VOCdevkit', 'VOC2007', 'Annotations', '000001.xml'))
    changed = process_dataset.prepare(tree, cache)
    assert changed != folder and sorted(os.listdir(cache)) == sorted(map(os.path.basename, (folder, changed)))


def test_without_a_place_to_write_the_users_cache_is_taken_and_said(drawn, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'mine'))
    shared = process_dataset.prepare(drawn, str(tmp_path / 'shared'))
    capsys.readouterr()
    monkeypatch.setattr(os, 'access', lambda *_: False)
    assert process_dataset.prepare(drawn, str(tmp_path / 'shared')) == shared and capsys.readouterr().out == ''
    folder = process_dataset.prepare(drawn, str(tmp_path / 'prepared'))
    said = capsys.readouterr().out.splitlines()[0]
    assert said == '%s cannot be written; prepared data goes to %s' % (tmp_path / 'prepared', os.path.dirname(folder))
    assert TrainingData(folder).num_train == 10
    assert os.path.dirname(folder) == str(tmp_path / 'mine' / 'SSD-VGG_ID1619_for_TensorFlow')


def test_ranks_that_start_together_process_once(drawn, tmp_path):
    code = 'import sys; sys.path[:0] = %r; import process_dataset; print(process_dataset.prepare(%r, %r))' % (
        [FOLDER, ROOT], drawn, str(tmp_path / 'cache'))
    ranks = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, universal_newlines=True)
             for _ in range(3)]
    said = [rank.communicate()[0].splitlines() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert len({lines[-1] for lines in said}) == 1 and sum('processing' in lines[0] for lines in said) == 1


def test_the_command_runs_as_documented(drawn, tmp_path):
    script = os.path.join(FOLDER, 'process_dataset.py')
    assert os.access(script, os.X_OK)
    environment = dict(os.environ, PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH'])
    made = subprocess.run([script, '--data-path', drawn, '--output-path=out', '--annotate=1'], cwd=str(tmp_path),
                          env=environment, capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, '')
    assert made.stdout.splitlines()[-1] == 'train with --data_path=%s' % (tmp_path / 'out')
    rows = {' '.join(line.split()[:-6]): line.split()[-6:] for line in made.stdout.splitlines()[:-1]}
    assert rows['all'][0] == '10' and rows['all'][3] == '6'
    assert sum(int(rows[name][1]) for name in sampledata.VOC_CLASSES) == int(rows['all'][1])
    assert (tmp_path / 'out' / 'annotated').is_dir()
    environment['PYTHONIOENCODING'] = 'ascii'
    made = subprocess.run([script, '--data-path', drawn, '--output-path=图片'], cwd=str(tmp_path), env=environment,
                          capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, '') and '\\u56fe' in made.stdout


def test_arrays_that_were_changed_are_refused(processed, tmp_path):
    folder = str(tmp_path / 'copy')
    for damage in ('byte', 'gone', 'images', 'foreign'):
        shutil.copytree(processed, folder)
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


# Augmentation

def scene():
    """An image of noise with one plain box, and that box."""
    image = np.random.RandomState(0).randint(0, 100, (375, 500, 3)).astype(np.uint8)
    box = np.array([[170, 120, 330, 260]], np.float32)
    image[120:260, 170:330] = (40, 220, 250)
    return image, box


def test_boxes_stay_on_their_objects(monkeypatch):
    monkeypatch.setattr(transforms, 'distort', lambda image, random: image)
    image, box = scene()
    for seed in range(300):
        result, boxes, kept = transforms.augment(image, box, 300, np.random.RandomState(seed))
        assert result.shape == (300, 300, 3) and result.dtype == np.uint8 and boxes.dtype == np.float32
        assert kept.tolist() == [0] and (boxes >= 0).all() and (boxes <= 1).all()
        object_rows, object_columns = np.nonzero(result[..., 1] > 170)
        seen = np.array([object_columns.min(), object_rows.min(), object_columns.max() + 1, object_rows.max() + 1])
        # A pixel of the original may be several of the result: allow what one and a half of them are.
        source_px = (boxes[0, 2:] - boxes[0, :2]) * 300 / [160, 140]
        assert np.abs(seen - boxes[0] * 300).max() <= 1 + 1.5 * max(1, source_px.max()), seed


def test_mirrors_swap_left_and_right(monkeypatch):
    monkeypatch.setattr(transforms, 'distort', lambda image, random: image)
    monkeypatch.setattr(transforms, 'sample_view', lambda *_: np.array([0, 0, 500, 375]))
    image, box = scene()
    box[:, [0, 2]] = [20, 180]
    found = []
    for seed in range(40):
        _, boxes, _ = transforms.augment(image, box, 300, np.random.RandomState(seed))
        found.append(boxes[0].tolist())
    sides = {tuple(np.round(box, 3)) for box in found}
    assert sides == {(0.04, 0.32, 0.36, 0.693), (0.64, 0.32, 0.96, 0.693)}


def test_views_follow_the_paper():
    boxes = np.array([[170, 120, 330, 260], [0, 0, 60, 60]], np.float32)
    random = np.random.RandomState(0)
    views = np.array([transforms.sample_view(500, 375, boxes, random) for _ in range(2000)])
    sides = views[:, 2:] - views[:, :2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres > views[:, None, :2]) & (centres < views[:, None, 2:])).all(-1)
    assert inside.any(1).all()
    whole = (views == [0, 0, 500, 375]).all(1)
    assert 0.06 < whole.mean() < 0.12  # 1/2 unexpanded x 1/7 of the rules, and what other rules do not find
    beyond = (views[:, :2] < 0).any(1) | (views[:, 2] > 500) | (views[:, 3] > 375)
    assert 0.25 < beyond.mean() < 0.5
    # Sides of at least 0.3 sqrt(1/2) of the image, ratios of at most 2 to the plane's; never above the fourfold plane.
    assert sides[:, 0].min() >= 0.3 * 0.707 * 500 - 1 and sides[:, 1].min() >= 0.3 * 0.707 * 375 - 1
    assert sides[:, 0].max() <= 2001 and sides[:, 1].max() <= 1501 and (sides[:, 0] > 1500).any()
    ratio = sides[:, 0] / sides[:, 1] / (500 / 375)
    assert ratio.min() > 0.48 and ratio.max() < 2.08 and ratio.min() < 0.6 and ratio.max() > 1.7
    best = ssdutils.iou(views.astype(float), boxes).max(1)
    assert (best >= 0.5).mean() > 0.08 and (best < 0.1).mean() > 0.2


def test_images_without_objects_are_cropped_too():
    views = np.array([transforms.sample_view(500, 375, np.zeros((0, 4), np.float32), np.random.RandomState(seed))
                      for seed in range(200)])
    patches = (views[:, 2] - views[:, 0] < 490) & (views[:, 3] - views[:, 1] < 365)
    assert 0.05 < patches.mean() < 0.6


def test_the_rule_of_a_patch_is_kept(monkeypatch):
    boxes = np.array([[170, 120, 330, 260]], np.float32)
    for least in (0.1, 0.3, 0.5, 0.7):
        monkeypatch.setattr(transforms, 'CROPS', (least, least, least))
        views = [transforms.sample_view(500, 375, boxes, np.random.RandomState(seed)) for seed in range(150)]
        views = np.array([view for view in views if view is not None])
        assert len(views) > 5 and (ssdutils.iou(views.astype(float), boxes) >= least).all()


def test_around_an_expanded_image_is_the_mean():
    image, box = scene()
    filled = 0
    for seed in range(60):
        result, _, _ = transforms.augment(image, box, 300, np.random.RandomState(seed))
        filled += (result == transforms.FILL_BGR).all(-1).mean() > 0.3
    assert 10 < filled < 45


@pytest.mark.parametrize('view, part', [
    ([-999, 0, 1, 1000], [0, 0, 1, 1000]), ([999, 0, 1999, 1000], [999, 0, 1000, 1000]), ([0, -999, 1000, 1], None)])
def test_a_sliver_of_an_image_leaves_boxes_an_area(monkeypatch, view, part):
    monkeypatch.setattr(transforms, 'sample_view', lambda *_: np.array(view))
    box = np.array([part or [0, 0, 1000, 1]], np.float32)
    result, boxes, kept = transforms.augment(np.zeros((1000, 1000, 3), np.uint8), box, 300, np.random.RandomState(0))
    assert len(kept) == 1 and (boxes[:, 2:] > boxes[:, :2]).all() and result.shape == (300, 300, 3)
    _, offsets = ssdutils.targets(ssdutils.xyxy_to_cxcywh(boxes), [0], ssdutils.default_boxes(PRESET), 20)
    assert np.isfinite(offsets).all()


def test_objects_whose_centre_is_out_of_view_are_dropped(monkeypatch):
    image, _ = scene()
    objects = np.array([[0, 0, 100, 100], [90, 90, 110, 110], [0, 40, 220, 60], [300, 200, 500, 375]], np.float32)
    monkeypatch.setattr(transforms, 'sample_view', lambda *_: np.array([50, 50, 250, 150]))
    _, boxes, kept = transforms.augment(image, objects, 300, np.random.RandomState(3))
    # Centres: 50, 50 is on the border; 100, 100 and 110, 50 likewise; 400, 287 is outside.
    assert kept.tolist() == [1]
    assert np.sort(boxes[0, [1, 3]]).tolist() == pytest.approx([0.4, 0.6])
    monkeypatch.setattr(transforms, 'sample_view', lambda *_: np.array([20, 30, 260, 150]))
    _, boxes, kept = transforms.augment(image, objects, 300, np.random.RandomState(3))
    assert kept.tolist() == [0, 1, 2] and boxes[0, 1] == 0  # cut off at the border


class Script:
    """Stands for a RandomState whose draws are written down."""

    def __init__(self, on=(), uniform=(), hue=0, order=(0, 1, 2)):
        names = ('brightness', 'contrast', 'saturation', 'hue', 'swap', 'contrast_last')
        self.on, self.uniforms = [0.0 if one in on else 0.9 for one in names], list(uniform)
        self.hue, self.order = hue, order

    def rand(self, count):
        return np.array(self.on[:count])

    def uniform(self, low, high):
        return self.uniforms.pop(0)

    def randint(self, low, high):
        return self.hue

    def permutation(self, count):
        return np.array(self.order)


@pytest.mark.parametrize('script, before, after', [
    (Script(), (10, 100, 250), (10, 100, 250)),
    (Script(['brightness'], [20.0]), (10, 100, 250), (30, 120, 255)),
    (Script(['brightness'], [-20.0]), (10, 100, 250), (0, 80, 230)),
    (Script(['contrast'], [1.5]), (10, 100, 250), (15, 150, 255)),
    (Script(['brightness', 'contrast'], [20.0, 0.5]), (10, 100, 250), (15, 60, 128)),  # brightness comes first
    (Script(['hue'], hue=60), (0, 0, 200), (0, 200, 0)),  # 120 degrees: red becomes green
    (Script(['hue'], hue=-60), (0, 0, 200), (200, 0, 0)),
    (Script(['saturation'], [0.5]), (0, 0, 200), (100, 100, 200)),
    (Script(['saturation'], [1.5]), (90, 90, 90), (90, 90, 90)),  # grey has no colour to strengthen
    (Script(['contrast', 'saturation'], [1.5, 0.5]), (0, 0, 200), (127, 127, 255)),  # 300 is cut off, then paled
    (Script(['contrast', 'saturation', 'contrast_last'], [1.5, 0.5]), (0, 0, 200), (150, 150, 255)),
    (Script(['swap'], order=(2, 0, 1)), (10, 100, 250), (250, 10, 100))])
def test_distortions_by_hand(script, before, after):
    image = np.tile(np.array(before, np.uint8), (4, 5, 1))
    result = transforms.distort(image, script)
    assert result.shape == image.shape and result.dtype == np.uint8
    assert np.abs(result.astype(int) - after).max() <= 2


def test_distortions_are_random_and_leave_their_input_alone():
    image, _ = scene()
    before = image.copy()
    means = [transforms.distort(image, np.random.RandomState(seed)).mean() for seed in range(60)]
    assert np.std(means) > 5 and (image == before).all()


def test_augmented_pictures_of_the_real_sample(real_voc, tmp_path):
    data = TrainingData(process_dataset.process(real_voc, str(tmp_path / 'out'), train_sets=['VOC2007:val'],
                                                valid_sets=[], workers=1))
    samples = TrainingSamples(data, PRESET, seed=5, batch_size=8)
    defaults = ssdutils.default_boxes(PRESET)
    for position in range(40):
        image, class_ids, offsets = samples(0, position)
        found = class_ids < 20
        assert image.dtype == np.uint8 and found.any() and np.isfinite(offsets).all()
        boxes = ssdutils.cxcywh_to_xyxy(ssdutils.decode(offsets[found], defaults[found]))
        assert boxes.min() > -1e-4 and boxes.max() < 1 + 1e-4
        assert set(class_ids[found]) <= set(data.objects_px(samples.place(0, position)[1], 'train')[1])


# Order

def test_an_epoch_is_a_permutation_dealt_to_the_ranks(processed):
    data = TrainingData(processed)
    ranks = [TrainingSamples(data, PRESET, seed=3, batch_size=2, rank=rank, ranks=2) for rank in range(2)]
    places = [samples.place(step, position) for step in range(10) for samples in ranks for position in range(2)]
    assert sorted(number for number, _ in places) == list(range(40))
    epochs = np.array([index for _, index in sorted(places)]).reshape(4, 10)
    assert (np.sort(epochs, 1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    assert ranks[0].steps_per_epoch() == 3
    other = TrainingSamples(data, PRESET, seed=4, batch_size=2)
    assert [other.place(0, one)[1] for one in range(2)] + [other.place(1, one)[1] for one in range(2)] != (
        epochs[0, :4].tolist())


def test_a_sample_depends_on_seed_step_and_position_alone(processed):
    data = TrainingData(processed)
    samples = TrainingSamples(data, PRESET, seed=3, batch_size=4)
    first = [samples(step, position) for step in range(2) for position in range(4)]
    again = TrainingSamples(TrainingData(processed), PRESET, seed=3, batch_size=4)
    for number in (5, 2, 7):
        for one, other in zip(first[number], again(number // 4, number % 4)):
            assert (one == other).all()
    # The same image in another epoch, or with another seed, is distorted in another way.
    by_image = {}
    for number in range(40):
        _, index = samples.place(number // 4, number % 4)
        by_image.setdefault(index, []).append(samples(number // 4, number % 4)[0].tobytes())
    assert all(len(set(pixels)) == 4 for pixels in by_image.values())
    only = TrainingSamples(data, PRESET, seed=9, batch_size=4, images=1)
    assert (only(0, 0)[0] != TrainingSamples(data, PRESET, seed=3, batch_size=4, images=1)(0, 0)[0]).any()


def test_objects_that_stay_in_view_keep_their_class(tmp_path, monkeypatch):
    tree = Tree(tmp_path / 'in')
    tree.add('a', ('cat', 1, 1, 10, 10), ('dog', 20, 15, 35, 28), ('cow', 30, 1, 40, 8))
    tree.sets(trainval=['a'])
    data = TrainingData(process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out')))
    monkeypatch.setattr(transforms, 'sample_view', lambda *_: np.array([15, 10, 40, 30]))
    _, class_ids, _ = TrainingSamples(data, PRESET, seed=0, batch_size=1)(0, 0)
    assert set(class_ids.tolist()) == {3, data.classes.index('dog')}


def test_without_augmentation_training_sees_what_evaluation_sees(processed):
    data = TrainingData(processed)
    samples = TrainingSamples(data, PRESET, seed=3, batch_size=4, augment=False, images=3)
    assert {samples.place(step, position)[1] for step in range(3) for position in range(4)} == {0, 1, 2}
    for position in range(3):
        index = samples.place(0, position)[1]
        image, truth = data.validation_sample(index, 300, 'train')
        pixels, class_ids, offsets = samples(0, position)
        assert (pixels == image).all()
        expected = ssdutils.targets(ssdutils.xyxy_to_cxcywh(truth.boxes_xyxy), truth.class_ids,
                                    ssdutils.default_boxes(PRESET), data.num_classes)
        assert (class_ids == expected[0]).all()
        np.testing.assert_allclose(offsets, expected[1], atol=1e-3)


def test_evaluation_sees_every_image_once_and_then_black(processed):
    data = TrainingData(processed)
    images = EvaluationImages(data, 64, batch_size=4)
    seen = [images(step, position)[0] for step in range(2) for position in range(4)]
    for index in range(6):
        assert (seen[index] == data.validation_sample(index, 64)[0]).all()
    assert not np.any(seen[6:])


# Workers

class Counter:
    """Numbers instead of images; `fail`, `die` and `hang` say at which step, `log` where to write what was made."""

    def __init__(self, fail=None, die=None, hang=None, log=None, slow=0.0):
        self.fail, self.die, self.hang, self.log, self.slow = fail, die, hang, log, slow

    def __call__(self, step, position):
        if step == self.fail:
            raise ValueError('step %d is impossible' % step)
        if step == self.die:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60 if step == self.hang else self.slow)
        if self.log:
            with open(self.log, 'a') as file:
                file.write('%d %d\n' % (step, position))
        tensorflow = 'tensorflow' in sys.modules
        return np.full((2, 3), step * 100 + position, np.int64), np.array([tensorflow, step], np.uint8)


def batches(queue):
    with queue:
        return [(step, [array.copy() for array in arrays]) for step, arrays in queue]


@pytest.mark.parametrize('num_workers', [0, 1, 3])
def test_batches_come_in_order_and_are_the_same_for_every_number_of_workers(num_workers, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow', sys)  # this process has it, a worker must not
    got = batches(BatchQueue(Counter(), 4, 5, 13, num_workers))
    assert [step for step, _ in got] == list(range(5, 13))
    for step, (numbers, marks) in got:
        assert numbers.shape == (4, 2, 3) and numbers.dtype == np.int64
        assert (numbers == step * 100 + np.arange(4)[:, None, None]).all()
        assert (marks == [num_workers == 0, step]).all()
    assert not multiprocessing.active_children()


def test_real_samples_are_the_same_from_workers_and_after_a_resume(processed):
    samples = TrainingSamples(TrainingData(processed), PRESET, seed=1, batch_size=2)
    alone = batches(BatchQueue(samples, 2, 0, 5, 0))
    assert alone[0][1][0].shape == (2, 300, 300, 3) and alone[0][1][1].shape == (2, 8732)
    for first, num_workers in ((0, 2), (3, 2), (3, 0)):
        for (step, ours), (other, theirs) in zip(alone[first:], batches(BatchQueue(samples, 2, first, 5, num_workers))):
            assert step == other and all((one == two).all() for one, two in zip(ours, theirs))


def test_workers_do_not_run_ahead(tmp_path):
    log = str(tmp_path / 'made')
    with BatchQueue(Counter(log=log), 1, num_workers=2) as queue:
        for step, _ in queue:
            if step == 4:
                break
        time.sleep(1)
        made = {int(line.split()[0]) for line in open(log)}
    # Two slots a worker beside the step that is in use; one more may have begun.
    assert max(made) <= 4 + 2 * 2


@pytest.mark.parametrize('num_workers', [0, 1, 3])
def test_a_failing_worker_raises_with_its_traceback(num_workers):
    with BatchQueue(Counter(fail=6), 2, 5, None, num_workers) as queue:
        started = time.time()
        with pytest.raises(ValueError if num_workers == 0 else WorkerDied, match='step 6 is impossible') as error:
            for _ in queue:
                pass
        assert time.time() - started < 10
    assert num_workers == 0 or 'Traceback' in str(error.value) and '__call__' in str(error.value)
    assert not multiprocessing.active_children()


def test_the_first_sample_fails_here():
    with pytest.raises(ValueError, match='step 5'):
        BatchQueue(Counter(fail=5), 2, 5, None, 2)


@pytest.mark.parametrize('die', ['itself', 'while idle'])
def test_a_killed_worker_is_noticed(die):
    with BatchQueue(Counter(die=7 if die == 'itself' else None), 2, 5, None, 3) as queue:
        if die == 'while idle':
            next(queue)
            time.sleep(1)
            os.kill(queue._workers[2].process.pid, signal.SIGKILL)
        started = time.time()
        with pytest.raises(WorkerDied, match='input worker 2 .*killed by SIGKILL'):
            for _ in queue:
                time.sleep(0.05)
        assert time.time() - started < 10
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_noticed_while_another_one_is_waited_for():
    # Worker 1 makes 6 and 8 ahead, and 10 when 6 is done with.
    with BatchQueue(Counter(die=10, hang=7), 2, 5, None, 2) as queue:
        assert [next(queue)[0], next(queue)[0]] == [5, 6]
        started = time.time()
        with pytest.raises(WorkerDied, match='input worker 1 .*killed by SIGKILL'):
            next(queue)
        assert time.time() - started < 10
    assert not multiprocessing.active_children()  # also the one that hangs


CONSUMER = """
import sys, time
sys.path[:0] = %r
from test_data import Counter
from data_queue import BatchQueue
if __name__ == '__main__':
    queue = BatchQueue(Counter(slow=0.01), 2, num_workers=2)
    next(queue)
    print(*[worker.process.pid for worker in queue._workers], flush=True)
    if 'end' not in sys.argv:
        for _ in queue:
            time.sleep(0.1)
"""


def alive(pid):
    try:
        with open('/proc/%d/stat' % pid) as file:
            return file.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


@pytest.mark.parametrize('ending', ['SIGKILL', 'SIGINT', 'SIGTERM', 'end'])
def test_workers_end_with_the_training_process_and_say_nothing(tmp_path, ending):
    script = tmp_path / 'consumer.py'
    here = os.path.dirname(os.path.abspath(__file__))
    script.write_text(CONSUMER % ([here, os.path.dirname(here), FOLDER, ROOT],))
    consumer = subprocess.Popen([sys.executable, str(script), ending], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                universal_newlines=True, start_new_session=True)
    workers = [int(pid) for pid in consumer.stdout.readline().split()]
    assert len(workers) == 2
    if ending == 'SIGINT':
        os.killpg(consumer.pid, signal.SIGINT)  # as a terminal does: to all of them
    elif ending != 'end':
        consumer.send_signal(getattr(signal, ending))
    errors = consumer.communicate(timeout=60)[1]
    for _ in range(100):
        if not any(map(alive, workers)):
            break
        time.sleep(0.1)
    assert not any(map(alive, workers))
    assert errors.count('Traceback') == (ending == 'SIGINT') and 'test_data.py' not in errors


def test_the_group_gets_sigterm_and_the_next_batch_still_comes(monkeypatch):
    monkeypatch.setattr(data_queue, '_PATIENCE_SEC', 30)
    with BatchQueue(Counter(), 2, num_workers=2) as queue:
        next(queue)
        for worker in queue._workers:
            os.kill(worker.process.pid, signal.SIGTERM)
            os.kill(worker.process.pid, signal.SIGINT)
        assert [next(queue)[0] for _ in range(6)] == [1, 2, 3, 4, 5, 6]
        processes = [worker.process for worker in queue._workers]
    assert [process.exitcode for process in processes] == [0, 0]  # they saw that nobody waits, and were not killed


# Drawing, downloading

def test_boxes_are_drawn_where_they_are():
    image = np.full((400, 300, 3), 90, np.uint8)
    drawn = annotated(image, np.array([[50.2, 60, 150, 160], [-5, -5, 400, 500]]), ['', ''], [(0, 0, 255), (0, 255, 0)])
    assert (drawn[60, 50:150] == (0, 0, 255)).all() and (drawn[60:160, 149] == (0, 0, 255)).all()
    assert (drawn[0] == (0, 255, 0)).all() and (drawn[:, 299] == (0, 255, 0)).all()
    assert (drawn[64:156, 54:146] == 90).all() and (image == 90).all()
    assert (annotated(image, np.zeros((0, 4)), [], []) == image).all()
    colours = class_colours(20)
    assert len(set(colours)) == 20 and all(0 <= part <= 255 for colour in colours for part in colour)


@pytest.mark.parametrize('width, height', [(100, 75), (75, 100), (500, 375), (4000, 3000), (1, 1), (20, 4000)])
def test_captions_can_be_read_at_any_size(width, height):
    image, fills = np.zeros((height, width, 3), np.uint8), [(255, 0, 1), (0, 255, 2), (3, 0, 255), (4, 255, 255)]
    boxes = np.array([[0.3, 0.5, 0.6, 0.9], [0.3, 0.5, 0.6, 0.9], [0, 0, 1, 1], [0.9, 0, 1, 0.1]])
    boxes_px = boxes * ([width, height] * 2)
    plain = annotated(image, boxes_px, [''] * 4, fills)
    drawn = annotated(image, boxes_px, ['dog 0.97', 'dog 0.97', 'of a hundred letters' * 5, 'cow'], fills)
    short = min(drawn.shape[:2])
    assert plain.shape == drawn.shape and drawn.shape[0] * width == drawn.shape[1] * height
    assert drawn.shape == image.shape if min(width, height) > 240 or max(width, height) > 900 else short >= 240
    labels = []
    for fill in fills:
        rows, columns = np.nonzero((drawn == fill).all(-1) & (plain != fill).any(-1))
        labels.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    if short >= 240:
        for left, top, right, bottom in labels[:2] + labels[3:]:
            assert short / 40 < bottom - top < short / 12 and right - left < drawn.shape[1] / 2
        assert not (ssdutils.iou(np.float64(labels), np.float64(labels)) - np.eye(4)).any()
        assert labels[0][3] == round(boxes[0, 1] * drawn.shape[0]) and labels[2][2] <= drawn.shape[1]


def test_a_font_is_found_for_letters_of_other_scripts():
    assert font_path('cat 0.5').endswith('DejaVuSans.ttf') == font_path('Ж').endswith('DejaVuSans.ttf')
    assert os.path.exists(font_path('螺母')) and os.path.exists(font_path('\U0010fffd'))  # no font has the last


@pytest.fixture
def server(tmp_path):
    """Two archives in a folder, and the environment that makes download-data.sh take them from there."""
    (tmp_path / 'server').mkdir()
    lines = []
    for name, content in (('one', b'x' * 300000), ('two', b'y' * 5000)):
        inside = tmp_path / 'VOCdevkit' / 'VOC2007' / name
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_bytes(content)
        path = tmp_path / 'server' / (name + '.tar')
        with tarfile.open(str(path), 'w') as archive:
            archive.add(str(inside), 'VOCdevkit/VOC2007/' + name)
        lines.append('%s voc2007/%s.tar\n' % (hashlib.md5(path.read_bytes()).hexdigest(), name))
    shutil.rmtree(str(tmp_path / 'VOCdevkit'))
    (tmp_path / 'sums').write_text(''.join(lines))
    return tmp_path / 'server', dict(os.environ, VOC_URL='file://%s' % (tmp_path / 'server'),
                                     VOC_MD5SUMS=str(tmp_path / 'sums'))


def download(folder, environment):
    done = subprocess.run(['bash', os.path.join(FOLDER, 'download-data.sh'), str(folder)], env=environment,
                          capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


needs_curl = pytest.mark.skipif(shutil.which('curl') is None, reason='curl is not installed')


@needs_curl
def test_a_download_goes_on_where_it_stopped(server, tmp_path):
    place, environment = server
    out = tmp_path / 'out'
    out.mkdir()
    whole = (place / 'one.tar').read_bytes()
    (out / 'one.tar.part').write_bytes(whole[:100000])
    code, said, errors = download(out, environment)
    assert code == 0 and 'from byte position 100000' in errors and 'process_dataset.py' in said
    assert (out / 'VOCdevkit' / 'VOC2007' / 'one').read_bytes() == b'x' * 300000
    assert (out / 'one.tar').read_bytes() == whole and not list(out.glob('*.part'))
    before = listing(out)
    code, said, errors = download(out, dict(environment, VOC_URL='file:///nowhere'))
    assert (code, errors) == (0, '') and listing(out) == before


@needs_curl
def test_a_wrong_archive_is_never_unpacked(server, tmp_path):
    place, environment = server
    out = tmp_path / 'out'
    (place / 'one.tar').write_bytes((place / 'two.tar').read_bytes())
    code, _, errors = download(out, environment)
    assert code == 1 and 'expected md5' in errors and 'found another' in errors and 'put them into' in errors
    assert sorted(os.listdir(str(out))) == ['VOCdevkit', 'two.tar']
    assert os.listdir(str(out / 'VOCdevkit' / 'VOC2007')) == ['two']


@needs_curl
def test_without_a_network_it_says_what_to_do(server, tmp_path):
    place, environment = server
    out = tmp_path / 'out'
    code, _, errors = download(out, dict(environment, VOC_URL='file:///nowhere'))
    assert code == 1 and 'voc2007/one.tar' in errors and 'Without a network: fetch them elsewhere' in errors
    shutil.copy(str(place / 'one.tar'), str(out))
    (out / 'two.tar.part').write_bytes((place / 'two.tar').read_bytes())  # whole, only its name is not
    code, _, errors = download(out, dict(environment, VOC_URL='file:///nowhere'))
    assert (code, errors) == (0, '') and (out / 'VOCdevkit' / 'VOC2007' / 'two').exists()
