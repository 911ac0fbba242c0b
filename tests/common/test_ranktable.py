# SPDX-License-Identifier: Apache-2.0
"""Rank tables are read right or refused with the field and the rule; what is written reads back the same."""
import glob
import json
import os
import socket

import pytest
from conftest import ROOT

from common.files import DataError
from launcher import ranktable
from tools import ranktable as tool

pytestmark = pytest.mark.smoke

DOCUMENTED_ADDRESSES = ['192.168.%d.%d' % (net, host) for host in (101, 100) for net in (100, 101, 102, 103)]


def server_list():
    """Two servers with two devices each, as CANN documents version 1.0; a fresh copy."""
    return {'version': '1.0', 'status': 'completed', 'server_count': '2', 'server_list': [
        {'server_id': 'node_%d' % server, 'device': [
            {'device_id': str(device), 'device_ip': '192.168.%d.%d' % (server + 1, device + 8),
             'rank_id': str(2 * server + device)} for device in (0, 1)]} for server in (0, 1)]}


def group_list_by_rank():
    """The same devices, one instance for each rank."""
    return {'status': 'completed', 'group_count': '1', 'group_list': [
        {'group_name': '', 'device_num': '4', 'server_num': '2', 'instance_count': '4', 'instance_list': [
            {'rank_id': device['rank_id'], 'server_id': server['server_id'],
             'devices': [{'device_id': device['device_id'], 'device_ip': device['device_ip']}]}
            for server in server_list()['server_list'] for device in server['device']]}],
        'board_id': '0x0000', 'chip_info': '910', 'deploy_mode': 'lab', 'para_plane_nic_location': 'device',
        'para_plane_nic_name': ['eth0', 'eth1'], 'para_plane_nic_num': '2'}


def group_list():
    """The same devices, one instance for each server."""
    return {'status': 'completed', 'group_count': '1', 'group_list': [
        {'group_name': 'worker', 'device_count': '4', 'instance_count': '2', 'instance_list': [
            {'devices': [{'device_id': device['device_id'], 'device_ip': device['device_ip']}
                         for device in server['device']],
             'pod_name': 'npu4p' + suffix, 'server_id': server['server_id']}
            for server, suffix in zip(server_list()['server_list'], ('', '-1'))]}]}


TABLES = {'server_list': server_list, 'group_list_by_rank': group_list_by_rank, 'group_list': group_list}
EXPECTED = tuple(ranktable.Device('node_%d' % server, device, '192.168.%d.%d' % (server + 1, device + 8),
                                  'node_%d' % server, None) for server in (0, 1) for device in (0, 1))


@pytest.mark.parametrize('form', ranktable.FORMS)
def test_each_published_form_is_understood(form):
    table = ranktable.parse(TABLES[form](), 'table')
    assert (table.form, table.devices) == (form, EXPECTED)
    assert list(table.servers().items()) == [('node_0', [0, 1]), ('node_1', [2, 3])]


@pytest.mark.parametrize('form', ranktable.FORMS)
@pytest.mark.parametrize('source', ranktable.FORMS)
def test_each_form_is_written_from_each(source, form):
    text = tool.render(ranktable.parse(TABLES[source](), 'table'), form)
    assert json.loads(text) == TABLES[form]()
    assert '{"device_id": "0", "device_ip": "192.168.1.8"' in text  # one line for each device


def test_ranks_count_not_the_order_of_the_entries():
    content = server_list()
    for device, rank in zip([device for server in content['server_list'] for device in server['device']], '3120'):
        device['rank_id'] = rank
    table = ranktable.parse(content, 'table')
    assert [EXPECTED.index(device) for device in table.devices] == [3, 1, 2, 0]
    assert list(table.servers().items()) == [('node_1', [0, 2]), ('node_0', [1, 3])]
    older = json.loads(tool.render(table, 'group_list_by_rank'))
    older['group_list'][0]['instance_list'].reverse()
    assert ranktable.parse(older, 'table').devices == table.devices
    with pytest.raises(DataError, match="found a server between another's ranks; give --form=server_list"):
        tool.render(table, 'group_list')


def change(place, value):
    """A function that sets (or, for a function, edits) one value of a table; None deletes it."""
    def apply(content):
        *path, last = place
        for step in path:
            content = content[step]
        if value is None:
            del content[last]
        else:
            content[last] = value(content[last]) if callable(value) else value
    return apply


