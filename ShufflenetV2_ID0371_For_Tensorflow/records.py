# SPDX-License-Identifier: Apache-2.0
"""The file format of the shards, without TensorFlow: TFRecord framing, its checksum, one tf.train.Example a record.

A record is length (8 bytes), masked crc32c of these, payload, masked crc32c of it; all little-endian. A payload has the
published features: image (JPEG bytes), label (int64) and, where boxes are known, xmin, ymin, xmax, ymax (of 1).
"""
import struct

import numpy as np

HEADER_BYTES, FOOTER_BYTES = 12, 4
_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
_STEPS = 32  # pairs of bytes that a lane takes one after the other
_tables = {}


def crc32c(data):
    """The CRC-32C of bytes (RFC 3720, appendix B.4), computed in numpy.

    The message is cut into lanes of equal length that go through the table side by side; then neighbours are joined,
    level by level: the CRC of a left part, moved over as many zeros as the right part is long, XOR the right part's.
    """
    if len(data) < 4:
        return _crc32c_bytewise(data)
    lane_bytes = 2 * _STEPS
    lanes = 1
    while lanes * lane_bytes < len(data):
        lanes *= 2
    padded = np.zeros(lanes * lane_bytes, np.uint8)  # zeros in front do not change a register that is 0
    padded[-len(data):] = np.frombuffer(data, np.uint8)
    padded[len(padded) - len(data):len(padded) - len(data) + 4] ^= 0xFF  # the same as starting with all ones
    pairs = np.ascontiguousarray(padded.view("<u2").reshape(lanes, _STEPS).T).astype(np.uint32)
    table = _pair_table()
    register = np.zeros(lanes, np.uint32)
    for column in pairs:
        register ^= column
        register = (register >> 16) ^ table[register & 0xFFFF]
    moved_bytes = lane_bytes
    while len(register) > 1:
        by_byte = _move_table(moved_bytes)
        left = register[0::2]
        register = (by_byte[0][left & 255] ^ by_byte[1][(left >> 8) & 255] ^ by_byte[2][(left >> 16) & 255]
                    ^ by_byte[3][left >> 24] ^ register[1::2])
        moved_bytes *= 2
    return int(register[0]) ^ 0xFFFFFFFF


def masked_crc32c(data):
    """The checksum as TFRecord files hold it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload):
    """One record of a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    return b"".join([length, struct.pack("<I", masked_crc32c(length)), payload,
                     struct.pack("<I", masked_crc32c(payload))])


def scan(path):
    """Where a shard's records lie, by their headers alone.

    Returns:
      (int64 [N, 2] of payload offset and length, None or a few words on what is wrong after the last of them).
    """
    found = []
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        place = 0
        while place < size:
            file.seek(place)
            header = file.read(HEADER_BYTES)
            if len(header) < HEADER_BYTES:
                return _offsets(found), "a record cut short at byte %d" % place
            length, crc = struct.unpack("<QI", header)
            if masked_crc32c(header[:8]) != crc:
                return _offsets(found), "a damaged record header at byte %d" % place
            if place + HEADER_BYTES + length + FOOTER_BYTES > size:
                return _offsets(found), "a record cut short at byte %d" % place
            found.append((place + HEADER_BYTES, length))
            place += HEADER_BYTES + length + FOOTER_BYTES
    return _offsets(found), None


def _offsets(found):
    return np.array(found, np.int64).reshape(-1, 2)


def encode_example(image, label, boxes_xyxy=None):
    """A serialized tf.train.Example.

    Args:
      image: bytes of a JPEG file.
      label: int >= 0.
      boxes_xyxy: float [n, 4] in 0..1, or None when no boxes are known.
    Returns:
      bytes.
    """
    features = [_feature(b"image", 1, _field(1, image)), _feature(b"label", 3, _field(1, _varint(label)))]
    if boxes_xyxy is not None:
        columns = np.asarray(boxes_xyxy, "<f4").reshape(-1, 4).T
        for name, column in zip((b"xmin", b"ymin", b"xmax", b"ymax"), columns):
            features.append(_feature(name, 2, _field(1, column.tobytes())))
    return _field(1, b"".join(features))


def _varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number, content):
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _feature(name, kind, values):
    return _field(1, _field(1, name) + _field(2, _field(kind, values)))


