# SPDX-License-Identifier: Apache-2.0
"""Starts the ranks of a training script, keeps one log each, and prints the documented summary.

    cd <model folder>; python -m common.launch --case=acc --ranks=1 train.py [train.py's flags]

The scripts in a model folder's test/ call this. It checks the flags with the script's own parse_args and looks for
the data with its find_data, opens the run folder (checkpoint.open_run), streams rank 0, stops all ranks when one
fails, and returns the first failing rank's exit code. It runs on Python's standard library until the repository's
.venv, when there is one, takes over.
"""
import argparse
import ctypes
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_NOT_INSTALLED = "%s is not installed in %s; run 'bash quickstart.sh' in %s once, or set PYTHON to a Python that has it"
_GRACE_SEC = 20  # what the other ranks get to save and end once one has failed
_PR_SET_PDEATHSIG = 1
# TensorFlow's C++ prints these before its own log level applies, or on Ascend at level INFO; they stay in the log file.
_CHATTER = re.compile(rb"WARNING: All log messages before absl::InitializeLog|[IW]0000 |[\d-]+ [\d:.]+: [IW] ")


def main(argv=None):
    """Returns the exit code: 0, the failing rank's, 143 after SIGTERM or 130 after Ctrl-C."""
    started = time.time()
    parser = argparse.ArgumentParser(prog="python -m common.launch", description=__doc__.split("\n")[0])
    parser.add_argument("--case", choices=("acc", "perf"), required=True, help="suffix of the case name")
    parser.add_argument("--ranks", type=int, default=1, help="number of processes")
    parser.add_argument("script", help="training script in the current folder")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="its flags")
    own = parser.parse_args(argv)
    _enter_venv()
    if importlib.util.find_spec("numpy") is None:
        return _refuse(_NOT_INSTALLED % ("numpy", sys.executable, _ROOT))

    from common import checkpoint, datacheck, logparse, report
    model_folder = os.getcwd()
    script = _load(own.script)
    parsed = script.parse_args(own.flags)
    if importlib.util.find_spec("tensorflow") is None:
        return _refuse(_NOT_INSTALLED % ("tensorflow", sys.executable, _ROOT))
    output_path = parsed.output_path
    try:
        script.find_data(parsed)
        continued = checkpoint.open_run(output_path, vars(parsed))
        datacheck.prepare_output_dir(output_path)
    except datacheck.DataError as error:
        return _refuse(str(error))
    if continued:
        print("continuing the unfinished run in %s" % output_path, flush=True)

    devices = [int(os.environ.get("ASCEND_DEVICE_ID") or 0) + rank for rank in range(own.ranks)]
    logs = [os.path.join(output_path, "train_%d.log" % device) for device in devices]
    print("log: %s" % logs[0], flush=True)
    offset = os.path.getsize(logs[0]) if os.path.exists(logs[0]) else 0
    exit_code = _run_ranks([sys.executable, own.script] + own.flags, devices, logs)

    with open(logs[0], encoding="utf-8", errors="replace") as lines:
        lines.seek(offset)
        summary = logparse.summarize(lines)
    wall_sec = time.time() - started
    if os.path.exists(os.path.join(output_path, "metrics.jsonl")):
        report.write_report(output_path)
    if exit_code in (130, 143):
        print("stopped on request; the same command continues this run", flush=True)
        return exit_code
    if exit_code == 0 and not summary.finished:
        exit_code = _refuse("%s ended with exit code 0 but without a [done] line; see %s" % (own.script, logs[0]))
    if exit_code == 0 and summary.device == "npu":
        exit_code = _npu_notice(summary.used_npu, logs[0])
    if exit_code:
        print("training failed with exit code %d; log: %s" % (exit_code, logs[0]), file=sys.stderr, flush=True)
        return exit_code
    network = os.path.basename(model_folder)
    case_name = "%s_bs%d_%dp_%s" % (network, summary.batch_size, own.ranks, own.case)
    logparse.write_case_files(output_path, case_name, network, summary, wall_sec)
    print(logparse.final_block(summary, wall_sec))
    print("report: %s" % os.path.join(output_path, "report.md"), flush=True)
    return 0


def _enter_venv():
    """Continues in the repository's .venv unless PYTHON was set or this already is it."""
    venv = os.path.join(_ROOT, ".venv")
    python = os.path.join(venv, "bin", "python")
    if os.environ.get("PYTHON") or os.path.realpath(sys.prefix) == os.path.realpath(venv):
        return
    if os.path.exists(python):
        os.execv(python, [python, "-m", "common.launch"] + sys.argv[1:])


