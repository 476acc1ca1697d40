"""`tests/bench/run audit`: bundles that are looked at, verified and completed, without a destination."""

import json
import os
import random
import shutil
import subprocess
import tarfile

from . import corpus, table
from .exporting import export_once
from .measure import Failed, environment, median, run
from .registry import Registry
from .rounds import Rounds, fresh, say
from .tools import DockerMirror, Tool

MIB = 1 << 20


class Verify(DockerMirror):
    """`verify`, which computes two sums of every byte: that of its blob, and that of the file."""

    name = "docker-mirror verify"

    def command(self, bundle):
        return [self.path(), "verify", bundle]


class VerifyDeep(Verify):
    """The content of the layers too."""

    name = "docker-mirror verify --deep"

    def command(self, bundle):
        return [self.path(), "verify", "--deep", bundle]


class Openssl(Tool):
    """One sum of the whole file on each processor at the same time."""

    name = "floor: openssl dgst -sha256, once per processor"
    program = "openssl"

    def command(self, bundle):
        many = " & ".join([f'"{self.path()}" dgst -sha256 "{bundle}"'] * (os.cpu_count() or 1))
        return ["bash", "-c", f"{many} & wait"]


def exported(options, name):
    """A corpus and the bundle of it."""
    images = corpus.make(options.work, name, options.scale)
    with Registry(options.work / "source", images.storage, readonly=True) as source:
        export_once(DockerMirror(), source, images, source.host, options, "prepared")
    return images, options.work / "run/prepared/out/bundle.tar"


def verify_table(options):
    """Throughput and memory of `verify`."""
    say("verify: 1.2 GB in 6 images")
    _, bundle = exported(options, "base")
    rounds = Rounds([Verify(), VerifyDeep(), Openssl()], options.tools)

    def measure(tool, _):
        folder = fresh(options.work / "run/verify")
        return run([tool.command(bundle)], folder, options.work / "logs/verify", options.timeout)

    measure(Openssl(), 0)
    rounds.go(options.rounds or 5, measure)
    size = bundle.stat().st_size
    shutil.rmtree(options.work / "run")
    floor = rounds.name_of("floor:")
    text = ["### Verify", "", f"A bundle of {size / MIB:,.0f} MiB, in the page cache.", ""]
    text += [table.results(rounds.runs, rounds.notes, floor), ""]
    # Two sums of each byte, against as many as there are processors.
    processors = os.cpu_count() or 1
    ratio = table.ratio(rounds.runs, floor, Verify.name)
    if ratio is not None:
        text.append(table.goal("floor's bytes per second to verify's", processors / 2 / ratio, 1 / 0.9))
    if ours := rounds.runs.get(Verify.name):
        text.append(table.goal("peak memory", max(r.memory for r in ours) / MIB, 64, " MiB"))
    return "\n".join(text)


