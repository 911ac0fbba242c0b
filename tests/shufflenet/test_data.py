# SPDX-License-Identifier: Apache-2.0
"""From image folders to tables, shards and batches."""
import csv
import gzip
import io
import json
import os
import shutil
import struct
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

import create_tfrecords  # noqa: E402
import explore_imagenet  # noqa: E402
import input_pipeline  # noqa: E402
import prepare  # noqa: E402
import records  # noqa: E402
from common import pictures  # noqa: E402
from common.files import DataError  # noqa: E402

smoke = pytest.mark.smoke
EDGE_CASES = os.path.join(ROOT, '..', 'shared', 'data', 'imagenet_sample')


def jpeg(shade=128, size=(40, 30), mode='RGB', kind='JPEG', **options):
    """Bytes of an image that is dark at the left and as bright as `shade` at the right."""
    ramp = np.linspace(0, shade, size[0]).astype(np.uint8)
    image = Image.fromarray(np.tile(ramp, [size[1], 1])).convert(mode)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def table(path):
    with open(str(path), newline='') as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folders(tmp_path):
    """An image folder of three classes, 4 + 2 images each, every one of another brightness."""
    for split, count in (('train', 4), ('val', 2)):
        for number, name in enumerate(('n02', 'n01', 'n03')):
            for image in range(count):
                write(tmp_path / 'in' / split / name / ('%s_%d.JPEG' % (name, image)),
                      jpeg(60 + 50 * number + 10 * image))
    return tmp_path / 'in'


def make(folders, output, num_shards=3, labels=None, **more):
    """Tables and shards of both splits; returns the folder with train_shards and eval_shards."""
    tables = output / 'tables'
    explore_imagenet.explore(str(folders), str(tables), labels=labels)
    for name, boxes in (('training', str(tables / 'boxes.npy')), ('validation', '')):
        create_tfrecords.create(str(tables / (name + '_metadata.csv')), str(output),
                                str(tables / 'integer_encoding.json'), boxes, num_shards, **more)
    return output


# The file format

@smoke
def test_the_checksum_is_crc32c():
    masked = records.masked_crc32c(b'123456789')
    rotated = masked - 0xA282EAD8 & 0xFFFFFFFF
    assert (rotated >> 17 | rotated << 15) & 0xFFFFFFFF == 0xE3069283  # RFC 3720, appendix B.4


@smoke
def test_tensorflow_reads_what_is_written_and_writes_what_is_read(tmp_path):
    boxes = np.array([[0.1, 0.2, 0.5, 0.75], [0, 0, 1, 1]], np.float32)
    payload = records.encode_example(b'\xff\xd8 image', 300, boxes)
    (tmp_path / 'ours').write_bytes(records.frame(payload) * 2)
    read, again = tf.python_io.tf_record_iterator(str(tmp_path / 'ours'))
    assert read == again == payload
    features = tf.train.Example.FromString(read).features.feature
    assert features['image'].bytes_list.value[0] == b'\xff\xd8 image' and features['label'].int64_list.value[0] == 300
    assert np.allclose(features['ymax'].float_list.value, boxes[:, 3])

    example = tf.train.Example()
    example.features.feature['image'].bytes_list.value.append(b'abc')
    example.features.feature['label'].int64_list.value.append(-1)
    example.features.feature['xmin'].float_list.value.extend([0.25, 0.5])
    with tf.python_io.TFRecordWriter(str(tmp_path / 'theirs')) as writer:
        writer.write(example.SerializeToString())
    found, problem = records.scan(str(tmp_path / 'theirs'))
    content = (tmp_path / 'theirs').read_bytes()[found[0, 0]:][:found[0, 1]]
    decoded = records.decode_example(content)
    assert problem is None and decoded['image'] == [b'abc'] and decoded['label'] == [-1]
    assert list(decoded['xmin']) == [0.25, 0.5]
    for cut in range(len(content)):
        try:
            records.decode_example(content[:cut])
        except ValueError:
            pass


@smoke
def test_the_size_of_a_jpeg():
    assert records.jpeg_size(jpeg(size=(40, 30))) == (30, 40)
    assert records.jpeg_size(jpeg(size=(7, 300), progressive=True, comment=b'x' * 500)) == (300, 7)
    for content in (b'', b'\xff\xd8', jpeg()[:30], jpeg(kind='PNG')):
        with pytest.raises(ValueError):
            records.jpeg_size(content)


# explore_imagenet.py

def test_the_tables_of_class_folders(folders, tmp_path):
    write(folders / 'train' / 'n01' / 'notes.txt', b'x')
    write(folders / 'train' / 'n01' / 'empty.JPEG', b'')
    write(folders / 'train' / 'n02' / 'words.JPEG', b'not an image')
    write(folders / 'train' / 'n02' / 'cut.JPEG', jpeg()[:-200])
    write(folders / 'train' / 'n03' / 'grey.JPEG', jpeg(mode='L'))
    assert explore_imagenet.main(['--data_dir=%s' % folders, '--output=%s' % (tmp_path / 't')]) == 0
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
def test_a_flat_val_folder(folders, tmp_path, name, text, synsets):
    shutil.rmtree(str(folders / 'val'))
    for number in (1, 2):
        write(folders / 'val' / ('val_%d.JPEG' % number), jpeg())
    with pytest.raises(DataError, match='ground-truth file'):
        explore_imagenet.explore(str(folders), str(tmp_path / 't'))
    (folders / name).write_text(text)
    if synsets:
        with pytest.raises(DataError, match='--synsets'):
            explore_imagenet.explore(str(folders), str(tmp_path / 't'))
        (folders / 'synsets').write_text(synsets)
        synsets = str(folders / 'synsets')
    explore_imagenet.explore(str(folders), str(tmp_path / 't'), synsets=synsets)
    assert [(row['just_name'], row['wordnet_id']) for row in table(tmp_path / 't' / 'validation_metadata.csv')] == [
        ('val_1', 'n03'), ('val_2', 'n01')]
    (folders / name).write_text(text.splitlines()[0])
    with pytest.raises(DataError, match='found'):
        explore_imagenet.explore(str(folders), str(tmp_path / 't'), synsets=synsets)


