# SPDX-License-Identifier: Apache-2.0
"""What the pages say is so: their commands run, their links lead somewhere, their figures agree.

A block below <!-- runnable: KEY=VALUE ... --> is run by bash, or by python, as it stands, in its page's folder of a
copy of the tree, after the page's earlier ones. The settings of the marker:

    DIR=cifar10              a drawn data set of that layout lies there under the name DIR (any name in capitals)
    train.py="--x=1 --y"     flags that every call of train.py, or of any other program, gets behind its own
    folder=NAME              the model folder to stand in, for a page that belongs to none

The flags reach the program through `python`: the copy's .venv, PATH and PYTHON hold a script of this name that
appends them. A block marked `text` right after a runnable one is its output: its lines must come in this order, where
a number stands for any number, a path for any path, and `...` for anything.

Commands that take too long are run with a `python` that only reads the flags, as the program itself does.
"""
import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pages
import photos
import programs
import pytest

BASH = shutil.which('bash')
pytestmark = pytest.mark.skipif(BASH is None, reason='needs bash')

HEADINGS = ['What it is', 'Results', 'Quick start', 'Data', 'Your own pictures', 'Flags that matter',
            'Files in reading order', 'Resume, evaluate, export', 'Several cards', 'Ascend',
            'Known differences from paper and document', 'Pitfalls']
RESULT_COLUMNS = ['command', 'device', 'batch', 'minutes', 'images/s', None, 'commit']  # None: the model's metric
NOT_TRIED = ('run_tests.sh', 'download-data.sh', '.ci/run')  # everything at once, or gigabytes: they only must be there

APPENDS = '''#!/bin/bash
words=("$@")
for word in "$@"; do
  case $word in
%s    *) ;;
  esac
done
exec %s "${words[@]}"
'''
STAMP = ('source scripts/venv.sh; kind=cpu; if has_nvidia_driver; then kind=gpu; fi; '
         'stamp_of constraints/$kind-py311.txt')
READS_FLAGS = '''#!/bin/bash
if [[ $1 == -c ]]; then exec %(python)s "$@"; fi
exec %(python)s %(checker)s "$@"
'''
CHECKER = '''
import argparse, importlib.util, os, runpy, sys
words = sys.argv[1:]
sys.path[0] = os.getcwd()
if words[:2] == ['-m', 'launcher']:
    words = words[words.index('train.py'):]
if words[0] == '-m':
    words = [importlib.util.find_spec(words[1]).origin] + words[2:]
else:
    sys.path[0] = os.path.dirname(os.path.abspath(words[0]))
sys.argv = words
program = runpy.run_path(words[0], run_name='documented')
if 'parse_args' in program:
    program['parse_args'](words[1:])
elif any(name in program for name in ('argparse', 'flags', 'train')):
    sys.path[1:1] = [%(root)r]
    from common import flags
    def ends_after(parse):
        def parse_args(self, *args, **kwargs):
            parse(self, *args, **kwargs)
            sys.exit(0)
        return parse_args
    for parser in (argparse.ArgumentParser, flags.Parser):
        parser.parse_args = ends_after(parser.parse_args)
    runpy.run_path(words[0], run_name='__main__')
    sys.exit('%%s reads no flags' %% words[0])
'''


@pytest.fixture(scope='session')
def drawn(tmp_path_factory):
    """{layout: folder} of small drawn data sets."""
    from tools import sampledata
    folder = tmp_path_factory.mktemp('drawn')
    sampledata.draw_cifar10(str(folder / 'cifar10'), train=200, test=50, seed=0)
    sampledata.draw_imagenet(str(folder / 'imagenet'), train=40, test=20, seed=0)
    photos.draw(str(folder / 'photos'), 12)
    sampledata.draw_voc(str(folder / 'voc'), train=16, test=4, seed=0)
    return {name: str(folder / name) for name in os.listdir(str(folder))}


@pytest.fixture
def checkout(tmp_path):
    """A copy of the repository's files; git says which they are, so that nobody's data and runs are copied."""
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=pages.ROOT,
                            capture_output=True)
    if listed.returncode:
        pytest.skip('this is no git checkout: %s' % listed.stderr.decode().strip())
    root = tmp_path / 'zoo'
    for name in listed.stdout.decode().split('\0'):
        source = os.path.join(pages.ROOT, name)
        if name and os.path.exists(source):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, str(root / name))
    return root


def give_python(root, text):
    """Makes a .venv that the scripts take for whole, with `text` as its python."""
    venv = root / '.venv'
    (venv / 'bin').mkdir(parents=True, exist_ok=True)
    for name in ('python', 'python3'):
        (venv / 'bin' / name).write_text(text)
        (venv / 'bin' / name).chmod(0o755)
    (venv / 'bin' / 'activate').write_text('PATH="%s:$PATH"\n' % (venv / 'bin'))
    (venv / '.packages').write_bytes(subprocess.check_output([BASH, '-c', STAMP], cwd=str(root)))


