"""Rounds: every tool in turn, in another order each time, so that a drift of the machine meets all of them."""

import random
import shutil
import sys
from contextlib import contextmanager

from .measure import Failed
from .server import Delayed


@contextmanager
def behind(registry, delay):
    """The address under which tools reach a registry: its own, or that of a delaying proxy (milliseconds, one way)."""
    if not delay:
        yield registry.host
        return
    with Delayed(registry.host, delay) as proxy:
        yield proxy.host


def say(text):
    """A line on how it goes; the report alone goes to stdout."""
    print(text, file=sys.stderr, flush=True)


class Rounds:
    """What was measured in one scenario."""

    def __init__(self, tools, wanted=()):
        self.notes = {}
        self.tools = []
        for tool in tools:
            if wanted and not any(word in tool.name for word in wanted):
                continue
            if tool.path() is None:
                self.notes[tool.name] = "absent on this machine"
            else:
                self.tools.append(tool)
        self.runs = {tool.name: [] for tool in self.tools}

    def fail(self, tool, error):
        """Takes a tool out, with the reason."""
        self.notes[tool.name] = f"failed: {error}"
        self.tools.remove(tool)
        # Half a series would stand in the table as if it were a whole one.
        self.runs[tool.name] = []
        say(f"  {tool.name}: failed: {error}")

    def go(self, count, measure):
        """Runs all rounds; `measure(tool, round)` returns a result or raises `Failed`."""
        for number in range(count):
            # Not in a circle, in which each tool would always follow upon the same one.
            for tool in random.Random(number).sample(self.tools, len(self.tools)):
                try:
                    result = measure(tool, number)
                except Failed as error:
                    self.fail(tool, error)
                    continue
                self.runs[tool.name].append(result)
                say(f"  round {number + 1}/{count}: {tool.name}: {result.wall:.2f} s, {result.requests} requests")

    def name_of(self, program):
        """The full name of the first tool with this in its name, or the name itself."""
        return next((name for name in self.runs if program in name), program)


class Storages:
    """Folders for the storage of registries, a new one for each run; use it in a `with`, at whose end they are removed.

    Not at once: ext4 does not give an inode away for a minute after its file was removed, and searches for another one
    whenever a file is made. That cost the registry of the next run half a second of processor time.
    """

    def __init__(self, folder, size):
        self.folder = folder
        # Room for what a run writes, temporary files of the tool included.
        self.room = 4 * size + (8 << 30)
        self.count = 0

    def __enter__(self):
        fresh(self.folder)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def new(self):
        """An empty folder. Where the disk gets full, those of earlier runs are removed first."""
        if shutil.disk_usage(self.folder).free < self.room:
            fresh(self.folder)
        self.count += 1
        return fresh(self.folder / str(self.count))


def fresh(folder):
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
