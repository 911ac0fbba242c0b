# SPDX-License-Identifier: Apache-2.0
"""Rank tables: which cards of which servers take part in a training run, and in which order.

Read are the three published forms, in which every number is a string:
  server_list          version 1.0: servers with their devices, a rank_id each
  group_list_by_rank   older: one instance for each rank, with one device
  group_list           older: one instance for each server; the ranks follow the order of the devices
Fields after CANN's document "Preparing the Ranktable Resource Configuration File". Of its later versions host_ip (the
server's address when server_id is a mere name) and host_port (TensorFlow's port of a rank) are read too. device_ip,
which HCCL needs, may be left out of all devices when no Ascend card is meant. tools/ranktable.py makes such files.
"""
import collections
import ipaddress
import json
import os
import random
import re
import socket
import sys
import time
from typing import Any, Dict, List

from common.files import DataError, read_json

FORMS = ("server_list", "group_list_by_rank", "group_list")
BASE_PORT = "60000"  # HCCL's default for HCCL_IF_BASE_PORT, the first of the host ports that it takes
WAIT_SEC = 300  # for a table that its maker, such as a cluster's scheduler, has not completed
_ABSENT = object()

Device = collections.namedtuple("Device", "server_id device_id device_ip host port")
Device.__doc__ = """A rank's card: str server_id, int device_id, str device_ip or "", str host, int port or None."""


class RankTable(collections.namedtuple("RankTable", "name form devices")):
    """A checked table: str name (for messages), form (of FORMS), devices (tuple of Device; the index is the rank)."""

    def servers(self):
        """{server_id: [rank, ...]} in the order of their first ranks."""
        ranks: Dict[str, List[int]] = {}
        for rank, device in enumerate(self.devices):
            ranks.setdefault(device.server_id, []).append(rank)
        return ranks


def check(path, rank_size, flag="--rank_size"):
    """The RankTable of a run, from the JSON file in RANK_TABLE_FILE; one that is still "initializing" is waited for.

    Args:
      rank_size: int, the number of devices that it must list; `flag` is where that comes from.
    Raises:
      DataError.
    """
    _wait_until_completed(path)
    table = read(path)
    if len(table.devices) != rank_size:
        raise DataError(path, "%d devices, as %s says" % (rank_size, flag), "%d" % len(table.devices),
                        "correct the rank table (RANK_TABLE_FILE) or %s" % flag)
    return table


def _wait_until_completed(path):
    def is_initializing():
        content = read_json(path)
        return isinstance(content, dict) and content.get("status") == "initializing"

    if is_initializing():
        print("%s: its status is initializing; waiting until it is completed, at most %d s" % (path, WAIT_SEC),
              file=sys.stderr, flush=True)
    deadline = time.monotonic() + WAIT_SEC
    while is_initializing() and time.monotonic() < deadline:
        time.sleep(0.5)


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
    """The RankTable of a JSON content, checked against the rules that all forms share; DataError uses `name`."""
    root = _Field(name, "", content)
    form = next((key for key in ("server_list", "group_list") if root.has(key)), None)
    if form is None and root.get("status").value != "initializing":
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
    if any(entry.device.has("device_ip") for entry in entries):
        _all_differ([entry.device.get("device_ip") for entry in entries], _Field.ip)
    table = RankTable(name, form, tuple(_device(entry) for entry in sorted(entries, key=lambda entry: entry.rank)))
    (first_id, first_ranks), *_ = table.servers().items()
    for server_id, ranks in table.servers().items():
        _all_differ([entry.device.get("device_id") for entry in entries if entry.server_id == server_id],
                    _Field.number)
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

    def has(self, key):
        return self.get(key).value is not _ABSENT

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

    def must_be(self, expected, do):
        if self.value != expected:
            raise self.error(json.dumps(expected), do)

    def must_count(self, things, what):
        if self.number() != len(things):
            raise self.error('"%d", the number of %s' % (len(things), what), "correct one of them")

    def error(self, expected, do="correct it there"):
        value = "nothing" if self.value is _ABSENT else json.dumps(self.value, ensure_ascii=False)
        return DataError("%s, %s" % (self.file, self.place) if self.place else self.file, expected,
                         value if len(value) <= 80 else value[:77] + "...", do)


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
    by_rank = any(instance.has("rank_id") for instance in instances)
    entries: List[_Entry] = []
    for instance in instances:
        server_id, devices = instance.get("server_id").text(), instance.get("devices").items()
        if by_rank and len(devices) > 1:
            raise instance.get("devices").error("one device, because the instances have a rank_id",
                                                "give each device an instance, or leave out rank_id")
        for device in devices:
            rank = instance.get("rank_id").number() if by_rank else len(entries)
            entries.append(_Entry(rank, server_id, instance, device))
    group.get("device_count" if group.has("device_count") else "device_num").must_count(entries, "devices")
    if group.has("server_num"):
        group.get("server_num").must_count({entry.server_id for entry in entries}, "servers")
    if not by_rank:
        _all_differ([instance.get("server_id") for instance in instances], _Field.text)
    return ("group_list_by_rank" if by_rank else "group_list"), entries


def _device(entry):
    device, port = entry.device, entry.device.get("host_port")
    number = port.number() if device.has("host_port") else None
    if number is not None and not 0 < number < 65536:
        raise port.error("a port from 1 to 65535")
    return Device(entry.server_id, device.get("device_id").number(),
                  device.get("device_ip").ip() if device.has("device_ip") else "",
                  entry.owner.get("host_ip").ip() if entry.owner.has("host_ip") else entry.server_id, number)


def _all_differ(fields, read_value):
    """Raises DataError for the first field whose value an earlier one has too."""
    seen: Dict[Any, str] = {}
    for field in fields:
        value = read_value(field)
        if value in seen:
            raise field.error("another %s for each" % field.place.split(".")[-1],
                              "change it: %s is the same" % seen[value])
        seen[value] = field.place


def local_table(ranks):
    """The table of `ranks` devices on this machine, for a run that names none."""
    return RankTable("--ranks", "server_list",
                     tuple(Device("127.0.0.1", rank, "", "127.0.0.1", None) for rank in range(ranks)))


def this_server(table, server_id=None):
    """The server_id (str) of this machine in a RankTable: what the user said, or None to tell by the addresses.

    Raises:
      DataError: it is not in the table, or the addresses do not tell.
    """
    servers = list(table.servers())
    if server_id is not None and server_id not in servers:
        raise DataError("--server_id", "one of %s, as in %s" % (", ".join(servers), table.name), server_id,
                        "correct it")
    if server_id is not None or len(servers) == 1:
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
    base = os.environ.get("HCCL_IF_BASE_PORT") or BASE_PORT
    if not base.isdecimal() or not 0 < int(base) <= 65536 - len(table.devices):
        raise DataError("HCCL_IF_BASE_PORT", "a port such as %s" % BASE_PORT, base, "correct it or unset it")
    free_ports = _free_ports() if len(servers) == 1 else None
    addresses = []
    for rank, device in enumerate(table.devices):
        host = device.host if len(servers) > 1 else "127.0.0.1"
        port = device.port or (
            next(free_ports) if free_ports else int(base) + servers[device.server_id].index(rank))
        addresses.append("%s:%d" % ("[%s]" % host if ":" in host else host, port))
    return addresses


def _free_ports():
    """Yields ports that nobody listens on, below those that the system gives to outgoing connections."""
    for port in random.sample(range(20000, 32000), 12000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
