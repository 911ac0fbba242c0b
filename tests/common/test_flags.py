# SPDX-License-Identifier: Apache-2.0
"""The dialect of the flags."""
import pytest

from common import flags

pytestmark = pytest.mark.smoke


def parser():
    made = flags.Parser(prog='train.py')
    made.add_argument('--LEARNING_RATE', type=flags.number(above=0), default=0.1)
    flags.add_run_group(made, epochs=50, batch_size=64, precision_mode='allow_mix_precision',
                        spelling={'log_every': '--DISPLAY_STEP'})
    return made


@pytest.mark.parametrize('words, value', [
    (['--synthetic'], True), (['--no_synthetic'], False), (['--no-synthetic'], False), (['--synthetic=False'], False),
    (['--synthetic=true'], True), (['--synthetic', 'False'], False), ([], False),
    (['--synthetic', '--no_synthetic'], False),
])
def test_a_boolean_means_what_it_says(words, value):
    assert parser().parse_args(words).synthetic is value


def test_a_file_that_is_to_be_read_is_there(tmp_path, capsys):
    for name in ('ops.json', 'model.index', 'model.h5', 'model.data-00000-of-00001'):
        (tmp_path / name).write_text('')
    made = parser()
    flags.add_transfer_group(made, ('conv1', 'conv2'))
    for flag in ('--mixlist_file', '--fusion_off_file', '--init_from'):
        for name in ('ops.json', 'model', '.'):
            assert getattr(made.parse_args(['%s=%s' % (flag, tmp_path / name)]), flag[2:])
        for name in ('none', 'ops'):
            with pytest.raises(SystemExit):
                made.parse_args(['%s=%s' % (flag, tmp_path / name)])
            assert '%s: found no file %s' % (flag, tmp_path / name) in capsys.readouterr().err


@pytest.mark.parametrize('words, name, value', [
    (['--batch-size=8'], 'batch_size', 8), (['--batch_size', '8'], 'batch_size', 8),
    (['--train_epochs=3'], 'epochs', 3),
    (['--max-epochs=3'], 'epochs', 3), (['--data_dir=/x'], 'data_path', '/x'), (['--DISPLAY_STEP=7'], 'log_every', 7),
    (['--log-every=7'], 'log_every', 7), (['--resume'], 'resume', 'True'), ([], 'resume', 'auto'),
    (['--epochs=5', '--train_epochs=2'], 'epochs', 2),
    (['--over_dump_path=/x'], 'data_dump_path', '/x'), (['--CIFAR_PATH=/x'], 'data_path', '/x'),
    (['--train_data_dir=/x'], 'data_path', '/x'), (['--model_dir=/x'], 'output_path', '/x'),
    (['--tensorboard-dir=/x'], 'SUMMARY', '/x'), (['--train_batch_size=8'], 'batch_size', 8),
    (['--num_epochs=3'], 'epochs', 3), (['--log_steps=7'], 'log_every', 7),
])
def test_documented_spellings_reach_one_name(words, name, value):
    assert getattr(parser().parse_args(words), name) == value


@pytest.mark.parametrize('words, parts', [
    (['--epochs=two'], ['--epochs', "'two'", 'integer of at least 1']),
    (['--batch_size=0'], ['--batch_size', "'0'", 'integer of at least 1']),
    (['--LEARNING_RATE=nan'], ['--LEARNING_RATE', "'nan'", 'above 0']),
    (['--synthetic=maybe'], ['--synthetic', "'maybe'", 'True or False']),
    (['--device=tpu'], ['--device', "'tpu'", 'npu']),
    (['--batchsize=8'], ['--batchsize', "did you mean '--batch_size'"]),
    (['--epoch=8'], ['--epoch', "did you mean '--epochs'"]),
    (['--train_epoch=8'], ['--train_epoch', "did you mean '--train_epochs'"]),
    (['--LEARNING=0.1'], ['--LEARNING']),
    (['--bind_core=1'], ["leave '--bind_core' out", 'bound to their cores']),
    (['--eval_batch_size=512'], ["leave '--eval_batch_size' out"]),
    (['--CKPT_PATH=x'], ["unknown flag '--CKPT_PATH'"]),
    (['stray'], ['stray']),
])
def test_a_wrong_flag_is_one_line_and_exit_code_2(words, parts, capsys):
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count('\n') == 1
    for part in parts:
        assert part in said


def test_help_shows_what_stands_before_it_as_defaults(capsys):
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(['--epochs=7', '--no_synthetic', '--help', '--epochs=8'])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and 'passes over the training images (default: 7)' in ' '.join(said.split())


def test_a_boolean_leaves_the_next_word_alone():
    made = flags.Parser(prog='report')
    made.add_bool(made, '--table', False, help='x')
    made.add_argument('runs', nargs='+')
    assert made.parse_args(['--table', 'run']).runs == ['run']
    assert made.parse_args(['--table', 'False', 'run']).table is False


def test_only_what_changes_the_weights_forbids_a_continuation():
    old = {'batch_size': 64, 'seed': 0, 'output_path': 'a', 'log_every': 10}
    assert flags.first_difference(old, dict(old, output_path='b', log_every=5)) is None
    assert flags.first_difference(old, dict(old, seed=1)) == ('seed', 0, 1)
    assert flags.first_difference(old, dict(old, new=1)) == ('new', None, 1)
    assert flags.first_difference(old, dict(old, flip='random', bias_rate=1.0)) is None  # as runs before there was it
    assert flags.first_difference(old, dict(old, flip='alternating')) == ('flip', None, 'alternating')
    assert flags.first_difference(dict(old, flip='alternating'), dict(old, flip='random'))


def test_a_relative_path_counts_from_where_the_user_stands(tmp_path, monkeypatch):
    (tmp_path / 'model' / 'data').mkdir(parents=True)
    (tmp_path / 'user').mkdir()
    monkeypatch.chdir(tmp_path / 'model')
    monkeypatch.setenv('CALLED_FROM', str(tmp_path / 'user'))
    data_path = lambda: parser().parse_args(['--data_path=./data/']).data_path  # noqa: E731
    assert data_path() == str(tmp_path / 'model' / 'data')
    (tmp_path / 'user' / 'data').mkdir()
    assert data_path() == str(tmp_path / 'user' / 'data')
    assert parser().parse_args(['--output_path=out']).output_path == str(tmp_path / 'user' / 'out')
