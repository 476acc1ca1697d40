"""Rounds: every tool in turn, in another order each time, so that a drift of the machine meets all of them."""

import shutil
import sys
from contextlib import contextmanager

from .delay import Delayed
from .measure import Failed


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
            offset = number % max(1, len(self.tools))
            for tool in self.tools[offset:] + self.tools[:offset]:
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


def fresh(folder):
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
