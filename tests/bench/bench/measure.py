"""Runs a command and accounts for its whole process tree, without cgroups.

- wall: bash's own clock just before and after the command.
- CPU (user and system) and peak memory: GNU time, that is wait4(2). CPU is the sum over all processes of the tree, memory
  the largest single one: where a tool is started once per image, that is its largest run.
- bytes written: `write_bytes` of /proc/PID/io of the shell that has waited for the command. The kernel adds the counts of
  a reaped child to its parent's, so the whole tree is in it, down to processes too short to be sampled. It counts pages
  made dirty for a block device: temporary files count even when they are removed again; tmpfs and pipes do not.
- peak disk: the blocks of all files below the run's folder (output and temporary files), looked at ten times a second.
"""

import os
import signal
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .registry import die_with_parent

LAUNCHER = """\
results=$1; shift
start=$EPOCHREALTIME
command time -o "$results.time" -f '%U %S %M' -- "$@"
code=$?
end=$EPOCHREALTIME
# Read in one piece: the counts change by being read.
counts=$(< /proc/$$/io)
printf '%s\\n' "$start $end" "$counts" > "$results.io"
exit "$code"
"""


class Failed(Exception):
    """A command that did not do its job; says how in a line."""


@dataclass
class Result:
    """What one run cost."""

    wall: float
    cpu: float
    memory: int
    written: int
    disk: int
    requests: int = 0
    blob_requests: int = 0
    pulls: int = 0


class DiskPeak:
    """Watches how many bytes of disk the files below a folder take; use it in a `with`."""

    def __init__(self, folder):
        self.folder = folder
        self.peak = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.look()

    def watch(self):
        while not self.over.wait(0.1):
            self.look()

    def look(self):
        self.peak = max(self.peak, disk_use(self.folder))


def disk_use(folder):
    """Bytes of disk below a folder; files that vanish meanwhile do not count."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        total += disk_use(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                except OSError:
                    pass
    except OSError:
        pass
    return total


def environment(folder):
    """The environment of everything that is measured: a home and temporary folder inside the run's folder."""
    temporary, home = folder / "tmp", folder / "home"
    temporary.mkdir(parents=True, exist_ok=True)
    home.mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "XDG_RUNTIME_DIR": str(temporary),
        "REGCTL_CONFIG": str(home / "regctl.json"),
    }


def run(steps, folder, logs, timeout):
    """Runs the commands one after the other in `folder`; what they print goes to files under `logs`.

    Raises `Failed` when one fails or time runs out; then the whole process group is ended.
    """
    logs.mkdir(parents=True, exist_ok=True)
    command = [str(word) for word in steps[0]]
    if len(steps) > 1:
        script = logs / "script"
        script.write_text("set -e\n" + "".join(quoted(step) + "\n" for step in steps))
        command = ["bash", str(script)]
    results = logs / "result"
    # What earlier runs left to write must not slow this one.
    os.sync()
    with open(logs / "out", "wb") as out, open(logs / "err", "wb") as err, DiskPeak(folder) as disk:
        process = subprocess.Popen(
            ["bash", "-c", LAUNCHER, "launcher", str(results), *command],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            code = process.wait(timeout)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"not done after {timeout} seconds") from None
            raise
    if code != 0:
        said = (logs / "err").read_text(errors="replace").strip().splitlines() or ["no message"]
        raise Failed(f"exit code {code}: {' / '.join(said[-3:])[:400]}")
    times = (logs / "result.time").read_text().split()
    clock, *lines = (logs / "result.io").read_text().splitlines()
    start, end = (float(word) for word in clock.split())
    io = dict(line.split(": ") for line in lines)
    return Result(
        wall=end - start,
        cpu=float(times[0]) + float(times[1]),
        memory=int(times[2]) * 1024,
        written=int(io["write_bytes"]),
        disk=disk.peak,
    )


def quoted(step):
    """A command as a line of shell."""
    return " ".join("'" + str(word).replace("'", "'\\''") + "'" for word in step)


def file_system(folder):
    """The kind of file system below a folder, for the report."""
    done = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def median(results, name):
    """The median of one column."""
    return statistics.median(getattr(result, name) for result in results)


def stopwatch():
    """Seconds, for moments inside the benchmark."""
    return time.monotonic()


def folder_size(folder):
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
