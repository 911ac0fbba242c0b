# SPDX-License-Identifier: Apache-2.0
"""Damages a file's bytes: by bits and pieces, and for text by words that its grammar does not expect."""
import json
import re

WORDS = {  # kind of text -> what its words are
    'json': rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^{}\[\],:"\s]+|\s+',
    'xml': rb'<[^>]*>|[^<]+',
    'lines': rb'[^\n]*\n',
    'table': rb'[^,\s=]+|[,\s=]',
}
NASTY_WORDS = [
    b'', b'\0', b'-1', b'0', b'1', b'3', b'1e999', b'-1e-400', b'nan', b'NaN', b'Infinity', b'9' * 400, b'9' * 5000,
    b'2147483648', b'99999999999999999999', b'0x10', b'1_000', b'null', b'true', b'True', b'"x"', b'[]', b'{}', b'[[]]',
    b'{"a":1}', b'""', b'..', b'/', b'../../x', b'/etc/passwd', b'~', b'%s%n', b'\xff\xfe', b'\xef\xbb\xbf',
    b'x' * 5000,
    b'\xc3\xa9\xe4\xb8\xad', b'\xed\xa0\x80', b'\xe2\x80\xa8', b'[' * 3000, b'{"a":' * 3000, b'<a>' * 3000, b'<a>',
    b'</annotation>', b'&amp;', b'&x;', b'&#0;', b'<![CDATA[', b'<!--', b'<!DOCTYPE a [<!ENTITY x "y">]>', b'auto',
    b'<?xml version="1.0" encoding="utf-16"?>', b'-', b'--', b'\n', b'\r', b'\t', b'"', b"'", b',', b':', b'#', b'5-2',
    b'1|2', b'\\u0000', b'"\\ud800"',
]
_NUMBERS = [number.to_bytes(size, order) for size in (1, 2, 4, 8) for order in ('little', 'big') for number in (
    0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, 2 ** (4 * size), 2 ** (6 * size))]


def mutate(content, random, words=None):
    """content, damaged in one to four places.

    Args:
      content: bytes.
      random: random.Random.
      words: one of WORDS for text of that kind, None for bytes.
    """
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        if words == 'json' and random.random() < 0.6:
            content = _change_tree(content, random)
        elif words and random.random() < 0.7:
            content = _change_words(content, random, words)
        else:
            content = _change_bytes(content, random)
    return content


def _change_bytes(content, random):
    size = len(content)
    first = random.randrange(size + 1)
    last = min(size, first + random.choice((1, 1, 1, 2, 4, 8, 16, 64, 256, size)))
    piece = content[first:last]
    place = random.randrange(size + 1)
    change = random.randrange(7)
    if change == 0 and piece:  # a bit
        return content[:first] + bytes([piece[0] ^ 1 << random.randrange(8)]) + content[first + 1:]
    if change == 1:  # cut short
        return content[:first]
    if change == 2:  # cut out
        return content[:first] + content[last:]
    if change == 3:  # swapped
        low, high = sorted((first, place))
        return content[:low] + content[high:] + content[low:high]
    if change == 4:  # repeated
        return content[:place] + piece * random.choice((1, 1, 2, 50)) + content[place:]
    if change == 5:  # inserted
        inserted = bytes(random.randrange(256) for _ in range(random.choice((1, 2, 16))))
        return content[:place] + inserted + content[place:]
    number = random.choice(_NUMBERS)
    return content[:first] + number + content[first + len(number):]


def _change_words(content, random, words):
    parts = re.findall(WORDS[words], content) or [b'']
    place, other = random.randrange(len(parts)), random.randrange(len(parts))
    change = random.randrange(6)
    if change == 0:
        parts[place] = random.choice(NASTY_WORDS)
    elif change == 1:
        parts.insert(place, random.choice(NASTY_WORDS))
    elif change == 2:
        del parts[place]
    elif change == 3:
        parts[place], parts[other] = parts[other], parts[place]
    elif change == 4:
        parts.insert(other, parts[place])
    else:  # within a word
        word = parts[place]
        middle = random.randrange(len(word) + 1)
        parts[place] = word[:middle] + random.choice(NASTY_WORDS) + word[middle:]
    return b''.join(parts)


def _change_tree(content, random):
    """JSON that stays JSON, of another content; each line of several as JSON of its own."""
    lines = content.split(b'\n')
    place = random.randrange(len(lines))
    for text, before, after in ((content, [], []), (lines[place], lines[:place], lines[place + 1:])):
        try:
            root = [json.loads(text)]
        except (ValueError, RecursionError):
            continue
        nodes = [(root, 0)]
        for inside, key in nodes:
            if isinstance(inside[key], (dict, list)):
                nodes += [(inside[key], below) for below in (
                    list(inside[key]) if isinstance(inside[key], dict) else range(len(inside[key])))]
        inside, key = random.choice(nodes)
        other = random.choice(nodes)
        change = random.randrange(4)
        if change == 0 and inside is not root:
            del inside[key]
        elif change == 1 and isinstance(inside, dict):
            inside[random.choice(['', 'x', '0', '../..', 'step', 'a/b'])] = inside.pop(key)
        elif change == 2:
            inside[key] = json.loads(json.dumps(other[0][other[1]]))
        else:
            inside[key] = random.choice([
                None, True, 0, -1, 1.5, 1e308, float('nan'), 2 ** 70, '', '1', 'x', '../..', 'a/b', '\0', '\ud800',
                'x' * 3000, [], {}, [1], [[]], {'a': 1}, [None] * 3])
        return b'\n'.join(before + [json.dumps(root[0] if root else None).encode()] + after)
    return content