def test_bad_image_folders_are_named(folders, tmp_path, capsys):
    (folders / 'train' / 'n04').mkdir()
    assert explore_imagenet.main(['--data_dir=%s' % folders, '--output=%s' % (tmp_path / 't')]) == 1
    said = capsys.readouterr().err
    assert str(folders / 'train' / 'n04') in said and 'at least one image of this class' in said
    assert explore_imagenet.main(['--output=%s' % (tmp_path / 't')]) == 1
    assert '--data_dir' in capsys.readouterr().err
    assert explore_imagenet.main(['--data_dir=%s' % (tmp_path / 'none')]) == 1
    for name in ('n02', 'n03', 'n04'):
        for split in ('train', 'val'):
            shutil.rmtree(str(folders / split / name), ignore_errors=True)
    with pytest.raises(DataError, match='at least two classes'):
        explore_imagenet.explore(str(folders), str(tmp_path / 't'))
    assert not (tmp_path / 't').exists()


def annotation(name, *boxes, size=(200, 100)):
    items = ''.join('<object><name>%s</name><bndbox><xmin>%g</xmin><ymin>%g</ymin><xmax>%g</xmax><ymax>%g</ymax>'
                    '</bndbox></object>' % ((name,) + box) for box in boxes)
    return ('<annotation><size><width>%d</width><height>%d</height></size>%s</annotation>' % (size + (items,))).encode()


def test_boxes_go_from_xml_to_crops(folders, tmp_path):
    pytest.importorskip('defusedxml')
    places = folders / 'annotations'
    write(places / 'n01' / 'n01_0.xml', annotation('n01', (20, 10, 120, 60), (190, 90, 260, 130), (50, 50, 50, 60)))
    write(places / 'n01' / 'n01_1.xml', annotation('n09', (20, 10, 120, 60)))  # of another class
    write(places / 'n02' / 'n02_0.xml', b'<annotation><size>')
    write(places / 'n02' / 'n02_1.xml', b'<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>')
    write(places / 'n02' / 'n02_2.xml', annotation('n02', (1, 1, 2, 2), size=(0, 0)))
    write(places / 'n02' / 'n02_3.xml', b'<?xml version="1.0" encoding="nonsense"?><annotation/>')
    counts = explore_imagenet.explore(str(folders), str(tmp_path / 'out' / 'tables'))
    assert counts['boxes'] == 3 and counts['bad_files'] == 3
    found = np.load(str(tmp_path / 'out' / 'tables' / 'boxes.npy'), allow_pickle=False)
    np.testing.assert_allclose(found, [[0, 0.1, 0.1, 0.6, 0.6], [0, 0.95, 0.9, 1, 1],
                                       [6, 1 / 40, 1 / 30, 2 / 40, 2 / 30]])
    shards = input_pipeline.Shards(str(make(folders, tmp_path / 'out') / 'train_shards'), 3)
    items = [shards.read(record) for record in range(len(shards))]
    with_boxes, _ = sorted((item for item in items if len(item.boxes)), key=lambda item: item.label)
    assert with_boxes.label == 0
    np.testing.assert_allclose(with_boxes.boxes, [[0.1, 0.1, 0.6, 0.6], [0.95, 0.9, 1, 1]], rtol=1e-6)


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
@pytest.mark.parametrize('labelled', ['stored', 'upright', 'no size'])
def test_a_box_stays_on_its_object_when_exif_turns_the_image(folders, tmp_path, orientation, labelled):
    image = Image.new('L', (400, 300))
    image.paste(255, (40, 30, 120, 90))  # x 0.1 to 0.3, y 0.1 to 0.3
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.convert('RGB').save(out, 'JPEG', exif=exif.tobytes())
    path = write(folders / 'train' / 'n01' / 'n01_0.JPEG', out.getvalue())
    upright = np.array(Image.open(io.BytesIO(pictures.usable_jpeg(out.getvalue())[0])).convert('L'))
    height_px, width_px = upright.shape
    y, x = (upright > 128).nonzero()
    box, size = (x.min(), y.min(), x.max() + 1, y.max() + 1), (width_px, height_px)
    expected = np.array(box) / np.array(size * 2)
    if labelled == 'no size':
        size = (0, 0)
    elif labelled == 'stored' and orientation != 3:  # upside down has the same size: taken as drawn upright
        box, size = (40, 30, 120, 90), (400, 300)
    write(folders / 'annotations' / 'n01_0.xml', annotation('n01', tuple(map(int, box)), size=size))
    explore_imagenet.explore(str(folders), str(tmp_path / 't'))
    found = np.load(str(tmp_path / 't' / 'boxes.npy'), allow_pickle=False)
    np.testing.assert_allclose(found[0, 1:], expected, atol=0.02, err_msg=str(path))


