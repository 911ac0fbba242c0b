# SPDX-License-Identifier: Apache-2.0
"""The file format: frames, checksums, examples, sizes."""
import os
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'ShufflenetV2_ID0371_For_Tensorflow'))
tf = pytest.importorskip('tensorflow.compat.v1')
tf.disable_v2_behavior()
pytest.importorskip('PIL.Image')

from small_imagenet import jpeg  # noqa: E402

import records  # noqa: E402

smoke = pytest.mark.smoke


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
