# SPDX-License-Identifier: Apache-2.0
"""The two root commands: the Python they take, what they say when they cannot go on, how tests are summed.

And the model folders' scripts: from where they can be called, and how many ranks start with which table and flags.
"""
import glob
import os
import re
import shutil
import stat
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BASH = shutil.which('bash')
TOOLS = ('awk', 'bash', 'cat', 'cksum', 'cp', 'df', 'dirname', 'env', 'find', 'grep', 'mkdir', 'mktemp', 'rm',
         'sed', 'sh', 'tail', 'uname')

pytestmark = pytest.mark.skipif(BASH is None, reason='needs bash')


def write_script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def machine(tmp_path):
    """A copy of the scripts and a PATH with plain tools but no Python; call it to run bash in the copy."""
    root, tools, home = tmp_path / 'zoo', tmp_path / 'bin', tmp_path / 'home'
    for folder in (root, tools, home):
        folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    for name in ('quickstart.sh', 'run_tests.sh'):
        shutil.copy(os.path.join(ROOT, name), str(root))
    for name in ('scripts', 'constraints'):
        shutil.copytree(os.path.join(ROOT, name), str(root / name))

    def run(*command, **extra):
        env = dict({'PATH': str(tools), 'HOME': str(home), 'LC_ALL': 'C'}, **extra)
        return subprocess.run([BASH] + list(command), cwd=str(root), env=env, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60)

    run.root, run.tools, run.home = root, tools, home
    return run


def fake_python(path, pip='exit 0', fits=True):
    """A Python whose venv copies itself and whose pip does as told; it notes each call in calls.log."""
    return write_script(path, '#!/bin/sh\n'
                              'echo "$*" >> %s\n'
                              'case "$2" in\n'
                              '  venv) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;\n'
                              '  pip) %s ;;\n'
                              '  *) exit %d ;;\n'
                              'esac\n' % (path.parent / 'calls.log', pip, 0 if fits else 1))


def one_sentence(result, code):
    assert result.returncode == code, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith('Making ')]
    assert len(lines) == 1, result.stderr
    assert lines[0].endswith('.')
    return lines[0]


@pytest.mark.parametrize('script', ['quickstart.sh', 'run_tests.sh'])
def test_no_python(machine, script):
    said = one_sentence(machine(script), 1)
    assert 'No Python 3.10 to 3.13' in said and 'PYTHON=/path/to/python3 bash ' + script in said


@pytest.mark.parametrize('args, told', [
    (['--model=vgg'], 'cspnet'), (['--modle=cspnet'], '--modle=cspnet'), (['--model'], '--model=...'),
    (['cspnet'], "'cspnet'")])
def test_quickstart_refuses(machine, args, told):
    assert told in one_sentence(machine('quickstart.sh', *args), 2)


@pytest.mark.parametrize('script', ['quickstart.sh', 'run_tests.sh'])
def test_help(machine, script):
    result = machine(script, '--help')
    assert result.returncode == 0 and result.stdout.startswith('Usage: bash ' + script) and not result.stderr


def test_python_that_is_only_a_name_is_passed_over(machine):
    for name in ('python3.11', 'python3', 'python'):
        write_script(machine.tools / name, '#!/bin/sh\necho "pyenv: command not found" >&2\nexit 127\n')
    good = fake_python(machine.tools / 'python3.12')
    result = machine('-c', 'source scripts/venv.sh; find_python 3.10 3.13 3.11 3.12 3.13 3.10')
    assert result.stdout.strip() == str(good)


@pytest.mark.parametrize('where', ['home', 'root variable', 'beside the shims'])
def test_python_that_only_pyenv_holds(machine, tmp_path, where):
    pyenv = machine.home / '.pyenv' if where == 'home' else tmp_path / 'pyenv'
    good = fake_python(pyenv / 'versions' / '3.7.16' / 'bin' / 'python3')
    extra = {'PYENV_ROOT': str(pyenv)} if where == 'root variable' else {}
    if where == 'beside the shims':
        shim = write_script(pyenv / 'shims' / 'python3', '#!/bin/sh\nexit 127\n')
        extra['PATH'] = '%s:%s' % (shim.parent, machine.tools)
    result = machine('-c', 'source scripts/venv.sh; find_python 3.7 3.7 3.7', **extra)
    assert result.returncode == 0 and os.path.samefile(result.stdout.strip(), str(good))


