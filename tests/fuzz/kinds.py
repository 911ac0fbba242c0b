# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: for each kind of input how to draw whole files, and the program's own function that reads them."""
import contextlib
import functools
import io
import json
import os
import pickle
import re
import sys
import tarfile
from collections import namedtuple

import numpy as np

from common.files import DataError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CSPNET, SSD = 'CSPNet_ID0840_for_TensorFlow', 'SSD-VGG_ID1619_for_TensorFlow'
SHUFFLENET, CUTMIX = 'ShufflenetV2_ID0371_For_Tensorflow', 'cutmix_ID2502_for_TensorFlow2.X'

Kind = namedtuple('Kind', 'folder make targets read share')
Kind.__doc__ = """One kind of input.

folder: of the model whose modules are imported, or ''. make(place) draws the files. targets: {pattern of a path: what
the file is, as in mutations.WORDS, or None}. read(place, path of the damaged file) is tried. share: of the time."""


class Refused(Exception):
    """The reader said no, in the way that it promises."""


def _write(place, name, content):
    path = os.path.join(place, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as file:
        file.write(content if isinstance(content, bytes) else json.dumps(content, indent=1).encode())


def _call(main, *words):
    """A program's main(): ends with 0, 1 or 2, and says why in a line."""
    said, shown = (io.TextIOWrapper(io.BytesIO(), 'utf-8', 'backslashreplace') for _ in range(2))
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
        try:
            code = main(list(words))
        except SystemExit as error:
            code = error.code
    said.seek(0)
    lines = said.read().strip().split('\n')
    assert code in (0, 1, 2), 'exit code %r' % (code,)
    if code:
        assert len(lines[-1]) > 10, 'exit code %d without a reason' % code
        assert len(lines) == 1, 'exit code %d with %d lines: %.400s' % (code, len(lines), lines)
        raise Refused(lines[-1])


def _picture(form, size=(24, 16), mode='RGB', **settings):
    from PIL import Image
    drawn, content = np.random.RandomState(1).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8), io.BytesIO()
    Image.fromarray(drawn).convert(mode).save(content, form, **settings)
    return content.getvalue()


def _photo():
    from PIL import Image
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: 'maker', 0x0132: '2020:01:01 00:00:00', 0x011A: 72.0})
    exif.get_ifd(0x8769).update({0x9003: '2020:01:01 00:00:00', 0x829A: (1, 60), 0x927C: b'note' * 5})
    return _picture('JPEG', exif=exif)


# CIFAR-10

def _make_cifar(place):
    random = np.random.RandomState(0)
    for number, name in enumerate(['data_batch_%d' % n for n in range(1, 6)] + ['test_batch']):
        batch = {b'labels': random.randint(0, 10, 3).tolist(), b'filenames': ['a.png'] * 3,
                 b'data': random.randint(0, 256, (3, 3072)).astype(np.uint8)}
        _write(place, name, pickle.dumps(batch, number))
    _write(place, 'batches.meta', pickle.dumps({b'label_names': [b'class'] * 10}, 2))


def _make_cifar_archives(place):
    _make_cifar(os.path.join(place, 'cifar-10-batches-py'))
    for name, mode in (('c.tar', 'w'), ('c.tar.gz', 'w:gz'), ('c.tar.xz', 'w:xz')):
        with tarfile.open(os.path.join(place, name), mode, format=tarfile.PAX_FORMAT) as archive:
            archive.add(os.path.join(place, 'cifar-10-batches-py'), 'cifar-10-batches-py')


def _read_cifar(place, path):
    from common import cifar10
    cifar10.load_cifar10(path if '.tar' in path else place)


# Rank tables, run folders