def test_classes_of_validation_that_training_lacks_are_refused(folders, tmp_path):
    for old, new in (('n01', '1'), ('n02', '2'), ('n03', '3')):
        (folders / 'val' / old).rename(folders / 'val' / new)
    with pytest.raises(DataError, match=r'val/1/n01_0.JPEG: expected an image of a class of training '
                                        r'\(n01, n02, n03\); found one of 1, 2, 3'):
        explore_imagenet.explore(str(folders), str(tmp_path / 't'))
    (tmp_path / 'labels.json').write_text('{"n01": 0, "n02": 1, "n03": 2, "1": 3, "2": 4, "3": 5}')
    explore_imagenet.explore(str(folders), str(tmp_path / 't'), labels=str(tmp_path / 'labels.json'))
    with pytest.raises(DataError, match='no file'):
        explore_imagenet.explore(str(folders), str(tmp_path / 't'), labels=str(tmp_path / 'none.json'))
    shutil.rmtree(str(folders / 'val' / '1'))
    shutil.rmtree(str(folders / 'val' / '2'))
    (folders / 'val' / '3').rename(folders / 'val' / 'n03')
    assert explore_imagenet.explore(str(folders), str(tmp_path / 't'))['classes'] == 3  # fewer are no fault


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_tiny_imagenet_is_read_as_it_comes(folders, tmp_path, encoding):
    for name in ('n01', 'n02', 'n03'):
        shutil.move(str(folders / 'train' / name), str(folders / 'moved' / 'images'))
        shutil.move(str(folders / 'moved'), str(folders / 'train' / name))
    shutil.rmtree(str(folders / 'val'))
    lines = []
    for number in range(6):
        write(folders / 'val' / 'images' / ('val_%d.JPEG' % number), jpeg())
        lines.append('val_%d.JPEG\tn0%d\t0\t32\t44\t62\n' % (number, 3 - number % 3))
    (folders / 'val' / 'val_annotations.txt').write_bytes(''.join(lines).encode(encoding))
    counts = explore_imagenet.explore(str(folders), str(tmp_path / 't'))
    assert (counts['classes'], counts['training'], counts['validation'], counts['bad_files']) == (3, 12, 6, 0)
    assert [row['wordnet_id'] for row in table(tmp_path / 't' / 'validation_metadata.csv')] == [
        'n03', 'n02', 'n01'] * 2


# images.py

RAMP = np.tile(np.linspace(0, 255, 96).round(), [80, 1])


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def of_mode(mode):
    """The ramp as a file of a mode: bytes of a PNG, TIFF, GIF or JPEG."""
    grey = Image.fromarray(RAMP.astype(np.uint8))
    opaque = Image.new('L', grey.size, 255)
    if mode.startswith('I;16'):
        big = mode.endswith('B')
        raw = (RAMP * 257).astype('>u2' if big else '<u2').tobytes()
        return encoded(Image.frombytes(mode, grey.size, raw), 'TIFF' if big else 'PNG')
    if mode[0] in 'IF':  # 'F 1' has values up to 1
        kind, white = mode.split()
        values = RAMP * (int(white) / 255)
        return encoded(Image.fromarray(values.astype(np.int32 if kind == 'I' else np.float32)), 'TIFF')
    if mode in ('LA', 'RGBA'):
        return encoded(Image.merge(mode, [grey] * (len(mode) - 1) + [opaque]), 'PNG')
    if mode == 'animated':
        return encoded(grey, 'GIF', save_all=True, append_images=[opaque])
    if mode == 'PGM':
        return b'P5 96 80 65535\n' + (RAMP * 257).astype('>u2').tobytes()
    if mode == 'P':
        return encoded(grey.convert('P'), 'PNG', transparency=0)
    if mode == 'CMYK':
        return encoded(grey.convert('RGB').convert(mode), 'JPEG', quality=95)
    return encoded(grey.convert(mode), 'PNG')


@smoke
@pytest.mark.parametrize('mode', ['L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'I;16', 'I;16B', 'I 255', 'I 65535', 'F 1',
                                  'F 255', 'F 65535', 'PGM', 'animated'])
def test_every_mode_gives_the_same_picture(mode):
    made, repairs = pictures.usable_jpeg(of_mode(mode))
    image = Image.open(io.BytesIO(made))
    assert (image.mode, image.format) == ('RGB', 'JPEG') and repairs
    assert np.abs(np.asarray(image).astype(int) - RAMP[:, :, None]).max() <= 4


@smoke
def test_black_and_white_and_values_that_have_no_white():
    made, _ = pictures.usable_jpeg(encoded(Image.fromarray(RAMP > 127), 'PNG'))
    assert np.abs(np.asarray(Image.open(io.BytesIO(made)))[..., 0].astype(int) - 255 * (RAMP > 127)).max() <= 4
    for values in (RAMP * np.nan, RAMP - 1, RAMP * 1e4):
        with pytest.raises(pictures.BadImage, match='values from'):
            pictures.usable_jpeg(encoded(Image.fromarray(values.astype(np.float32)), 'TIFF'))


