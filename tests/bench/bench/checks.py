"""`tests/bench/run check`: whether the benchmark measures what it says. Needs no docker-mirror."""

import hashlib
import json
import socket
import tempfile
import threading
import time
import unittest
import urllib.request
from pathlib import Path

from . import charting, corpus, measure, partial, registry, table
from .server import Delayed
from .watcher import Watcher


class InFolder(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="bench-check-")
        self.addCleanup(holder.cleanup)
        self.folder = Path(holder.name)


class Accounting(InFolder):
    """Process trees."""

    def run_steps(self, *steps):
        return measure.run(list(steps), self.folder, self.folder / "logs", 60)

    def test_counts_cpu_and_memory_of_grandchildren(self):
        work = "x = bytearray(60 << 20)\nimport time\n"
        work += "end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
        result = self.run_steps(["bash", "-c", f"python3 -c '{work}'; true"], ["true"])
        self.assertGreater(result.cpu, 0.25)
        self.assertGreater(result.memory, 60 << 20)
        self.assertGreater(result.wall, 0.25)

    def test_memory_is_not_that_of_the_benchmark(self):
        ballast = bytearray(100 << 20)
        self.assertLess(self.run_steps(["true"]).memory, 20 << 20)
        del ballast

    def test_counts_written_bytes_even_of_removed_files(self):
        if measure.file_system(self.folder) in ("tmpfs", "ramfs"):
            self.skipTest("the kernel counts no bytes written to memory")
        result = self.run_steps(["bash", "-c", "head -c 10000000 /dev/zero > a; rm a"])
        self.assertGreaterEqual(result.written, 10_000_000)
        self.assertLess(result.written, 11_000_000)

    def test_sees_temporary_files(self):
        result = self.run_steps(["bash", "-c", "head -c 10000000 /dev/zero > a; sleep 0.5; rm a"])
        self.assertGreaterEqual(result.disk, 10_000_000)

    def test_failures_and_timeouts(self):
        with self.assertRaisesRegex(measure.Failed, "exit code 3: broken"):
            self.run_steps(["bash", "-c", "echo broken >&2; exit 3"], ["true"])
        start = time.monotonic()
        with self.assertRaisesRegex(measure.Failed, "not done after 1 seconds"):
            measure.run([["sleep", "60"]], self.folder, self.folder / "logs", 1)
        self.assertLess(time.monotonic() - start, 30)


class Chart(unittest.TestCase):
    """Requests over time."""

    def test_reads_a_log_and_finds_the_gap(self):
        at = "2026-01-01T00:00:0{}Z DEBUG {}".format
        log = [
            "resolving 2 images",
            at("0.0", "> GET http://a/v2/x/manifests/1"),
            at("0.5", "> GET http://a/v2/x/manifests/1"),
            at("1.0", "< 200 GET http://a/v2/x/manifests/1 (1000 ms)"),
            at("1.5", "! GET http://a/v2/x/manifests/1 (1000 ms): the connection was reset"),
            at("3.5", "> PATCH http://a/v2/x/blobs/uploads/1"),
            at("4.0", "< 202 PATCH http://a/v2/x/blobs/uploads/1 (500 ms)"),
        ]
        requests = charting.read("\n".join(log))
        self.assertEqual([(r.start, r.end, charting.KINDS[r.kind][0]) for r in requests], [
            (0.0, 1.0, "manifest, GET"),
            (0.5, 1.5, "manifest, GET"),
            (3.5, 4.0, "upload"),
        ])
        self.assertEqual(charting.longest_gap(requests), 2.0)
        self.assertEqual(charting.in_flight(requests, 4), [1.5, 0.5, 0.0, 0.5])
        self.assertEqual(charting.svg(requests, "x").count("<rect"), 3)


class Delay(unittest.TestCase):
    """The delaying proxy, before a server that sends back what it gets."""

    def setUp(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.server.close)
        threading.Thread(target=self.serve, daemon=True).start()
        self.host = f"127.0.0.1:{self.server.getsockname()[1]}"

    def serve(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.echo, args=[connection], daemon=True).start()

    @staticmethod
    def echo(connection):
        with connection:
            while data := connection.recv(1 << 20):
                connection.sendall(data)

    def test_delays_each_way_and_does_not_limit_bandwidth(self):
        with Delayed(self.host, 20) as proxy:
            name, port = proxy.host.split(":")
            with socket.create_connection((name, int(port))) as client:
                start = time.monotonic()
                client.sendall(b"x")
                client.recv(1)
                # The handshake and the round trip.
                self.assertGreaterEqual(time.monotonic() - start, 0.079)
                start = time.monotonic()
                client.sendall(b"x")
                client.recv(1)
                self.assertGreaterEqual(time.monotonic() - start, 0.039)
                size = 8 << 20
                start = time.monotonic()
                threading.Thread(target=client.sendall, args=[bytes(size)], daemon=True).start()
                left = size
                while left:
                    left -= len(client.recv(1 << 20))
                # A delay per packet would take 32 pieces * 40 ms and more.
                self.assertLess(time.monotonic() - start, 1.0)
            counts = proxy.counts()
            self.assertEqual((counts["up"], counts["down"], counts["connections"]), (size + 2, size + 2, 1))

    def test_hands_on_the_end(self):
        with Delayed(self.host, 5) as proxy:
            name, port = proxy.host.split(":")
            with socket.create_connection((name, int(port)), timeout=10) as client:
                client.sendall(b"last words")
                client.shutdown(socket.SHUT_WR)
                self.assertEqual(client.makefile("rb").read(), b"last words")


