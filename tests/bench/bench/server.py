"""The server of `tests/bench/server.rs` as a process: it imitates lines and limits and is not what limits a measurement."""

import json
import os
import subprocess

from .registry import die_with_parent


class Server:
    """A running server, in a `with`; `flags` are those of its command line."""

    def __init__(self, storage=None, **flags):
        self.words = [] if storage is None else ["--storage", str(storage)]
        for name, value in flags.items():
            self.words += [f"--{name.replace('_', '-')}", str(value)]
        self.process = None
        self.host = ""

    def __enter__(self):
        self.process = subprocess.Popen(
            [os.environ["BENCH_SERVER"], *self.words],
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
        """Requests, refusals, the most requests at a time, connections and bytes since this was last asked."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())
