# SPDX-License-Identifier: Apache-2.0
"""Rank tables: which cards of which servers take part in a training run, and in which order.

    python -m tools.ranktable check test/8p.json
    python -m tools.ranktable make 8p.json --server=10.0.0.1=192.168.100.101,192.168.101.101 --form=group_list
    python -m tools.ranktable convert two_servers.json first.json second.json     (joins them, ranks go on)

Read and written are the three published forms, in which every number is a string:
  server_list          version 1.0: servers with their devices, a rank_id each
  group_list_by_rank   older: one instance for each rank, with one device
  group_list           older: one instance for each server; the ranks follow the order of the devices
Fields after CANN's document "Preparing the Ranktable Resource Configuration File". Of its later versions host_ip (the
server's address when server_id is a mere name) and host_port (TensorFlow's port of a rank) are read too. device_ip,
which HCCL needs, may be left out of all devices when no Ascend card is meant.
"""
import collections
import ipaddress
import itertools
import json
import os
import random
import re
import socket
import sys

from common import files, flags
from common.files import DataError

FORMS = ("server_list", "group_list_by_rank", "group_list")
HCCN_FILE = "/etc/hccn.conf"  # the cards' network addresses on an Ascend server: address_0=192.168.100.101
_BASE_PORT = "60000"  # HCCL's default for HCCL_IF_BASE_PORT, the first of the host ports that it takes
_ABSENT = object()

Device = collections.namedtuple("Device", "server_id device_id device_ip host port")
Device.__doc__ = """A rank's card: str server_id, int device_id, str device_ip or "", str host, int port or None."""


class RankTable(collections.namedtuple("RankTable", "name form devices")):
    """A checked table: str name (for messages), form (of FORMS), devices (tuple of Device; the index is the rank)."""

    def servers(self):
        """{server_id: [rank, ...]} in the order of their first ranks."""
        ranks = collections.OrderedDict()
        for rank, device in enumerate(self.devices):
            ranks.setdefault(device.server_id, []).append(rank)
        return ranks


def check(path, rank_size, flag="--rank_size"):
    """Reads a rank table that must list as many devices as there are ranks; returns the RankTable.

    Args:
      path: JSON file, as RANK_TABLE_FILE names it.
      rank_size: int.
      flag: where rank_size comes from.
    Raises:
      DataError.
    """
    table = read(path)
    if len(table.devices) != rank_size:
        raise DataError(path, "%d devices, as %s says" % (rank_size, flag), "%d" % len(table.devices),
                        "correct the rank table (RANK_TABLE_FILE) or %s" % flag)
    return table


