# SPDX-License-Identifier: Apache-2.0
"""Two launchers on two servers: two network namespaces with a cable between them."""
import json
import os
import signal

import pytest
from conftest import SERVERS
from launching import Launching, all_gone, pids_in, wait_for

A, B = SERVERS


@pytest.fixture
def net(tmp_path):
    launching = Launching(tmp_path)
    (launching.net / 'table.json').write_text(json.dumps({
        'version': '1.0', 'status': 'completed', 'server_count': '2', 'server_list': [
            {'server_id': address, 'device': [{'device_id': str(device), 'rank_id': str(2 * server + device)}
                                              for device in range(2)]} for server, address in enumerate([A, B])]}))
    yield launching
    launching.close()


def start_both(net, servers, do):
    return [net.start('--do=' + do, ranks=4, RANK_TABLE_FILE='table.json', before=servers[address])
            for address in (B, A)][::-1]


def ends(launchers):
    said = [launcher.communicate(timeout=60)[0] for launcher in launchers]
    return [launcher.returncode for launcher in launchers], said


def test_two_servers_start_their_own_ranks_which_meet(net, servers):
    codes, (first, second) = ends(start_both(net, servers, 'meet'))
    assert codes == [0, 0], first + second
    assert '4 ranks: 0-1 on this server (%s), ' % A in first and '4 ranks: 2-3 on this server (%s), ' % B in second
    assert 'rank 0 of 4' in first and 'rank 2 of 4 device 0' in second and 'log: %s\n' % net.log(2) in second
    assert 'Final Performance' in first and 'Net_bs8_4p_acc.log' in os.listdir(str(net.net / 'out'))
    assert 'Final' not in second and 'report' not in second and second.endswith(
        'ranks 2-3 are done; the result is in the run folder on %s, which has rank 0\n' % A)
    met = net.log(0).read_text()
    assert met.count('met from ' + A) == 1 and met.count('met from ' + B) == 2
    assert sorted(path.name for path in (net.net / 'out').glob('train_*.log')) == [
        'train_%d.log' % rank for rank in range(4)]


def test_a_stop_at_one_server_is_a_stop_at_the_other(net, servers):
    launchers = start_both(net, servers, 'meet_and_stop')
    wait_for(net.log(0), 'all are here')
    launchers[0].send_signal(signal.SIGTERM)
    codes, (first, second) = ends(launchers)
    assert codes[1] == 143 and 'stopped on request; the same command' in second and 'failed' not in second, second


def test_a_failure_at_one_server_fails_it(net, servers):
    launchers = start_both(net, servers, 'meet_and_fail')
    said, _ = launchers[1].communicate(timeout=60)
    assert launchers[1].returncode == 1 and 'rank 3 failed first' in said and 'the reason' in said, said
    assert all_gone(pids_in(net.log(2).read_text()), 5)
    launchers[0].send_signal(signal.SIGTERM)
    assert launchers[0].wait(60) == 143


def test_a_rank_that_ends_without_a_result_is_a_failure_there_too(net, servers):
    code, said = net.run('--do=all_but_last', ranks=4, RANK_TABLE_FILE='table.json', before=servers[B])
    assert code == 1 and 'without a [done] line; see %s' % net.log(3) in said, said


def test_the_other_server_leaves_the_run_folder_alone(net, servers):
    """A finished run lies there, which the server with rank 0 will move aside."""
    (net.net / 'out').mkdir()
    finished = {'flags.json': '{}', 'metrics.jsonl': '{"event": "done"}\n'}
    for name, text in finished.items():
        (net.net / 'out' / name).write_text(text)
    code, said = net.run('--do=finish', ranks=4, RANK_TABLE_FILE='table.json', before=servers[B])
    assert code == 0 and not [name for name in os.listdir(str(net.net)) if name.startswith('out.')], said
    assert sorted(os.listdir(str(net.net / 'out'))) == sorted(finished) + ['train_2.log', 'train_3.log']
    code, said = net.run('--do=finish', ranks=4, RANK_TABLE_FILE='table.json', before=servers[A])
    assert code == 0 and 'out.1' in os.listdir(str(net.net)), said


def test_a_log_is_read_where_it_went_when_its_folder_is_moved(net, servers):
    launcher = net.start('--do=early', ranks=4, RANK_TABLE_FILE='table.json', before=servers[B])
    wait_for(net.log(3), '[done]')
    (net.net / 'out').rename(net.net / 'out.1')
    said, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 0 and 'ranks 2-3 are done' in said, said


def test_a_server_may_be_named(net, servers):
    table = net.net / 'table.json'
    table.write_text(table.read_text().replace(A, 'first').replace(B, 'second'))
    said = net.run('--do=tell', ranks=4, RANK_TABLE_FILE='table.json', SERVER_ID='second')[1]
    assert '2-3 on this server (second)' in said and 'ranks 2-3 are done' in said, said
    assert json.loads(net.told(3)['TF_CONFIG']) == {
        'cluster': {'worker': ['first:60000', 'first:60001', 'second:60000', 'second:60001']},
        'task': {'type': 'worker', 'index': 3}}
    assert net.told(3)['ASCEND_DEVICE_ID'] == '1'


@pytest.mark.parametrize('environment, told', [
    ({}, 'table.json: expected one server with an address of this machine; found none of them'),
    ({'SERVER_ID': 'third'}, '--server_id: expected one of %s, %s' % (A, B))])
def test_a_server_that_is_not_in_the_table_starts_nothing(net, environment, told):
    code, said = net.run(ranks=4, RANK_TABLE_FILE='table.json', **environment)
    assert code == 1 and told in said and said.count('\n') == 1, said
    assert not (net.net / 'out').exists()
