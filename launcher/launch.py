# SPDX-License-Identifier: Apache-2.0
"""Starts the ranks of a training script, keeps one log each, and prints the documented summary.

    cd <model folder>; python -m launcher --case=acc --ranks=1 train.py [train.py's flags]

The scripts in a model folder's test/ call this through run.sh. It checks the flags with the script's own parse_args and
looks for the data with its find_data, opens the run folder (checkpoint.open_run), streams the first rank, stops all
ranks when one fails, and returns the first failing rank's exit code.

The ranks may be on several servers: the same command on each, with the same rank table in RANK_TABLE_FILE and, where
the table's addresses do not tell which server it is, its server_id in SERVER_ID. A launcher starts the ranks of its
server; the one that has rank 0 opens the run folder and prints the summary. A rank finds RANK_ID, RANK_SIZE,
ASCEND_DEVICE_ID and JOB_ID in its environment; one of several also TF_CONFIG and, as a GPU, CUDA_VISIBLE_DEVICES.
"""
import argparse
import collections
import contextlib
import importlib
import itertools
import json
import os
import re
import signal
import sys
import threading
import time

from common import checkpoint, files, flags, logparse, progress, runlog
from common.files import DataError
from common.ranks import table_file
from launcher import processes, ranktable
from tools import report

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OWN_HELP = """
the launcher's part: the case is %s; %d rank(s), of which RANK_SIZE=N sets the number in a script for eight cards;
RANK_TABLE_FILE=FILE names the cards, ASCEND_DEVICE_ID=N that of one rank, PYTHON=FILE the Python"""
_SHOWN_LINES = 15  # of the log of the rank that failed first
# TensorFlow's C++ prints these before its own log level applies, or on Ascend at level INFO; they stay in the log file.
_CHATTER = re.compile(rb"WARNING: All log messages before absl::InitializeLog|[IW]0000 |[\d-]+ [\d:.]+: [IW] ")

# What is settled before anything starts: this command's flags, the script's, whether it trains, the RankTable, which
# of its servers this is and which ranks that has, an environment and a log for each, file descriptors for the first.
Plan = collections.namedtuple("Plan", "own parsed trains table server_id ranks environments log_names handed_down")


def main(argv=None):
    """Returns the exit code: 0, the failing rank's, 143 after SIGTERM or 130 after Ctrl-C."""
    started = time.time()
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # the caller closed it
            setattr(sys, stream, open(os.devnull, "w"))
    try:
        plan = _make_plan(_parse_args(argv))
    except (DataError, OSError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 130
    exit_code, failed, summaries = _run_ranks(plan)
    return _conclude(plan, exit_code, failed, summaries, time.time() - started)


def _parse_args(argv):
    parser = flags.Parser(prog="python -m launcher", description=__doc__.split("\n")[0])
    parser.add_argument("--case", choices=("acc", "perf", "static_eval_perf", "dynamic_eval_perf"), required=True,
                        help="suffix of the case name")
    parser.add_argument("--total_batch", action="store_true",
                        help="write the batch of all ranks into case name and case file")
    parser.add_argument("--sec_per_step", action="store_true",
                        help="write TrainingTime in seconds and the losses into ${CaseName}_loss.txt, not in "
                             "milliseconds and into train_${CaseName}_loss.txt")
    parser.add_argument("--ranks", type=flags.integer(1), default=1, help="number of processes, on all servers")
    parser.add_argument("--server_id", default=os.environ.get("SERVER_ID") or None,
                        help="which server of the rank table this is, when its addresses do not tell; default "
                             "$SERVER_ID")
    parser.add_argument("script", help="training script in the current folder")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="its flags")
    own, unknown = parser.parse_known_args(argv)  # as they are: their spelling is the script's business
    if unknown:
        parser.error("unknown flag '%s'" % unknown[0])
    if not own.script.endswith(".py") or not os.path.isfile(own.script):
        parser.error("argument script: found '%s', expected a Python file" % own.script)
    return own


