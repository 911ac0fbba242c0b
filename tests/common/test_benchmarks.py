"""The benchmarks' table: its arithmetic on known figures, what becomes of a failure, and one real run of few steps."""
import json
import os
import subprocess
import sys

import programs
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'benchmarks'))
import collect  # noqa: E402
import in_turns  # noqa: E402

# A peer; --die makes it end as one whose PyTorch is missing.
PEER = '''
import argparse, json, sys
parser = argparse.ArgumentParser()
parser.add_argument("model")
for flag in ("--batch", "--steps", "--threads"):
    parser.add_argument(flag, type=int, required=True)
parser.add_argument("--die", action="store_true")
parser.add_argument("--compile", action="store_true")
asked = parser.parse_args()
if asked.die:
    import torch_that_is_not_there
modes = [("fp32", 80.0), ("fp32_cl", 100.0), ("bf16_cl", 200.0)]
for mode, rate in modes + [("bf16_cl_compiled", 250.0)] * asked.compile:
    print(json.dumps({"model": asked.model, "batch": asked.batch, "mode": mode, "images_per_sec": rate}))
print(json.dumps({"best_eager": 200.0, "best": 200.0}))
'''

# A step of known speed: 100, 300, 200 images/s in the three rounds in float32, twice that in bfloat16.
STEP = '''
import json, os, sys
sys.path.insert(0, %r)
import in_turns
arguments = in_turns.parser("A step.", batch=4).parse_args()
if arguments.measure:
    counter = __file__ + arguments.measure
    turn = os.path.getsize(counter) if os.path.exists(counter) else 0
    open(counter, "a").write(".")
    rate = [100.0, 300.0, 200.0][turn] * (2 if arguments.measure == "default" else 1)
    print("chatter of a library")
    print(json.dumps({"step": rate, "in_memory": rate, "multiply_adds": 1000000000, "peak_rss_mb": 7,
                      "compute_dtype": "bfloat16" if arguments.measure == "default" else "float32"}))
else:
    sys.exit(in_turns.compare_steps(arguments, __file__, "Net", "photos"))
''' % os.path.join(ROOT, 'benchmarks')

# A peak that falls to a third while a benchmark runs and recovers before the next one.
PEAKS = '''
import json, os
turn = os.path.getsize(__file__ + ".turns") if os.path.exists(__file__ + ".turns") else 0
open(__file__ + ".turns", "a").write(".")
rate = [3600.0, 1200.0][turn % 2]
print(json.dumps({"tensorflow": "9.8.7", "peak_gflops": {"float32": rate, "bfloat16": 4 * rate}}))
'''

