# SPDX-License-Identifier: Apache-2.0
"""Small files that mean very much are refused, or read in little memory."""
import base64
import collections
import gzip
import io
import pickle
import struct
import tarfile
import zlib

import kinds
import pytest


def _png(side_px, whole):
    """A PNG of side_px x side_px black pixels in little space; not `whole`, its header and hardly more."""
    def chunk(name, content):
        return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))
    rows = zlib.compress(bytes((side_px // 8 + 1) * side_px), 1) if whole else zlib.compress(b'')
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', side_px, side_px, 1, 0, 0, 0, 0)) + chunk(
        b'IDAT', rows) + chunk(b'IEND', b'')


def _jpeg(side_px):
    """A JPEG whose header says side_px x side_px pixels."""
    content = bytearray(kinds._picture('JPEG'))
    place = content.index(b'\xff\xc0')
    content[place + 5:place + 9] = struct.pack('>HH', side_px, side_px)
    return bytes(content)


def _npy(shape):
    header = repr({'descr': '<f8', 'fortran_order': False, 'shape': shape}).encode()
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header


def _tar(size_bytes):
    member = tarfile.TarInfo('cifar-10-batches-py/data_batch_1')
    member.size = size_bytes
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=content, mode='wb', compresslevel=1) as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        for _ in range(8):
            file.write(bytes(2 ** 20))
    return content.getvalue()


def _entities(depth):
    lines = ['<!ENTITY e0 "%s">' % ('x' * 1000)] + ['<!ENTITY e%d "%s">' % (n, '&e%d;' % (n - 1) * 10)
                                                    for n in range(1, depth)]
    return ('<!DOCTYPE a [%s]><annotation><object><name>&e%d;</name></object></annotation>' % (
        ''.join(lines), depth - 1)).encode()


_XML, _IMAGE = 'VOC/VOCdevkit/VOC2007/Annotations/000001.xml', 'VOC/VOCdevkit/VOC2007/JPEGImages/000001.jpg'
_OF_IMAGENET = 'bounding_boxes/n00/n00_train0.xml'
BOMBS = [  # what it is, kind, file that is replaced, its content
    ('PNG of 60,000 x 60,000 pixels', 'voc_pictures', _IMAGE, lambda: _png(60000, False)),
    ('PNG of 30,000 x 30,000 pixels', 'voc_pictures', _IMAGE, lambda: _png(30000, True)),
    ('PNG of 30,000 x 30,000 pixels', 'pictures_ssd', 'a.png', lambda: _png(30000, True)),
    ('PNG of 30,000 x 30,000 pixels', 'pictures_shufflenet', 'a.png', lambda: _png(30000, True)),
    ('JPEG of 60,000 x 60,000 pixels', 'voc_pictures', _IMAGE, lambda: _jpeg(60000)),
    ('JPEG of 30,000 x 30,000 pixels', 'pictures_ssd', 'photo.jpg', lambda: _jpeg(30000)),
    ('JPEG of 60,000 x 60,000 pixels', 'pictures_shufflenet', 'photo.jpg', lambda: _jpeg(60000)),
    ('JPEG of 60,000 x 60,000 pixels', 'imagenet', 'train/n00/n00_train0.JPEG', lambda: _jpeg(60000)),
    ('entities of entities', 'voc_xml', _XML, lambda: _entities(9)),
    ('entities of entities', 'imagenet', _OF_IMAGENET, lambda: _entities(9)),
    ('a million elements in each other', 'voc_xml', _XML, lambda: b'<a>' * 10 ** 6),
    ('a million elements in each other', 'imagenet', _OF_IMAGENET, lambda: b'<a>' * 10 ** 6 + b'</a>' * 10 ** 6),
    ('an entity from a file', 'voc_xml', _XML,
     lambda: b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>'),
    ('archive that says 1 TB', 'cifar_archive', 'c.tar.gz', lambda: _tar(2 ** 40)),
    ('index of 2^31 in a pickle', 'cifar_batches', 'data_batch_1', lambda: b'(lr\xff\xff\xff\x7f.'),
    ('bytearray of 16 GB in a pickle', 'cifar_batches', 'data_batch_1', lambda: b'\x96' + struct.pack('<Q', 2 ** 34)),
    ('lists in each other in a pickle', 'cifar_batches', 'data_batch_1',
     lambda: b'(' * 10 ** 6 + b'l' * 10 ** 6 + b'.'),
    ('2^24 labels of few bytes in a pickle', 'cifar_batches', 'data_batch_1',
     lambda: pickle.dumps({b'labels': _doubled(24), b'data': b''}, 2)),
    ('JSON in itself', 'rank_table', 'server_list.json', lambda: b'[' * 10 ** 6),
    ('JSON in itself', 'run_folder', 'run/flags.json', lambda: b'{"a":' * 10 ** 6),
    ('a number of a million digits', 'run_folder', 'run/ckpt/step-00000003/state.json',
     lambda: b'{"step": %s}' % (b'9' * 10 ** 6)),
    ('a line of 20 MB', 'run_folder', 'run/metrics.jsonl', lambda: b'x' * 2 * 10 ** 7),
    ('npy that says 8 TB', 'imagenet_tables', 'out/boxes.npy', lambda: _npy((2 ** 38, 5)) + bytes(1000)),
    ('npy that says 8 TB', 'shards', 'shards/train_shards/records.npy', lambda: _npy((2 ** 38, 4)) + bytes(1000)),
]


def _doubled(times):
    labels = [1]
    for _ in range(times):
        labels = [labels, labels]
    return labels


@pytest.mark.parametrize('what, kind, name, content', BOMBS, ids=['%s, %s' % bomb[:2] for bomb in BOMBS])
def test_a_small_file_that_means_much(what, kind, name, content, workers, request):
    outcome, words, _ = workers(kinds.KINDS[kind].folder).ask(
        kind=kind, case='bomb', name=name, content=base64.b64encode(content()).decode())
    request.config.fuzz_counts.setdefault('bombs', collections.Counter())[outcome] += 1
    assert outcome != 'found', words
