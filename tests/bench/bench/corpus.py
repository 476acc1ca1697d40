"""The images that are measured: made from seeds, written straight into the storage tree of a docker-registry.

Layers are real gzip streams (stored blocks) of real tars with one incompressible file, so that no tool sees a reason to
compress or refuse them. The same name and scale give the same bytes on every machine.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
SIGNATURE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
PLATFORMS = [("amd64", None), ("arm64", None), ("arm", "v7"), ("s390x", None)]

# Part of every corpus's folder name: a change of the recipe must not find an old corpus.
RECIPE = 2


@dataclass
class Image:
    """One tag of the source registry."""

    repository: str
    tag: str
    digest: str
    # digest -> size, of configs and layers below it
    blobs: dict


@dataclass
class Corpus:
    """What one scenario copies, and where its registry's storage is."""

    name: str
    storage: Path
    images: list
    blobs: dict
    manifest_bytes: int
    marks: dict = field(default_factory=dict)

    @property
    def size(self):
        """Bytes of all blobs, each once."""
        return sum(self.blobs.values())

    def references(self, host):
        """What a command line names."""
        return [f"{host}/{image.repository}:{image.tag}" for image in self.images]

    def repository_of(self):
        """Some repository that has each blob."""
        return {digest: image.repository for image in self.images for digest in image.blobs}

    def data(self, digest):
        """The file that holds a blob in the storage tree."""
        return blob_path(self.storage, digest)


def blob_path(storage, digest):
    """Where docker-registry keeps a blob (distribution, registry/storage/paths.go)."""
    hexadecimal = digest.removeprefix("sha256:")
    return storage / "docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"


def repository_path(storage, repository):
    """Where docker-registry keeps what a repository knows."""
    return storage / "docker/registry/v2/repositories" / repository