def test_version_is_asked_not_guessed_from_the_name(machine):
    (machine.tools / 'python3.7').symlink_to(sys.executable)
    check = 'source scripts/venv.sh; python_fits %s %s %s' % (sys.executable, '%s', '%s')
    here = '%d.%d' % sys.version_info[:2]
    assert machine('-c', check % (here, here)).returncode == 0
    assert machine('-c', check % ('3.2', '3.6')).returncode != 0
    if sys.version_info[:2] != (3, 7):
        assert machine('-c', 'source scripts/venv.sh; find_python 3.7 3.7 3.7').stdout == ''


def test_given_python_must_fit(machine):
    bad = fake_python(machine.tools / 'python3.11', fits=False)
    assert 'PYTHON=%s is not' % bad in one_sentence(machine('run_tests.sh', PYTHON=str(bad)), 1)


@pytest.mark.parametrize('log, told', [
    ("WARNING: Retrying: 'NewConnectionError(Failed to establish a new connection)'\n"
     'ERROR: No matching distribution found for absl-py==2.5.1', 'the package index cannot be reached'),
    ('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device',
     'the disk is full'),
    ('chatter\nERROR: No matching distribution found for numpy==99', 'numpy==99'),
    ('killed', 'killed'),
])
def test_pip_failures_are_told_apart(machine, log, told):
    (machine.root / 'said').write_text(log + '\n')
    python = fake_python(machine.tools / 'python3.11', pip='cat %s; exit 1' % (machine.root / 'said'))
    assert told in one_sentence(machine('quickstart.sh', PYTHON=str(python)), 1)
    assert not (machine.root / '.venv').exists()
    assert log in (machine.root / '.venv.log').read_text()


def test_too_little_space_is_said_before_anything_is_fetched(machine):
    python = fake_python(machine.tools / 'python3.11')
    (machine.tools / 'df').unlink()
    write_script(machine.tools / 'df', '#!/bin/sh\necho head\necho "/dev/x 9 9 2048 9 /"\n')
    assert '2 MB free and 3 GB are needed' in one_sentence(machine('quickstart.sh', PYTHON=str(python)), 1)
    assert '-m ' not in (machine.tools / 'calls.log').read_text()


MAKE = ('set -euo pipefail; source scripts/venv.sh; '
        'make_venv "$PWD/.venv" python3.11 constraints/cpu-py311.txt words')


def installs(machine):
    return (machine.tools / 'calls.log').read_text().count('pip install')


def test_environment_is_made_once_and_again_when_its_list_changes(machine):
    fake_python(machine.tools / 'python3.11')
    for _ in range(2):
        assert machine('-c', MAKE).returncode == 0
    assert installs(machine) == 1
    with open(str(machine.root / 'constraints' / 'cpu-py311.txt'), 'a') as stream:
        stream.write('# changed\n')
    assert machine('-c', MAKE).returncode == 0
    assert installs(machine) == 2


CHOICES = [  # driver, machine, flags -> list of packages, flags for the training
    ('', 'x86_64', [], 'cpu', ''), ('exit 0', 'x86_64', [], 'gpu', ''),
    ('exit 0', 'x86_64', ['--device=cpu'], 'cpu', ' --device=cpu'),
    ('exit 0', 'x86_64', ['--', '--device=cpu'], 'cpu', ' --device=cpu'),
    ('exit 9', 'x86_64', [], 'cpu', ''),  # a driver that is installed and does not answer
    ('', 'x86_64', ['--device', 'gpu'], 'gpu', ' --device=gpu'), ('exit 0', 'aarch64', [], 'cpu', '')]


@pytest.mark.parametrize('driver, machine_name, flags, kind, passed', CHOICES)
def test_the_environment_fits_the_device(driver, machine_name, flags, kind, passed, machine, monkeypatch):
    if os.path.exists('/proc/driver/nvidia/version'):
        pytest.skip('this machine has an NVIDIA driver')
    fake_python(machine.tools / 'python3.11')
    (machine.tools / 'uname').unlink()
    write_script(machine.tools / 'uname', '#!/bin/sh\n[ "$1" = -m ] && echo %s || echo Linux\n' % machine_name)
    if driver:
        write_script(machine.tools / 'nvidia-smi', '#!/bin/sh\n%s\n' % driver)
    write_script(machine.root / 'CSPNet_ID0840_for_TensorFlow' / 'test' / 'train_full_1p.sh',
                 '#!/bin/sh\necho "trained" "$@"\n')
    result = machine('quickstart.sh', '--data_path=/mine', *flags)
    calls = (machine.tools / 'calls.log').read_text()
    assert calls.count('pip install') == 1 and '/constraints/%s-py311.txt\n' % kind in calls, result.stderr
    assert 'trained --data_path=/mine%s\n' % passed in result.stdout
    assert ('because there is an NVIDIA driver; --device=cpu' in result.stderr) == (kind == 'gpu')


