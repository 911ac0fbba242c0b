# SPDX-License-Identifier: Apache-2.0
"""The model folders: their flags, their documented options, and how their scripts are run beside the stand-ins."""
import collections
import importlib.util
import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FAKES = os.path.join(ROOT, 'tests', 'ascend', 'fakes')
SMALL_NETWORKS = os.path.join(ROOT, 'tests', 'in_programs')
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

CSPNET, SSD = 'CSPNet_ID0840_for_TensorFlow', 'SSD-VGG_ID1619_for_TensorFlow'
CUTMIX, SHUFFLENET = 'cutmix_ID2502_for_TensorFlow2.X', 'ShufflenetV2_ID0371_For_Tensorflow'
ALL = (CSPNET, SSD, CUTMIX, SHUFFLENET)
EAGER = (CUTMIX,)  # the others compute in a session

# What is asked for, and what must reach the adapter. PATH stands for a folder, FILE for a file in it.
Case = collections.namedtuple('Case', 'words ranks expected')
_DUMPED = {'enable_dump': True, 'dump_mode': 'all', 'dump_step': '10', 'dump_path': 'PATH/data_dump'}
_OVERFLOW = {'enable_dump_debug': True, 'dump_debug_mode': 'all', 'dump_path': 'PATH/overflow_dump'}
_IN_RUN_FOLDER = {  # not of SSD, whose document names another default
    '--over_dump=True': Case(['--over_dump=True'], 1, dict(_OVERFLOW, dump_path='PATH/run/overflow_dump')),
    '--data_dump_flag=True': Case(['--data_dump_flag=True'], 1, dict(_DUMPED, dump_path='PATH/run/data_dump'))}
EVERYWHERE = {
    '(default)': Case([], 1, {'use_off_line': True}),
    '--precision_mode=force_fp16': Case(['--precision_mode=force_fp16'], 1, {'precision_mode': 'force_fp16'}),
    '--over_dump=True --data_dump_path=PATH': Case(['--over_dump=True', '--data_dump_path=PATH'], 1, _OVERFLOW),
    '--data_dump_flag=True --data_dump_path=PATH': Case(['--data_dump_flag=True', '--data_dump_path=PATH'], 1, _DUMPED),
    '--data_dump_step=0|5|10-20': Case(
        ['--data_dump_flag=True', '--data_dump_step=0|5|10-20', '--data_dump_path=PATH'], 1,
        dict(_DUMPED, dump_step='0|5|10-20')),
    '--data_dump=True --dump_path=PATH': Case(['--data_dump=True', '--dump_path=PATH'], 1, _DUMPED),
    '--profiling=True': Case(['--profiling=True'], 1, {
        'profiling_mode': True, 'profiling_options': 'JSON with output=PATH/run/profiling'}),
    '--profiling=True --profiling_dump_path=PATH': Case(['--profiling=True', '--profiling_dump_path=PATH'], 1, {
        'profiling_mode': True, 'profiling_options': 'JSON with output=PATH'}),
    '--use_mixlist --mixlist_file=FILE': Case(
        ['--use_mixlist', '--mixlist_file=FILE', '--precision_mode=allow_mix_precision'], 1,
        {'modify_mixlist': 'FILE'}),
    '--fusion_off_flag --fusion_off_file=FILE': Case(
        ['--fusion_off_flag', '--fusion_off_file=FILE'], 1, {'fusion_switch_file': 'FILE'}),
    'eight ranks': Case([], 8, {'hcom_parallel': True}),
}
OF_FOLDER = {
    CSPNET: dict(_IN_RUN_FOLDER, **{
        '(default)': Case([], 1, {'use_off_line': True, 'precision_mode': 'allow_mix_precision'})}),
    SSD: {'(default)': Case([], 1, {'use_off_line': True, 'precision_mode': 'allow_fp32_to_fp16'})},
    CUTMIX: dict(_IN_RUN_FOLDER, **{
        '(default)': Case([], 1, {'precision_mode': 'allow_mix_precision'}),
        '--use_mixlist': Case(['--use_mixlist'], 1, {
            'modify_mixlist': os.path.join(ROOT, CUTMIX, 'configs', 'ops_info.json')})}),
    SHUFFLENET: dict(_IN_RUN_FOLDER, **{
        '(default)': Case([], 1, {'use_off_line': True, 'precision_mode': 'allow_fp32_to_fp16',
                                  'iterations_per_loop': 10, 'enable_data_pre_proc': True}),
        '--iterations_per_loop=4': Case(['--iterations_per_loop=4'], 1,
                                        {'iterations_per_loop': 4, 'enable_data_pre_proc': True}),
        '--iterations_per_loop=1': Case(['--iterations_per_loop=1'], 1, {'use_off_line': True})}),
}
_ALWAYS = ('use_off_line', 'precision_mode', 'iterations_per_loop', 'enable_data_pre_proc')


