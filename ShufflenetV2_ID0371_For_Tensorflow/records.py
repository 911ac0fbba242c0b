# SPDX-License-Identifier: Apache-2.0
"""The file format of the shards, without TensorFlow: TFRecord framing, one tf.train.Example a record.

A record is length (8 bytes), masked crc32c of these, payload, masked crc32c of it; all little-endian. A payload has the
published features: image (JPEG bytes), label (int64) and, where boxes are known, xmin, ymin, xmax, ymax (of 1).
"""
import io
import os
import re
import struct

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from common.files import DataError
from common.lazy import np

HEADER_BYTES, FOOTER_BYTES = 12, 4
_SHARD_NAME = re.compile(r"\.(tfrecords?|tfrec)(\.gz)?$|-\d{5}-of-\d{5}$")  # also train-00000-of-01024
_GZIP = b"\x1f\x8b"

# tensorflow/core/example/{example,feature}.proto: message -> (field, number, type, label). A map is a list of entries.
_FIELD = descriptor_pb2.FieldDescriptorProto
_EXAMPLE_PROTO = {
    "BytesList": [("value", 1, _FIELD.TYPE_BYTES, _FIELD.LABEL_REPEATED)],
    "FloatList": [("value", 1, _FIELD.TYPE_FLOAT, _FIELD.LABEL_REPEATED)],
    "Int64List": [("value", 1, _FIELD.TYPE_INT64, _FIELD.LABEL_REPEATED)],
    "Feature": [(name, number + 1, "." + name, _FIELD.LABEL_OPTIONAL)
                for number, name in enumerate(("BytesList", "FloatList", "Int64List"))],
    "Entry": [("key", 1, _FIELD.TYPE_STRING, _FIELD.LABEL_OPTIONAL), ("value", 2, ".Feature", _FIELD.LABEL_OPTIONAL)],
    "Features": [("feature", 1, ".Entry", _FIELD.LABEL_REPEATED)],
    "Example": [("features", 1, ".Features", _FIELD.LABEL_OPTIONAL)],
}


def _message_class(name):
    """A class for one of _EXAMPLE_PROTO: importing TensorFlow for its own costs every process seconds."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", syntax="proto3")
    for message_name, fields in _EXAMPLE_PROTO.items():
        described = file.message_type.add(name=message_name)
        for field_name, number, kind, label in fields:
            kind = {"type_name": kind} if isinstance(kind, str) else {"type": kind}
            described.field.add(name=field_name, number=number, label=label, **kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)


_Example = _message_class("Example")


def masked_crc32c(data):
    """The checksum as TFRecord files hold it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload):
    """One record of a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    return b"".join([length, struct.pack("<I", masked_crc32c(length)), payload,
                     struct.pack("<I", masked_crc32c(payload))])


def shard_files(folder):
    """Paths of the files in a folder that are named like shards, sorted; [] when there is no such folder."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if _SHARD_NAME.search(name)]


def scan(path):
    """Where a shard's records lie, by their headers alone.

    Returns:
      (int64 [N, 2] of payload offset and length, None or a few words on what is wrong after the last of them).
    Raises:
      DataError: it is compressed.
    """
    places, problem, start = [], None, 0
    with open(path, "rb") as file:
        if file.read(2) == _GZIP:
            raise DataError(path, "TFRecords that can be read at any place", "a gzip file", "gunzip it")
        size = file.seek(0, 2)
        while start < size:
            file.seek(start)
            header = file.read(HEADER_BYTES)
            if len(header) < HEADER_BYTES:
                problem = "a record cut short at byte %d" % start
                break
            length, crc = struct.unpack("<QI", header)
            if masked_crc32c(header[:8]) != crc:
                problem = "a damaged record header at byte %d" % start
                break
            end = start + HEADER_BYTES + length + FOOTER_BYTES
            if end > size:
                problem = "a record cut short at byte %d" % start
                break
            places.append((start + HEADER_BYTES, length))
            start = end
    return np.array(places, np.int64).reshape(-1, 2), problem


def encode_example(image, label, boxes_xyxy=None):
    """A serialized tf.train.Example.

    Args:
      image: bytes of a JPEG file.
      label: int >= 0.
      boxes_xyxy: float [n, 4] in 0..1, or None when no boxes are known.
    Returns:
      bytes.
    """
    example = _Example()
    add = example.features.feature.add
    add(key="image").value.BytesList.value.append(image)
    add(key="label").value.Int64List.value.append(label)
    if boxes_xyxy is not None:
        for name, column in zip(("xmin", "ymin", "xmax", "ymax"), np.reshape(boxes_xyxy, [-1, 4]).T.tolist()):
            floats = add(key=name).value.FloatList
            floats.SetInParent()  # an image without boxes has these features too
            floats.value.extend(column)
    return example.SerializeToString()


def decode_example(payload):
    """The features of a serialized tf.train.Example.

    Returns:
      {name as str: list of bytes, int or float}.
    Raises:
      ValueError: it is damaged.
    """
    try:
        entries = _Example.FromString(payload).features.feature
    except message.DecodeError as error:
        raise ValueError("a damaged record (%s)" % error) from error
    features = {}
    for entry in entries:
        for _, values in entry.value.ListFields():
            features[entry.key] = values.value
    return features


def jpeg_size(image):
    """(height_px, width_px) of a JPEG file's bytes, from its header; ValueError when it is none."""
    from PIL import Image
    try:
        with Image.open(io.BytesIO(image), formats=("JPEG", "MPO")) as opened:
            return opened.height, opened.width
    except Exception as error:  # an image library has many ways to say no
        raise ValueError("no JPEG (%s)" % (type(error).__name__)) from error
