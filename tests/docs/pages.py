# SPDX-License-Identifier: Apache-2.0
"""The pages of the project, cut into what the tests look at: code blocks, commands, headings, links, tables."""
import collections
import os
import re
import shlex

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDERS = sorted(name for name in os.listdir(ROOT) if os.path.exists(os.path.join(ROOT, name, 'train.py')))
FOLDER_PAGES = [folder + '/README.md' for folder in FOLDERS]
COMMAND_PAGES = ['README.md', 'CONTRIBUTING.md', 'docs/several_cards.md'] + FOLDER_PAGES

_MARKER = re.compile(r'<!-- runnable(?:: (.*?))? -->\s*')
_LINK = re.compile(r'\]\(([^)\s]+)\)')
_CODE = re.compile(r'`([^`\n]+)`')

# language: what follows the fence; line: of the fence, from 1; settings: {key: text} of a runnable block, else None.
Block = collections.namedtuple('Block', 'language text line settings')


def read(page):
    """Text of a page, named from the root of the repository."""
    with open(os.path.join(ROOT, page), encoding='utf-8') as file:
        return file.read()


def blocks(page):
    """The fenced blocks of a page, in order."""
    found, opened, marker = [], None, None
    for number, line in enumerate(read(page).splitlines(), 1):
        if line.startswith('```'):
            if opened is None:
                opened, lines = number, []
                language = line[3:]
            else:
                found.append(Block(language, '\n'.join(lines) + '\n', opened, marker))
                opened = marker = None
        elif opened is not None:
            lines.append(line)
        elif line.startswith('<!-- runnable'):
            match = _MARKER.fullmatch(line)
            assert match, '%s:%d: expected <!-- runnable: KEY=VALUE ... -->, found %s' % (page, number, line)
            marker = dict(word.split('=', 1) for word in shlex.split(match.group(1) or ''))
        elif line.strip():
            assert marker is None, '%s:%d: expected a code block after the marker, found %s' % (page, number, line)
    assert opened is None, '%s:%s: this code block does not end' % (page, opened)
    return found


def prose(page):
    """The page without its code blocks and without the table that a program writes."""
    text = re.sub(r'<!-- option table: begin -->.*<!-- option table: end -->', '', read(page), flags=re.S)
    return re.sub(r'^```.*?^```$', '', text, flags=re.M | re.S)


def headings(page, level):
    return re.findall(r'^%s (.+)$' % ('#' * level), prose(page), flags=re.M)


def anchors(page):
    """What # may be followed by in a link to the page: its headings in lower case, blanks as hyphens."""
    return [re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-')
            for level in (1, 2, 3, 4) for heading in headings(page, level)]


def links(page):
    return _LINK.findall(_CODE.sub('', prose(page)))


def codes(page):
    """What stands between single backticks, outside of blocks."""
    return _CODE.findall(prose(page))


def section(page, heading):
    """Text below a heading of level 2, up to the next."""
    found = re.search(r'^## %s$(.*?)(?=^## |\Z)' % re.escape(heading), read(page), flags=re.M | re.S)
    assert found, '%s has no heading "## %s"' % (page, heading)
    return found.group(1)


def table_rows(page):
    return [line for line in prose(page).splitlines() if line.startswith('|')]


def commands(page):
    """Commands that no runnable block holds.

    Returns:
      list of (folder to stand in, text): whole blocks, and what is written as code in the text and starts with bash,
      python or ./. On a page of no model folder, `bash test/...` is meant for the folder that its line links to, or for
      all.
    """
    here = os.path.dirname(page) if page in FOLDER_PAGES else ''
    found = []
    for block in blocks(page):
        if block.language == 'bash' and block.settings is None:
            of_every_folder = not here and re.search(r'\bbash test/', block.text)
            found += [(folder, block.text) for folder in (FOLDERS if of_every_folder else [here])]
    for line in prose(page).splitlines():
        linked = [target.split('/')[0] for target in _LINK.findall(line) if target.split('/')[0] in FOLDERS]
        for code in _CODE.findall(line):
            if re.match(r'(\w+=\S+ )*(bash|python3?|\./\S+) \S', code) and '/path/to' not in code:
                if here or ' test/' not in code:
                    found.append((here, code + '\n'))
                else:
                    found += [(folder, code + '\n') for folder in linked or FOLDERS]
    return found