def jpeg_size(image):
    """(height_px, width_px) from a JPEG's frame header; ValueError when there is none."""
    place, end = 2, len(image)
    if image[:2] != b"\xff\xd8":
        raise ValueError("no JPEG")
    while place + 9 < end:
        if image[place] != 0xFF:
            raise ValueError("a damaged JPEG header")
        marker = image[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            place += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height_px, width_px = struct.unpack_from(">HH", image, place + 5)
            if not height_px or not width_px:
                raise ValueError("a JPEG without pixels")
            return height_px, width_px
        else:
            place += 2 + struct.unpack_from(">H", image, place + 2)[0]
    raise ValueError("a JPEG without a frame header")


def _crc32c_bytewise(data):
    table = _byte_table()
    register = 0xFFFFFFFF
    for byte in data:
        register = register >> 8 ^ int(table[(register ^ byte) & 255])
    return register ^ 0xFFFFFFFF


def _byte_table():
    if "byte" not in _tables:
        register = np.arange(256, dtype=np.uint32)
        for _ in range(8):
            register = np.where(register & 1, register >> 1 ^ np.uint32(_POLYNOMIAL), register >> 1).astype(np.uint32)
        _tables["byte"] = register
    return _tables["byte"]


def _pair_table():
    if "pair" not in _tables:
        table = _byte_table()
        register = np.arange(65536, dtype=np.uint32)
        for _ in range(2):
            register = register >> 8 ^ table[register & 255]
        _tables["pair"] = register
    return _tables["pair"]


def _move_table(zero_bytes):
    """uint32 [4, 256]: what each byte of a register becomes after that many zero bytes (a power of two times 64)."""
    if zero_bytes not in _tables:
        if zero_bytes == 2 * _STEPS:
            bits = (np.uint32(1) << np.arange(32, dtype=np.uint32)).astype(np.uint32)
            table = _byte_table()
            for _ in range(zero_bytes):
                bits = bits >> 8 ^ table[bits & 255]
        else:  # twice over half as many
            half = _move_table(zero_bytes // 2)
            bits = np.array([half[bit // 8][1 << bit % 8] for bit in range(32)], np.uint32)
            bits = half[0][bits & 255] ^ half[1][bits >> 8 & 255] ^ half[2][bits >> 16 & 255] ^ half[3][bits >> 24]
        tables = np.zeros([4, 256], np.uint32)
        for place in range(4):
            for bit in range(8):
                tables[place] ^= np.where(np.arange(256) >> bit & 1, bits[8 * place + bit], 0).astype(np.uint32)
        _tables[zero_bytes] = tables
    return _tables[zero_bytes]


def decode_example(payload):
    """The features of a serialized tf.train.Example.

    Returns:
      {name as str: list of bytes, list of int or float32 array}.
    Raises:
      ValueError: it is damaged.
    """
    found = {}
    try:
        for _, features in _fields(payload):
            for _, entry in _fields(features):
                parts = dict(_fields(entry))
                (kind, values), = _fields(parts[2])
                found[bytes(parts[1]).decode()] = _READERS[kind](values)
    except (KeyError, IndexError, TypeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError("a damaged record (%s)" % type(error).__name__) from error
    return found


def _fields(message):
    """Yields (number, content) of a protocol buffer message; content is bytes, or int for a varint."""
    place, end = 0, len(message)
    while place < end:
        key, place = _read_varint(message, place)
        if key & 7 == 0:
            content, place = _read_varint(message, place)
        elif key & 7 in (2, 5):
            length, place = _read_varint(message, place) if key & 7 == 2 else (4, place)
            if place + length > end:
                raise ValueError("a damaged record (a field that is too long)")
            content, place = message[place:place + length], place + length
        else:
            raise ValueError("a damaged record (wire type %d)" % (key & 7))
        yield key >> 3, content


def _read_varint(message, place):
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("a damaged record (a number that is too long)")


def _read_integers(values):
    found = []
    for _, content in _fields(values):
        if isinstance(content, int):
            found.append(content)
            continue
        place = 0
        while place < len(content):
            value, place = _read_varint(content, place)
            found.append(value)
    return [value - (1 << 64) if value >> 63 else value for value in found]


_READERS = {
    1: lambda values: [bytes(content) for _, content in _fields(values)],
    2: lambda values: np.frombuffer(b"".join(content for _, content in _fields(values)), "<f4"),
    3: _read_integers,
}