@smoke
@pytest.mark.filterwarnings('ignore')
def test_an_ill_typed_exif_tag_ends_nothing():
    """A JPEG turned by EXIF and a second tag of each type, filled with zeros, ones or noise."""
    random = np.random.RandomState(0)
    for tag in (0x100, 0x106, 0x10f, 0x0112, 0x11a, 0x128, 0x213, 0x8769, 0x9286):
        kinds = (1, 2, 3, 4, 6, 7, 8, 9, 11, 13) if tag < 0x0112 else range(14)  # a value elsewhere ends the directory
        for kind in kinds:
            for payload in (b'\0' * 4, b'\xff' * 4, random.bytes(4)):
                entries = sorted([(0x0112, 3, 1, b'\x06\0\0\0'), (tag, kind, 1, payload)])
                exif = b'Exif\0\0II*\0\x08\0\0\0\x02\0' + b''.join(
                    struct.pack('<HHI', *entry[:3]) + entry[3] for entry in entries) + b'\0\0\0\0'
                made, repairs = pictures.usable_jpeg(jpeg(exif=exif))
                turned = Image.open(io.BytesIO(made)).size == (30, 40)
                assert turned == (repairs == ['exif_rotated']) and (turned or tag == 0x0112), (tag, kind, payload)


@smoke
def test_a_damaged_exif_of_any_format_ends_nothing_and_a_tiff_is_turned_once():
    for exif in (b'garbage', b'II', b'MM\0*', b'Exif\0\0MM\0*\0\0\0\x08\0\x01'):
        for kind in ('PNG', 'WEBP', 'JPEG'):
            made, _ = pictures.usable_jpeg(jpeg(kind=kind, exif=exif))
            assert Image.open(io.BytesIO(made)).size == (40, 30)
    for orientation in (3, 6):
        as_tiff, _ = pictures.usable_jpeg(jpeg(kind='TIFF', tiffinfo={0x0112: orientation}))
        exif = Image.Exif()
        exif[0x0112] = orientation
        as_png, _ = pictures.usable_jpeg(jpeg(kind='PNG', exif=exif.tobytes()))
        assert as_tiff == as_png


def test_files_that_are_no_images_are_bad_images():
    random = np.random.RandomState(0)
    whole = jpeg(size=(64, 48))
    for _ in range(200):
        content = bytearray(whole)
        for place in random.randint(0, len(content), 4):
            content[place] = random.randint(256)
        try:
            pictures.usable_jpeg(bytes(content[:random.randint(len(content))] if random.randint(2) else content))
        except pictures.BadImage as error:
            assert str(error)


def test_endings_in_any_case_and_motion_photos(folders, tmp_path):
    place = folders / 'train' / 'n01'
    for name, kind in (('a.PNG', 'PNG'), ('b.Jpg', 'JPEG'), ('c.bmp', 'BMP'), ('d.webp', 'WEBP'), ('e.TIF', 'TIFF'),
                       ('f.jfif', 'JPEG'), ('g.gif', 'GIF')):
        write(place / name, jpeg(kind=kind))
    write(place / 'motion.jpg', jpeg() + b'MotionPhoto_Data' + bytes(9000))
    write(place / 'cut.jpg', jpeg(size=(400, 300))[:-200])
    counts = explore_imagenet.explore(str(folders), str(tmp_path / 't'))
    assert counts['training'] == 12 + 8
    reasons = {os.path.basename(row['path']): row['reason'] for row in table(tmp_path / 't' / 'bad_files.csv')}
    assert reasons.pop('cut.jpg') == 'truncated' and sorted(reasons) == ['a.PNG', 'c.bmp', 'd.webp', 'e.TIF', 'g.gif']


# create_tfrecords.py

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


def test_the_documented_commands_fill_one_folder_with_both_splits(folders, tmp_path, capsys):
    tables, output = tmp_path / 't', tmp_path / 'out'
    assert explore_imagenet.main(['--data_dir=%s' % folders, '--output=%s' % tables]) == 0
    (folders / 'train' / 'n01' / 'n01_0.JPEG').write_bytes(b'')
    (folders / 'train' / 'n01' / 'n01_1.JPEG').unlink()
    (folders / 'train' / 'n01' / 'n01_2.JPEG').write_bytes(jpeg(mode='L'))
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


def test_the_number_of_processes_does_not_change_the_shards(folders, tmp_path, monkeypatch):
    one = make(folders, tmp_path / 'one')
    monkeypatch.setattr(create_tfrecords, '_IN_PROCESS_IMAGES', 1)
    two = make(folders, tmp_path / 'two', workers=2)
    for name in os.listdir(str(one / 'train_shards')):
        if name.endswith('.tfrecords'):
            assert (one / 'train_shards' / name).read_bytes() == (two / 'train_shards' / name).read_bytes()