def read(path):
    """A rank table file as RankTable; DataError names the field at fault and its rule."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise DataError(path, "a rank table", error.strerror, "correct RANK_TABLE_FILE") from error
    except (ValueError, RecursionError) as error:
        raise DataError(path, "a rank table in JSON, without comments", str(error), "correct it there") from error
    return parse(content, path)


def parse(content, name):
    """Checks a table's JSON content against the rules that all forms share.

    Args:
      content: what json.load gave.
      name: str for messages.
    Returns:
      RankTable.
    Raises:
      DataError.
    """
    root = _Field(name, "", content)
    form = next((key for key in ("server_list", "group_list") if root.get(key).value is not _ABSENT), None)
    if form is None:
        raise DataError(name, "a rank table in JSON with server_list or group_list", "neither",
                        "give a rank table, or make one with 'python -m tools.ranktable make'")
    root.get("status").must_be("completed", "wait until its maker has finished, or make it anew")
    if form == "server_list":
        entries = _server_list_entries(root)
    else:
        form, entries = _group_list_entries(root)

    if form != "group_list":
        _all_differ([(entry.device if form == "server_list" else entry.owner).get("rank_id") for entry in entries],
                    _Field.number)
    missing = sorted(set(range(len(entries))) - {entry.rank for entry in entries})
    if missing:
        raise DataError(name, "rank_id 0 to %d without a gap" % (len(entries) - 1), "no rank %d" % missing[0],
                        "number the ranks anew")
    addresses = [entry.device.get("device_ip") for entry in entries]
    if any(address.value is not _ABSENT for address in addresses):
        _all_differ(addresses, _Field.ip)
    devices = [_device(entry) for entry in sorted(entries, key=lambda entry: entry.rank)]
    table = RankTable(name, form, tuple(devices))
    for server_id, ranks in table.servers().items():
        _all_differ([entry.device.get("device_id") for entry in entries if entry.server_id == server_id],
                    _Field.number)
        first_id, first_ranks = next(iter(table.servers().items()))
        if len(ranks) != len(first_ranks):
            raise DataError(name, "the same number of devices on each server", "%d on %s and %d on %s" % (
                len(first_ranks), first_id, len(ranks), server_id), "list as many on each")
    return table


class _Field:
    """A value of the table and where it stands, so that a complaint can name the place."""

    def __init__(self, file, place, value):
        self.file, self.place, self.value = file, place, value

    def get(self, key):
        if not isinstance(self.value, dict):
            raise self.error("an object in braces")
        return _Field(self.file, "%s.%s" % (self.place, key) if self.place else key, self.value.get(key, _ABSENT))

    def items(self):
        if not isinstance(self.value, list) or not self.value:
            raise self.error("a list with at least one entry")
        return [_Field(self.file, "%s[%d]" % (self.place, index), value) for index, value in enumerate(self.value)]

    def text(self):
        if not isinstance(self.value, str) or not 0 < len(self.value) <= 64:  # CANN's limit for server_id
            raise self.error("a text of 1 to 64 characters in quotes")
        return self.value

    def number(self):
        if not isinstance(self.value, str) or not re.fullmatch("0|[1-9][0-9]{0,5}", self.value):
            raise self.error('a number in quotes, such as "0"')
        return int(self.value)

    def ip(self):
        try:
            return str(ipaddress.ip_address(self.text()))
        except ValueError:
            raise self.error('an IP address in quotes, such as "192.168.100.101"') from None

    def must_be(self, expected, do="correct one of them"):
        if self.value != expected:
            raise self.error(json.dumps(expected), do)

    def must_count(self, things, what):
        if self.number() != len(things):
            raise self.error('"%d", the number of %s' % (len(things), what), "correct one of them")

    def error(self, expected, do="correct it there"):
        found = "nothing" if self.value is _ABSENT else json.dumps(self.value, ensure_ascii=False)
        found = found if len(found) <= 80 else found[:77] + "..."
        return DataError("%s, %s" % (self.file, self.place) if self.place else self.file, expected, found, do)


# A device as the file has it: owner is the server or instance that it stands in.
_Entry = collections.namedtuple("_Entry", "rank server_id owner device")


def _server_list_entries(root):
    root.get("version").must_be("1.0", "write version 1.0, or convert the table with the vendor's tools")
    servers = root.get("server_list").items()
    root.get("server_count").must_count(servers, "entries in server_list")
    _all_differ([server.get("server_id") for server in servers], _Field.text)
    return [_Entry(device.get("rank_id").number(), server.get("server_id").text(), server, device)
            for server in servers for device in server.get("device").items()]


def _group_list_entries(root):
    """(form, entries) of the older format, in which one group is everything."""
    groups = root.get("group_list").items()
    root.get("group_count").must_count(groups, "entries in group_list")
    if len(groups) > 1:
        raise root.get("group_count").error('"1"', "list all instances in one group")
    group = groups[0]
    instances = group.get("instance_list").items()
    group.get("instance_count").must_count(instances, "entries in instance_list")
    by_rank = any(instance.get("rank_id").value is not _ABSENT for instance in instances)
    entries = []
    for instance in instances:
        server_id, devices = instance.get("server_id").text(), instance.get("devices").items()
        if by_rank and len(devices) > 1:
            raise instance.get("devices").error("one device, because the instances have a rank_id",
                                                "give each device an instance, or leave out rank_id")
        for device in devices:
            rank = instance.get("rank_id").number() if by_rank else len(entries)
            entries.append(_Entry(rank, server_id, instance, device))
    stated = "device_num" if group.get("device_count").value is _ABSENT else "device_count"
    group.get(stated).must_count(entries, "devices")
    if group.get("server_num").value is not _ABSENT:
        group.get("server_num").must_count({entry.server_id for entry in entries}, "servers")
    if not by_rank:
        _all_differ([instance.get("server_id") for instance in instances], _Field.text)
    return ("group_list_by_rank" if by_rank else "group_list"), entries


def _device(entry):
    host, port, address = (field.get(key) for field, key in (
        (entry.owner, "host_ip"), (entry.device, "host_port"), (entry.device, "device_ip")))
    number = None if port.value is _ABSENT else port.number()
    if number is not None and not 0 < number < 65536:
        raise port.error("a port from 1 to 65535")
    return Device(entry.server_id, entry.device.get("device_id").number(),
                  "" if address.value is _ABSENT else address.ip(),
                  entry.server_id if host.value is _ABSENT else host.ip(), number)


def _all_differ(fields, read_value):
    """Raises DataError for the first field whose value an earlier one has too."""
    seen = {}
    for field in fields:
        value = read_value(field)
        if value in seen:
            raise field.error("another %s for each" % field.place.split(".")[-1],
                              "change it: %s is the same" % seen[value])
        seen[value] = field.place


def render(table, form):
    """A RankTable as the JSON text of a form.

    Raises:
      DataError: the form cannot say what the table holds.
    """
    servers = table.servers()
    if form == "server_list":
        content = {"version": "1.0", "status": "completed", "server_count": str(len(servers)), "server_list": [
            dict(_given(server_id=server_id, host_ip=_host_ip(table.devices[ranks[0]])), device=[
                dict(_device_fields(table.devices[rank]), rank_id=str(rank), **_given(
                    host_port=table.devices[rank].port)) for rank in ranks])
            for server_id, ranks in servers.items()]}
    else:
        if any(device.port or _host_ip(device) for device in table.devices):
            raise DataError(table.name, "no host_ip and no host_port for the older forms", "one of them",
                            "give --form=server_list")
        content = {"status": "completed", "group_count": "1", "group_list": [
            _group_by_rank(table) if form == "group_list_by_rank" else _group_by_server(table)]}
        if form == "group_list_by_rank":
            names = ["eth%d" % device.device_id for device in table.devices[:len(table.devices) // len(servers)]]
            content.update(board_id="0x0000", chip_info="910", deploy_mode="lab", para_plane_nic_location="device",
                           para_plane_nic_name=names, para_plane_nic_num=str(len(names)))
    parse(content, table.name)
    text = json.dumps(content, indent=1)  # and then a device on one line, as published tables have it
    return re.sub(r'\{\s+("device_id"[^{}]*?)\s+\}', lambda found: "{%s}" % re.sub(r"\s+", " ", found[1]), text) + "\n"


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


def local_table(ranks):
    """The table of `ranks` devices on this machine, for a run that names none."""
    return RankTable("--ranks", "server_list",
                     tuple(Device("127.0.0.1", rank, "", "127.0.0.1", None) for rank in range(ranks)))


def this_server(table, server_id=None):
    """Which of a table's servers this machine is.

    Args:
      table: RankTable.
      server_id: what the user said, or None to tell by the addresses.
    Returns:
      str server_id.
    Raises:
      DataError: it is not in the table, or the addresses do not tell.
    """
    servers = list(table.servers())
    if server_id is not None or len(servers) == 1:
        if server_id not in servers + [None]:
            raise DataError("--server_id", "one of %s, as in %s" % (", ".join(servers), table.name), server_id,
                            "correct it")
        return server_id or servers[0]
    here = sorted({device.server_id for device in table.devices if _is_own_address(device.host)})
    if len(here) != 1:
        raise DataError(table.name, "one server with an address of this machine", ", ".join(here) or "none of them",
                        "say which one it is with --server_id")
    return here[0]


def _is_own_address(host):
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
        return True
    except OSError:
        return False


def endpoints(table):
    """Where each rank's TensorFlow server listens: ["host:port", ...].

    The table's host_port; without one a free port when there is one server, else the ranks of a server count on from
    $HCCL_IF_BASE_PORT, so that all servers know the number.
    """
    servers = table.servers()
    base = os.environ.get("HCCL_IF_BASE_PORT") or _BASE_PORT
    if not base.isdigit():
        raise DataError("HCCL_IF_BASE_PORT", "a port such as %s" % _BASE_PORT, base, "correct it or unset it")
    free, found = _free_ports() if len(servers) == 1 else None, []
    for rank, device in enumerate(table.devices):
        host = device.host if len(servers) > 1 else "127.0.0.1"
        port = device.port or (next(free) if free else int(base) + servers[device.server_id].index(rank))
        found.append("%s:%d" % ("[%s]" % host if ":" in host else host, port))
    return found


def _free_ports():
    """Yields ports that nobody listens on, below those that the system gives to outgoing connections."""
    for port in random.sample(range(20000, 32000), 12000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


def main(argv=None):
    parsed = _parse_args(argv)
    try:
        if parsed.command == "check":
            table = read(parsed.table)
        else:
            devices = (_named_devices(server, parsed) for server in parsed.server) if parsed.command == "make" else (
                read(path).devices for path in parsed.table)
            table = RankTable(parsed.output, parsed.form, tuple(itertools.chain.from_iterable(devices)))
            files.write_text(parsed.output, render(table, parsed.form))
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    servers = table.servers()
    print("%s: %s, %d rank(s) on %d server(s)" % (table.name, table.form, len(table.devices), len(servers)))
    for server_id, ranks in servers.items():
        for rank in ranks:
            device = table.devices[rank]
            print("  rank %d: device %d of %s%s" % (rank, device.device_id, server_id, (
                ", " + device.device_ip) if device.device_ip else ""))
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
                        "$HCCL_IF_BASE_PORT, or %s" % _BASE_PORT)
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
            found = re.findall(r"^\s*address_(\d+)\s*=\s*(\S+)", file.read(), re.MULTILINE)
    except OSError as error:
        raise DataError(path, "this server's cards with their addresses", error.strerror,
                        "run this on the Ascend server, or give --server=ID=DEVICE_IP,... or --devices=N") from error
    if not found:
        raise DataError(path, "lines such as address_0=192.168.100.101", "none",
                        "set the cards' addresses with hccn_tool")
    return sorted((int(number), address) for number, address in found)


if __name__ == "__main__":
    sys.exit(main())
