"""A reader of bundles that was written from docs/bundle-format.md alone, and holds a bundle against every rule of that page
that can be seen in a file: `format_reader.py BUNDLE.tar`."""

import hashlib
import json
import sys


def members(file):
    long = None
    while True:
        header = file.read(512)
        assert len(header) == 512, "the archive is cut off"
        if header == bytes(512):
            assert file.read(512) == bytes(512) and file.read(1) == b"", "two zero blocks, and nothing behind them"
            return
        assert header[257:265] == b"ustar  \0"
        assert header[100:108] == b"0000644\0" and header[108:116] == header[116:124] == b"0000000\0"
        assert header[136:148] == b"00000000000\0"
        assert not any(header[157:257]) and not any(header[265:])
        size = int.from_bytes(header[128:136], "big") if header[124] == 0x80 else int(header[124:135], 8)
        assert header[148:156] == b"%07o\0" % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
        content = file.read(size)
        assert len(content) == size
        assert not any(file.read(-size % 512))
        name, kind = header[:100].rstrip(b"\0").decode(), header[156:157]
        if kind == b"L":
            assert name == "././@LongLink" and content[-1] == 0
            long = content[:-1].decode()
            continue
        assert kind == b"0"
        yield long or name, content
        long = None


def member_of(digest):
    return "blobs/" + digest.replace(":", "/")


def check(path):
    with open(path, "rb") as file:
        found = list(members(file))
    names, files = [name for name, _ in found], dict(found)
    assert len(files) == len(names), "each member is there once"
    assert files["oci-layout"] == b'{"imageLayoutVersion":"1.0.0"}'
    documents = [name for name in names if not name.startswith("blobs/")]
    wanted = ["oci-layout", "index.json", "manifest.json", "docker-mirror.json"]
    assert documents == names[: len(documents)] == [name for name in wanted if name in files]
    for name in documents[1:]:
        text = json.dumps(json.loads(files[name]), indent=2, ensure_ascii=False) + "\n"
        assert files[name] == text.encode(), name
    for name in names[len(documents) :]:
        _, algorithm, digest = name.split("/")
        assert hashlib.new(algorithm, files[name]).hexdigest() == digest, name

    def blob(digest):
        return files[member_of(digest)]

    index, record = json.loads(files["index.json"]), json.loads(files["docker-mirror.json"])
    assert list(index) == ["schemaVersion", "mediaType", "manifests"]
    assert record["indexChecksum"] == "sha256:" + hashlib.sha256(files["index.json"]).hexdigest()
    fields = files["docker-mirror.json"].rsplit(b",", 1)[0]
    assert list(record)[-1] == "checksum" and record["checksum"] == "sha256:" + hashlib.sha256(fields).hexdigest()
    assert record["formatVersion"] == 1 and len(record["images"]) == len(index["manifests"])
    manifests, configs, others, titles = set(), set(), set(), []
    for entry, image in zip(index["manifests"], record["images"]):
        assert list(entry)[:4] == ["mediaType", "digest", "size", "annotations"]
        assert list(entry["annotations"]) == ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
        (title,) = set(entry["annotations"].values())
        titles.append(title)
        roots = [image[key] for key in ("original", "filtered") if key in image]
        assert (len(roots) == 2) == (image["index"] != "whole"), title
        assert entry["digest"] == (roots[-1] if image["index"] == "filtered" else roots[0]), title
        assert entry["size"] == len(blob(entry["digest"])), title
        kept, dropped, left_out = ({e["digest"] for e in image.get(key, [])} for key in ("kept", "dropped", "leftOut"))
        seen = set()

        def walk(digest):
            manifests.add(digest)
            manifest = json.loads(blob(digest))
            for child in manifest.get("manifests", []):
                if child["digest"] in dropped:
                    assert member_of(child["digest"]) not in files
                    continue
                assert child["size"] == len(blob(child["digest"]))
                walk(child["digest"])
            if "manifests" not in manifest:
                seen.add(digest)
                configs.add(manifest["config"]["digest"])
                others.update(layer["digest"] for layer in manifest["layers"] if layer["digest"] not in left_out)

        for root in roots:
            walk(root)
        assert seen == kept, title
        if len(roots) == 2:
            original, filtered = (list({**json.loads(blob(root)), "manifests": 0}.items()) for root in roots)
            assert original == filtered, title
    assert titles == sorted(titles)
    for image in json.loads(files.get("manifest.json", b"[]")):
        assert list(image) == ["Config", "RepoTags", "Layers"] and set(image["RepoTags"]) <= set(titles)
        assert all(name in files for name in [image["Config"], *image["Layers"]])
    configs -= manifests
    others -= manifests | configs
    order = sorted(manifests) + sorted(configs) + sorted(others, key=lambda digest: (-len(blob(digest)), digest))
    assert names[len(documents) :] == [member_of(digest) for digest in order], "the order of the blobs"
    print(f"{len(titles)} images, {len(order)} blobs: every rule holds")


check(sys.argv[1])
