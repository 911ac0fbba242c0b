# SPDX-License-Identifier: Apache-2.0
"""The table folder x option x (field, value reached) of docs/ascend.md. Run as a program it writes it anew."""
import collections
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import folders  # noqa: E402

from common import npu_options  # noqa: E402

DOCUMENT = os.path.join(folders.ROOT, 'docs', 'ascend.md')
_MARKS = re.compile(r'(<!-- option table: begin -->\n)(.*?)(<!-- option table: end -->)', re.S)


def eager_options(options):
    """{dotted name in the eager adapter's tree: value} that the options become there."""
    sys.path.append(folders.FAKES)
    try:
        import ascend_tree
    finally:
        sys.path.remove(folders.FAKES)
    tree = ascend_tree.new()
    npu_options.fill_global_options(tree, options)
    return tree.as_dict()


def eager_names(options):
    """Session options under the names, and as the text, of the eager adapter's tree."""
    def name_of(name):
        if name.startswith(('enable_dump', 'dump_')):
            return 'dump_config.' + name
        return {'profiling_mode': 'profiling_config.enable_profiling',
                'profiling_options': 'profiling_config.profiling_options'}.get(name, name)
    return {name_of(name): str(int(value)) if isinstance(value, bool) else value for name, value in options.items()
            if name != 'use_off_line'}


def table():
    """What each option reaches, as Markdown; folders in which it reaches the same share a row."""
    rows = collections.OrderedDict()
    for folder, option, case in folders.cases():
        with tempfile.TemporaryDirectory() as path:
            parsed = folders.parse(folder, case.words, path)
            os.makedirs(parsed.output_path)
            eager = folder in folders.EAGER
            options = npu_options.session_parameters(parsed, case.ranks, 1 if eager else folders.steps_per_run(parsed))
            shown = folders.readable(folders.added(options, case), path)
        if eager:
            reached = ['`%s` = %s' % item for item in sorted(eager_names(shown).items())]
        else:
            reached = ['`%s` (%s) = %s' % (name, npu_options.OPTIONS[name].field, value)
                       for name, value in sorted(shown.items())]
        row = ('`%s`' % option if option.startswith('--') else option, ', '.join(reached))
        rows.setdefault(row, []).append(folder.split('_')[0])
    lines = ['| folder | asked for | reaches |', '| --- | --- | --- |']
    for (option, reached), names in sorted(rows.items(), key=lambda row: row[0][0]):
        cells = [', '.join(names), option, reached.replace(folders.ROOT + os.sep, '')]
        lines.append('| %s |' % ' | '.join(cell.replace('|', '\\|') for cell in cells))
    return '\n'.join(lines) + '\n'


def between_marks(text):
    """What stands between the marks of the document."""
    return _MARKS.search(text).group(2)


def main():
    with open(DOCUMENT, encoding='utf-8') as file:
        text = file.read()
    with open(DOCUMENT, 'w', encoding='utf-8') as file:
        file.write(_MARKS.sub(lambda found: found.group(1) + table() + found.group(3), text))


if __name__ == '__main__':
    main()
