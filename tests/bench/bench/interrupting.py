"""`tests/bench/run interrupt`: an import over a slow line that is interrupted three times, then finished.

What counts is the share of the bytes that had been sent before the last interrupt and are sent again.
"""

import asyncio
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import time

from . import table
from .measure import Failed, environment
from .registry import Registry, die_with_parent
from .rounds import fresh, say
from .tools import DockerMirror

# Bytes per second of all connections together, bytes sent before each interrupt, and the layers of the image.
RATE = 4_000_000
BEFORE = 6_000_000
LAYERS = [24_000_000, 16_000_000, 8_000_000]
INTERRUPTS = 3


class SlowLine:
    """A proxy on loopback whose upward direction is limited; use it in a `with`."""

    def __init__(self, host, rate):
        self.target, self.rate = host, rate
        self.sent, self.free = 0, 0.0
        self.loop = asyncio.new_event_loop()
        self.started = threading.Event()
        self.host = ""

    def __enter__(self):
        threading.Thread(target=self.loop.run_until_complete, args=(self.serve(),), daemon=True).start()
        self.started.wait()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.ended.set)

    async def serve(self):
        self.ended = asyncio.Event()
        server = await asyncio.start_server(self.connect, "127.0.0.1", 0, limit=1 << 16)
        self.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.started.set()
        await self.ended.wait()
        server.close()

    async def connect(self, reader, writer):
        host, port = self.target.rsplit(":", 1)
        try:
            to_reader, to_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(self.copy(reader, to_writer, True), self.copy(to_reader, writer, False))

    async def copy(self, reader, writer, is_limited):
        try:
            while piece := await reader.read(16384):
                if is_limited:
                    now = self.loop.time()
                    self.free = max(self.free, now) + len(piece) / self.rate
                    await asyncio.sleep(max(0, self.free - now))
                    self.sent += len(piece)
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


def make_archive(path):
    """Writes an image of random layers as an OCI image layout."""
    blobs = []

    def blob(media_type, content):
        digest = hashlib.sha256(content).hexdigest()
        blobs.append((f"blobs/sha256/{digest}", content))
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    kind = "application/vnd.oci.image."
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}manifest.v1+json",
        "config": blob(f"{kind}config.v1+json", json.dumps(config).encode()),
        "layers": [blob(f"{kind}layer.v1.tar", os.urandom(size)) for size in LAYERS],
    }
    root = blob(f"{kind}manifest.v1+json", json.dumps(manifest).encode())
    root["annotations"] = {"org.opencontainers.image.ref.name": "example.com/interrupted/app:1"}
    index = json.dumps({"schemaVersion": 2, "manifests": [root]}).encode()
    with tarfile.open(path, "w") as archive:
        for name, content in [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", index), *blobs]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def start(archive, line, folder):
    """Starts an import through the line."""
    return subprocess.Popen(
        [str(DockerMirror().path()), "import", str(archive), "-d", line.host],
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )


def measure(options, program, how):
    """The bytes before the last interrupt, and those that were sent again."""
    folder = fresh(options.work / "interrupt")
    archive = folder / "image.tar"
    make_archive(archive)
    with Registry(folder / "registry", folder / "storage", program=program) as registry:
        with SlowLine(registry.host, RATE) as line:
            for _ in range(INTERRUPTS):
                before = line.sent
                process = start(archive, line, folder)
                while line.sent < before + BEFORE and process.poll() is None:
                    time.sleep(0.01)
                process.send_signal(how)
                process.wait(options.timeout)
                # What is in buffers on the way arrives.
                time.sleep(1)
            sent = line.sent
            if start(archive, line, folder).wait(options.timeout) != 0:
                raise Failed("the import was not finished after the interrupts")
            again = max(0, line.sent - sum(LAYERS))
    fresh(folder)
    return sent, again


def report(options):
    """One row for each registry and signal."""
    built = options.project / "target/tools/registry"
    programs = [("docker-registry 2.8", "docker-registry"), ("distribution 3", built if built.exists() else None)]
    rows = []
    for name, program in programs:
        if program is None or shutil.which(str(program)) is None:
            say(f"{name} is not there: left out")
            continue
        for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            sent, again = measure(options, str(program), how)
            say(f"interrupt, {name}, {how.name}: {again:,} of {sent:,} bytes again")
            rows.append([name, how.name, f"{sent / 1e6:.1f}", f"{again / 1e6:.1f}", f"{again / sent:.3f}"])
    columns = ["registry", "signal", "sent before the last interrupt, MB", "sent again, MB", "share"]
    text = (
        f"{INTERRUPTS} interrupts, each after {BEFORE / 1e6:.0f} MB, of an import of {sum(LAYERS) / 1e6:.0f} MB in "
        f"{len(LAYERS)} layers over a line of {RATE / 1e6:.0f} MB/s."
    )
    return "\n".join([text, "", table.table(columns, rows)])