WAITS = '''
import json
print(json.dumps({"wait": "to the [run] line", "value": 7.25, "unit": "s"}))
'''


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Function of flags that runs the collector on fake benchmarks: exit code, facts, {comparison: cells}, text."""
    def script(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    nothing = {'data': {}, 'required': None, 'batch': None, 'peer_model': None, 'peer_steps': None}
    step = dict(nothing, script=script('step.py', STEP), batch=4, peer_model='net', peer_steps=3)
    monkeypatch.setattr(collect, 'PEAK', script('peaks.py', PEAKS))
    monkeypatch.setattr(collect, 'flags_of_cpu', lambda: {'vendor_id': 'AuthenticAMD', 'flags': 'fpu avx512f avx2'})
    monkeypatch.setattr(collect, 'BENCHMARKS', {
        'waits': collect.Benchmark(**dict(nothing, script=script('waits.py', WAITS))),
        'dies': collect.Benchmark(**dict(nothing, script=script('dies.py', 'raise OSError("no | such disk")'))),
        'net': collect.Benchmark(**step)})
    peer = '%s %s' % (sys.executable, script('peer.py', PEER))

    def run(*flags):
        output = tmp_path / 'results' / 'table.md'
        code = collect.main([flag.replace('PEER', peer) for flag in flags] + ['--output=%s' % output])
        return (code,) + tables(output.read_text())
    return run


def tables(text):
    """The facts {name: text}, the rows {comparison: {column: cell}} of all tables, and the text itself."""
    facts, rows = {}, {}
    for number, block in enumerate(text.strip().split('\n\n')[2:]):
        cells = [[cell.strip() for cell in line.strip('|').split(' | ')] for line in block.splitlines()]
        assert all(len(row) == len(cells[0]) for row in cells), block
        if number == 0:
            facts = {row[0]: row[1] for row in cells}
        rows.update({row[0]: dict(zip(cells[0], row)) for row in cells[2:] if number})
    return facts, rows, text


def test_medians_spreads_and_shares_of_three_rounds(fakes, capsys):
    code, facts, rows, text = fakes('--only=net,waits', '--peer=PEER')
    assert code == 0
    common = {'CPU': 'AMD AVX512', 'batch': '4', 'memory, MiB': '7', 'commit': collect.source_commit()}
    float32 = rows['Net, step, both in float32']
    assert float32 == dict(common, **{
        'comparison': 'Net, step, both in float32', 'precision': 'float32', 'ours, images/s': '200.0',
        'other, images/s': '100.0 (fp32_cl)', 'ratio': '2.00', 'spread': '1 to 3 (3)', 'ours, share of peak': '0.5',
        'other, share of peak': '0.25', 'peak, GFLOP/s': '1200 to 3600'})
    best = dict(common, **{
        'comparison': 'Net, step, both in their best mode', 'precision': 'bfloat16', 'ours, images/s': '400.0',
        'other, images/s': '200.0 (bf16_cl)', 'ratio': '2.00', 'spread': '1 to 3 (3)', 'ours, share of peak': '0.25',
        'other, share of peak': '0.125', 'peak, GFLOP/s': '4800 to 14400'})
    assert rows['Net, step, both in their best mode'] == best
    assert rows['Net, step, against the best compiled mode'] == dict(best, **{
        'comparison': 'Net, step, against the best compiled mode', 'other, images/s': '250.0 (bf16_cl_compiled)',
        'ratio': '1.60', 'spread': '0.8 to 2.4 (3)', 'other, share of peak': '0.156'})
    assert rows['Net, step, bfloat16 against float32'] == dict(common, **{
        'comparison': 'Net, step, bfloat16 against float32', 'precision': 'bfloat16', 'ours, images/s': '400.0',
        'other, images/s': '200.0 (ours in float32)', 'ratio': '2.00', 'spread': '2 to 2 (3)',
        'ours, share of peak': '-', 'other, share of peak': '-', 'peak, GFLOP/s': '-', 'memory, MiB': '-'})
    assert rows['to the [run] line'] == {
        'waited for': 'to the [run] line', 'CPU': 'AMD AVX512', 'median': '7.25', 'spread': '7.25 to 7.25 (3)',
        'unit': 's', 'commit': collect.source_commit()}
    assert facts['TensorFlow'] == '9.8.7' and facts['rounds'] == '3 of 3'
    assert {'CPU', 'cores', 'memory', 'commit', 'date', 'PyTorch'} < set(facts)
    said = capsys.readouterr()
    assert said.out == text
    assert '[6 of 6] round 3 of 3: net; about 0 minutes left' in said.err


def test_rows_of_another_kind_of_cpu_stay_and_own_ones_are_replaced(fakes, monkeypatch):
    fakes('--only=net,waits', '--rounds=1')
    intel = {'vendor_id': 'GenuineIntel', 'model name': 'Xeon', 'flags': 'avx512f avx512_bf16 amx_bf16'}
    monkeypatch.setattr(collect, 'flags_of_cpu', lambda: intel)
    _, _, _, text = fakes('--only=net', '--rounds=1')
    lines = text.splitlines()
    places = [lines.index(line) for line in lines if line.startswith('| Net, step, both in float32 ')]
    assert [line.split(' | ')[1] for line in lines if line.startswith('| Net, step, both in float32 ')] == [
        'AMD AVX512', 'Intel AMX']
    assert places[1] == places[0] + 1  # side by side
    assert '| newest run on | AMD AVX512 | Intel AMX |' in lines
    assert sum('to the [run] line' in line for line in lines) == 1
    _, _, rows, again = fakes('--only=net', '--rounds=1')
    assert len(again.splitlines()) == len(lines)
    assert rows['Net, step, both in float32']['ours, images/s'] == '200.0' and '| 300.0 |' not in again


def test_the_kind_of_a_cpu_is_its_maker_and_best_unit():
    assert collect.kind_of({'vendor_id': 'AuthenticAMD', 'flags': 'avx2 avx512f avx512_bf16'}) == 'AMD AVX512_BF16'
    assert collect.kind_of({'vendor_id': 'GenuineIntel', 'flags': 'avx2'}) == 'Intel AVX2'
    assert ' ' not in collect.kind_of({}) and collect.kind_of({})


def test_without_a_peer_its_columns_are_empty(fakes):
    code, facts, rows, _ = fakes('--only=net', '--quick')
    row = rows['Net, step, both in float32 (quick)']
    assert code == 0 and 'PyTorch' not in facts and 'quick' in facts['rounds']
    assert (row['ours, images/s'], row['other, images/s'], row['ratio'], row['spread']) == ('100.0', '-', '-', '-')


def test_failures_are_rows_and_the_rest_runs(fakes):
    assert fakes('--peer=PEER --die', '--only=net', '--rounds=1')[0] == 1
    code, _, rows, _ = fakes('--peer=PEER --die', '--rounds=2')
    assert code == 1
    assert rows['dies']['other, images/s'] == 'failed: OSError: no / such disk'
    row = rows['Net, step, both in float32']
    assert row['ours, images/s'] == '250.0' and row['ratio'] == '-'
    assert row['other, images/s'].startswith('failed: ') and 'torch_that_is_not_there' in row['other, images/s']


def test_a_peer_with_another_batch_is_refused(tmp_path):
    (tmp_path / 'peer.py').write_text(PEER)
    command = '%s %s net --batch 8 --steps 1 --threads 1' % (sys.executable, tmp_path / 'peer.py')
    assert in_turns.run_peer(command, 8) == {'fp32': 80.0, 'fp32_cl': 100.0, 'bf16_cl': 200.0}
    with pytest.raises(in_turns.Failed, match='expected batch 4, as ours; found 8'):
        in_turns.run_peer(command, 4)


def test_time_steps_counts_waiting_for_data_and_not_what_was_ready(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(in_turns.time, 'perf_counter', lambda: clock[0])

    class Data:  # five batches are ready when a block begins, each other takes a second
        def __enter__(self):
            self.ready = 5
            return self

        def __exit__(self, *_):
            pass

        def __next__(self):
            clock[0] += 0.0 if self.ready > 0 else 1.0
            self.ready -= 1
            return 3.0

    def step(seconds):
        clock[0] += seconds
    figures = in_turns.time_steps(step, 2.0, 8, in_turns.Plan(1, 2, 3), lambda block: Data())
    assert figures == {'step': 4.0, 'in_memory': 4.0, 'from_data': 2.0, 'data_wait': 0.25}


def test_multiply_adds_are_those_of_the_forward_pass_alone():
    import tensorflow.compat.v1 as tf
    with tf.Graph().as_default():
        images = tf.placeholder(tf.float32, [2, 8, 8, 3])
        kernel = tf.get_variable('kernel', [3, 3, 3, 5])
        depthwise = tf.get_variable('depthwise', [3, 3, 5, 1])
        weights = tf.get_variable('weights', [5, 7])
        x = tf.nn.conv2d(images, kernel, strides=[1, 2, 2, 1], padding='SAME')
        x = tf.nn.depthwise_conv2d(x, depthwise, [1, 1, 1, 1], 'SAME')
        scores = tf.matmul(tf.reduce_mean(x, [1, 2]), weights)
        tf.matmul(scores, tf.ones([7, 100]))  # of another branch
        loss = tf.reduce_mean(scores)
        tf.gradients(loss, [kernel, weights])
        assert in_turns.multiply_adds(loss) == 2 * (4 * 4 * 5 * 27 + 4 * 4 * 5 * 9 + 5 * 7)


def test_wrong_flags_are_refused(capsys):
    for flags, said in ((['--only=resnet'], "found 'resnet'"), (['--voc=/nowhere'], 'found nothing at /nowhere'),
                        (['--rounds=0'], '--rounds'),
                        (['--only=create_tfrecords'], 'needs --imagenet')):
        with pytest.raises(SystemExit) as end:
            collect.parse_args(flags)
        assert end.value.code == 2 and said in capsys.readouterr().err


def test_a_real_run_of_few_steps(tmp_path):
    pytest.importorskip('tensorflow', minversion='2.9')
    (tmp_path / 'peer.py').write_text(PEER)
    done = subprocess.run(
        ['bash', os.path.join(ROOT, 'benchmarks', 'run.sh'), '--quick', '--only=cutmix', '--output=table.md',
         '--peer=%s peer.py' % sys.executable], cwd=str(tmp_path), env=dict(os.environ, PYTHON=sys.executable),
        capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    facts, rows, _ = tables((tmp_path / 'table.md').read_text())
    row = rows["CutMix's ResNet-20, step, both in float32 (quick)"]
    assert float(row['ours, images/s']) > 0 and row['other, images/s'] == '100.0 (fp32_cl)'
    assert abs(float(row['ratio']) - float(row['ours, images/s']) / 100) < 0.01
    # By its layers ResNet-20 has 40.8 million: 0.4 in the first, 14.2, 13.1 and 13.1 in the three stages.
    assert facts['TensorFlow'][0] in '23' and row['commit'] == collect.source_commit()
    peak = sum(map(float, row['peak, GFLOP/s'].split(' to '))) / 2  # before and after
    work_m = float(row['other, share of peak']) * peak * 1e3 / 6 / 100
    assert 40 < work_m < 42
    assert "CutMix's ResNet-20, training against the published way (quick)" in rows


def test_the_gpu_script_compares_each_run_once_and_tells_what_failed(monkeypatch, capsys):
    import gpu
    ran = []

    def train(name, device, precision, ranks, steps):
        ran.append((name, precision, ranks))
        if name == 'SSD' and ranks == 2:
            raise in_turns.Failed("the ranks' variables differ")
        return {'images_per_sec': 100.0 * ranks * (3 if precision == gpu.MIXED else 1), 'peak_rss_mb': 1}
    monkeypatch.setattr(gpu, 'train', train)
    monkeypatch.setattr(gpu, 'devices', lambda wanted: (['H100', 'H100'], '2.21.0'))
    assert gpu.main(['--models=CSPNet,SSD']) == 1
    said = capsys.readouterr().out
    assert len(ran) == len(set(ran)) == 6 and 'TensorFlow 2.21.0 on H100, H100' in said
    rows = {cells[0]: cells for cells in (line.strip('| ').split(' | ') for line in said.splitlines())}
    assert rows['CSPNet, mixed precision against float32'][6] == '3.00'
    assert rows['CSPNet, two ranks against one'][6] == '2.00'
    assert "failed: the ranks' variables differ" in rows['SSD, two ranks against one'][5]
    monkeypatch.setattr(gpu, 'devices', lambda wanted: (['H100'], '2.21.0'))
    assert gpu.main(['--models=SSD']) == 0 and 'two ranks' not in capsys.readouterr().out


def test_the_gpu_script_refuses_a_machine_without_one_and_trains_on_a_cpu(capsys, monkeypatch):
    tf = pytest.importorskip('tensorflow', minversion='2.9')
    if tf.config.list_physical_devices('GPU'):
        pytest.skip('there is a GPU')
    import gpu
    assert gpu.main([]) == 1
    assert capsys.readouterr().err.startswith('--device=gpu: expected a GPU')
    monkeypatch.setenv('PYTHONPATH', programs.IN_PROGRAMS)
    assert gpu.train('CutMix', 'cpu', gpu.FLOAT32, 2, 7)['images_per_sec'] > 0
    with pytest.raises(in_turns.Failed, match='--precision_mode'):
        gpu.train('CSPNet', 'cpu', 'none', 1, 7)


def test_what_a_user_waits_for_is_read_from_two_sessions_of_a_run(monkeypatch):
    pytest.importorskip('tensorflow', minversion='2.9')
    import waiting
    monkeypatch.setenv('PYTHONPATH', programs.IN_PROGRAMS)
    seconds = {record['wait']: record['value'] for record in waiting.measure_model('CutMix', None)}
    assert all(0 < value < 300 for value in seconds.values()) and len(seconds) == 8
    assert seconds["CutMix, command to the launcher's start of train.py"] < seconds['CutMix, command to the [run] line']
    assert seconds['CutMix, command to the [run] line'] < seconds['CutMix, command to the first step when it resumes']


def test_ranks_that_idle_are_started_stopped_and_lost():
    import scale
    names = [record['wait'] for record in scale.measure_ranks(quick=True)]
    assert names == ['4 idle ranks, command to all of them running', '4 idle ranks, asked to stop to the end of all',
                     '4 idle ranks, a rank killed to the end of all']


def test_lines_that_are_not_json_are_passed_over(tmp_path):
    (tmp_path / 'says.py').write_text('print("words")\nprint(%r)' % json.dumps({'a': 1}))
    assert in_turns.json_lines([sys.executable, str(tmp_path / 'says.py')]) == [{'a': 1}]
    (tmp_path / 'silent.py').write_text('print("words")')
    with pytest.raises(in_turns.Failed, match='expected lines of JSON; found none'):
        in_turns.json_lines([sys.executable, str(tmp_path / 'silent.py')])


def test_few_pictures_are_drawn_by_seed_and_the_table_is_of_runs_that_have_ended(tmp_path, monkeypatch):
    import shufflenet_transfer
    for split, count in (('train', 7), ('val', 2)):
        for name in 'abcd':
            folder = tmp_path / 'data' / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / ('%d.jpg' % number)).write_bytes(b'')
    data = str(tmp_path / 'data')
    old, new = shufflenet_transfer.classes_of(data)
    assert (old, new) == (['a', 'b'], ['c', 'd'])
    drawn = []
    for name, pictures, seed in (('one', 3, 0), ('again', 3, 0), ('other', 3, 1), ('all', 0, 0)):
        count = shufflenet_transfer.link(data, new, str(tmp_path / name), pictures, seed)
        assert count == (pictures or 7) and os.listdir(str(tmp_path / name / 'val')) and count == len(
            os.listdir(str(tmp_path / name / 'train' / 'c')))
        drawn.append(sorted(os.listdir(str(tmp_path / name / 'train' / 'c'))))
    assert drawn[0] == drawn[1] != drawn[2]
    runs = {}
    for number, start in enumerate(list(shufflenet_transfer.STARTS) * 2):
        folder = tmp_path / ('run-%d' % number)
        folder.mkdir()
        lines = [{'event': 'eval', 'step': step, 'top1': 0.5 + step * number / 100} for step in (4, 8)]
        lines += [{'event': 'done', 'step': 8}] if number != 5 else []
        (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
        runs[str(folder)] = start, 20
    results = shufflenet_transfer.results_of(runs)
    assert [len(curves) for curves in results.values()] == [2, 2, 1]
    shufflenet_transfer.write(str(tmp_path), results, {
        'images': 4, 'top1': 0.75, 'classes': 2, 'commit': 'c0ffee', 'wall_sec': 120})
    page = (tmp_path / 'transfer.md').read_text()
    assert '| 20 | 0.620 (0.500 to 0.740, 2) | 0.700 (0.580 to 0.820, 2) | 0.660 (0.660 to 0.660, 1) |' in page
    assert '0.750 on the 2 classes' in page and 'c0ffee, 2 minutes' in page
    assert (tmp_path / 'transfer.png').read_bytes()[:4] == b'\x89PNG'