def _make_plan(own):
    """Checks everything, opens the run folder and tells the user; returns the Plan. Raises DataError, OSError."""
    os.environ.pop("RANK_ID", None)  # of a rank; a launcher decides for all of its own
    os.environ["RANK_SIZE"] = str(own.ranks)
    files.check_installed("numpy")
    sys.path.insert(0, os.path.dirname(os.path.abspath(own.script)))
    script = importlib.import_module(os.path.basename(own.script)[:-len(".py")])  # by the house's rule without effect
    parsed = _read_flags(script, own)
    files.check_installed("tensorflow")
    table = _find_table(own.ranks)
    server_id = ranktable.this_server(table, own.server_id if own.ranks > 1 else None)
    ranks = table.servers()[server_id]
    environments = _environments(table, ranks)
    script.find_data(parsed)
    trains = getattr(parsed, "mode", "train").startswith("train") and not getattr(parsed, "preview", None)
    continued, lock = False, None
    if trains and ranks[0] == 0:
        continued, lock = checkpoint.open_run(parsed.output_path, vars(parsed))
    handed_down = {}
    if lock is not None:  # rank 0 holds it, too, should this launcher be killed
        handed_down[checkpoint.LOCK_FD] = lock
    if sys.stderr.isatty():  # for its progress bar, since its own stderr goes into the log
        handed_down[progress.TERMINAL_FD] = os.dup(sys.stderr.fileno())
    environments[0].update({name: str(descriptor) for name, descriptor in handed_down.items()})
    output_path = files.prepare_output_dir(parsed.output_path)
    if continued:
        runlog.say("continuing the unfinished run in %s" % output_path)
    # Servers may share the folder and number their devices alike, but a rank is there once.
    numbers = ranks if len(table.servers()) > 1 else [table.devices[rank].device_id for rank in ranks]
    log_names = [os.path.join(output_path, "train_%d.log" % number) for number in numbers]
    _link_logs(output_path, numbers)
    return Plan(own, parsed, trains, table, server_id, ranks, environments, log_names, tuple(handed_down.values()))


def _link_logs(output_path, numbers):
    """Makes the documented output/<number>/train_<number>.log of every rank lead to its log in the run folder.

    Where another run has that folder, it is left alone. A link of an earlier run is none of this one's logs.
    """
    if output_path != flags.default_output_path(os.getcwd()):
        return
    outputs, own = os.path.split(output_path)
    for number in numbers:
        name = "train_%d.log" % number
        if os.path.islink(os.path.join(output_path, name)):
            os.unlink(os.path.join(output_path, name))
        link = os.path.join(outputs, str(number), name)
        if own == str(number) or (os.path.lexists(link) and not os.path.islink(link)):
            continue
        with contextlib.suppress(OSError):  # a disk without links; the log itself is in the run folder
            os.makedirs(os.path.dirname(link), exist_ok=True)
            if os.path.islink(link):
                os.unlink(link)
            os.symlink(os.path.join(os.pardir, own, name), link)


def _read_flags(script, own):
    try:
        return script.parse_args(own.flags)
    except SystemExit as end:
        if not end.code:  # after --help
            runlog.say(_OWN_HELP % (own.case, own.ranks))
        raise


def _find_table(ranks):
    """The RankTable of a run: that of RANK_TABLE_FILE, which one rank does not need, or one of this machine."""
    if ranks == 1:
        device_id = os.environ.get("ASCEND_DEVICE_ID") or "0"
        if not device_id.isdecimal():
            raise DataError("ASCEND_DEVICE_ID", "a device's number", repr(device_id), "correct it or unset it")
        table = ranktable.local_table(1)
        return table._replace(devices=(table.devices[0]._replace(device_id=int(device_id)),))
    path = table_file()
    if not path:
        return ranktable.local_table(ranks)
    os.environ["RANK_TABLE_FILE"] = flags.input_path(path)  # the ranks and find_data are to find it from anywhere
    return ranktable.check(os.environ["RANK_TABLE_FILE"], ranks, "--ranks")