def _make_tables(place):
    from launcher.ranktable import Device, RankTable
    from tools.ranktable import FORMS, render
    devices = tuple(Device('10.0.0.%d' % (1 + rank // 2), rank % 2, '192.168.0.%d' % rank, '10.0.0.1', None)
                    for rank in range(4))
    for form in FORMS:
        of_form = devices if form == 'server_list' else [device._replace(host=device.server_id) for device in devices]
        _write(place, form + '.json', render(RankTable('it', form, tuple(of_form)), form).encode())


def _read_table(place, path):
    from launcher import ranktable
    from tools.ranktable import main
    _call(main, 'check', path)
    _call(main, 'convert', os.path.join(place, 'out.json'), path)
    list(ranktable.endpoints(ranktable.read(path)))


_FLAGS = {'epochs': 2, 'resume': 'auto', 'seed': 0, 'train_steps': None, 'batch_size': 8}


def _make_run(place):
    place = os.path.join(place, 'run')  # which may be moved aside
    _write(place, 'flags.json', dict(_FLAGS))
    steps = [{'event': 'train', 'step': n, 'epoch': n / 5, 'loss': 2.0, 'lr': 0.1, 'images_per_sec': 5.0, 'time': 1.0}
             for n in (1, 2, 3)]
    lines = [{'event': 'run', 'model': 'CSPNet', 'device': 'cpu', 'ranks': 1, 'batch_size': 8}] + steps + [
        {'event': 'eval', 'step': 3, 'epoch': 1.0, 'loss': 2.0, 'top1': 0.5, 'images': 100}]
    _write(place, 'metrics.jsonl', '\n'.join(map(json.dumps, lines)).encode())
    _write(place, 'train_0.log', b'10:15:03 [run] model=CSPNet device=cpu ranks=1 batch_size=8\n'
           b'10:15:03 [train] step=3 epoch=0.6 loss=2.0 lr=0.1\n10:15:03 [warn] message="a b"\n'
           b'10:15:03 [done] step=3 images_per_sec=5.0 ms_per_step=5.0 top1=0.5 status=ok\n')
    for step in (2, 3):
        name = 'ckpt/step-%08d/' % step
        _write(place, name + 'model.index', b'x' * 10)
        _write(place, name + 'state.json', {'step': step, 'epoch': 1.0, 'wall_sec': 1.0, 'files': {'model.index': 10},
                                            'metric': 0.5})
    _write(place, 'ckpt/best.json', {'checkpoint': 'step-00000002', 'metric': 0.5})


def _read_run(place, path):
    from common import checkpoint, logparse
    from tools import report
    place = os.path.join(place, 'run')
    with open(os.path.join(place, 'train_0.log'), encoding='utf-8', errors='replace') as log:
        logparse.final_block(logparse.summarize(log), 1.0)
    _call(report.main, '--table', place)
    report.compare([place, os.path.join(place, 'ckpt', '..')])
    for best in (False, True):
        with contextlib.suppress(DataError):
            _, state = checkpoint.find_checkpoint(place, best)
            checkpoint.check_is_before_end('it', state, 'step', 10 ** 9)
    with contextlib.suppress(DataError):
        checkpoint.find_checkpoint(os.path.join(place, 'ckpt', 'step-00000003'))
    for resume in ('True', os.path.join(place, 'ckpt'), 'auto'):
        with contextlib.suppress(DataError):
            continued, lock = checkpoint.open_run(place, dict(_FLAGS, resume=resume))
            os.close(lock)
            checkpoint.find_start(checkpoint.CheckpointStore(place), continued, resume, 10 ** 9)


# Flags: one a line

def _make_flags(place):
    import train
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        train.parse_args(['--help'])
    names = sorted(set(re.findall(r'--\w+', said.getvalue())) - {'--help'})
    values = ['=1', '=0.5', '=True', '=x', '', '=0|5|10-20', '=auto']
    _write(place, 'words', ''.join('%s%s\n' % (name, values[place % len(values)]) for place, name in enumerate(
        names)).encode())


def _read_flags(place, path):
    import train
    with open(path, 'rb') as file:
        words = file.read().decode(errors='surrogateescape').replace('\0', '').split('\n')
    # All of them at once are refused at the first that is wrong: every part of the line is tried as well.
    for first in [0] + list(range(0, len(words), 4)):
        with contextlib.suppress(Refused):
            _call(lambda given: train.parse_args(given) and 0, *(words[first:first + 4] if first else words))


# Pascal VOC, pictures

def _make_voc(place):
    from tools import sampledata
    sampledata.draw_voc(os.path.join(place, 'VOC'), 3, 1)
    images = os.path.join(place, 'VOC', 'VOCdevkit', 'VOC2007', 'JPEGImages')
    for name in sorted(os.listdir(images)):
        with open(os.path.join(images, name), 'rb') as file:
            content = file.read()
        if name == sorted(os.listdir(images))[0]:  # small, so that what is changed is often in its header
            from PIL import Image
            small = io.BytesIO()
            Image.open(io.BytesIO(content)).resize((24, 16)).save(small, 'JPEG', exif=_exif_of(_photo()))
            content = small.getvalue()
        _write(images, name, content)


def _exif_of(photo):
    from PIL import Image
    return Image.open(io.BytesIO(photo)).info['exif']


def _read_voc(place, path):
    import source_pascal_voc
    root, years = source_pascal_voc.find(os.path.join(place, 'VOC'))
    listed, _, _ = source_pascal_voc.list_images(root, years)
    for ref in listed['train'] + listed['valid']:
        source_pascal_voc.read(ref)


def _process_voc(place, path):
    import process_dataset
    _call(process_dataset.main, '--data_path=%s' % os.path.join(place, 'VOC'), '--workers=1',
          '--output_path=%s' % os.path.join(place, 'out'))


def _make_coco(place):
    """The drawn pictures with COCO's JSON."""
    _make_voc(place)
    os.mkdir(os.path.join(place, 'COCO'))
    images = os.path.join(place, 'COCO', 'images')
    os.rename(os.path.join(place, 'VOC', 'VOCdevkit', 'VOC2007', 'JPEGImages'), images)
    names = sorted(os.listdir(images))
    _write(place, 'COCO/instances_train.json', json.dumps({
        'images': [{'id': number, 'file_name': name, 'width': 0, 'height': 0} for number, name in enumerate(names)],
        'categories': [{'id': 7, 'name': 'dog'}, {'id': 9, 'name': 'cat'}],
        'annotations': [{'id': number, 'image_id': number, 'category_id': 7, 'iscrowd': 0, 'bbox': [2, 3.5, 9, 8]}
                        for number in range(len(names))]}).encode())


def _process_coco(place, path):
    import process_dataset
    _call(process_dataset.main, '--data_path=%s' % os.path.join(place, 'COCO'), '--workers=1',
          '--output_path=%s' % os.path.join(place, 'out'))


def _make_processed(place):
    _make_voc(place)
    _process_voc(place, '')
    for split in ('train', 'valid'):  # as the checksum would refuse every change, it is taken out of the way
        with open(os.path.join(place, 'out', split + '.npz'), 'rb') as file:
            _write(place, split + '.npz', file.read())


def _read_processed(place, path):
    import hashlib

    import training_data
    if path.endswith('.npz'):
        name = os.path.basename(path)
        with open(path, 'rb') as file:
            content = file.read()
        _write(os.path.join(place, 'out'), name, content)
        described = os.path.join(place, 'out', 'dataset.json')
        with open(described) as file:
            description = json.load(file)
        description['splits'][name[:-4]]['sha256'] = hashlib.sha256(content).hexdigest()
        _write(place, 'out/dataset.json', description)
    data = training_data.TrainingData(os.path.join(place, 'out'))
    for split, count in (('train', data.num_train), ('valid', data.num_valid)):
        for index in range(count):
            data.image(index, split)
            data.truth(index, split)


def _make_pictures(place):
    _write(place, 'photo.jpg', _photo())
    for name, mode in (('a.png', 'RGB'), ('a.gif', 'P'), ('a.bmp', 'RGB'), ('a.tif', 'RGB'), ('a.webp', 'RGB'),
                       ('grey.png', 'I;16'), ('cmyk.jpg', 'CMYK'), ('palette.png', 'P')):
        form = {'jpg': 'JPEG', 'tif': 'TIFF'}.get(name[-3:], name.split('.')[1].upper())
        _write(place, name, _picture(form) if mode == 'RGB' else _picture(form, mode='L' if mode == 'I;16' else mode))


def _read_picture_for_ssd(place, path):
    from utils import read_image
    for upright in (False, True):
        try:
            read_image(path, upright)
        except (OSError, ValueError) as error:
            raise Refused(str(error)) from error


def _read_picture_for_shufflenet(place, path):
    from common import pictures
    with open(path, 'rb') as file:
        content = file.read()
    refused = None
    for read in (lambda: pictures.usable_jpeg(content), lambda: pictures.check_header(path)):
        try:
            read()
        except pictures.BadImage as error:
            refused = error
    if refused:
        raise Refused(str(refused))


# ImageNet

def _make_imagenet(place):
    for split, count in (('train', 2), ('val', 1)):
        for label in range(2):
            for number in range(count):
                _write(place, '%s/n0%d/n0%d_%s%d.JPEG' % (split, label, label, split, number),
                       _photo() if number else _picture('JPEG'))
    box = b'<xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>12</ymax>'
    _write(place, 'bounding_boxes/n00/n00_train0.xml', b'<annotation><size><width>24</width><height>16</height></size>'
           b'<object><name>n00</name><bndbox>%s</bndbox></object></annotation>' % box)
    for number in range(3):
        _write(place, 'flat/val/val_%d.JPEG' % number, _picture('JPEG'))
    for name in ('n00', 'n01'):
        _write(place, 'flat/train/%s/%s.JPEG' % (name, name), _picture('JPEG'))
    _write(place, 'flat/val/ground_truth.txt', b'val_0.JPEG 1\nval_1.JPEG 2\nval_2.JPEG 1\n')
    _write(place, 'synsets.txt', b'n00 first\nn01 second\n')


def _read_imagenet(place, path):
    import explore_imagenet
    for data, words in (('.', []), ('flat', ['--synsets=%s' % os.path.join(place, 'synsets.txt')])):
        if data == '.' or 'flat' in path or 'synsets' in path:
            _call(explore_imagenet.main, '--data_dir=%s' % os.path.join(place, data),
                  '--output=%s' % os.path.join(place, 'out'), *words)


def _make_tables_of_imagenet(place):
    _make_imagenet(place)
    _read_imagenet(place, '')
    path = os.path.join(place, 'out', 'training_metadata.csv')
    with open(path) as file:  # of this place, whose name changes from case to case
        table = file.read().replace(place, '@')
    _write(place, 'out/training_metadata.csv', table.encode())
    _write(place, 'names.json', {'n00': 'cat', '1': ['n01', 'dog']})


def _read_tables_of_imagenet(place, path):
    import create_tfrecords
    import pretrained
    tables = os.path.join(place, 'out')
    metadata = os.path.join(tables, 'training_metadata.csv')
    with open(metadata, 'rb') as file:
        content = file.read()
    _write(tables, 'training_metadata.csv', content.replace(b'@', os.fsencode(place)))
    if path.endswith('names.json'):
        pretrained.class_names(path, {}, 2, ['n00', 'n01'])
        pretrained.class_names(path, {}, 2)
        return
    _call(create_tfrecords.main, '--metadata_file=%s' % metadata, '--output=%s' % os.path.join(place, 'shards'),
          '--labels=%s' % os.path.join(tables, 'integer_encoding.json'), '--workers=1',
          '--boxes=%s' % os.path.join(tables, 'boxes.npy'))


def _make_shards(place):
    import shutil
    _make_tables_of_imagenet(place)
    _read_tables_of_imagenet(place, '')
    shutil.copytree(os.path.join(place, 'shards', 'train_shards'), os.path.join(place, 'published'))
    for name in os.listdir(os.path.join(place, 'published')):
        if not name.endswith('.tfrecords'):
            os.remove(os.path.join(place, 'published', name))


def _read_shards(place, path):
    import input_pipeline
    folder = 'published' if 'published' in path else 'shards/train_shards'
    shards = input_pipeline.Shards(os.path.join(place, folder), 2, max_bad_records=100)
    for number in range(len(shards)):
        shards.read(number)
    input_pipeline.training_batch(shards, 0, 1, 0, 0.1, True)


# Weights: TensorFlow reads them

@functools.lru_cache(maxsize=None)
def _network():
    import tensorflow as tf
    tf.keras.utils.set_random_seed(0)
    images = tf.keras.Input([2, 2, 3], dtype='uint8', name='images')
    flat = tf.keras.layers.Flatten(name='flat')(images)
    return tf.keras.Model(images, tf.keras.layers.Dense(4, name='scores')(flat), name='tiny')


@functools.lru_cache(maxsize=None)
def _optimizer():
    import tensorflow as tf
    optimizer = tf.keras.optimizers.Adam(0.1)
    optimizer.build([tf.Variable([1.0, 2.0])])
    return optimizer


def _make_weights(place):
    import tensorflow as tf

    import model_files
    network = _network()
    model_files.save(os.path.join(place, 'model'), network, _optimizer())
    model_files.export(tf, os.path.join(place, 'export'), network, {'classes': list('abcd')}, replace=True)


def _read_weights(place, path):
    import tensorflow as tf

    import model_files
    if path.endswith('.npz'):
        model_files.restore_optimizer(path[:-len('.optimizer.npz')], _optimizer())
    else:
        given = os.path.join(place, 'export', 'saved_model') if 'saved_model' in path else path
        model_files.find_scores(tf, given, _network, lambda network: None)
        if given.endswith('.h5'):
            model_files.load_fitting(_network(), given)


def _make_checkpoint(place):
    import tensorflow.compat.v1 as tf
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable('weights', [3, 4], tf.float32, tf.ones_initializer())
        tf.get_variable('step', [], tf.int64, tf.ones_initializer())
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, os.path.join(place, 'model'), write_meta_graph=False, write_state=False)


def _read_checkpoint(place, path):
    import tensorflow.compat.v1 as tf

    from common import graph_files
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable('weights', [3, 4])
        tf.get_variable('step', [], tf.int64)
        graph_files.restore(tf, session, os.path.join(place, 'model'))


KINDS = {
    'cifar_batches': Kind('', _make_cifar, {r'_batch|data_|meta': None}, _read_cifar, 4),
    'cifar_archive': Kind('', _make_cifar_archives, {r'c\.tar': None}, _read_cifar, 4),
    'rank_table': Kind('', _make_tables, {r'json': 'json'}, _read_table, 3),
    'run_folder': Kind('', _make_run, {r'json': 'json', r'log': 'table'}, _read_run, 5),
    'flags_cspnet': Kind(CSPNET, _make_flags, {'words': 'lines'}, _read_flags, 2),
    'flags_cutmix': Kind(CUTMIX, _make_flags, {'words': 'lines'}, _read_flags, 2),
    'voc_xml': Kind(SSD, _make_voc, {r'Annotations/.*xml': 'xml'}, _read_voc, 5),
    'voc_lists': Kind(SSD, _make_voc, {r'Main/': 'lines', r'Annotations/.*xml': 'xml'}, _process_voc, 4),
    'voc_pictures': Kind(SSD, _make_voc, {r'jpg': None}, _read_voc, 3),
    'coco': Kind(SSD, _make_coco, {r'COCO/.*json': 'json'}, _process_coco, 4),
    'voc_processed': Kind(SSD, _make_processed, {r'out/dataset.json': 'json', r'\d/(train|valid)\.npz': None},
                          _read_processed, 3),
    'pictures_ssd': Kind(SSD, _make_pictures, {r'.': None}, _read_picture_for_ssd, 3),
    'flags_ssd': Kind(SSD, _make_flags, {'words': 'lines'}, _read_flags, 2),
    'pictures_shufflenet': Kind(SHUFFLENET, _make_pictures, {r'.': None}, _read_picture_for_shufflenet, 4),
    'imagenet': Kind(SHUFFLENET, _make_imagenet, {r'xml': 'xml', r'txt': 'table', r'JPEG': None}, _read_imagenet, 4),
    'imagenet_tables': Kind(SHUFFLENET, _make_tables_of_imagenet, {
        r'out/.*csv': 'table', r'json': 'json', r'npy': None}, _read_tables_of_imagenet, 4),
    'shards': Kind(SHUFFLENET, _make_shards, {r'published/': None, r'shards/.*json': 'json', r'npy': None,
                                              r'shards/.*tfrecords': None}, _read_shards, 5),
    'flags_shufflenet': Kind(SHUFFLENET, _make_flags, {'words': 'lines'}, _read_flags, 2),
    'weights': Kind(CUTMIX, _make_weights, {r'h5|npz|saved_model': None}, _read_weights, 8),
    'checkpoint': Kind(CUTMIX, _make_checkpoint, {r'model': None}, _read_checkpoint, 8),
}


def use_folder(folder):
    """Makes a model folder's modules importable, as its programs do."""
    sys.path[:0] = [path for path in (os.path.join(ROOT, folder), ROOT) if path not in sys.path]