class Random:
    """Incompressible bytes from a seed, as fast as AES gets them."""

    def __init__(self, seed, size):
        key = hashlib.sha256(f"docker-mirror bench {seed}".encode()).digest()
        # A process costs milliseconds: thousands of tiny layers come from the hash alone.
        self.small = hashlib.shake_256(key).digest(size) if size <= MIB else None
        self.at = 0
        self.process = None
        if self.small is None:
            self.process = subprocess.Popen(
                ["openssl", "enc", "-aes-256-ctr", "-K", key.hex(), "-iv", "0" * 32, "-in", "/dev/zero"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )

    def read(self, size):
        """The next bytes."""
        if self.small is not None:
            self.at += size
            return self.small[self.at - size : self.at]
        data = self.process.stdout.read(size)
        if len(data) != size:
            raise RuntimeError("openssl enc ended early")
        return data

    def close(self):
        """Ends the process behind it."""
        if self.process is not None:
            self.process.stdout.close()
            self.process.kill()
            self.process.wait()


class Writer:
    """A storage tree being written."""

    def __init__(self, storage):
        self.storage = storage
        self.sizes = {}
        self.linked = set()

    def blob(self, data):
        """Stores bytes under their digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        path = blob_path(self.storage, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.sizes[digest] = len(data)
        return digest

    def layer(self, seed, size):
        """Stores a layer of about `size` bytes; returns its digest and its diff ID."""
        header = tarfile.TarInfo(f"data/{seed}")
        header.size = size
        padding = -size % 512 + 1024
        outer, inner, crc, length = hashlib.sha256(), hashlib.sha256(), 0, size + 512 + padding
        temporary = self.storage / "layer.tmp"
        random = Random(seed, size)
        try:
            with open(temporary, "wb") as file:

                def write(data):
                    outer.update(data)
                    file.write(data)

                write(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
                left, first = size, header.tobuf(tarfile.GNU_FORMAT)
                while True:
                    take = min(left, 16 * 65535 - len(first))
                    left -= take
                    data = first + random.read(take)
                    first = b""
                    if left == 0:
                        data += bytes(padding)
                    inner.update(data)
                    crc = zlib.crc32(data, crc)
                    # Stored blocks written by hand: zlib's own cut differs between its versions.
                    blocks = []
                    for at in range(0, len(data), 65535):
                        block = data[at : at + 65535]
                        final = left == 0 and at + 65535 >= len(data)
                        count = len(block)
                        lengths = count.to_bytes(2, "little") + (count ^ 0xFFFF).to_bytes(2, "little")
                        blocks.append(bytes([final]) + lengths)
                        blocks.append(block)
                    write(b"".join(blocks))
                    if left == 0:
                        break
                write(crc.to_bytes(4, "little") + (length & 0xFFFFFFFF).to_bytes(4, "little"))
        finally:
            random.close()
        digest = "sha256:" + outer.hexdigest()
        path = blob_path(self.storage, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.sizes[digest] = temporary.stat().st_size
        temporary.rename(path)
        return digest, "sha256:" + inner.hexdigest()

    def link(self, path, digest):
        """A link file of the registry."""
        if path not in self.linked:
            self.linked.add(path)
            path.mkdir(parents=True, exist_ok=True)
            (path / "link").write_text(digest)

    def manifest(self, repository, value):
        """Stores a manifest in a repository."""
        digest = self.blob(json.dumps(value, separators=(",", ":")).encode())
        self.link(self.linked_path(repository, "_manifests/revisions", digest), digest)
        return digest

    def linked_path(self, repository, kind, digest):
        """The folder of a link file."""
        return repository_path(self.storage, repository) / kind / "sha256" / digest.removeprefix("sha256:")

    def image(self, repository, platforms):
        """Stores a multi-platform image under `latest`; `platforms` is a list of lists of layers."""
        children, blobs, manifests = [], {}, []
        for number, layers in enumerate(platforms):
            architecture, variant = PLATFORMS[number]
            platform = {"architecture": architecture, "os": "linux"}
            if variant:
                platform["variant"] = variant
            config = self.blob(
                json.dumps(
                    platform
                    | {
                        "config": {"Cmd": ["/bin/true"], "Labels": {"repository": repository}},
                        "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in layers]},
                    },
                    separators=(",", ":"),
                ).encode()
            )
            named = [(CONFIG, config)] + [(LAYER, digest) for digest, _ in layers]
            for _, digest in named:
                blobs[digest] = self.sizes[digest]
                self.link(self.linked_path(repository, "_layers", digest), digest)
            described = [
                {"mediaType": media_type, "digest": digest, "size": self.sizes[digest]} for media_type, digest in named
            ]
            child = self.manifest(
                repository,
                {"schemaVersion": 2, "mediaType": MANIFEST, "config": described[0], "layers": described[1:]},
            )
            manifests.append(child)
            children.append(
                {"mediaType": MANIFEST, "digest": child, "size": self.sizes[child], "platform": platform}
            )
        root = self.manifest(repository, {"schemaVersion": 2, "mediaType": INDEX, "manifests": children})
        manifests.append(root)
        self.tag(repository, "latest", root)
        return Image(repository, "latest", root, blobs), sum(self.sizes[digest] for digest in manifests)

    def tag(self, repository, name, digest):
        """Gives a manifest a tag."""
        tag = repository_path(self.storage, repository) / "_manifests/tags" / name
        self.link(tag / "current", digest)
        self.link(tag / "index/sha256" / digest.removeprefix("sha256:"), digest)

    def signature(self, repository, subject, text):
        """Stores a signature of a manifest, under the tag of cosign beside it."""
        self.tag(repository, referrers_tag(subject) + ".sig", self.artifact(repository, SIGNATURE, text, {}))

    def referrer(self, repository, subject, text):
        """Stores a manifest that refers to another one, and the list of referrers of that."""
        descriptor = {"mediaType": INDEX, "digest": subject, "size": self.sizes[subject]}
        referrer = self.artifact(repository, BUNDLE, text, {"artifactType": BUNDLE, "subject": descriptor})
        entry = {"mediaType": MANIFEST, "digest": referrer, "size": self.sizes[referrer], "artifactType": BUNDLE}
        listed = self.manifest(repository, {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})
        self.tag(repository, referrers_tag(subject), listed)

    def artifact(self, repository, media_type, text, more):
        """Stores a manifest with one small layer."""
        config, layer = self.blob(b"{}"), self.blob(f"signature of {text}".encode())
        for digest in (config, layer):
            self.link(self.linked_path(repository, "_layers", digest), digest)
        described = [
            {"mediaType": kind, "digest": digest, "size": self.sizes[digest]}
            for kind, digest in ((CONFIG, config), (media_type, layer))
        ]
        return self.manifest(
            repository,
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": described[0], "layers": described[1:]} | more,
        )


def referrers_tag(digest):
    """The tag under which registries without the referrers API list what refers to a manifest."""
    return digest.replace(":", "-")


def base(writer, scale):
    """About 1.2 GB in 6 images of 2 to 4 platforms; the images of each of two families share a base per platform."""
    size = 40 * MIB // scale
    bases = {
        (family, number): writer.layer(f"base-{family}-{number}", size) for family in range(2) for number in range(4)
    }
    for image in range(6):
        layers = []
        for number in range([2, 3, 4][image % 3]):
            own = [
                writer.layer(f"base-own-{image}-{number}-{part}", share * MIB // scale)
                for part, share in enumerate([30, 15, 2])
            ]
            layers.append([bases[image // 3, number]] + own)
        yield writer.image(f"bench/base-{image}", layers)


def small(writer, scale):
    """200 small images of 3 platforms on one small base."""
    bases = [writer.layer(f"small-base-{number}", 200 << 10) for number in range(3)]
    for image in range(200 // scale):
        layers = [[bases[number], writer.layer(f"small-{image}-{number}", 24 << 10)] for number in range(3)]
        yield writer.image(f"bench/small-{image:04}", layers)


def signed(writer, scale):
    """The same images, of which each index has a signature and a referrer."""
    for image, size in small(writer, scale):
        writer.signature(image.repository, image.digest, image.repository)
        writer.referrer(image.repository, image.digest, image.repository)
        yield image, size


def huge(writer, scale):
    """One image with one layer of 4.2 GB."""
    yield writer.image("bench/huge", [[writer.layer("huge", 4_200_000_000 // scale)]])


def many(count):
    """So many tiny images of one platform."""

    def build(writer, scale):
        for image in range(count // scale):
            yield writer.image(f"bench/many-{image:04}", [[writer.layer(f"many-{image}", 1000)]])

    return build


def shared(writer, scale):
    """40 repositories on one base layer."""
    below = writer.layer("shared-base", 64 * MIB // scale)
    for image in range(40):
        yield writer.image(f"bench/shared-{image:02}", [[below, writer.layer(f"shared-{image}", 64 << 10)]])


def kill(writer, scale):
    """Like `base` but smaller, for runs that are repeated a hundred times; and one layer that is fetched in parts."""
    shared_base = [writer.layer(f"kill-base-{number}", 24 * MIB // scale) for number in range(3)]
    for image in range(4):
        layers = [
            [shared_base[number], writer.layer(f"kill-{image}-{number}", (28 - 8 * number) * MIB // scale)]
            for number in range(3)
        ]
        yield writer.image(f"bench/kill-{image}", layers)
    yield writer.image("bench/kill-large", [[writer.layer("kill-large", 200 * MIB // scale)]])


RECIPES = {
    "base": base,
    "small": small,
    "signed": signed,
    "huge": huge,
    "many-200": many(200),
    "many-2000": many(2000),
    "shared": shared,
    "kill": kill,
}


def make(work, name, scale=1):
    """Makes a corpus, or finds the one that was made before."""
    folder = work / "corpora" / f"{name}-{scale}-v{RECIPE}"
    summary = folder / "corpus.json"
    if not summary.exists():
        shutil.rmtree(folder, ignore_errors=True)
        storage = folder / "storage"
        storage.mkdir(parents=True)
        writer = Writer(storage)
        built = list(RECIPES[name](writer, scale))
        value = {
            "images": [vars(image) for image, _ in built],
            "manifest_bytes": sum(size for _, size in built),
        }
        # The summary is the commit point: a corpus without one is made again.
        temporary = summary.with_suffix(".tmp")
        temporary.write_text(json.dumps(value))
        os.replace(temporary, summary)
    value = json.loads(summary.read_text())
    images = [Image(**image) for image in value["images"]]
    blobs = {digest: size for image in images for digest, size in image.blobs.items()}
    corpus = Corpus(name, folder / "storage", images, blobs, value["manifest_bytes"])
    if name == "shared":
        common = set.intersection(*(set(image.blobs) for image in images))
        corpus.marks["base"] = max(common, key=blobs.get)
    return corpus


def warm(corpus):
    """Reads a corpus once, so that the first tool does not pay for a cold disk."""
    for digest in corpus.blobs:
        with open(corpus.data(digest), "rb") as file:
            while file.read(4 * MIB):
                pass
