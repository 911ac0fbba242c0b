# SPDX-License-Identifier: Apache-2.0
"""Pictures of any mode and format as JPEGs."""
import io
import os
import struct
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'ShufflenetV2_ID0371_For_Tensorflow'))
pytest.importorskip('tensorflow')
Image = pytest.importorskip('PIL.Image')

from small_imagenet import jpeg, table, write  # noqa: E402

import explore_imagenet  # noqa: E402
from common import pictures  # noqa: E402

smoke = pytest.mark.smoke


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


def test_endings_in_any_case_and_motion_photos(image_folders, tmp_path):
    place = image_folders / 'train' / 'n01'
    for name, kind in (('a.PNG', 'PNG'), ('b.Jpg', 'JPEG'), ('c.bmp', 'BMP'), ('d.webp', 'WEBP'), ('e.TIF', 'TIFF'),
                       ('f.jfif', 'JPEG'), ('g.gif', 'GIF')):
        write(place / name, jpeg(kind=kind))
    write(place / 'motion.jpg', jpeg() + b'MotionPhoto_Data' + bytes(9000))
    write(place / 'cut.jpg', jpeg(size=(400, 300))[:-200])
    counts = explore_imagenet.explore(str(image_folders), str(tmp_path / 't'))
    assert counts['training'] == 12 + 8
    reasons = {os.path.basename(row['path']): row['reason'] for row in table(tmp_path / 't' / 'bad_files.csv')}
    assert reasons.pop('cut.jpg') == 'truncated' and sorted(reasons) == ['a.PNG', 'c.bmp', 'd.webp', 'e.TIF', 'g.gif']