DEVICE = ['server_list', 1, 'device', 0]
GROUP = ['group_list', 0]
INSTANCE = GROUP + ['instance_list', 1]
BROKEN = [
    # form, what is changed, the place that is named, the rule and what was found
    ('server_list', change(['status'], 'initializing'), 'status', '"completed"; found "initializing"; wait'),
    ('group_list', change(['status'], None), 'status', '"completed"; found nothing'),
    ('server_list', change(['version'], None), 'version', '"1.0"; found nothing'),
    ('server_list', change(['version'], '1.2'), 'version', '"1.0"; found "1.2"'),
    ('server_list', change(['server_count'], '1'), 'server_count',
     '"2", the number of entries in server_list; found "1"'),
    ('server_list', change(['server_count'], 2), 'server_count', 'a number in quotes, such as "0"; found 2'),
    ('server_list', change(['server_list'], []), 'server_list', 'a list with at least one entry; found []'),
    ('server_list', change(['server_list'], {}), 'server_list', 'a list with at least one entry; found {}'),
    ('server_list', change(['server_list', 0], 'node_0'), 'server_list[0]', 'an object in braces; found "node_0"'),
    ('server_list', change(['server_list', 1, 'server_id'], 'node_0'), 'server_list[1].server_id',
     'another server_id for each; found "node_0"; change it: server_list[0].server_id is the same'),
    ('server_list', change(['server_list', 1, 'server_id'], 7), 'server_list[1].server_id', 'a text of 1 to 64'),
    ('server_list', change(['server_list', 1, 'server_id'], ''), 'server_list[1].server_id', 'a text of 1 to 64'),
    ('server_list', change(['server_list', 1, 'server_id'], 'n' * 65), 'server_list[1].server_id', 'a text of 1 to 64'),
    ('server_list', change(['server_list', 1, 'server_id'], 'n' * 200), 'server_list[1].server_id', 'nnn...; correct'),
    ('server_list', change(['server_list', 1, 'device'], None), 'server_list[1].device', 'found nothing'),
    ('server_list', change(DEVICE + ['rank_id'], '1'), 'server_list[1].device[0].rank_id',
     'another rank_id for each; found "1"; change it: server_list[0].device[1].rank_id is the same'),
    ('server_list', change(DEVICE + ['rank_id'], 2), 'server_list[1].device[0].rank_id',
     'a number in quotes, such as "0"; found 2'),
    ('server_list', change(DEVICE + ['rank_id'], '02'), 'server_list[1].device[0].rank_id', 'found "02"'),
    ('server_list', change(DEVICE + ['rank_id'], None), 'server_list[1].device[0].rank_id', 'found nothing'),
    ('server_list', change(DEVICE + ['rank_id'], '4'), '', 'rank_id 0 to 3 without a gap; found no rank 2'),
    ('server_list', change(DEVICE + ['device_id'], '1'), 'server_list[1].device[1].device_id', 'another device_id'),
    ('server_list', change(DEVICE + ['device_id'], 0), 'server_list[1].device[0].device_id', 'found 0'),
    ('server_list', change(DEVICE + ['device_ip'], '192.168.1.8'), 'server_list[1].device[0].device_ip',
     'another device_ip for each; found "192.168.1.8"; change it: server_list[0].device[0].device_ip is the same'),
    ('server_list', change(DEVICE + ['device_ip'], '192.168.1'), 'server_list[1].device[0].device_ip', 'an IP address'),
    ('server_list', change(DEVICE + ['device_ip'], None), 'server_list[1].device[0].device_ip', 'found nothing'),
    ('server_list', change(DEVICE + ['host_port'], '65536'), 'server_list[1].device[0].host_port', 'a port from 1'),
    ('server_list', change(DEVICE + ['host_port'], '0'), 'server_list[1].device[0].host_port', 'a port from 1'),
    ('server_list', change(['server_list', 1, 'host_ip'], 'here'), 'server_list[1].host_ip', 'an IP address'),
    ('server_list', change(['server_list', 1, 'device'], lambda devices: devices[:1]), '',
     'the same number of devices on each server; found 2 on node_0 and 1 on node_1'),
    ('group_list', change(['group_count'], '2'), 'group_count', '"1", the number of entries in group_list'),
    ('group_list', lambda content: content.update(group_count='2', group_list=content['group_list'] * 2),
     'group_count', '"1"; found "2"; list all instances in one group'),
    ('group_list', change(GROUP + ['instance_count'], '4'), 'group_list[0].instance_count', '"2", the number of'),
    ('group_list', change(GROUP + ['device_count'], '8'), 'group_list[0].device_count', '"4", the number of devices'),
    ('group_list', change(GROUP + ['device_count'], None), 'group_list[0].device_num', 'found nothing'),
    ('group_list', change(INSTANCE + ['server_id'], 'node_0'), 'group_list[0].instance_list[1].server_id',
     'another server_id for each'),
    ('group_list', change(INSTANCE + ['devices', 1, 'device_id'], '0'),
     'group_list[0].instance_list[1].devices[1].device_id', 'another device_id for each'),
    ('group_list', change(INSTANCE + ['rank_id'], '1'), 'group_list[0].instance_list[0].devices',
     'one device, because the instances have a rank_id'),
    ('group_list_by_rank', change(GROUP + ['device_num'], '8'), 'group_list[0].device_num', '"4", the number of'),
    ('group_list_by_rank', change(GROUP + ['server_num'], '1'), 'group_list[0].server_num', '"2", the number of'),
    ('group_list_by_rank', change(INSTANCE + ['rank_id'], '0'), 'group_list[0].instance_list[1].rank_id',
     'another rank_id for each'),
    ('group_list_by_rank', change(INSTANCE + ['rank_id'], None), 'group_list[0].instance_list[1].rank_id',
     'found nothing'),
    ('group_list_by_rank', change(INSTANCE + ['server_id'], 'node_2'), 'group_list[0].server_num', '"3", the number'),
    ('group_list_by_rank', lambda content: [change(place, value)(content) for place, value in (
        (INSTANCE + ['server_id'], 'node_1'), (INSTANCE + ['devices', 0, 'device_id'], '2'))],
     '', 'found 1 on node_0 and 3 on node_1'),
]