class Corpora(InFolder):
    """The storage tree, as docker-registry sees it."""

    def test_is_served_whole_and_is_the_same_each_time(self):
        images = corpus.make(self.folder / "a", "base", 500)
        again = corpus.make(self.folder / "b", "base", 500)
        self.assertEqual([image.digest for image in images.images], [image.digest for image in again.images])
        self.assertEqual(corpus.make(self.folder / "a", "base", 500), images)
        self.assertEqual(sum(len(image.blobs) for image in images.images), 6 * 3 * 5)
        with registry.Registry(self.folder / "registry", images.storage, readonly=True) as source:
            since = source.settle()
            watcher = Watcher(source.host, [(image.repository, image.tag) for image in images.images])
            watcher.look()
            self.assertEqual((watcher.faults, watcher.seen), ([], 6))
            image = images.images[0]
            for digest in image.blobs:
                with urllib.request.urlopen(f"http://{source.host}/v2/{image.repository}/blobs/{digest}") as answer:
                    self.assertEqual("sha256:" + hashlib.sha256(answer.read()).hexdigest(), digest)
            source.settle()
            requests = source.requests(since)
            got = [request for request in requests if request.method == "GET" and request.about_blob]
            self.assertEqual(sum(request.size for request in got), sum(image.blobs.values()))
            # Six tags, their children, the blobs below them, and the blobs that were read.
            self.assertEqual(len(requests), 6 + 18 + 18 * 5 + len(image.blobs))

    def test_layers_are_what_their_configs_say(self):
        import gzip

        images = corpus.make(self.folder, "small", 100)
        child = json.loads(images.data(images.images[0].digest).read_bytes())["manifests"][0]["digest"]
        manifest = json.loads(images.data(child).read_bytes())
        config = json.loads(images.data(manifest["config"]["digest"]).read_bytes())
        for layer, diff in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
            data = gzip.decompress(images.data(layer["digest"]).read_bytes())
            self.assertEqual("sha256:" + hashlib.sha256(data).hexdigest(), diff)

    def test_the_watcher_finds_what_is_absent(self):
        images = corpus.make(self.folder, "kill", 500)
        image = images.images[0]
        victim = max(image.blobs)
        link = corpus.repository_path(images.storage, image.repository) / "_layers/sha256" / victim[7:]
        (link / "link").unlink()
        with registry.Registry(self.folder / "registry", images.storage) as source:
            watcher = Watcher(source.host, [(image.repository, image.tag), (image.repository, "none")])
            watcher.look()
        self.assertEqual(watcher.faults, [f"{image.repository}:latest is there and blob {victim} is not"])
        self.assertEqual((watcher.looks, watcher.seen), (2, 1))


class Leftovers(InFolder):
    """What a kill left."""

    def test_reads_a_journal(self):
        text = '{"journalVersion":1}\n'
        text += 'b 512 100 sha256:a\nb 1024 50 sha256:b\nw 0 0 10\nw 0 20 30\nw 0 10 20\nw 1 0 50\n'
        said = partial.recorded(text + "x 1\nw 1 7 9\ns 4\nw 0 30 4")
        self.assertEqual(said, {"sha256:a": [(0, 30)], "sha256:b": [(7, 9)]})
        with self.assertRaises(ValueError):
            partial.recorded(text + "q 1\n")

    def test_counts_what_is_absent(self):
        import random

        a, b, c = (random.Random(seed).randbytes(3 * 4096) for seed in range(3))
        output = self.folder / "x.tar"
        reference = self.folder / "reference.tar"
        reference.write_bytes(a + b + c)
        slots = {"sha256:a": (0, 12288), "sha256:b": (12288, 12288), "sha256:c": (24576, 12288)}
        blobs = {digest: 12288 for digest in slots}
        self.assertEqual(partial.inspect(output, reference, slots, blobs), partial.Left(36864, 36864, 0))
        (self.folder / "x.tar.partial").write_bytes(a + b[:8192] + bytes(4096 + 100))
        (self.folder / "x.tar.partial.journal").write_text(
            "{}\nb 0 12288 sha256:a\nb 12288 12288 sha256:b\nb 24576 12288 sha256:c\nw 0 0 12288\nw 1 0 4096\n"
        )
        # The second slot is open, the third was not begun.
        self.assertEqual(
            partial.inspect(output, reference, slots, blobs), partial.Left(8192 + 12288, 4096 + 12288, 1)
        )


class Log(unittest.TestCase):
    """The access log."""

    def test_parses(self):
        line = '127.0.0.1 - - [23/Nov/2026:23:31:34 +0000] "GET /v2/a/b/blobs/sha256:ab HTTP/1.1" 206 77 "" "x"\n'
        parsed = registry.parse_log(line + "noise\n")
        self.assertEqual(parsed, [registry.Request("GET", "/v2/a/b/blobs/sha256:ab", 206, 77)])
        self.assertTrue(parsed[0].about_blob)


class Tables(unittest.TestCase):
    """Ratios."""

    def test_ratio_is_paired(self):
        def result(wall):
            return measure.Result(wall, 0, 0, 0, 0)

        runs = {"a": [result(1), result(20), result(3)], "b": [result(2), result(40), result(4)]}
        self.assertEqual(table.ratio(runs, "a", "b"), 0.5)
        self.assertIsNone(table.ratio(runs, "a", "absent"))
        self.assertIn("NOT reached", table.goal("x", 1.2, 1))
        self.assertIn(": reached", table.goal("x", 0, 0))
