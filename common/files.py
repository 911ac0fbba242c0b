# SPDX-License-Identifier: Apache-2.0
"""What is on disk: read without trusting it, written whole or not at all, never another's.

Every complaint is a `DataError`: one line that names the thing, what was expected and found, and what to do.
"""
import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import stat
import sys
import tempfile

_KINDS = ((b"version https://git-lfs", "a pointer of Git LFS to a file, which `git lfs pull` fetches"),
          (b"\x89HDF", "an HDF5 file"), (b"PK\x03\x04", "a zip archive (what torch.save and numpy.savez write)"),
          (b"\x80", "a pickle, which is not read"))
WHOLE_FILE = ".whole.json"  # of whole_folder(): who made a folder, with which settings, and its files with their sizes


class Explained(Exception):
    """Its text is made for the user: no traceback says more."""


class DataError(Explained):
    """Something on disk, or a flag, is not what the program needs; str() is one line for the user.

    Args:
      where: the file, folder or flag at fault.
      expected: what should have been there.
      found: what was there.
      do: what the user can do about it, without a full stop.
    """

    def __init__(self, where, expected, found, do):
        # A foreign file can put line breaks into `found`; the message stays one line.
        where, expected, found, do = (" ".join(str(part).split()) for part in (where, expected, found, do))
        super().__init__("%s: expected %s; found %s; %s." % (where, expected, found, do))
        self.where, self.expected, self.found, self.do = where, expected, found, do


def check_installed(*packages):
    """DataError when this Python lacks one of these packages; says how to get them with what is there."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not missing:
        return
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    do = "run 'pip3 install -r requirements.txt' in the model folder"
    if os.path.exists(os.path.join(root, "quickstart.sh")):
        do = "run 'bash quickstart.sh' in %s once" % root
    if os.path.exists(os.path.join(root, ".venv", "bin", "python")):
        do = "run 'source %s'" % os.path.join(root, ".venv", "bin", "activate")
    raise DataError(sys.executable, "the packages of requirements.txt", "no " + ", no ".join(missing),
                    do + ", or take a Python that has them (for the scripts: set PYTHON)")


def read_json(path):
    """The JSON in a file; None when the file is absent or not JSON."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError):
        return None


def kind_of(path):
    """What a file is by its first bytes, in a few words, where that can be told; None for a folder and the rest."""
    if not os.path.isfile(path):
        return None if os.path.exists(path) else "no such file or folder"
    with open(path, "rb") as file:
        start = file.read(64)
    for signature, kind in _KINDS:
        if start.startswith(signature):
            return kind
    return "an ONNX model" if start[:1] == b"\x08" and start[2:3] in b"\x12\x3a" else None if start else "an empty file"


@contextlib.contextmanager
def whole_file(path):
    """Replaces a file in one step: yields a name to write to, which becomes `path` when the block ends well."""
    temporary = "%s.tmp-%d%s" % (path, os.getpid(), os.path.splitext(path)[1])
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def write_text(path, text):
    """Replaces a text file in one step: readers see the old content or the new one."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def end_last_line(path):
    """Ends the last line of a text file that is to grow, if it is there and a full disk or a kill cut it short."""
    with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        if file.read() not in (b"", b"\n"):
            file.write(b"\n")


def move_aside(folder):
    """Renames a folder to the first free one of folder.1, folder.2, ... and returns that name."""
    number = 1
    while os.path.exists("%s.%d" % (folder, number)):
        number += 1
    os.rename(folder, "%s.%d" % (folder, number))
    return "%s.%d" % (folder, number)


def prepare_output_dir(path):
    """Makes a folder if needed and proves, by writing and removing a small file, that it can be written.

    Returns:
      Its absolute path.
    Raises:
      DataError: with the system's reason.
    """
    folder = os.path.abspath(os.path.expanduser(path))
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(b"probe")
            probe.flush()
    except OSError as error:
        raise DataError(folder, "a folder that can be written", error.strerror or str(error),
                        "free some space, change its permissions or give another --output_path") from error
    return folder


def is_full_disk(error):
    """Whether the system, TensorFlow or hdf5 says by an exception that a disk, or the user's part of it, is full."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def is_full(folder):
    """Whether there is no room for a few lines more on the disk of a folder."""
    return shutil.disk_usage(folder).free < 65536


def check_free_space(path, needed_bytes):
    """DataError unless the disk behind a path, which need not exist yet, has room for so many bytes."""
    existing = os.path.abspath(os.path.expanduser(path))
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise DataError(path, "%.1f MB of free disk space" % (needed_bytes / 1e6), "%.1f MB" % (free_bytes / 1e6),
                        "free some space or choose another folder")


def check_new_folder(path, flag):
    """DataError when there is anything at the place where a result is to go."""
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise DataError(path, "a new folder", "one that holds something", "give another %s" % flag)


