"""`tests/bench/run start`: how soon the help and the first line of an export appear, and how long the short helps and a log are."""

import os
import statistics
import subprocess
import time

from . import corpus, table
from .measure import Failed, environment
from .registry import Registry
from .rounds import behind, fresh
from .tools import DockerMirror

# Goals: seconds to the help, lines of a short help, seconds to the first line of an export, lines of a log of 200 images.
HELP, SCREEN, FIRST, LOG = 0.005, 40, 0.1, 230

COMMANDS = ["", "export", "import", "inspect", "verify", "diff", "limits", "completions", "man"]


def start(words, folder):
    """Starts docker-mirror with both outputs in one pipe."""
    return subprocess.Popen(
        [str(DockerMirror().path()), *words],
        env=environment(folder),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def helps(rounds, folder):
    """Processor time of one `--help`, the mean, and the clock of the fastest one, in seconds."""
    before, walls = os.times(), []
    for _ in range(rounds):
        begin = time.perf_counter()
        with start(["--help"], folder) as process:
            process.communicate()
        walls.append(time.perf_counter() - begin)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu / rounds, min(walls)


def longest_help(folder):
    """Lines of the longest short help."""
    lines = 0
    for command in COMMANDS:
        with start([command, "-h"] if command else ["-h"], folder) as process:
            lines = max(lines, len(process.communicate()[0].splitlines()))
    return lines


def first_line(images, folder):
    """Seconds from the start of an export to its first line."""
    begin = time.perf_counter()
    with start(["export", *images, "-o", "first.tar"], folder) as process:
        process.stdout.readline()
        seconds = time.perf_counter() - begin
        process.kill()
    return seconds


def log(words, folder):
    """Lines of the log of a whole run."""
    with start(words, folder) as process:
        text = process.communicate()[0]
    if process.returncode != 0:
        raise Failed(f"{words[0]} failed: {text[-500:]}")
    return len(text.splitlines())


def report(options):
    """One line for each number, with its goal."""
    rounds = 200 // options.scale
    folder = fresh(options.work / "start")
    images = corpus.make(options.work, "small", options.scale)
    cpu, wall = helps(rounds, folder)
    with (
        Registry(folder / "source", images.storage, readonly=True) as source,
        Registry(folder / "target", folder / "storage") as target,
    ):
        with behind(source, 20) as host:
            seconds = statistics.median(first_line(images.references(host), folder) for _ in range(7))
        lines = max(
            log(["export", *images.references(source.host), "-o", "bundle.tar"], folder),
            log(["import", "bundle.tar", "-d", target.host], folder),
            log(["import", "bundle.tar", "-d", target.host], folder),
        )
    count = len(images.images)
    goals = [
        table.goal(f"`--help`, processor time, mean of {rounds} runs", cpu * 1000, HELP * 1000, " ms"),
        table.goal(f"`--help`, the clock, the fastest of {rounds} runs", wall * 1000, HELP * 1000, " ms"),
        table.goal("lines of the longest `-h`", longest_help(folder), SCREEN),
        table.goal(f"first line of an export of {count} images behind 40 ms, median of 7", seconds * 1000, FIRST * 1000, " ms"),
        table.goal(f"lines of a log of {count} images, the longest of export, import, import again", lines, LOG),
    ]
    fresh(folder)
    return "\n".join(goals)
