"""Debian's docker-registry on loopback, started for the benchmark, with its access log."""

import ctypes
import re
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: false}}}}
storage:
  cache: {{blobdescriptor: inmemory}}
  filesystem: {{rootdirectory: {storage}}}
  maintenance: {{uploadpurging: {{enabled: false}}, readonly: {{enabled: {readonly}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""

LINE = re.compile(r'^\S+ - \S+ \[[^\]]*\] "(\S+) (\S+) HTTP/[0-9.]+" (\d+) (\d+)')


def die_with_parent():
    """Runs in a child before exec: the kernel ends it when the benchmark is gone, however that came."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stop(process):
    """Ends a process that we started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Request:
    """One line of the access log."""

    method: str
    path: str
    status: int
    size: int

    @property
    def about_blob(self):
        """Whether it asks for, sends or mounts a blob."""
        return "/blobs/" in self.path


def parse_log(text):
    """The requests in a piece of an access log."""
    matches = (LINE.match(line) for line in text.splitlines())
    return [Request(m[1], m[2], int(m[3]), int(m[4])) for m in matches if m]


class Registry:
    """A running registry; use it in a `with`."""

    def __init__(self, folder, storage, readonly=False, program="docker-registry"):
        self.program = program
        self.folder = Path(folder)
        self.storage = Path(storage)
        self.readonly = readonly
        self.process = None
        self.port = 0

    @property
    def host(self):
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.storage.mkdir(parents=True, exist_ok=True)
        for _ in range(5):
            self.port = free_port()
            config = self.folder / "registry.yml"
            config.write_text(
                CONFIG.format(storage=self.storage, port=self.port, readonly=str(self.readonly).lower())
            )
            with open(self.folder / "access.log", "wb") as out, open(self.folder / "error.log", "wb") as err:
                self.process = subprocess.Popen(
                    [self.program, "serve", str(config)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    preexec_fn=die_with_parent,
                    env={"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"},
                )
            if self.answers():
                return self
            stop(self.process)
        error = (self.folder / "error.log").read_text()[-500:]
        raise RuntimeError(f"docker-registry does not start: {error}")

    def __exit__(self, *_):
        stop(self.process)

    def answers(self):
        """Waits until it answers; false if it has ended."""
        for _ in range(500):
            if self.process.poll() is not None:
                return False
            try:
                with urllib.request.urlopen(f"http://{self.host}/v2/", timeout=5):
                    return True
            except OSError:
                time.sleep(0.02)
        return False

    def settle(self):
        """Waits until no connection is open: then every request stands in the log, and returns the log's length."""
        port = f":{self.port:04X}"
        for _ in range(2000):
            rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            # 01 established, 08 close wait: the server's side still has the request in its hands.
            if not any(row[1].endswith(port) and row[3] in ("01", "08") for row in rows):
                return (self.folder / "access.log").stat().st_size
            time.sleep(0.005)
        raise RuntimeError("connections to the registry stay open")

    def requests(self, since=0):
        """The requests that stand in the log from an offset on."""
        with open(self.folder / "access.log", "rb") as file:
            file.seek(since)
            return parse_log(file.read().decode())