def test_only_what_it_wrote_is_replaced(folders, tmp_path):
    out = make(folders, tmp_path / 'out')
    words = [str(out / 'tables' / 'training_metadata.csv'), str(out), str(out / 'tables' / 'integer_encoding.json'),
             str(out / 'tables' / 'boxes.npy'), 3]
    assert create_tfrecords.create(*words)[2] is False  # made already of the same files
    write(folders / 'train' / 'n01' / 'n01_0.JPEG', jpeg(99))
    assert create_tfrecords.create(*words)[2] is True
    make(folders, tmp_path / 'out', num_shards=2)
    assert len(create_tfrecords.read_manifest(str(out / 'train_shards'))['shards']) == 2
    write(out / 'train_shards' / 'mine.txt', b'x')
    with pytest.raises(DataError, match='mine.txt in it.*nothing was deleted'):
        make(folders, tmp_path / 'out')
    write(tmp_path / 'foreign' / 'train_shards' / 'shard-0000.tfrecords', b'x')
    with pytest.raises(DataError, match='shard-0000.tfrecords in it'):
        make(folders, tmp_path / 'foreign')
    assert (out / 'train_shards' / 'mine.txt').exists()
    assert (tmp_path / 'foreign' / 'train_shards' / 'shard-0000.tfrecords').read_bytes() == b'x'


def test_a_killed_run_leaves_nothing_that_is_taken_for_whole(folders, tmp_path):
    tables = tmp_path / 't'
    explore_imagenet.explore(str(folders), str(tables))
    code = ('import os, sys; sys.path.insert(0, %r); import create_tfrecords as c\n'
            'c._finish = lambda *a: os.kill(os.getpid(), 9)\n'
            'c.create(%r, %r, %r, num_shards=2)' % (FOLDER, str(tables / 'training_metadata.csv'),
                                                    str(tmp_path / 'out'), str(tables / 'integer_encoding.json')))
    assert subprocess.call([sys.executable, '-c', code]) == -9
    assert os.listdir(str(tmp_path / 'out')) == ['.train_shards.partial']
    make(folders, tmp_path / 'out')
    assert sorted(os.listdir(str(tmp_path / 'out'))) == ['eval_shards', 'tables', 'train_shards']


def test_the_published_boxes_are_read(folders, tmp_path):
    """A pickled dict of names and arrays, as numpy.save writes it."""
    out, boxes = tmp_path / 'out', np.array([[0.1, 0.2, 0.5, 0.75], [0, 0, 1, 1]])
    make(folders, out)
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


def test_bad_tables_are_named(folders, tmp_path):
    tables = tmp_path / 'out' / 'tables'
    make(folders, tmp_path / 'out')

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


# input_pipeline.py

@pytest.fixture
def shards_folder(folders, tmp_path):
    return make(folders, tmp_path / 'made')