def cases():
    """(folder, option, Case) of every folder that is there."""
    return [(folder, option, case) for folder in ALL if os.path.exists(os.path.join(ROOT, folder, 'train.py'))
            for option, case in dict(EVERYWHERE, **OF_FOLDER[folder]).items()]


def load_train(folder):
    """The folder's train.py as a module; by the house's rule importing it has no effect."""
    name = 'train_of_' + re.sub(r'\W', '_', folder)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, os.path.join(ROOT, folder, 'train.py'))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        path = list(sys.path)
        sys.path.insert(0, os.path.join(ROOT, folder))  # as python train.py has it
        sys.modules.pop('needs', None)
        spec.loader.exec_module(sys.modules[name])
        sys.path[:] = path  # the folders have modules of equal names
    return sys.modules[name]


def parse(folder, words, path):
    """The flags of a folder's train.py. PATH and FILE in the words become `path` and a file in it."""
    file = os.path.join(str(path), 'lists.json')
    with open(file, 'w') as stream:
        stream.write('{}')
    words = [word.replace('PATH', str(path)).replace('FILE', file) for word in words]
    return load_train(folder).parse_args(words + ['--output_path=%s' % os.path.join(str(path), 'run'), '--device=npu'])


def steps_per_run(parsed):
    """What train() asks the runtime for."""
    return getattr(parsed, 'iterations_per_loop', 1)


def readable(options, path):
    """Options with the places of a test replaced by PATH and FILE, a profile's JSON by what matters of it."""
    def text(value):
        if isinstance(value, str) and value.startswith('{'):
            return 'JSON with output=' + text(json.loads(value)['output'])
        return value.replace(os.path.join(str(path), 'lists.json'), 'FILE').replace(str(path), 'PATH') if isinstance(
            value, str) else value
    return {name: text(value) for name, value in options.items()}


def added(options, case):
    """What an option adds to the folder's default: what a case is about."""
    return {name: value for name, value in options.items() if name in case.expected or name not in _ALWAYS}


def script_flags(folder, script):
    """train.py's flags in a launch script."""
    said = subprocess.check_output(['bash', os.path.join(ROOT, folder, 'test', script)],
                                   env=dict(os.environ, PYTHON='echo', RANK_SIZE=''), text=True)
    return said.split(' train.py ')[1].split()


def run(command, folder, tmp_path, **environment):
    """Runs a command in a model folder beside the stand-ins, with a small network.

    Returns:
      (exit code, what it said, list of what the stand-ins were asked for).
    """
    record = str(tmp_path / 'record.jsonl')
    env = {name: value for name, value in os.environ.items()
           if not name.startswith(('RANK_', 'ASCEND_', 'NPU_', 'CM_'))}
    env.pop('TF_CPP_MIN_LOG_LEVEL', None)
    env.update(PYTHON=sys.executable, PYTHONPATH=os.pathsep.join([FAKES, SMALL_NETWORKS]), FAKE_ASCEND_RECORD=record,
               **environment)
    done = subprocess.run(command, cwd=os.path.join(ROOT, folder), env=env, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    events = []
    if os.path.exists(record):
        with open(record) as lines:
            events = [json.loads(line) for line in lines]
    return done.returncode, done.stdout.decode('utf-8', 'replace'), events


def of(events, kind):
    """The events of one kind."""
    return [event for event in events if event['event'] == kind]