def _load(script):
    """Imports a training script, which by the house's rule has no effect, for parse_args and find_data."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    spec = importlib.util.spec_from_file_location("training_script", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run_ranks(command, devices, logs):
    """Runs one process per device, returns when all have ended; the result is the first failure's exit code or 0."""
    ranks, stop = [], {"signal": None, "count": 0}

    def forward(number, _frame):
        stop["signal"], stop["count"] = number, stop["count"] + 1
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number if stop["count"] < 3 else signal.SIGKILL)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for rank, device in enumerate(devices):
        environment = dict(os.environ, PYTHONUNBUFFERED="1", RANK_ID=str(rank), RANK_SIZE=str(len(devices)),
                           ASCEND_DEVICE_ID=str(device))
        environment.setdefault("JOB_ID", "10087")
        environment["PYTHONPATH"] = os.pathsep.join([_ROOT] + [p for p in [os.environ.get("PYTHONPATH")] if p])
        share = cores[rank::len(devices)] if len(devices) > 1 and len(cores) >= len(devices) else None
        terminal = ()
        if rank == 0 and sys.stderr.isatty():
            terminal = (os.dup(sys.stderr.fileno()),)  # the child's own stderr goes into the log
            environment["RUN_PROGRESS_FD"] = str(terminal[0])
        ranks.append(subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=terminal, start_new_session=True, preexec_fn=_child_setup(share)))
    readers = [threading.Thread(target=_copy_output, args=(process.stdout, log, rank == 0))
               for rank, (process, log) in enumerate(zip(ranks, logs))]
    for reader in readers:
        reader.start()

    failed, deadline = None, None
    while any(process.poll() is None for process in ranks):
        time.sleep(0.1)
        if failed is None:
            failed = next((rank for rank, process in enumerate(ranks) if process.poll()), None)
            if failed is not None and stop["signal"] is None:
                deadline = time.time() + _GRACE_SEC
                for process in ranks:
                    if process.poll() is None:
                        process.terminate()
        if deadline and time.time() > deadline:
            for process in ranks:
                if process.poll() is None:
                    process.kill()
    for reader in readers:
        reader.join()
    for number, handler in previous.items():
        signal.signal(number, handler)
    if failed is None:
        failed = next((rank for rank, process in enumerate(ranks) if process.poll()), None)
    if failed is None:
        return 0
    if failed != 0:
        _show_end(failed, logs[failed])
    code = ranks[failed].poll()
    return code if code > 0 else 128 - code


def _child_setup(cores):
    """A function for the child before exec: binds it to cores and has it ended when the launcher dies."""
    def setup():
        if cores:
            os.sched_setaffinity(0, cores)
        if sys.platform.startswith("linux"):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return setup


def _copy_output(pipe, log, show):
    """Copies a rank's output into its log, and to the terminal as well when `show`."""
    with open(log, "ab", buffering=0) as file:
        for line in iter(pipe.readline, b""):
            file.write(line)
            if show and not _CHATTER.match(line):
                try:
                    sys.stdout.write(("\r\033[K" if sys.stdout.isatty() else "") + line.decode("utf-8", "replace"))
                    sys.stdout.flush()
                except (OSError, ValueError):
                    show = False


def _show_end(rank, log):
    with open(log, encoding="utf-8", errors="replace") as lines:
        print("rank %d failed first; the end of %s:\n%s" % (rank, log, "".join(lines.readlines()[-15:])),
              file=sys.stderr, flush=True)


def _npu_notice(used_npu, log):
    """The documented notice; exit code 1 when the device was asked for and not used."""
    if used_npu:
        print("------------------ INFO NOTICE START------------------\n"
              "INFO, your task have used Ascend NPU, please check your result.\n"
              "------------------ INFO NOTICE END------------------", flush=True)
        return 0
    print("------------------ ERROR NOTICE START ------------------\n"
          "ERROR, your task haven't used Ascend NPU, please check your npu Migration.\n"
          "------------------ ERROR NOTICE END------------------", flush=True)
    return _refuse("%s: expected the line that Ascend's adapter prints for a compiled graph; found none: no NPU was "
                   "used; see \"How to read a failure\" in docs/ascend.md." % log)


def _refuse(message):
    print(message, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