def sparse_bundle(path, count, platforms, layer):
    """A bundle whose layers are holes: what `inspect` reads is there, and nothing else takes room."""
    seeds = random.Random(1)
    blobs, entries, holes = {}, [], {}

    def blob(value):
        data = json.dumps(value, separators=(",", ":")).encode()
        digest = "sha256:" + corpus.hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return digest, len(data)

    def described(media_type, digest, size):
        return {"mediaType": media_type, "digest": digest, "size": size}

    def hole(size):
        digest = "sha256:" + seeds.randbytes(32).hex()
        holes[digest] = size
        return described(corpus.LAYER, digest, size)

    bases = [[hole(layer // 2) for _ in range(3)] for _ in range(10)]
    for image in range(count):
        children = []
        for number in range(platforms):
            layers = [*bases[image % 10], *(hole(layer // 6 // platforms) for _ in range(3))]
            steps = [f"RUN /bin/sh -c apt-get install --yes package-{image}-{step} # buildkit" for step in range(12)]
            labels = {f"org.opencontainers.image.label{label}": f"value {label} of image {image}" for label in range(10)}
            config = {
                "created": "2026-01-01T00:00:00Z",
                "os": "linux",
                "architecture": corpus.PLATFORMS[number][0],
                "config": {"Labels": labels},
                "history": [{"created_by": step} for step in steps],
                "rootfs": {"type": "layers", "diff_ids": [entry["digest"] for entry in layers]},
            }
            manifest = {
                "schemaVersion": 2,
                "mediaType": corpus.MANIFEST,
                "config": described(corpus.CONFIG, *blob(config)),
                "layers": layers,
            }
            platform = {"os": "linux", "architecture": corpus.PLATFORMS[number][0]}
            children.append(described(corpus.MANIFEST, *blob(manifest)) | {"platform": platform})
        index = {"schemaVersion": 2, "mediaType": corpus.INDEX, "manifests": children}
        name = {"org.opencontainers.image.ref.name": f"registry.example.com/team/image-{image}:1.0.{image}"}
        entries.append(described(corpus.INDEX, *blob(index)) | {"annotations": name})
    listing = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    documents = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": listing}
    documents |= {"blobs/" + digest.replace(":", "/"): data for digest, data in blobs.items()}
    with open(path, "wb") as file:

        def header(name, size):
            member = tarfile.TarInfo(name)
            member.size = size
            file.write(member.tobuf(tarfile.GNU_FORMAT))

        for name, data in documents.items():
            header(name, len(data))
            file.write(data + bytes(-len(data) % 512))
        for digest, size in holes.items():
            header("blobs/" + digest.replace(":", "/"), size)
            file.seek(size + -size % 512, os.SEEK_CUR)
        file.write(bytes(1024))
    return path.stat().st_size


def inspect_table(options):
    """How long a look takes."""
    say("inspect: a bundle of 50 GB, and a page of 500 images")
    folder = fresh(options.work / "run/inspect")
    program = DockerMirror().path()
    large, many, page = folder / "large.tar", folder / "many.tar", folder / "page.html"
    size = sparse_bundle(large, 200, 3, 420 * MIB)
    sparse_bundle(many, 500, 3, MIB)
    results = {"inspect": [], "html": []}
    for _ in range(options.rounds or 5):
        for name, command in [("inspect", [program, "inspect", large]), ("html", [program, "inspect", many, "--html", page])]:
            results[name].append(run([command], folder, options.work / "logs/inspect", options.timeout))
    wall = lambda name: median(results[name], "wall")  # noqa: E731
    memory = lambda name: max(result.memory for result in results[name]) / MIB  # noqa: E731
    text = ["### Inspect", "", f"200 images of 3 platforms in a bundle of {size / 1e9:.0f} GB, whose layers are holes of a sparse file.", ""]
    text.append(table.goal("from start to end", wall("inspect") * 1000, 100, " ms"))
    text.append(table.goal("peak memory", memory("inspect"), 32, " MiB"))
    text += ["", "A page (`--html`) of 500 images of 3 platforms, with 12 steps and 10 labels each.", ""]
    text.append(table.goal("from start to end", wall("html"), 1, " s"))
    text.append(table.goal("size of the page", page.stat().st_size / 1e6, 3, " MB"))
    text.append(f"- peak memory: {table.number(memory('html'))} MiB")
    shutil.rmtree(folder)
    return "\n".join(text)


def want_table(options):
    """What a damaged bundle costs."""
    say("want-list: one byte of 1.2 GB")
    images = corpus.make(options.work, "base", options.scale)
    folder = fresh(options.work / "run/want")
    damaged, want = folder / "damaged.tar", folder / "want.txt"
    with Registry(options.work / "source", images.storage, readonly=True) as source:
        export_once(DockerMirror(), source, images, source.host, options, "want-prepared")
        bundle = options.work / "run/want-prepared/out/bundle.tar"
        shutil.copyfile(bundle, damaged)
        with tarfile.open(damaged) as archive:
            member = sorted(archive, key=lambda member: member.size)[-3]
        with open(damaged, "r+b") as file:
            file.seek(member.offset_data + member.size // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        program, variables = DockerMirror().path(), environment(folder)
        found = subprocess.run([program, "verify", damaged, "--want", want], env=variables, capture_output=True, check=False)
        if found.returncode != 5:
            raise Failed(f"verify: exit code {found.returncode}")
        since = source.settle()
        supplement = folder / "supplement.tar"
        run([[program, "export", "--want", want, "-o", supplement]], folder, options.work / "logs/want", options.timeout)
        source.settle()
        fetched = sum(request.size for request in source.requests(since) if request.about_blob and request.method == "GET")
        run([[program, "verify", damaged, supplement]], folder, options.work / "logs/want", options.timeout)
    text = ["### A damaged bundle", ""]
    text.append(f"One flipped bit in a layer of {member.size:,} bytes of a bundle of {bundle.stat().st_size:,}: the want-list has")
    text.append(f"{want.stat().st_size} bytes, the supplement {supplement.stat().st_size:,}. Both files together are sound.")
    text += ["", table.goal("bytes fetched of blobs to bytes of the damaged blob", fetched / member.size, 1)]
    shutil.rmtree(options.work / "run")
    return "\n".join(text)


def report(options):
    """The part of the report."""
    parts = {"verify": verify_table, "inspect": inspect_table, "want": want_table}
    return "\n\n".join(make(options) for name, make in parts.items() if not options.scenarios or name in options.scenarios)