def lock_folder(folder, wait):
    """Locks a folder against other processes that ask; the lock dies with its last holder, also on kill -9.

    Args:
      folder: must exist.
      wait: whether to wait for another holder's end.
    Returns:
      A file descriptor; to close it is to unlock.
    Raises:
      BlockingIOError: somebody has it, and this one does not wait.
      OSError: it cannot be opened.
    """
    while True:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:  # some network disks cannot lock a folder
            return descriptor
        if os.path.isdir(folder) and os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
        os.close(descriptor)  # the folder was moved away in between
        os.makedirs(folder, exist_ok=True)


def walk(root):
    """Yields every folder from `root` downwards with the sorted names of its files; linked ones too, a loop once."""
    walked = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in walked:
            folders[:], names = [], []
        walked.add(real)
        folders.sort()
        yield folder, sorted(names)


def fingerprint(paths):
    """A hash of the state of files and folders: paths, sizes and times of change, behind links too.

    Args:
      paths: iterable of str; what is not there, or a broken link, counts as absent.
    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for root in paths:
        inside = [os.path.join(folder, name) for folder, names in walk(root) for name in ["."] + names]
        for path in inside or [root]:
            digest.update(os.fsencode("%s\0%s\n" % (path, _state(path))))
    return digest.hexdigest()


def _state(path):
    try:
        status = os.stat(path)
    except OSError:
        return "absent"
    return "a folder" if stat.S_ISDIR(status.st_mode) else "%d %d" % (status.st_size, status.st_mtime_ns)


def cache_folder(folder, project):
    """`folder` where it can be written or made, else `project` in the user's cache: $XDG_CACHE_HOME or ~/.cache."""
    existing = os.path.abspath(folder)
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    if os.access(existing, os.W_OK | os.X_OK):
        return folder
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), project)


@contextlib.contextmanager
def whole_folder(path, settings, made_by, besides=()):
    """Makes a folder that appears whole or not at all, and is used again while its settings agree.

        with whole_folder(path, {"images": 500}, "tools.sampledata") as fresh:
            if fresh:
                ...  # write into the folder `fresh`, which becomes `path` when this block ends well

    Of several processes one makes it; the others wait. A folder that holds anything else is left as it is.

    Args:
      path: the folder.
      settings: JSON-able; what the content depends on.
      made_by: name of the program, for its own folders to be known.
      besides: names of files and folders that may be added to it later.
    Yields:
      A folder to fill, or None when `path` is there already.
    Raises:
      DataError: something of other origin is there, or it cannot be written.
    """
    path = os.path.abspath(os.path.expanduser(path))
    parent, name = os.path.split(path)
    settings = json.loads(json.dumps(settings))
    if _is_whole(path, settings, made_by):
        yield None
        return
    partial, replaced = (os.path.join(parent, ".%s.%s" % (name, mark)) for mark in ("partial", "replaced"))
    lock, made = None, False
    try:
        os.makedirs(parent, exist_ok=True)
        lock = lock_folder(parent, wait=True)
        if _is_whole(path, settings, made_by):  # made while this one waited
            yield None
            return
        _check_replaceable(path, made_by, besides)
        for left in (partial, replaced):  # by one that was killed; who holds the lock is alone here
            just_made = os.path.isdir(left) and all(name.startswith(WHOLE_FILE) for name in os.listdir(left))
            if just_made or (read_json(os.path.join(left, WHOLE_FILE)) or {}).get("made_by") == made_by:
                shutil.rmtree(left)
        os.mkdir(partial)
        made = True
        write_text(os.path.join(partial, WHOLE_FILE), json.dumps({"made_by": made_by}))
        yield partial
        write_text(os.path.join(partial, WHOLE_FILE), json.dumps(
            {"made_by": made_by, "settings": settings, "files": _file_sizes(partial)}))
        if os.path.lexists(path):
            os.rename(path, replaced)
        os.rename(partial, path)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        raise DataError(error.filename or path, "a place that can be written", error.strerror or str(error),
                        "free some space, change its permissions or give another folder") from error
    finally:
        if made:
            shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _file_sizes(folder):
    sizes = {}
    for inside, _, names in os.walk(folder):
        for name in names:
            file = os.path.join(inside, name)
            sizes[os.path.relpath(file, folder)] = os.path.getsize(file)
    sizes.pop(WHOLE_FILE, None)
    return sizes


def _is_whole(path, settings, made_by):
    marker = read_json(os.path.join(path, WHOLE_FILE)) or {}
    return (marker.get("made_by") == made_by and marker.get("settings") == settings
            and marker["files"].items() <= _file_sizes(path).items())


def _check_replaceable(path, made_by, besides):
    if not os.path.lexists(path):
        return
    inside = set(_file_sizes(path)) if os.path.isdir(path) else {"a file"}
    marker = read_json(os.path.join(path, WHOLE_FILE)) or {}
    if marker.get("made_by") == made_by:
        inside = {name for name in inside - set(marker.get("files", ())) if name.split(os.sep)[0] not in besides}
    if inside:
        raise DataError(path, "a new folder, or one that %s made" % made_by, "%s in it" % ", ".join(sorted(inside)[:4]),
                        "give another folder or move it away; nothing was deleted")