def test_an_environment_for_the_other_device_is_made_anew(machine):
    fake_python(machine.tools / 'python3.11')
    make = 'set -euo pipefail; ROOT=$PWD; source scripts/venv.sh; make_project_venv '
    for kind, made in (('cpu', 1), ('any', 1), ('gpu', 2), ('any', 2), ('gpu', 2), ('cpu', 3)):
        result = machine('-c', make + kind)
        assert result.returncode == 0 and installs(machine) == made, (kind, result.stderr)
    with open(str(machine.root / 'constraints' / 'cpu-py311.txt'), 'a') as stream:
        stream.write('# changed\n')
    for made in (4, 4):  # whose pins the other list takes
        assert machine('-c', make + 'gpu').returncode == 0 and installs(machine) == made


def test_device_is_one_that_is_known(machine):
    assert 'auto, gpu, cpu' in one_sentence(machine('quickstart.sh', '--device=npu'), 2)


def test_interrupted_install_is_not_taken_for_a_whole_one(machine):
    fake_python(machine.tools / 'python3.11', pip='kill -9 $PPID')
    assert machine('-c', MAKE).returncode != 0
    assert (machine.root / '.venv').exists()
    fake_python(machine.tools / 'python3.11')
    assert machine('-c', MAKE).returncode == 0
    assert installs(machine) == 2


def test_environment_of_the_user_is_left_alone(machine):
    python = fake_python(machine.tools / 'python3.11')
    (machine.root / '.venv').mkdir()
    (machine.root / '.venv' / 'mine').write_text('x')
    assert 'was not made by this script' in one_sentence(machine('quickstart.sh', PYTHON=str(python)), 1)
    assert (machine.root / '.venv' / 'mine').exists()


@pytest.fixture
def ready_machine(machine):
    """`machine` with a whole .venv: its python is the one that runs this test, its linters agree to all."""
    venv = machine.root / '.venv'
    write_script(venv / 'bin' / 'python', '#!/bin/sh\n'
                                          '[ "$2" = ruff ] && exit ${RUFF_EXIT:-0}\n'
                                         '[ "$2" = mypy ] && exit ${MYPY_EXIT:-0}\n'
                                          'exec "%s" "$@"\n' % sys.executable)
    write_script(venv / 'bin' / 'shellcheck', '#!/bin/sh\nexit 0\n')
    stamp = machine('-c', 'source scripts/venv.sh; kind=cpu; if has_nvidia_driver; then kind=gpu; fi; '
                    'stamp_of constraints/$kind-py311.txt').stdout
    (venv / '.packages').write_text(stamp)
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        pytest.skip('the environment needs Python 3.10 to 3.13')
    return machine


def write_tests(root, package, text):
    (root / 'tests' / package).mkdir(parents=True)
    (root / 'tests' / package / 'test_it.py').write_text(text)


def test_results_are_summed_over_processes(ready_machine):
    write_tests(ready_machine.root, 'first', 'import pytest\n'
                                             'def test_a(): pass\n'
                                             'def test_b(): pytest.skip("x")\n')
    write_tests(ready_machine.root, 'second', 'def test_a(): pass\ndef test_b(): pass\n')
    result = ready_machine('run_tests.sh')
    assert result.stdout.splitlines()[-1] == '3 passed, 0 failed, 1 skipped', result.stdout + result.stderr
    assert result.returncode == 0
    assert 'No python3.7' in result.stdout or 'x86_64 only' in result.stdout

    chosen = ready_machine('run_tests.sh', '-k', 'test_a')
    assert chosen.stdout.splitlines()[-1] == '2 passed, 0 failed, 0 skipped'
    one = ready_machine('run_tests.sh', 'tests/second/test_it.py::test_b')
    assert one.stdout.splitlines()[-1] == '1 passed, 0 failed, 0 skipped'
    # A command that tested nothing must not look like success.
    none = ready_machine('run_tests.sh', '-k', 'absent')
    assert none.stdout.splitlines()[-1] == '0 passed, 0 failed, 0 skipped' and none.returncode != 0

    for linter in ('RUFF_EXIT', 'MYPY_EXIT'):
        style = ready_machine('run_tests.sh', **{linter: '1'})
        assert style.stdout.splitlines()[-1] == '3 passed, 0 failed, 1 skipped' and style.returncode != 0