def _environments(table, ranks):
    """What each of these ranks finds in its environment: a list of dict."""
    common = {name: value for name, value in os.environ.items() if name != "TF_CONFIG" and not name.startswith("CM_")}
    common.update(PYTHONUNBUFFERED="1", RANK_SIZE=str(len(table.devices)), JOB_ID=os.environ.get("JOB_ID") or "10087")
    common["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    endpoints = ranktable.endpoints(table) if len(table.devices) > 1 else None
    environments = []
    for rank in ranks:
        device_id = table.devices[rank].device_id
        environments.append(dict(common, RANK_ID=str(rank), ASCEND_DEVICE_ID=str(device_id)))
        if endpoints:
            environments[-1].update(CUDA_VISIBLE_DEVICES=_visible_gpu(device_id), TF_CONFIG=json.dumps(
                {"cluster": {"worker": endpoints}, "task": {"type": "worker", "index": rank}}))
    return environments


def _visible_gpu(device_id):
    """CUDA_VISIBLE_DEVICES for a rank: its device, counted among those that the user lets be seen."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(device_id)
    if visible.strip() in ("", "-1"):  # no GPU, for nobody
        return visible
    listed = visible.split(",")
    if device_id >= len(listed):
        raise DataError("CUDA_VISIBLE_DEVICES", "at least %d GPUs, because a rank has device %d" % (
            device_id + 1, device_id), visible, "list more, start fewer ranks, or unset it")
    return listed[device_id].strip()


def _share_cores(count):
    """Equal blocks of neighbouring cores, which share caches: a list of set of int, or of None for no binding."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if count == 1 or not cores:
        return [None] * count
    size = len(cores) // count
    return [set(cores[index * size:(index + 1) * size]) or {cores[index % len(cores)]} for index in range(count)]


def _spans(ranks):
    """[0, 1, 2, 5] -> '0-2,5'."""
    spans = []
    for _, numbered in itertools.groupby(enumerate(ranks), lambda pair: pair[1] - pair[0]):
        span = ["%d" % rank for _, rank in numbered]
        spans.append(span[0] if len(span) == 1 else "%s-%s" % (span[0], span[-1]))
    return ",".join(spans)


def _run_ranks(plan):
    """Runs this server's ranks, shows what the first one says, and tells which one failed first.

    Returns:
      (0 or the exit code of the first failure, index of that rank here or 0, logparse.Summary of each rank).
    """
    cores = _share_cores(len(plan.ranks))
    if plan.own.ranks > 1:
        runlog.say("%d ranks: %s on this server (%s), %s" % (
            plan.own.ranks, _spans(plan.ranks), plan.server_id,
            "%d core(s) each" % len(cores[0]) if cores[0] else "cores not bound"))
    runlog.say("log: %s" % plan.log_names[0])
    command = [sys.executable, plan.own.script] + plan.own.flags
    if plan.own.ranks > 1:
        command.append("--output_path=" + plan.parsed.output_path)  # whose default depends on the rank's device
    with contextlib.ExitStack() as opened:
        for name in plan.log_names:
            files.end_last_line(name)
        logs = [opened.enter_context(open(name, "a+b", buffering=0)) for name in plan.log_names]
        offsets = [log.seek(0, os.SEEK_END) for log in logs]
        tasks = [processes.Task(environment, log, block, ())
                 for environment, log, block in zip(plan.environments, logs, cores)]
        tasks[0] = tasks[0]._replace(pass_fds=plan.handed_down)
        reader, ended = opened.enter_context(open(plan.log_names[0], "rb")), threading.Event()
        reader.seek(offsets[0])
        shown = threading.Thread(target=_follow, args=(reader, ended), daemon=True)
        shown.start()
        try:
            failed, exit_code = processes.run(command, tasks)
        finally:
            ended.set()
            shown.join()
        summaries = [logparse.summarize(_lines_from(log, offset)) for log, offset in zip(logs, offsets)]
        whole = logparse.summarize(_lines_from(logs[0], 0))  # also the sessions that this one continued
        summaries[0] = summaries[0]._replace(losses=whole.losses, loss=whole.loss, accuracy=whole.accuracy)
        if exit_code not in (0, 130, 143) and plan.own.ranks > 1:
            end = "see above" if not failed else "the end of %s:\n%s" % (plan.log_names[failed], "".join(
                collections.deque(_lines_from(logs[failed], offsets[failed]), _SHOWN_LINES)))
            _refuse("rank %d failed first (%s); %s" % (plan.ranks[failed], _name_exit(exit_code), end))
    return exit_code, failed or 0, summaries


def _name_exit(code):
    names = {128 + number: ", " + number.name for number in signal.Signals}
    return "exit code %d%s" % (code, names.get(code, ""))


def _follow(log, ended):
    """Shows on the terminal the whole lines of a binary file that grows, until `ended` is set and nothing is left."""
    begun, last = b"", False
    while not last:
        last = ended.wait(0.1)  # asked before the reading, so that the end of the log is not missed
        for part in log:
            begun += part
            if begun.endswith(b"\n"):
                _show(begun)
                begun = b""
    _show(begun)


def _show(line):
    if line and not _CHATTER.match(line):
        runlog.say(line.decode("utf-8", "replace").rstrip("\n"))


def _lines_from(log, offset):
    """Lines of a log from an offset on, in the same file even if its name has changed; nobody writes any more."""
    with open(os.dup(log.fileno()), encoding="utf-8", errors="replace") as text:
        text.seek(offset)
        yield from text


def _conclude(plan, exit_code, failed, summaries, wall_sec):
    """What is said and written when all ranks have ended; returns the exit code. `failed` as of _run_ranks."""
    output_path, has_rank_0, summary = plan.parsed.output_path, plan.ranks[0] == 0, summaries[0]
    if plan.trains and has_rank_0 and os.path.exists(os.path.join(output_path, runlog.METRICS_FILE)):
        with progress.Phase("drawing the curves"):
            _attempt("report.md", report.write_report, output_path)
    if exit_code in (130, 143):
        runlog.say("stopped on request; the same command continues this run")
        return exit_code
    unfinished = [name for name, ended in zip(plan.log_names, summaries) if not ended.finished]
    if has_rank_0 and summary.finished:  # its [done] line stands for the run
        unfinished = []
    if exit_code == 0 and plan.trains and unfinished:
        exit_code = _refuse("%s ended with exit code 0 but without a [done] line; see %s" % (
            plan.own.script, unfinished[0]))
    if exit_code == 0 and has_rank_0 and summary.device == "npu":
        exit_code = _npu_notice(summary.used_npu, plan.log_names[0])
    if exit_code:
        full = "; its disk is full: free some space" if files.is_full(output_path) else ""
        _refuse("training failed with exit code %d; log: %s%s" % (exit_code, plan.log_names[failed], full))
    elif plan.trains and has_rank_0:
        _write_result(plan.own, output_path, summary, wall_sec + summary.before_sec)
    elif not has_rank_0:
        runlog.say("ranks %s are done; the result is in the run folder on %s, which has rank 0" % (
            _spans(plan.ranks), plan.table.devices[0].server_id))
    return exit_code


def _write_result(own, output_path, summary, wall_sec):
    """The documented files and block of a finished training."""
    network = os.path.basename(os.getcwd())
    batch_size = summary.batch_size * (summary.ranks if own.total_batch else 1)
    case_name = "%s_bs%d_%dp_%s" % (network, batch_size, own.ranks, own.case)
    _attempt(case_name + ".log", logparse.write_case_files, output_path, case_name, network, batch_size, summary,
             wall_sec, own.sec_per_step)
    runlog.say(logparse.final_block(summary, wall_sec))
    runlog.say("report: %s" % os.path.join(output_path, "report.md"))


def _attempt(what, write, *args):
    """Writes what follows a finished training, which does not become a failure when that cannot be written."""
    try:
        write(*args)
    except Exception as error:
        runlog.RunLog().warn("the training is not concerned, but %s could not be written: %s: %s" % (
            what, type(error).__name__, error))


def _npu_notice(used_npu, log):
    """The documented notice; exit code 1 when the device was asked for and not used."""
    if used_npu:
        runlog.say("------------------ INFO NOTICE START------------------\n"
                   "INFO, your task have used Ascend NPU, please check your result.\n"
                   "------------------ INFO NOTICE END------------------")
        return 0
    runlog.say("------------------ ERROR NOTICE START ------------------\n"
               "ERROR, your task haven't used Ascend NPU, please check your npu Migration.\n"
               "------------------ ERROR NOTICE END------------------")
    return _refuse("%s: expected the line that Ascend's adapter prints for a compiled graph; found none: no NPU was "
                   "used; see \"How to read a failure\" in docs/ascend.md." % log)


def _refuse(message):
    """Says on stderr why this ends; returns the exit code 1."""
    with contextlib.suppress(OSError):  # nobody reads any more
        print(message, file=sys.stderr, flush=True)
    return 1
