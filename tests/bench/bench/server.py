"""Servers beside a measurement, each a process: the one of `tests/bench/server.rs`, and a line with a delay."""

import json
import os
import subprocess
import sys
from pathlib import Path

from .registry import die_with_parent


class ServerProcess:
    """A running process, in a `with`: it says its address first, answers each line with counts, and ends with its input."""

    def __init__(self, command):
        self.command = command
        self.process = None
        self.host = ""

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        )
        self.host = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def counts(self):
        """What it counted so far, or since this was last asked; each server says what."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class Server(ServerProcess):
    """It imitates lines and limits and is not what limits a measurement; `flags` are those of its command line.

    Counts requests, refusals, the most requests at a time, connections and bytes since it was last asked.
    """

    def __init__(self, storage=None, **flags):
        words = [] if storage is None else ["--storage", str(storage)]
        for name, value in flags.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        super().__init__([os.environ["BENCH_SERVER"], *words])


class Delayed(ServerProcess):
    """The proxy of `delay.py` before another host; `milliseconds` is one way.

    Counts the bytes that came from the clients (`up`) and from the server (`down`) so far.
    """

    def __init__(self, host, milliseconds):
        proxy = Path(__file__).with_name("delay.py")
        super().__init__([sys.executable, str(proxy), host, str(milliseconds)])