@pytest.mark.parametrize('text', ['def test_b(): assert 0\n', 'import absent_module\n',
                                  'import os\nos._exit(3)\n'])
def test_every_kind_of_failure_counts(ready_machine, text):
    write_tests(ready_machine.root, 'first', 'def test_a(): pass\n')
    write_tests(ready_machine.root, 'second', text)
    result = ready_machine('run_tests.sh')
    assert result.stdout.splitlines()[-1] == '1 passed, 1 failed, 0 skipped', result.stdout
    assert result.returncode != 0


def ready_to_train(machine, train_exit=0, folder='CSPNet_ID0840_for_TensorFlow'):
    for package in ('common', 'tools'):
        shutil.copytree(os.path.join(ROOT, package), str(machine.root / package),
                        ignore=shutil.ignore_patterns('__pycache__'))
    (machine.root / 'tools' / 'report.py').write_text('import sys\nprint("table of", sys.argv[1:])\n')
    write_script(machine.root / folder / 'test' / 'train_full_1p.sh',
                 '#!/bin/sh\necho "trained" "$@"\nexit %d\n' % train_exit)


CSPNET_SAMPLE = '--batch_size=64 --LEARNING_RATE=0.05 --VAL_EPOCH=1'


def test_quickstart_draws_trains_and_shows_a_table(ready_machine):
    ready_to_train(ready_machine)
    result = ready_machine('quickstart.sh')
    assert result.returncode == 0, result.stderr
    data = ready_machine.root / '.drawn' / 'cifar10'
    assert 'trained --data_path=%s %s --train_epochs=3\n' % (data, CSPNET_SAMPLE) in result.stdout
    assert (data / 'cifar-10-batches-py' / 'test_batch').exists()
    assert "table of ['--table', '%s" % (ready_machine.root / 'CSPNet_ID0840_for_TensorFlow') in result.stdout
    again = ready_machine('quickstart.sh', '--model=cspnet', '--', '--epochs=1', '--batch_size=32')
    assert 'trained --data_path=%s %s --epochs=1 --batch_size=32\n' % (data, CSPNET_SAMPLE) in again.stdout


SSD_SAMPLE = ('--precision_mode=allow_mix_precision --log_every=25 --eval_every=0 --batch_size=4 --norm=batch '
              '--freeze=2 --no_augment --optimizer=adam '
              '--lr_values=0.0005 --lr_boundaries= --schedule=cosine --warmup_steps=30')


@pytest.mark.parametrize('model, folder, layout, drawn, flags', [
    ('cutmix', 'cutmix_ID2502_for_TensorFlow2.X', 'cifar10', 'cifar-10-batches-py', '--train_epochs=3'),
    ('shufflenet', 'ShufflenetV2_ID0371_For_Tensorflow', 'imagenet', 'val',
     '--prepare --num_classes=10 --batch_size=32 --train_epochs=3'),
    ('ssd', 'SSD-VGG_ID1619_for_TensorFlow', 'voc', 'VOCdevkit', SSD_SAMPLE + ' --train_epochs=3')])
def test_quickstart_knows_every_model(ready_machine, model, folder, layout, drawn, flags):
    ready_to_train(ready_machine, folder=folder)
    result = ready_machine('quickstart.sh', '--model=' + model)
    data = ready_machine.root / '.drawn' / layout
    assert result.returncode == 0 and (data / drawn).is_dir(), result.stderr
    assert 'trained --data_path=%s %s\n' % (data, flags) in result.stdout
    assert "table of ['--table', '%s/test/output/0']" % (ready_machine.root / folder) in result.stdout
    length = '--max_epochs=2' if model == 'shufflenet' else '--train-steps=4'
    again = ready_machine('quickstart.sh', '--model=' + model, '--', length)
    before = flags.split('--train_epochs')[0]
    assert 'trained --data_path=%s %s%s\n' % (data, before, length) in again.stdout
    mine = ready_machine('quickstart.sh', '--model=' + model, '--data_path=/mine')
    assert 'trained --data_path=/mine\n' in mine.stdout