@pytest.mark.parametrize('form, apply, place, rule', BROKEN)
def test_an_error_names_the_field_and_the_rule(form, apply, place, rule):
    content = TABLES[form]()
    apply(content)
    with pytest.raises(DataError) as caught:
        ranktable.parse(content, 'table.json')
    message = str(caught.value)
    assert message.startswith('table.json%s: expected ' % (', ' + place if place else ''))
    assert rule in message and '\n' not in message and message.endswith('.')


@pytest.mark.parametrize('text, rule', [
    ('', 'a rank table in JSON, without comments; found Expecting value'),
    ('{"status": "completed" // usable\n}', 'without comments'),
    ('[' * 100000, 'a rank table in JSON, without comments'),
    ('\ufeff{}', 'a rank table in JSON'),
    ('[]', 'table.json: expected an object in braces; found []'),
    ('{}', 'a rank table in JSON with server_list or group_list; found neither'),
])
def test_a_file_that_is_no_table_is_refused(tmp_path, text, rule):
    path = tmp_path / 'table.json'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(DataError) as caught:
        ranktable.read(str(path))
    assert str(caught.value).startswith(str(path)) and rule in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match='No such file'):
        ranktable.read(str(tmp_path / 'absent.json'))
    (tmp_path / 'latin.json').write_bytes(b'{"status": "\xe9"}')
    with pytest.raises(DataError, match='a rank table in JSON'):
        ranktable.read(str(tmp_path / 'latin.json'))


def test_a_table_that_is_being_made_is_waited_for(tmp_path, monkeypatch, capsys):
    path = tmp_path / 'table.json'
    path.write_text('{"status": "initializing"}')
    monkeypatch.setattr(ranktable.time, 'sleep', lambda _: path.write_text(json.dumps(server_list())))
    assert ranktable.check(str(path), 4).devices == EXPECTED
    said = capsys.readouterr().err
    assert said == '%s: its status is initializing; waiting until it is completed, at most 300 s\n' % path

    path.write_text('{"status": "initializing"}')
    monkeypatch.setattr(ranktable.time, 'sleep', lambda _: None)
    monkeypatch.setattr(ranktable, 'WAIT_SEC', 0.1)
    with pytest.raises(DataError, match='status: expected "completed"; found "initializing"; wait until'):
        ranktable.check(str(path), 4)
    assert capsys.readouterr().err.count('\n') == 1