def damage(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_without_augmentation_training_sees_the_centres(shards_folder):
    shards = input_pipeline.Shards(str(shards_folder / 'train_shards'), 3)
    batch = input_pipeline.training_batch(shards, 0, 4, 0, 0.1, 0.5, augment=False)
    items = [shards.read_next_good(int(record)) for record in input_pipeline.epoch_order(len(shards), 0, 0)[:4]]
    assert batch.windows.tolist() == [list(input_pipeline.centre_window(*item.size_px)) for item in items]
    assert not batch.mirrored.any() and (batch.colours == np.eye(3, 4)).all()


@smoke
def test_an_epoch_shows_every_rank_other_records_and_none_twice(shards_folder):
    shards = input_pipeline.Shards(str(shards_folder / 'train_shards'), 3)
    images = {shards.read(record).image: record for record in range(12)}
    seen = [[images[image] for rank in range(2)
             for image in input_pipeline.training_batch(shards, step, 3, 5, 0.1, 0.0, rank, 2).images]
            for step in range(4)]
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == list(range(12))
    assert seen[0] != seen[2]  # another epoch, another order


@smoke
def test_a_batch_is_a_function_of_seed_and_step(shards_folder):
    def batch(step, seed, rank=0):
        shards = input_pipeline.Shards(str(shards_folder / 'train_shards'), 3)
        return input_pipeline.training_batch(shards, step, 4, seed, 0.1, 0.3, rank, 2)
    for one, other in zip(batch(5, 1), batch(5, 1)):
        assert np.array_equal(one, other)
    assert not np.array_equal(batch(5, 1).windows, batch(5, 2).windows)
    assert not np.array_equal(batch(5, 1).windows, batch(5, 1, rank=1).windows)


@smoke
def test_crops_lie_in_the_image_and_cover_a_box():
    boxes = np.array([[0.7, 0.7, 0.95, 0.95]], np.float32)
    items = [input_pipeline.Item(b'', 0, boxes if number % 2 else boxes[:0], (300, 200)) for number in range(400)]
    windows = input_pipeline.random_windows(items, np.random.RandomState(0), 0.1)
    y, x, height_px, width_px = windows.T
    assert (y >= 0).all() and (x >= 0).all() and (y + height_px <= 300).all() and (x + width_px <= 200).all()
    area = height_px * width_px / 60000
    ratio = width_px / height_px
    assert 0.09 < area.min() < 0.2 and area.max() > 0.75 and (0.72 < ratio).all() and (ratio < 1.37).all()
    assert len(set(map(tuple, windows.tolist()))) > 300
    right, bottom = np.minimum(x + width_px, 190), np.minimum(y + height_px, 285)
    covered = (right - np.maximum(x, 140)).clip(0) * (bottom - np.maximum(y, 210)).clip(0) / (50 * 75)
    fallback = (height_px == 200) & (width_px == 200)
    assert (covered[1::2][~fallback[1::2]] > 0.49).all() and covered[::2].min() == 0
    thin = [input_pipeline.Item(b'', 0, boxes[:0], (4000, 10))] * 50
    assert (input_pipeline.random_windows(thin, np.random.RandomState(0), 0.5) == [1995, 0, 10, 10]).all()


@smoke
def test_decoding_crops_resizes_mirrors_and_recolours():
    content = jpeg(shade=255, size=(400, 300), quality=95)
    window, mirrored = tf.placeholder(tf.int32, [4]), tf.placeholder(tf.bool, [])
    decoded = input_pipeline.decode(tf, tf.constant(content), window, mirrored)
    dimmed = input_pipeline.decode(tf, tf.constant(content), window, mirrored,
                                   tf.constant([[0.5, 0, 0, 10], [0, 1, 0, 0], [0, 0, 0, 300]], tf.float32))
    assert decoded.shape.as_list() == [224, 224, 3]
    with tf.Session() as session:
        one, dim = session.run([decoded, dimmed], {window: [10, 100, 200, 200], mirrored: False})
        turned = session.run(decoded, {window: [10, 100, 200, 200], mirrored: True})
    columns = np.interp(100 + (np.arange(224) + 0.5) * 200 / 224 - 0.5, np.arange(400), np.linspace(0, 255, 400))
    np.testing.assert_allclose(one[100, :, 0], columns, atol=4)
    assert np.array_equal(turned, one[:, ::-1])
    assert abs(dim[..., 0].astype(int) - (one[..., 0] * 0.5 + 10)).max() <= 1
    assert np.array_equal(dim[..., 1], one[..., 1]) and (dim[..., 2] == 255).all()


@smoke
def test_colours_change_brightness_contrast_and_saturation_only():
    matrices = input_pipeline.random_colours(50, np.random.RandomState(0), 0.4)
    assert matrices.shape == (50, 3, 4) and matrices[:, :, :3].sum(2).std() > 0.1
    grey_stays = matrices[:, :1, :3].sum(2).repeat(3, 1)
    np.testing.assert_allclose(matrices[:, :, :3].sum(2), grey_stays, rtol=1e-5)
    identity = input_pipeline.random_colours(2, None, 0.0)
    np.testing.assert_allclose(identity[0], np.eye(3, 4), atol=1e-6)


def batches(session, tensors, start):
    session.run(start)
    found = []
    while True:
        try:
            found.append(session.run(tensors))
        except tf.errors.OutOfRangeError:
            return found


@smoke
@pytest.mark.parametrize('shorter_px', [None, 256])
def test_smaller_training_images_show_the_same(shards_folder, shorter_px):
    seen = []
    for side_px in (224, 112):
        shards = input_pipeline.Shards(str(shards_folder / 'train_shards'), 3)
        tensors, start = input_pipeline.training_data(tf, shards, 0, 1, 5, 2, False, shorter_px=shorter_px, seed=3,
                                                      side_px=side_px, min_crop_area=0.2, colour_jitter=0.0)
        with tf.Session() as session:
            (images, labels), = batches(session, tensors, start)
        assert images.shape == (5, side_px, side_px, 3)
        seen.append(images.reshape(5, 14, side_px // 14, 14, side_px // 14, 3).mean((2, 4)))
    assert np.abs(seen[0] - seen[1]).mean() < 4 < np.abs(seen[0] - seen[1][::-1]).mean()


@smoke
def test_a_pipeline_that_starts_later_goes_on_the_same(shards_folder):
    chosen = dict(seed=3, min_crop_area=0.2, colour_jitter=0.2, rank=0, ranks=1)

    def read(first):
        shards = input_pipeline.Shards(str(shards_folder / 'train_shards'), 3)
        tensors, start = input_pipeline.training_data(tf, shards, first, 7, 5, 2, True, **chosen)
        assert [tensor.shape.as_list() for tensor in tensors] == [[5, 224, 224, 3], [5]]
        with tf.Session() as session:
            return batches(session, tensors, start)
    whole, later = read(0), read(5)
    assert len(whole) == 7 and len(later) == 2
    for one, other in zip(whole[5:], later):
        assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
    assert not np.array_equal(whole[0][0], whole[2][0])


@smoke
def test_an_evaluation_covers_every_image_once(shards_folder):
    shards = input_pipeline.Shards(str(shards_folder / 'eval_shards'), 3)
    tensors, start = input_pipeline.eval_data(tf, shards, 4, 2)
    with tf.Session() as session:
        first, second = batches(session, tensors, start)
        assert len(batches(session, tensors, start)) == 2  # and again
    assert first[2].tolist() == [1, 1, 1, 1] and second[2].tolist() == [1, 1, 0, 0]
    assert sorted(first[1].tolist() + second[1].tolist()[:2]) == [0, 0, 1, 1, 2, 2]


@smoke
def test_damaged_records_are_passed_over_up_to_a_limit(shards_folder):
    folder = shards_folder / 'train_shards'
    damage(folder / 'shard-0001.tfrecords', 200)
    shards = input_pipeline.Shards(str(folder), 3, max_bad_records=1)
    whole = [record for record in range(12) if shards.read(record)]
    assert len(whole) == 11 and len(shards.bad) == 1
    problem, = shards.new_problems()
    assert 'shard-0001.tfrecords, record 0: a wrong checksum' in problem and shards.new_problems() == []
    for step in range(4):
        batch = input_pipeline.training_batch(shards, step, 6, 0, 0.1, 0.0)
        assert len(batch.images) == 6 and all(batch.images)
    assert len(shards.bad) == 1  # counted once
    damage(folder / 'shard-0002.tfrecords', 300)
    again = input_pipeline.Shards(str(folder), 3, max_bad_records=1)
    tensors, start = input_pipeline.training_data(tf, again, 0, 8, 6, 1, False, seed=0, min_crop_area=0.1,
                                                  colour_jitter=0.0, rank=0, ranks=1)
    with tf.Session() as session, pytest.raises(tf.errors.OpError):
        batches(session, tensors, start)
    assert 'expected at most 1 damaged records (--max_bad_records); found 2' in str(again.error)


def test_a_damaged_image_is_not_counted_in_an_evaluation(shards_folder):
    damage(shards_folder / 'eval_shards' / 'shard-0000.tfrecords', 100)
    shards = input_pipeline.Shards(str(shards_folder / 'eval_shards'), 3, max_bad_records=5)
    counted = [input_pipeline.eval_batch(shards, number, 4)[1].tolist() for number in range(2)]
    assert counted == [[0, 1, 1, 1], [1, 1, 0, 0]]


@smoke
def test_wrong_shards_are_named(shards_folder, tmp_path):
    folder = shards_folder / 'train_shards'
    with pytest.raises(DataError, match='--num_classes: expected 3, as in .*found 1000; give --num_classes=3'):
        input_pipeline.Shards(str(folder), 1000)
    content = (folder / 'shard-0002.tfrecords').read_bytes()
    (folder / 'shard-0002.tfrecords').write_bytes(content[:-1])
    with pytest.raises(DataError, match='shard-0002.tfrecords: expected a shard of'):
        input_pipeline.Shards(str(folder), 3)
    (folder / 'shard-0002.tfrecords').unlink()
    with pytest.raises(DataError, match='shard-0002.tfrecords: expected a shard of .* found none'):
        input_pipeline.Shards(str(folder), 3)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='expected \\*.tfrecords; found none'):
        input_pipeline.Shards(str(tmp_path / 'empty'), 3)


@smoke
def test_shards_of_the_published_program_are_read(shards_folder, tmp_path):
    foreign = tmp_path / 'foreign'
    foreign.mkdir()
    shutil.copy(str(shards_folder / 'train_shards' / 'shard-0000.tfrecords'), str(foreign / 'shard-0000.tfrecords'))
    shards = input_pipeline.Shards(str(foreign), 3)
    assert len(shards) == 4 and shards.classes is None and all(shards.read(record) for record in range(4))
    highest = max(shards.read(record).label for record in range(4))
    with pytest.raises(DataError, match='record [0-3]: expected a label in 0..%d; found %d' % (highest - 1, highest)):
        narrow = input_pipeline.Shards(str(foreign), highest)
        for record in range(4):
            narrow.read(record)
    content = (foreign / 'shard-0000.tfrecords').read_bytes()
    (foreign / 'shard-0000.tfrecords').write_bytes(content[:-10])
    with pytest.raises(DataError, match='at most 0 damaged records'):
        input_pipeline.Shards(str(foreign), 3)
    cut = input_pipeline.Shards(str(foreign), 3, max_bad_records=1)
    assert len(cut) == 3 and 'a record cut short at byte' in cut.new_problems()[0]


def foreign(folder, *payloads, name='a.tfrecords', wrap=bytes):
    write(folder / name, wrap(b''.join(map(records.frame, payloads))))
    return str(folder)


def example(**features):
    built = tf.train.Example()
    for key, value in features.items():
        kind = {bytes: 'bytes_list', int: 'int64_list', float: 'float_list'}[type(value)]
        getattr(built.features.feature[key.replace('__', '/')], kind).value.append(value)
    return built.SerializeToString()


def test_shards_of_another_kind_are_said_for_what_they_are(tmp_path):
    good = records.encode_example(jpeg(), 1)
    for name in ('a.tfrecord', 'a.tfrec', 'train-00000-of-00001'):
        assert len(input_pipeline.Shards(foreign(tmp_path / name, good, good, name=name), 3)) == 2
    for number, (payload, said) in enumerate((
            (example(image__encoded=jpeg(), image__class__label=1), r'image/class/label \(int\), image/encoded \(b'),
            (example(image=jpeg(), label=1.5), r'label \(float\)'), (example(), 'found none'),
            (example(image=jpeg(kind='PNG'), label=1), r"a JPEG file.*PNG"),
            (example(image=bytes(99), label=1), r'99 bytes that begin with'))):
        with pytest.raises(DataError, match=said):
            input_pipeline.Shards(foreign(tmp_path / str(number), payload), 3)
    with pytest.raises(DataError, match='found a gzip file; gunzip it'):
        input_pipeline.Shards(foreign(tmp_path / 'gzip', good, wrap=gzip.compress), 3)
    later = input_pipeline.Shards(foreign(tmp_path / 'later', good, example(image=jpeg(), label=b'x')), 3, 1)
    assert later.read(0) and later.read(1) is None and 'no feature image or label' in later.new_problems()[0]


def test_a_damaged_index_or_manifest_is_named(shards_folder):
    folder = shards_folder / 'train_shards'
    index, manifest = (folder / 'records.npy').read_bytes(), (folder / 'manifest.json').read_text()
    for content in (b'', index[:-8], index[:40], b'x' * 99):
        (folder / 'records.npy').write_bytes(content)
        with pytest.raises(DataError, match='records.npy: expected the index'):
            input_pipeline.Shards(str(folder), 3)
    (folder / 'records.npy').write_bytes(index)
    (folder / 'manifest.json').write_text(manifest.replace('"shards"', '"parts"'))
    with pytest.raises(DataError, match='manifest.json: expected what create_tfrecords.py writes'):
        input_pipeline.Shards(str(folder), 3)


# prepare.py

def test_training_and_evaluation_shards_have_the_same_classes(folders, shards_folder, tmp_path):
    shutil.rmtree(str(shards_folder / 'eval_shards'))
    (tmp_path / 'other.json').write_text('{"n03": 0, "n02": 1, "n01": 2}')
    create_tfrecords.create(str(shards_folder / 'tables' / 'validation_metadata.csv'), str(shards_folder),
                            str(tmp_path / 'other.json'))
    with pytest.raises(DataError, match='eval_shards: expected the classes of .*train_shards, in the same order'):
        prepare.find_shards(str(shards_folder), str(tmp_path), 'train_and_evaluate', False)


def test_prepared_data_goes_to_the_users_cache_where_the_checkout_is_read_only(folders, tmp_path, monkeypatch, capsys):
    os.mkdir(str(tmp_path / 'default'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    access = os.access
    monkeypatch.setattr(os, 'access', lambda path, mode: 'default' not in str(path) and access(path, mode))
    made = prepare.find_shards(str(folders), str(tmp_path / 'default'), 'train', True)
    said = capsys.readouterr().out
    cache = str(tmp_path / 'cache' / 'ShufflenetV2_ID0371_For_Tensorflow')
    prepared = tmp_path / 'default' / 'prepared'
    assert said.startswith('%s cannot be written; prepared data goes to %s' % (prepared, cache))
    assert made[0].startswith(cache) and os.path.isdir(made[0]) and not os.listdir(str(tmp_path / 'default'))


def test_changes_behind_links_are_seen(folders, tmp_path):
    os.mkdir(str(tmp_path / 'default'))
    for split in ('train', 'val'):
        (tmp_path / 'linked' / split).mkdir(parents=True)
        for name in ('n01', 'n02', 'n03'):
            (tmp_path / 'linked' / split / name).symlink_to(folders / split / name)

    def count():
        training, _ = prepare.find_shards(str(tmp_path / 'linked'), str(tmp_path / 'default'), 'train', True)
        return create_tfrecords.read_manifest(training)['images']
    assert count() == 12
    write(folders / 'train' / 'n01' / 'new.JPEG', jpeg())
    assert count() == 13


def test_the_folder_that_data_dir_means(folders, shards_folder, tmp_path):
    default = str(tmp_path / 'default')
    os.mkdir(default)
    both = tuple(str(shards_folder / name) for name in ('train_shards', 'eval_shards'))
    assert prepare.find_shards(str(shards_folder), default, 'train_and_evaluate', False) == both
    assert prepare.find_shards(str(shards_folder / 'train_shards') + '/', default, 'train_and_evaluate', False) == both
    with pytest.raises(DataError, match='add --prepare'):
        prepare.find_shards(str(folders), default, 'train', False)
    with pytest.raises(DataError, match='--data_dir: expected .* found nothing'):
        prepare.find_shards(None, default, 'train', False)
    with pytest.raises(DataError, match='no folder'):
        prepare.find_shards(str(tmp_path / 'none'), default, 'train', False)
    shutil.rmtree(both[1])
    assert prepare.find_shards(str(shards_folder), default, 'train', False) == (both[0], None)
    with pytest.raises(DataError, match='eval_shards: expected shards .*train with --mode=train'):
        prepare.find_shards(str(shards_folder), default, 'train_and_evaluate', False)


def test_prepare_makes_shards_once_and_not_in_the_users_folder(folders, tmp_path, capsys):
    default = str(tmp_path / 'default')
    os.mkdir(default)
    before = sorted(os.walk(str(folders)))
    first = prepare.find_shards(str(folders), default, 'train', True)
    assert capsys.readouterr().out.count('prepared /') == 2
    assert prepare.find_shards(str(folders), default, 'train', True) == first
    assert capsys.readouterr().out == '' and sorted(os.walk(str(folders))) == before
    assert all(folder.startswith(os.path.join(default, 'prepared')) for folder in first)
    write(folders / 'train' / 'n01' / 'new.JPEG', jpeg())
    assert prepare.find_shards(str(folders), default, 'train', True) != first


def test_of_two_that_prepare_at_once_one_waits(folders, tmp_path):
    code = ('import os, sys; sys.path.insert(0, %r); import prepare\n'
            'print(prepare.find_shards(%r, %r, "train", True))' % (FOLDER, str(folders), str(tmp_path / 'default')))
    os.mkdir(str(tmp_path / 'default'))
    both = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(text.count('prepared /') for text in said) == [0, 2]
    assert len({text.splitlines()[-1] for text in said}) == 1
    assert len(os.listdir(str(tmp_path / 'default' / 'prepared'))) == 1
