# SPDX-License-Identifier: Apache-2.0
"""Pictures of every kind come out upright, RGB and 8 bits; contact sheets and predictions are what they say."""
import csv
import io
import json
import os
from argparse import Namespace

import numpy as np
import pytest

from common import flags, pictures, predictions
from common.files import DataError

Image = pytest.importorskip('PIL.Image')
pytest.importorskip('matplotlib')
RED, GREEN = (200, 30, 30), (30, 160, 60)


def two_colours(width_px=64, height_px=40):
    """Left half red, right half green."""
    pixels = np.empty([height_px, width_px, 3], np.uint8)
    pixels[:, :width_px // 2], pixels[:, width_px // 2:] = RED, GREEN
    return Image.fromarray(pixels)


def encoded(image, kind='PNG', **words):
    out = io.BytesIO()
    image.save(out, kind, **words)
    return out.getvalue()


def test_a_turned_picture_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to look at it: left becomes top
    pixels = pictures.read_rgb(encoded(two_colours(), 'JPEG', exif=exif, quality=95))
    assert pixels.shape == (64, 40, 3)
    assert np.abs(pixels[4, 20].astype(int) - RED).max() < 12 and np.abs(pixels[-4, 20].astype(int) - GREEN).max() < 12


@pytest.mark.parametrize('mode, kind', [('L', 'PNG'), ('CMYK', 'JPEG'), ('RGBA', 'PNG'), ('P', 'GIF'), ('1', 'PNG')])
def test_every_mode_becomes_rgb(mode, kind):
    pixels = pictures.square(encoded(two_colours().convert(mode), kind), 32)
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8 and pixels.std() > 5


def test_sixteen_bits_are_scaled():
    deep = Image.fromarray(np.full([8, 8], 40000, np.uint16))
    assert (pictures.read_rgb(encoded(deep)) == 40000 >> 8).all()


def test_the_centre_is_what_is_kept_and_the_right_size_is_kept_exactly():
    exact = np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8)
    assert (pictures.square(encoded(Image.fromarray(exact)), 32) == exact).all()
    wide = np.zeros([30, 90, 3], np.uint8)
    wide[:, 30:60] = 255
    assert (pictures.square(encoded(Image.fromarray(wide)), 30) == 255).all()
    large = two_colours(2000, 1600)
    small = pictures.square(encoded(large, 'JPEG', quality=95), 32)  # decoded at a fraction
    assert np.abs(small[:, :12].astype(int) - RED).max() < 12 and np.abs(small[:, 20:].astype(int) - GREEN).max() < 12


@pytest.mark.parametrize('content, reason', [(b'', 'empty'), (b'text', 'not an image')])
def test_what_is_no_picture_says_so(content, reason):
    with pytest.raises(pictures.BadImage, match=reason):
        pictures.read_rgb(content)
    with pytest.raises(pictures.BadImage, match='truncated'):
        pictures.read_rgb(encoded(two_colours(), 'JPEG')[:-40])


def test_files_and_folders_are_found(tmp_path):
    for name in ('b.JPG', 'a.png', '._a.png', 'notes.txt'):
        (tmp_path / name).write_bytes(b'')
    assert [os.path.basename(path) for path in pictures.find([str(tmp_path)])] == ['a.png', 'b.JPG']
    assert pictures.find([str(tmp_path / 'notes.txt')]) == [str(tmp_path / 'notes.txt')]  # asked for by name
    with pytest.raises(DataError, match='no such file'):
        pictures.find([str(tmp_path / 'absent')])


def test_a_contact_sheet_shows_every_image_and_label(tmp_path):
    images = [np.full([32, 32, 3], shade, np.uint8) for shade in (0, 100, 200)] + [np.array(two_colours(90, 30))]
    pictures.contact_sheet(str(tmp_path / 'in' / 'sheet.png'), images, ['a $x', 'a long name ' * 3, '猫', 'd\ntwo'], 2)
    shown = np.asarray(Image.open(str(tmp_path / 'in' / 'sheet.png')).convert('RGB'))
    assert shown.shape[0] > 2 * 120 and shown.shape[1] == 2 * 132
    for colour in ((0, 0, 0), (100, 100, 100), (200, 200, 200), RED, GREEN):
        assert (shown == colour).all(2).sum() > 1000, colour


@pytest.fixture
def photos(tmp_path):
    """A folder of three pictures, one of them damaged."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    for name, shade in (('a.png', 10), ('b.png', 250)):
        (folder / name).write_bytes(encoded(Image.new('RGB', (40, 30), (shade,) * 3)))
    (folder / 'c.jpg').write_bytes(encoded(two_colours(), 'JPEG')[:-40])
    return folder


def brightness(images):
    light = images.mean((1, 2, 3)) / 255
    return np.stack([1 - light, light], 1)


def predict(parsed):
    return predictions.classify(parsed, lambda data: pictures.square(data, 32), brightness, ['dark', 'light'],
                                {'model': 'Brightness'}, batch_size=1)


def test_predictions_are_told_and_written(photos, tmp_path, capsys):
    parser = flags.Parser(prog='predict.py')
    flags.add_predict_group(parser, 'run')
    parsed = parser.parse_args([str(photos), '--output_path=%s' % (tmp_path / 'out'), '--top=1'])
    assert predict(parsed) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in said[1:3]] == [['dark', '0.9608'], ['light', '0.9804']]
    assert said[3] == 'passed over: %s: truncated' % (photos / 'c.jpg')
    with open(str(tmp_path / 'out' / 'predictions.csv')) as file:
        rows = list(csv.DictReader(file))
    assert [(row['rank'], row['class']) for row in rows] == [('1', 'dark'), ('1', 'light')]
    found = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert found['model'] == 'Brightness' and found['classes'] == ['dark', 'light']
    assert found['pictures'][1] == {'file': str(photos / 'b.png'),
                                    'guesses': [{'class': 'light', 'probability': 0.980392}]}
    assert found['passed_over'] == [{'file': str(photos / 'c.jpg'), 'reason': 'truncated'}]
    assert (tmp_path / 'out' / 'predictions.png').exists()


def test_nothing_but_bad_files_is_a_failure(photos, tmp_path, capsys):
    assert predict(Namespace(pictures=[str(photos / 'c.jpg')], output_path=str(tmp_path / 'out'), top=5)) == 1
    assert 'passed over' in capsys.readouterr().out


def test_a_probability_that_is_no_number_is_refused(photos, tmp_path):
    parsed = Namespace(pictures=[str(photos / 'a.png')], output_path=str(tmp_path / 'out'), top=5)
    with pytest.raises(DataError, match='no number'):
        predictions.classify(parsed, lambda data: pictures.square(data, 32), lambda images: images[:, 0, 0] * np.nan,
                             ['a', 'b', 'c'], {})