def test_the_number_of_ranks_must_fit(tmp_path):
    path = tmp_path / 'table.json'
    path.write_text(json.dumps(server_list()))
    assert ranktable.check(str(path), 4).devices == EXPECTED
    with pytest.raises(DataError, match='expected 8 devices, as --rank_size says; found 4'):
        ranktable.check(str(path), 8)
    with pytest.raises(DataError, match='expected 2 devices, as --ranks says; found 4'):
        ranktable.check(str(path), 2, '--ranks')


SHIPPED = sorted(glob.glob(os.path.join(ROOT, '*', 'test', '8p.json')))


@pytest.mark.parametrize('path', SHIPPED, ids=[os.path.basename(os.path.dirname(os.path.dirname(p))) for p in SHIPPED])
def test_the_shipped_table_is_the_documented_one(path):
    table = ranktable.check(path, 8)
    assert table.form == 'group_list'
    assert [device.device_ip for device in table.devices] == DOCUMENTED_ADDRESSES
    with open(path) as file:
        content = json.load(file)
    assert content['group_list'][0]['instance_list'][0]['pod_name'] == 'npu8p'
    assert json.loads(tool.render(table, 'group_list')) == content


def test_several_folders_ship_one():
    assert len(SHIPPED) >= 3


def with_addresses():
    content = server_list()
    for server, host in zip(content['server_list'], ('10.9.8.7', '::1')):
        server['host_ip'] = host
        for device in server['device']:
            device['host_port'] = str(5000 + int(device['rank_id']))
    return content


def test_addresses_and_ports_of_a_table_are_used_and_kept():
    table = ranktable.parse(with_addresses(), 'table')
    assert ranktable.endpoints(table) == ['10.9.8.7:5000', '10.9.8.7:5001', '[::1]:5002', '[::1]:5003']
    assert json.loads(tool.render(table, 'server_list')) == with_addresses()
    nameless = table._replace(devices=tuple(device._replace(host=device.server_id) for device in table.devices))
    portless = table._replace(devices=tuple(device._replace(port=None) for device in table.devices))
    for form in ranktable.FORMS[1:]:
        for more_than_fits in (nameless, portless):
            with pytest.raises(DataError, match='no host_ip and no host_port'):
                tool.render(more_than_fits, form)


def test_without_ports_two_servers_count_on_from_hccls_base_port(monkeypatch):
    table = ranktable.parse(server_list(), 'table')
    monkeypatch.delenv('HCCL_IF_BASE_PORT', raising=False)
    assert ranktable.endpoints(table) == ['node_0:60000', 'node_0:60001', 'node_1:60000', 'node_1:60001']
    monkeypatch.setenv('HCCL_IF_BASE_PORT', '50000')
    assert ranktable.endpoints(table)[3] == 'node_1:50001'
    for port in ('high', '70000', '\N{SUPERSCRIPT TWO}'):
        monkeypatch.setenv('HCCL_IF_BASE_PORT', port)
        with pytest.raises(DataError, match='HCCL_IF_BASE_PORT: expected a port'):
            ranktable.endpoints(table)


def test_one_server_gets_free_ports_whatever_its_name(monkeypatch):
    content = server_list()
    content.update(server_count='1', server_list=content['server_list'][:1])
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(ranktable.random, 'sample', lambda ports, count: [port, 20001, 20002, 20003])
        endpoints = ranktable.endpoints(ranktable.parse(content, 'table'))
    assert len(set(endpoints)) == 2 and '127.0.0.1:%d' % port not in endpoints
    assert all(endpoint.startswith('127.0.0.1:2000') for endpoint in endpoints)


def test_a_run_without_a_table_has_one_of_its_own():
    table = ranktable.local_table(3)
    assert [device.device_id for device in table.devices] == [0, 1, 2]
    assert ranktable.this_server(table) == '127.0.0.1'
    assert len(set(ranktable.endpoints(table))) == 3


def test_this_server_is_told_by_name_or_by_address():
    table = ranktable.parse(server_list(), 'table')
    assert ranktable.this_server(table, 'node_1') == 'node_1'
    with pytest.raises(DataError, match='--server_id: expected one of node_0, node_1, as in table; found node_2'):
        ranktable.this_server(table, 'node_2')
    with pytest.raises(DataError, match='an address of this machine; found none of them; say which one'):
        ranktable.this_server(table._replace(devices=tuple(
            device._replace(host='192.0.2.%d' % device.device_id) for device in table.devices)))
    content = with_addresses()
    content['server_list'][1]['host_ip'] = '127.0.0.1'
    assert ranktable.this_server(ranktable.parse(content, 'table')) == 'node_1'
    content['server_list'][0]['host_ip'] = '127.0.0.2'
    with pytest.raises(DataError, match='one server with an address of this machine; found node_0, node_1'):
        ranktable.this_server(ranktable.parse(content, 'table'))
    one = dict(server_list(), server_count='1', server_list=server_list()['server_list'][:1])
    assert ranktable.this_server(ranktable.parse(one, 'table')) == 'node_0'
    with pytest.raises(DataError, match='--server_id'):
        ranktable.this_server(ranktable.parse(one, 'table'), 'node_1')


