# SPDX-License-Identifier: Apache-2.0
"""Rank tables: which devices take part in a training run. Both formats: group_list (older) and server_list."""
import json

from common.datacheck import DataError


def check(path, rank_size):
    """Checks that a rank table can be read and lists as many devices as there are ranks.

    Args:
      path: JSON file, as RANK_TABLE_FILE names it.
      rank_size: int.
    Raises:
      DataError.
    """
    try:
        with open(path, encoding="utf-8") as file:
            table = json.load(file)
        if "server_list" in table:
            devices = [device for server in table["server_list"] for device in server["device"]]
        else:
            devices = [device for group in table["group_list"] for instance in group["instance_list"]
                       for device in instance["devices"]]
        addresses = [(device["device_id"], device["device_ip"]) for device in devices]
    except OSError as error:
        raise DataError(path, "a rank table", error.strerror, "correct RANK_TABLE_FILE") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(path, "a rank table in JSON with server_list or group_list", "%s: %s" % (
            type(error).__name__, error), "make it anew with the vendor's hccl_tools.py") from error
    if len(addresses) != rank_size:
        raise DataError(path, "%d devices, as --rank_size says" % rank_size, "%d" % len(addresses),
                        "correct the rank table (RANK_TABLE_FILE) or --rank_size")
    if len({address for _, address in addresses}) != len(addresses):
        raise DataError(path, "another device_ip for each device", "one that is there twice", "correct the rank table")