def run_bash(root, folder, text, timeout, small=False):
    """Runs commands as a user would, from the copy, or with small networks; returns (exit code, output)."""
    bin_folder = root / '.venv' / 'bin'
    environment = programs.environment(PATH='%s:%s' % (bin_folder, os.environ['PATH']),
                                       PYTHON=str(bin_folder / 'python'))
    if not small:
        del environment['PYTHONPATH']
    done = subprocess.run([BASH, '-euo', 'pipefail', '-c', text], cwd=str(root / folder), env=environment,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
    return done.returncode, done.stdout.decode(errors='replace')


def runnable(page):
    return [block for block in pages.blocks(page) if block.settings is not None]


def appended(settings):
    """The python of a block: appends each program's flags of the settings."""
    cases = ''.join('    %s | */%s) words+=(%s) ;;\n' % (program, program, words)
                    for program, words in settings.items() if '.' in program)
    return APPENDS % (cases, sys.executable)


def output_of(page, block):
    """The text block that directly follows, or None."""
    following = [other for other in pages.blocks(page) if other.line > block.line][:1]
    return following[0].text if following and following[0].language == 'text' else None


def _plain(line):
    """A line without what differs from run to run: numbers, sums and where the repository lies."""
    line = re.sub(r'(commit|checksum)=\S+', r'\1=#', line)
    line = re.sub(r'(?<![\w.])/[\w./-]*?/(?=\.drawn|\w+[\w.-]*_[Ff]or_Tensor[Ff]low)', '/', line)
    return re.sub(r'\d+(\.\d+)?(e[-+]?\d+)?', '#', line).strip()


def missing_line(shown, said):
    """The first line of `shown` that `said` does not have in its place, or None."""
    heard = iter([_plain(line) for line in said.splitlines()])
    for line in shown.splitlines():
        wanted = re.compile('.*'.join(re.escape(part) for part in _plain(line).split('...')))
        if line.strip() not in ('', '...') and not any(wanted.fullmatch(other) for other in heard):
            return line
    return None


@pytest.mark.parametrize('page', [page for page in pages.COMMAND_PAGES if runnable(page)])
def test_runnable_blocks(page, checkout, drawn):
    here = os.path.dirname(page) if page in pages.FOLDER_PAGES else ''
    for block in runnable(page):
        place = '%s:%d' % (page, block.line)
        folder = block.settings.get('folder', here)
        for key, value in block.settings.items():
            if key.isupper():
                target = checkout / folder / key
                if not target.exists():
                    target.symlink_to(drawn[value], target_is_directory=True)
            else:
                assert key == 'folder' or '.' in key, '%s: the marker has an unknown setting %s' % (place, key)
        give_python(checkout, appended(block.settings))
        # The networks as they are train on their own pages.
        text = block.text if block.language == 'bash' else "python - <<'END'\n%sEND\n" % block.text
        code, said = run_bash(checkout, folder, text, timeout=600, small=page not in pages.FOLDER_PAGES)
        assert code == 0, '%s ended with exit code %d:\n%s' % (place, code, said)
        shown = output_of(page, block)
        if shown:
            line = missing_line(shown, said)
            assert line is None, '%s: the page shows, at its place, the line\n%s\nand the run said\n%s' % (
                place, line, said)


@pytest.mark.parametrize('page', pages.COMMAND_PAGES)
def test_programs_take_the_flags_of_the_other_commands(page, checkout):
    checker = checkout.parent / 'checker.py'
    checker.write_text(CHECKER % {'root': str(checkout)})
    give_python(checkout, READS_FLAGS % {'python': sys.executable, 'checker': checker})
    for folder, text in pages.commands(page):
        lines = []
        for line in text.replace('\\\n', ' ').splitlines():
            left_out = [name for name in NOT_TRIED if name in line]
            for name in left_out:
                assert (checkout / folder / name).exists(), '%s: %s is not in %s' % (page, name, folder or 'the root')
            lines += [] if left_out else [line]
        code, said = run_bash(checkout, folder, '\n'.join(lines), timeout=60)
        assert code == 0, '%s, in %s:\n%s\n%s' % (page, folder or 'the root', text, said)


@pytest.mark.parametrize('page', pages.FOLDER_PAGES)
def test_folder_pages_have_the_same_order(page):
    there = pages.headings(page, 2)
    assert there == HEADINGS
    header = re.findall(r'^\| (command \|.*) \|$', pages.section(page, 'Results'), flags=re.M)
    assert len(header) == 1, 'expected one table of results that starts with the command'
    columns = header[0].split(' | ')
    assert len(columns) == len(RESULT_COLUMNS)
    assert [name for name, fixed in zip(columns, RESULT_COLUMNS) if fixed] == [name for name in RESULT_COLUMNS if name]
    for heading in there:
        assert pages.section(page, heading).strip(), '"%s" of %s is empty' % (heading, page)


@pytest.mark.parametrize('page', pages.FOLDER_PAGES)
def test_files_in_reading_order(page):
    folder = os.path.join(pages.ROOT, os.path.dirname(page))
    text = pages.section(page, 'Files in reading order')
    named = [name for name in re.findall(r'`([^`]+)`', text) if not name.startswith('-')]
    for name in named:
        assert glob.glob(os.path.join(folder, name)), '%s names %s, which is not there' % (page, name)
    there = [os.path.relpath(os.path.join(where, name), folder)
             for where, inside, names in os.walk(folder) if 'output' not in where for name in names
             if name.endswith('.py')]
    assert sorted(set(there) - set(named)) == [], 'files that %s does not name' % page


def test_the_reading_order_names_every_shared_module():
    named = ' '.join(pages.codes('README.md'))
    modules = [name for name in os.listdir(os.path.join(pages.ROOT, 'common')) if name.endswith('.py')]
    assert [name for name in sorted(modules) if name not in named and name != '__init__.py'] == []


PACKAGE_OF = {'PIL': 'pillow', 'cv2': 'opencv-python-headless', 'google': 'protobuf', 'google_crc32c': 'google-crc32c'}
OPTIONAL = ('torch', 'tf2onnx', 'onnxruntime', 'pycocotools')  # each is asked for by the one flag that needs it


def requirements(path):
    """{package: [version or '']} of a list for pip."""
    listed = {}
    with open(os.path.join(pages.ROOT, path)) as lines:
        for line in lines:
            match = re.match(r'(\w[\w-]*)(?:\[[\w-]+\])?(?:==([\w.]+))?', line)
            if match:
                listed.setdefault(match.group(1).lower(), []).append(match.group(2) or '')
    return listed


@pytest.mark.parametrize('folder', pages.FOLDERS)
def test_requirements_name_what_is_imported_and_pinned(folder):
    named = requirements(folder + '/requirements.txt')
    imported = set()
    for path in glob.glob(os.path.join(pages.ROOT, folder, '**', '*.py'), recursive=True):
        with open(path) as text:
            imported.update(re.findall(r'^ *(?:import|from) (\w+)', text.read(), flags=re.M))
    for module in imported:
        path = os.path.join(pages.ROOT, folder, module)
        spec = None if os.path.exists(path) or os.path.exists(path + '.py') else importlib.util.find_spec(module)
        if spec and 'site-packages' in str(spec.submodule_search_locations or spec.origin) and module not in OPTIONAL:
            assert PACKAGE_OF.get(module, module) in named, '%s imports %s' % (folder, module)
    for lists, tensorflow in (('cpu-py311', 'tensorflow-cpu'), ('ascend-py39', 'tensorflow'),
                              ('ascend-py37', 'tensorflow')):
        pins = requirements('constraints/%s.txt' % lists)
        if lists != 'ascend-py37' or not folder.startswith('cutmix'):
            assert pins[tensorflow][0] in named['tensorflow']
            assert [name for name in named if name not in pins and name != 'tensorflow'] == [], lists


def test_the_list_for_gpus_has_what_the_one_for_cpus_has():
    cpu, gpu = requirements('constraints/cpu-py311.txt'), requirements('constraints/gpu-py311.txt')
    asked = set(gpu) - {name for name in gpu if name.startswith('nvidia-')} - {'tensorflow'}
    assert asked <= set(cpu) and gpu['tensorflow'] == cpu['tensorflow-cpu'] == cpu['tensorflow']
    needed = {name for folder in pages.FOLDERS for name in requirements(folder + '/requirements.txt')}
    assert needed <= set(gpu)


@pytest.mark.parametrize('folder', pages.FOLDERS)
def test_levels_say_what_has_run_on_a_device(folder):
    levels = dict(line.split(':') for line in pages.read(folder + '/modelzoo_level.txt').split())
    untried = 'Not yet run on a device' in pages.section(folder + '/README.md', 'Ascend')
    for name in ('FuncStatus', 'PrecisionStatus', 'PerfStatus'):
        assert levels[name] == ('NOK' if untried else 'OK')


def all_pages():
    listed = subprocess.run(['git', 'ls-files', '--cached', '--others', '--exclude-standard', '*.md'], cwd=pages.ROOT,
                            stdout=subprocess.PIPE).stdout.decode().split('\n')
    return [page for page in listed if page and os.path.exists(os.path.join(pages.ROOT, page))]


@pytest.mark.parametrize('page', all_pages())
def test_links_lead_somewhere(page):
    for link in pages.links(page):
        if re.match(r'[a-z]+:', link):
            continue
        target, _, anchor = link.partition('#')
        found = os.path.normpath(os.path.join(os.path.dirname(page), target)) if target else page
        assert os.path.exists(os.path.join(pages.ROOT, found)), '%s links to %s, which is not there' % (page, link)
        assert not anchor or anchor in pages.anchors(found), '%s links to %s; %s has no such heading' % (
            page, link, found)


def test_the_front_page_is_short_and_shows():
    lines = pages.read('README.md').splitlines()
    assert len(lines) < 150 and sum('![' in line for line in lines[:35]) >= 2


def test_the_index_names_every_page():
    named = pages.links('docs/README.md')
    there = [page[len('docs/'):] for page in all_pages() if page.startswith('docs/') and page != 'docs/README.md']
    assert [page for page in there if page not in named] == []


def test_the_front_page_quotes_the_reports():
    rows = [row for row in pages.table_rows('README.md') if 'report.md' in row and 'images/s' in row]
    assert len(rows) == len(pages.FOLDERS)
    for row in rows:
        folder, report = re.findall(r'\]\((\S+)/README\.md\)', row)[0], re.findall(r'\]\((\S+report\.md)\)', row)[0]
        _, _, _, images_per_sec, metric, minutes, _ = [
            cell.strip() for cell in pages.table_rows(report)[2].strip('|').split('|')]
        assert float(re.search(r'([\d.]+) images/s', row).group(1)) == pytest.approx(float(images_per_sec), abs=0.5)
        assert abs(float(row.split('|')[-2]) - float(minutes)) <= 0.5 and metric in row
        commit = re.search(r'^- commit: (\w+)', pages.read(report), flags=re.M).group(1)
        own = [line for line in pages.table_rows(folder + '/README.md') if line.endswith('| %s |' % commit)]
        assert [line for line in own if metric in line and '| %.0f |' % float(images_per_sec) in line
                or '| %s |' % images_per_sec in line], '%s/README.md has no row of %s' % (folder, report)


def in_chinese(page):
    return page[:-len('.md')] + '.zh-CN.md'


def without_comments(page):
    return [(block.language, re.sub(r' *#.*', '', block.text)) for block in pages.blocks(page)]


@pytest.mark.parametrize('english', ['README.md', 'docs/several_cards.md', 'docs/ascend.md'])
def test_the_chinese_page_says_the_same(english):
    chinese = in_chinese(english)

    def figures(page):
        return [re.findall(r'\d+(?:[.,]\d+)*', row) for row in pages.table_rows(page)]

    assert without_comments(chinese) == without_comments(english)
    assert figures(chinese) == figures(english)
    assert sorted(pages.codes(chinese)) == sorted(pages.codes(english))
    assert [len(pages.headings(chinese, level)) for level in (1, 2, 3)] == [
        len(pages.headings(english, level)) for level in (1, 2, 3)]

    def elsewhere(page):  # each page links to the other; headings are translated
        links = [link.split('#')[0].replace('.zh-CN', '') for link in pages.links(page)]
        return sorted(link for link in links if link != os.path.basename(english))

    assert elsewhere(chinese) == elsewhere(english)


CHAPTERS = ['基本信息', '概述', '训练环境准备', '快速上手', '迁移学习指导', '高级参考']


@pytest.mark.parametrize('english', pages.FOLDER_PAGES)
def test_the_chinese_folder_page_has_the_documents_chapters_and_the_same_facts(english):
    """Commands, names, figures and links; the order is the documents'."""
    chinese = in_chinese(english)
    assert pages.headings(chinese, 2) == CHAPTERS
    assert sorted(without_comments(chinese)) == sorted(without_comments(english))
    for names in (lambda page: {code for code in pages.codes(page) if code.isascii()},
                  lambda page: set(re.findall(r'\d+\.\d+', pages.prose(page))),
                  lambda page: {link.split('#')[0].replace('.zh-CN', '') for link in pages.links(page)} - {''}):
        assert sorted(names(chinese) ^ names(english)) == []


@pytest.mark.parametrize('said, found', [
    ('a 7.25 b=x\nend', None), ('a 1 b=y\nend', 'a 3 b=x'), ('end\na 1 b=x', 'end'), ('a 1 b=x, c\nend', 'a 3 b=x')])
def test_output_is_compared_by_its_words_and_order(said, found):
    assert missing_line('a 3 b=x\nend\n', said) == found