def test_check_says_what_a_table_holds(tmp_path, capsys):
    path = tmp_path / 'table.json'
    path.write_text(json.dumps(group_list()))
    assert tool.main(['check', str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == '%s: group_list, 4 rank(s) on 2 server(s)' % path
    assert said[4] == '  rank 3: device 1 of node_1, 192.168.2.9' and len(said) == 5
    path.write_text(json.dumps(dict(group_list(), status='initializing')))
    assert tool.main(['check', str(path)]) == 1
    said = capsys.readouterr()
    assert not said.out and said.err.count('\n') == 1 and 'status: expected "completed"' in said.err


def test_make_writes_the_documented_table(tmp_path):
    path = str(tmp_path / 'made.json')
    assert tool.main(['make', path, '--server=127.0.0.1=' + ','.join(DOCUMENTED_ADDRESSES),
                           '--form=group_list']) == 0
    with open(path) as made, open(SHIPPED[0]) as shipped:
        assert json.load(made) == json.load(shipped)


def test_make_takes_this_servers_cards_from_hccn_conf(tmp_path, monkeypatch, capsys):
    path, hccn = tmp_path / 'made.json', tmp_path / 'hccn.conf'
    monkeypatch.setattr(tool, 'HCCN_FILE', str(hccn))
    assert tool.main(['make', str(path), '--server=10.0.0.1']) == 1
    assert 'run this on the Ascend server' in capsys.readouterr().err and not path.exists()
    hccn.write_text('# cards\n')
    assert tool.main(['make', str(path), '--server=10.0.0.1']) == 1
    assert 'lines such as address_0=' in capsys.readouterr().err and not path.exists()
    hccn.write_text('address_1=192.168.101.101\nnetmask_1=255.255.255.0\naddress_0=192.168.100.101\n')
    assert tool.main(['make', str(path), '--server=10.0.0.1', '--server=10.0.0.2']) == 1
    assert "only this machine's are in" in capsys.readouterr().err and not path.exists()
    assert tool.main(['make', str(path), '--server=10.0.0.1']) == 0
    assert ranktable.read(str(path)).devices == (
        ranktable.Device('10.0.0.1', 0, '192.168.100.101', '10.0.0.1', None),
        ranktable.Device('10.0.0.1', 1, '192.168.101.101', '10.0.0.1', None))


def test_make_and_convert_join_servers(tmp_path, capsys):
    parts = [str(tmp_path / name) for name in ('a.json', 'b.json', 'both.json', 'made.json')]
    for number in (0, 1):
        assert tool.main(['make', parts[number], '--form=group_list', '--server=node_%d=192.168.%d.8,192.168.%d.9'
                               % (number, number + 1, number + 1)]) == 0
    assert tool.main(['convert', parts[2]] + parts[:2]) == 0
    with open(parts[2]) as file:
        assert json.load(file) == server_list()
    assert tool.main(['make', parts[3], '--server=10.0.0.1', '--server=10.0.0.2', '--devices=2',
                           '--host_port=7000']) == 0
    said = capsys.readouterr().out
    assert '  rank 3: device 1 of 10.0.0.2\n' in said and 'for GPU and CPU, not for Ascend' in said
    assert ranktable.endpoints(ranktable.read(parts[3])) == [
        '10.0.0.1:7000', '10.0.0.1:7001', '10.0.0.2:7000', '10.0.0.2:7001']
    before = open(parts[2]).read()
    assert tool.main(['convert', parts[2], parts[0], parts[0]]) == 1  # the same server twice
    assert 'another device_ip for each' in capsys.readouterr().err
    assert open(parts[2]).read() == before
    assert tool.main(['convert', str(tmp_path / 'no' / 'x.json'), parts[0]]) == 1
    assert 'No such file' in capsys.readouterr().err