def test_quickstart_shows_what_a_detector_finds_in_drawn_pictures(ready_machine):
    folder = 'SSD-VGG_ID1619_for_TensorFlow'
    ready_to_train(ready_machine, folder=folder)
    (ready_machine.root / folder / 'infer.py').write_text('import sys\nprint("finds", *sys.argv[1:])\nsys.exit(1)\n')
    result = ready_machine('quickstart.sh', '--model=ssd')
    assert 'finds --data_path=%s --pictures=20\n' % (ready_machine.root / '.drawn' / 'voc') in result.stdout
    assert result.returncode == 0 and 'what it finds could not be drawn' in result.stderr
    assert 'finds' not in ready_machine('quickstart.sh', '--model=ssd', '--data_path=/mine').stdout


def test_what_quickstart_adds_is_known_to_the_models():
    with open(os.path.join(ROOT, 'quickstart.sh')) as file:
        text = file.read()
    added = re.findall(r'folder=(\S+)[^;]*?sample=\((.*?)\)', text, re.S)
    assert [folder.split('_')[0] for folder, _ in added] == ['CSPNet', 'ShufflenetV2', 'SSD-VGG']
    for folder, words in added:
        words = words.split()
        code = 'import train; print(train.parse_args(%r).epochs)' % (words + ['--train_epochs=7'])
        assert subprocess.check_output([sys.executable, '-c', code], cwd=os.path.join(ROOT, folder)).strip() == b'7'


def test_quickstart_hands_its_arguments_and_the_exit_code_through(ready_machine):
    ready_to_train(ready_machine, train_exit=143)
    result = ready_machine('quickstart.sh', '--data_path=/my data', '--', '--epochs=3')
    assert 'trained --data_path=/my data --epochs=3\n' in result.stdout
    assert result.returncode == 143 and 'table of' not in result.stdout
    assert not (ready_machine.root / '.drawn').exists()
    relative = ready_machine('quickstart.sh', '--data_path', 'here')
    assert 'trained --data_path=%s/here\n' % ready_machine.root in relative.stdout


