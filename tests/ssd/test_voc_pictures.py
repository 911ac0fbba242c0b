# SPDX-License-Identifier: Apache-2.0
"""Boxes and pictures as they come: what is bad is listed, what is odd has its right colours and side up."""
import io
import os
import struct
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow'))
cv2 = pytest.importorskip('cv2')
pytest.importorskip('defusedxml')

from voc_trees import OBJECT, Tree, bad_rows, jpeg  # noqa: E402

import process_dataset  # noqa: E402
import ssdutils  # noqa: E402
from common.files import DataError  # noqa: E402
from training_data import TrainingData, TrainingSamples  # noqa: E402
from utils import read_image  # noqa: E402

pytestmark = pytest.mark.smoke
PRESET = ssdutils.PRESETS['vgg300']


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
