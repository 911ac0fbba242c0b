# SPDX-License-Identifier: Apache-2.0
"""Rank tables checked, made and converted; launcher/ranktable.py says what they are.

    python -m tools.ranktable check test/8p.json
    python -m tools.ranktable make 8p.json --server=10.0.0.1=192.168.100.101,192.168.101.101 --form=group_list
    python -m tools.ranktable convert two_servers.json first.json second.json     (joins them, ranks go on)
"""
import json
import re
import sys

from common import flags
from common.files import DataError, write_text
from launcher.ranktable import BASE_PORT, FORMS, Device, RankTable, parse, read

HCCN_FILE = "/etc/hccn.conf"  # the cards' network addresses on an Ascend server: address_0=192.168.100.101


def render(table, form):
    """A RankTable as the JSON text of a form.

    Raises:
      DataError: the form cannot say what the table holds.
    """
    if form == "server_list":
        content = _server_list(table)
    elif any(device.port or _host_ip(device) for device in table.devices):
        raise DataError(table.name, "no host_ip and no host_port for the older forms", "one of them",
                        "give --form=server_list")
    else:
        content = {"status": "completed", "group_count": "1", "group_list": [
            _group_by_rank(table) if form == "group_list_by_rank" else _group_by_server(table)]}
    if form == "group_list_by_rank":
        names = ["eth%d" % device.device_id for device in table.devices[:len(table.devices) // len(table.servers())]]
        content.update(board_id="0x0000", chip_info="910", deploy_mode="lab", para_plane_nic_location="device",
                       para_plane_nic_name=names, para_plane_nic_num=str(len(names)))
    parse(content, table.name)
    text = json.dumps(content, indent=1)  # and then a device on one line, as published tables have it
    return re.sub(r'\{\s+("device_id"[^{}]*?)\s+\}', lambda match: "{%s}" % re.sub(r"\s+", " ", match[1]), text) + "\n"


def _server_list(table):
    servers = table.servers()
    return {"version": "1.0", "status": "completed", "server_count": str(len(servers)), "server_list": [
        dict(_given(server_id=server_id, host_ip=_host_ip(table.devices[ranks[0]])), device=[
            dict(_device_fields(table.devices[rank]), rank_id=str(rank), **_given(host_port=table.devices[rank].port))
            for rank in ranks]) for server_id, ranks in servers.items()]}


def _group_by_rank(table):
    return {"group_name": "", "device_num": str(len(table.devices)), "server_num": str(len(table.servers())),
            "instance_count": str(len(table.devices)), "instance_list": [
                {"rank_id": str(rank), "server_id": device.server_id, "devices": [_device_fields(device)]}
                for rank, device in enumerate(table.devices)]}


def _group_by_server(table):
    servers = table.servers()
    if [rank for ranks in servers.values() for rank in ranks] != list(range(len(table.devices))):
        raise DataError(table.name, "ranks that count on from server to server", "a server between another's ranks",
                        "give --form=server_list or --form=group_list_by_rank")
    return {"group_name": "worker", "device_count": str(len(table.devices)), "instance_count": str(len(servers)),
            "instance_list": [{"devices": [_device_fields(table.devices[rank]) for rank in ranks],
                               "pod_name": "npu%dp%s" % (len(table.devices), "-%d" % index if index else ""),
                               "server_id": server_id} for index, (server_id, ranks) in enumerate(servers.items())]}


def _device_fields(device):
    return _given(device_id=device.device_id, device_ip=device.device_ip or None)


def _given(**fields):
    """The fields that are not None, as texts."""
    return {key: str(value) for key, value in fields.items() if value is not None}


def _host_ip(device):
    return device.host if device.host != device.server_id else None


def main(argv=None):
    """Runs the command line; returns the exit code."""
    parsed = _parse_args(argv)
    try:
        if parsed.command == "check":
            table = read(parsed.table)
        else:
            parts = [_named_devices(server, parsed) for server in parsed.server] if parsed.command == "make" else [
                read(path).devices for path in parsed.table]
            table = RankTable(parsed.output, parsed.form, tuple(device for part in parts for device in part))
            write_text(parsed.output, render(table, parsed.form))
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print("%s: %s, %d rank(s) on %d server(s)" % (table.name, table.form, len(table.devices), len(table.servers())))
    for server_id, ranks in table.servers().items():
        for rank in ranks:
            device = table.devices[rank]
            print("  rank %d: device %d of %s%s" % (rank, device.device_id, server_id,
                                                    device.device_ip and ", " + device.device_ip))
    if not table.devices[0].device_ip:
        print("no device_ip: a table for GPU and CPU, not for Ascend")
    return 0


def _parse_args(argv):
    parser = flags.Parser(prog="python -m tools.ranktable", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", metavar="check|make|convert", parser_class=flags.Parser)
    commands.required = True
    checking = commands.add_parser("check", help="say what a table holds, or what is wrong with it")
    checking.add_argument("table")
    making = commands.add_parser("make", help="write a table of these servers")
    making.add_argument("output")
    making.add_argument("--server", action="append", required=True, metavar="ID[=DEVICE_IP,...]",
                        help="a server's address and those of its cards; once for each server. Without the cards' "
                             "addresses they come from %s, which holds this machine's" % HCCN_FILE)
    making.add_argument("--devices", type=flags.integer(1), help="devices on each server, where they have no address "
                        "of their own: GPU and CPU")
    making.add_argument("--host_port", type=flags.integer(1), help="first of each server's ports; default "
                        "$HCCL_IF_BASE_PORT, or %s" % BASE_PORT)
    converting = commands.add_parser("convert", help="write a table in another form, or several as one")
    converting.add_argument("output")
    converting.add_argument("table", nargs="+")
    for command in (making, converting):
        command.add_argument("--form", choices=FORMS, default="server_list", help="of the table that is written")
    return parser.parse_args(argv)


def _named_devices(server, parsed):
    """The devices of one --server."""
    server_id, _, listed = server.partition("=")
    if listed:
        addresses = list(enumerate(listed.split(",")))
    elif parsed.devices:
        addresses = [(number, "") for number in range(parsed.devices)]
    elif len(parsed.server) == 1:
        addresses = _hccn_addresses(HCCN_FILE)
    else:
        raise DataError("--server=%s" % server, "its cards' addresses, since only this machine's are in %s" % HCCN_FILE,
                        "none", "give --server=%s=DEVICE_IP,..., or make a table on each server and join them with "
                        "convert" % server)
    return [Device(server_id, number, address, server_id, parsed.host_port and parsed.host_port + index)
            for index, (number, address) in enumerate(addresses)]


def _hccn_addresses(path):
    """[(device_id, device_ip), ...] of the lines address_<id>=<ip>."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            addresses = re.findall(r"^\s*address_(\d+)\s*=\s*(\S+)", file.read(), re.MULTILINE)
    except OSError as error:
        raise DataError(path, "this server's cards with their addresses", error.strerror,
                        "run this on the Ascend server, or give --server=ID=DEVICE_IP,... or --devices=N") from error
    if not addresses:
        raise DataError(path, "lines such as address_0=192.168.100.101", "none",
                        "set the cards' addresses with hccn_tool")
    return sorted((int(number), address) for number, address in addresses)


if __name__ == "__main__":
    sys.exit(main())