def test_scripts_keep_their_line_ends_in_every_checkout():
    """Also where core.autocrlf is on, as on Windows: a carriage return ends a script at its first line."""
    names = [os.path.relpath(path, ROOT) for path in SCRIPTS] + ['quickstart.sh', '.ci/run', 'launcher/run.sh']
    said = subprocess.run(['git', 'check-attr', 'eol', '--'] + names, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if said.returncode:
        pytest.skip('this is no git checkout')
    assert [line.split(': ')[-1] for line in said.stdout.splitlines()] == ['lf'] * len(names)


SCRIPTS = sorted(glob.glob(os.path.join(ROOT, '*', 'test', '*.sh')) + glob.glob(os.path.join(ROOT, '*', 'run_1p.sh')))


@pytest.mark.parametrize('script', SCRIPTS, ids=[os.path.relpath(path, ROOT) for path in SCRIPTS])
def test_a_script_runs_from_any_folder_and_says_where_the_user_stood(script, tmp_path):
    python = write_script(tmp_path / 'python', '#!/bin/sh\necho "from=$CALLED_FROM in=$PWD path=$PYTHONPATH" "$@"\n')
    folder, name = os.path.split(script)
    model = os.path.dirname(folder) if os.path.basename(folder) == 'test' else folder
    environment = dict(os.environ, PYTHON=str(python), CALLED_FROM='/outer', PYTHONPATH='/mine', CDPATH=str(tmp_path))
    (tmp_path / 'test').mkdir()  # where cd would go by that variable
    for words, place in (([script], str(tmp_path)), ([BASH, name], folder), (['./' + name], folder),
                         (['sh', os.path.relpath(script, model)], model)):
        said = subprocess.check_output(words + ['--data_path=a b'], cwd=place, env=environment, text=True)
        assert said.startswith('from=%s in=%s path=..:/mine -m launcher ' % (place, model)), said
        assert ' train.py --' in said and said.endswith(' --data_path=a b\n')


def values(text):
    """What a flag or a list of its values means: 5e-4 is 0.0005."""
    return [float(word) if re.match(r'[\d.]+(e-\d+)?$', word) else word for word in re.findall(r'[^][, ;]+', text)]


@pytest.mark.parametrize('script', SCRIPTS, ids=[os.path.relpath(path, ROOT) for path in SCRIPTS])
def test_help_shows_what_the_script_passes(script, tmp_path):
    words = subprocess.check_output([BASH, script], env=dict(os.environ, PYTHON='echo'), text=True).split()
    given = dict(word[2:].split('=') for word in words[words.index('train.py'):] if '=' in word)
    (tmp_path / 'tensorflow.py').write_text('raise AssertionError("--help needs no TensorFlow")')
    shown = subprocess.run([BASH, script, '--seed=7', '--help'], cwd=str(tmp_path), text=True, capture_output=True,
                           env=dict(os.environ, PYTHON=sys.executable, PYTHONPATH=str(tmp_path), COLUMNS='10000'))
    assert shown.returncode == 0 and not shown.stderr and os.listdir(str(tmp_path)) == ['tensorflow.py'], shown.stderr
    flags = re.sub(r'\n {20,}', ' ', shown.stdout).splitlines()
    for name, value in dict(given, seed='7').items():
        line, = [line for line in flags if re.search(r'^  (-\S+ \S+, )*--%s\b' % name.replace('-', '[-_]'), line)]
        default = re.search(r'\(default: (.*)\)$', line).group(1)
        assert values(default) == values(value), line
    assert 'the case is ' in shown.stdout and '; %d rank(s)' % (8 if script.endswith('8p.sh') else 1) in shown.stdout


@pytest.mark.parametrize('script, words', [
    ('CSPNet*/test/train_full_1p.sh', '--case=acc --sec_per_step'),
    ('CSPNet*/test/train_performance_1p.sh', '--case=perf --sec_per_step'),
    ('SSD*/test/train_full_1p.sh', '--case=acc'), ('SSD*/test/train_full_8p.sh', '--ranks=8 --case=acc --total_batch'),
    ('cutmix*/test/train_performance_1p.sh', '--case=static_eval_perf'),
    ('cutmix*/test/train_performance_1p_dynamic_eval.sh', '--case=dynamic_eval_perf'),
    ('Shuff*/test/train_full_8p.sh', '--ranks=8 --case=acc')])
def test_case_files_are_the_published_ones(script, words):
    path, = glob.glob(os.path.join(ROOT, script))
    said = subprocess.check_output([BASH, path], env=dict(os.environ, PYTHON='echo', RANK_SIZE=''), text=True)
    assert said.startswith('-m launcher %s train.py ' % words)


EIGHT_CARDS = sorted(glob.glob(os.path.join(ROOT, '*', 'test', 'train_*_8p.sh')))
for_eight_cards = pytest.mark.parametrize('script', EIGHT_CARDS, ids=[
    os.path.basename(path)[:-3] + '-' + os.path.relpath(path, ROOT).split('_')[0] for path in EIGHT_CARDS])


def test_every_model_has_scripts_for_eight_cards():
    models = [os.path.dirname(path) for path in glob.glob(os.path.join(ROOT, '*', 'train.py'))]
    assert EIGHT_CARDS == sorted(os.path.join(model, 'test', 'train_%s_8p.sh' % kind)
                                 for model in models for kind in ('full', 'performance'))


@for_eight_cards
def test_eight_ranks_or_as_many_as_are_asked_for(script, tmp_path):
    python = write_script(tmp_path / 'python', '#!/bin/sh\necho "table=$RANK_TABLE_FILE" "$@"\n')

    def words(**environment):
        for name in ('RANK_SIZE', 'RANK_TABLE_FILE'):
            environment.setdefault(name, '')
        return subprocess.check_output([BASH, script, '--more=1'], cwd=str(tmp_path), text=True,
                                       env=dict(os.environ, PYTHON=str(python), **environment)).split()
    folder = os.path.dirname(os.path.dirname(script))
    eight, two = words(), words(RANK_SIZE='2')
    assert eight[0] == 'table=%s/test/8p.json' % folder and '--ranks=8' in eight and eight[-1] == '--more=1'
    assert two[0] == 'table=' and two[1:] == [word.replace('=8', '=2') if word in ('--ranks=8', '--rank_size=8')
                                              else word for word in eight[1:]]
    assert words(RANK_TABLE_FILE='mine.json', RANK_SIZE='2')[0] == 'table=mine.json'
    assert words(RANK_TABLE_FILE='mine.json')[0] == 'table=mine.json'


@for_eight_cards
def test_the_flags_for_eight_cards_are_known(script, tmp_path):
    """The next thing that is wrong is the data."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in ('RANK_SIZE', 'RANK_TABLE_FILE', 'CUDA_VISIBLE_DEVICES')}
    done = subprocess.run([BASH, script, '--data_path=none', '--output_path=out'], cwd=str(tmp_path),
                          env=dict(environment, PYTHON=sys.executable), text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert done.returncode == 1 and ': expected' in done.stdout and str(tmp_path / 'none') in done.stdout, done.stdout
    assert done.stdout.count('\n') == 1 and not os.listdir(str(tmp_path))
