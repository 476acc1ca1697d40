"""`tests/bench/run export`: from a registry to files."""

import json
import shutil
import tarfile
from dataclasses import dataclass

from . import corpus, table
from .measure import Failed, folder_size, run
from .registry import Registry
from .rounds import Rounds, behind, fresh, say
from .tools import EXPORTERS, DockerMirror, DockerMirrorWithoutCache, DockerMirrorWithoutReferrers, Job

MIB = 1 << 20


@dataclass
class Scenario:
    """One table."""

    name: str
    title: str
    corpus: str
    rounds: int
    delay: int = 0
    limits: tuple = ()
    # goal for the bytes written to the bundle's size
    written: float = 1.01


# limits: (what, to which tool, at most)
SCENARIOS = [
    Scenario("base", "1.2 GB in 6 images of 2 to 4 platforms", "base", 5, 0, (("floor", 1.0), ("skopeo", 0.3))),
    Scenario("small", "200 small images of 3 platforms", "small", 3, written=1.02),
    Scenario("delayed", "200 small images of 3 platforms, behind 40 ms", "small", 2, 20, (("skopeo", 0.1),), 1.02),
    Scenario("huge", "One image with a layer of 4.2 GB", "huge", 3, 0, (("floor", 1.0),)),
]


def export_once(tool, source, job_corpus, host, options, name="export"):
    """One export by one tool, measured and checked; its output stays in `FOLDER/out`."""
    folder = fresh(options.work / "run" / name)
    (folder / "out").mkdir()
    job = Job(job_corpus, host, folder)
    tool.prepare(job)
    since = source.settle()
    result = run(tool.export(job), folder, options.work / "logs" / name, options.timeout)
    source.settle()
    requests = source.requests(since)
    result.requests = len(requests)
    result.blob_requests = sum(request.about_blob for request in requests)
    manifests = [request for request in requests if "/manifests/" in request.path and request.method == "GET"]
    result.pulls = len(manifests)
    size = folder_size(folder / "out")
    if size < job_corpus.size:
        raise Failed(f"wrote {size} bytes where the blobs alone have {job_corpus.size}")
    if isinstance(tool, DockerMirror):
        check_bundle(folder / "out/bundle.tar", job_corpus)
    return result


def check_bundle(bundle, job_corpus):
    """Whether the bundle names every image by its digest and holds every blob at its size."""
    with tarfile.open(bundle) as archive:
        members = {member.name: member.size for member in archive}
        index = json.load(archive.extractfile("index.json"))
    roots = {entry["digest"] for entry in index["manifests"]}
    if not roots >= {image.digest for image in job_corpus.images}:
        raise Failed("the bundle's index does not name the images of the source")
    for digest, size in job_corpus.blobs.items():
        if members.get("blobs/" + digest.replace(":", "/")) != size:
            raise Failed(f"the bundle has no blob {digest} of {size} bytes")


def scenario_table(scenario, options):
    """Runs one scenario and gives its part of the report."""
    say(f"export, {scenario.name}: {scenario.title}")
    images = corpus.make(options.work, scenario.corpus, options.scale)
    corpus.warm(images)
    # In a small bundle the cache of manifests and the journal weigh as much as the goals on what is written allow for.
    tools = [*EXPORTERS, DockerMirrorWithoutCache()] if scenario.name == "small" else EXPORTERS
    rounds = Rounds(tools, options.tools)
    bundle_size = 0
    registry = Registry(options.work / "source", images.storage, readonly=True)
    with registry as source, behind(source, scenario.delay) as host:

        def measure(tool, _):
            nonlocal bundle_size
            result = export_once(tool, source, images, host, options)
            if isinstance(tool, DockerMirror):
                bundle_size = (options.work / "run/export/out/bundle.tar").stat().st_size
            shutil.rmtree(options.work / "run")
            return result

        rounds.go(options.rounds or scenario.rounds, measure)
    floor = rounds.name_of("floor:")
    text = [f"### {scenario.title}", ""]
    text += [f"{len(images.images)} images, {len(images.blobs)} blobs, {images.size / MIB:,.0f} MiB.", ""]
    text += [table.results(rounds.runs, rounds.notes, floor), ""]
    ours = rounds.runs.get("docker-mirror")
    for program, limit in scenario.limits:
        value = table.ratio(rounds.runs, "docker-mirror", rounds.name_of(f"{program}"))
        text.append(table.goal(f"wall to {program}", value, limit))
    for words, name in [("", "docker-mirror"), (" without the cache of manifests", DockerMirrorWithoutCache.name)]:
        if mine := rounds.runs.get(name):
            written, disk = max(r.written for r in mine), max(r.disk for r in mine)
            text.append(table.goal(f"bytes written{words} to the bundle's size", written / bundle_size, scenario.written))
            text.append(table.goal(f"peak disk{words} to the bundle's size", disk / bundle_size, scenario.written))
    if ours:
        text.append(table.goal("peak memory", max(r.memory for r in ours) / MIB, 64, " MiB"))
    return "\n".join(text)


def memory_table(options):
    """Peak memory of docker-mirror alone with 200 and with 2,000 tiny images."""
    say("export, memory: 200 and 2,000 tiny images")
    rows, peaks, manifests = [], [], []
    tool = DockerMirror()
    if tool.path() is None:
        return ""
    for name in ["many-200", "many-2000"]:
        images = corpus.make(options.work, name, options.scale)
        with Registry(options.work / "source", images.storage, readonly=True) as source:
            result = export_once(tool, source, images, source.host, options)
            shutil.rmtree(options.work / "run")
        peaks.append(result.memory)
        manifests.append(images.manifest_bytes)
        rows.append(memory_row(images, result))
    return memory_text("Memory from 200 to 2,000 images", rows, peaks, manifests)


def memory_row(images, result):
    """One line on memory."""
    return [
        f"{len(images.images):,} images",
        table.number(images.manifest_bytes / MIB),
        table.number(result.memory / MIB, 1),
        table.number(result.wall),
        f"{result.requests:,}",
    ]


def memory_text(title, rows, peaks, manifests):
    """The table on memory and what it says."""
    heads = ["docker-mirror", "manifests MiB", "peak memory MiB", "wall s", "requests"]
    growth, more = peaks[1] - peaks[0], manifests[1] - manifests[0]
    return "\n".join(
        [
            f"### {title}",
            "",
            table.table(heads, rows),
            "",
            table.goal("peak memory", max(peaks) / MIB, 64, " MiB"),
            f"- growth of memory: {growth / MIB:.1f} MiB, where the manifests grow by {more / MIB:.1f} MiB "
            f"({growth / more:.1f} times)",
        ]
    )


def unchanged_table(options):
    """Requests of docker-mirror when it exports the same images again: Docker Hub counts each GET of a manifest as a pull."""
    say("export, unchanged: 200 small images, three times")
    tool = DockerMirror()
    if tool.path() is None:
        return ""
    images = corpus.make(options.work, "small", options.scale)
    folder = fresh(options.work / "run" / "unchanged")
    (folder / "out").mkdir()
    rows, pulls = [], []
    with Registry(options.work / "source", images.storage, readonly=True) as source:
        command = [tool.path(), "export", *images.references(source.host), "-o"]
        for words, more in [
            ("first export", ["out/first.tar"]),
            ("again", ["out/again.tar"]),
            ("again, with `--reuse`", ["out/reused.tar", "--reuse", "out/first.tar"]),
        ]:
            since = source.settle()
            result = run([[*command, *more]], folder, options.work / "logs" / "unchanged", options.timeout)
            source.settle()
            requests = source.requests(since)
            manifests = [request for request in requests if "/manifests/" in request.path]
            pulls.append(sum(request.method == "GET" for request in manifests))
            blobs = [request for request in requests if request.about_blob and request.method == "GET"]
            rows.append(
                [
                    words,
                    f"{pulls[-1]:,}",
                    f"{sum(request.method == 'HEAD' for request in manifests):,}",
                    f"{len(blobs):,}",
                    table.number(sum(request.size for request in blobs) / MIB),
                    table.number(result.wall),
                ]
            )
    check_bundle(folder / "out/reused.tar", images)
    same = {(folder / "out" / name).read_bytes() for name in ("first.tar", "again.tar", "reused.tar")}
    if len(same) != 1:
        raise Failed("the same images gave different bundles")
    shutil.rmtree(options.work / "run")
    heads = ["docker-mirror", "GET of manifests (pulls)", "HEAD of manifests", "GET of blobs", "fetched MiB", "wall s"]
    goals = [table.goal("pulls of an unchanged export", max(pulls[1:]), 0)]
    return "\n".join(["### 200 small images of 3 platforms, unchanged", "", table.table(heads, rows), "", *goals])


def referrers_table(name, options):
    """What looking for referrers costs: each image has four subjects, of which none or one has a signature and a referrer."""
    what = "each index signed in two ways" if name == "signed" else "none signed"
    say(f"export, referrers: 200 small images of 3 platforms behind 40 ms, {what}")
    images = corpus.make(options.work, name, options.scale)
    corpus.warm(images)
    rounds = Rounds([DockerMirror(), DockerMirrorWithoutReferrers()])
    with Registry(options.work / "source", images.storage, readonly=True) as source, behind(source, 20) as host:

        def measure(tool, _):
            result = export_once(tool, source, images, host, options)
            shutil.rmtree(options.work / "run")
            return result

        rounds.go(options.rounds or 3, measure)
    text = [f"### Referrers: 200 small images of 3 platforms behind 40 ms, {what}", ""]
    text += [table.results(rounds.runs, rounds.notes, DockerMirrorWithoutReferrers.name), ""]
    with_them, without = rounds.runs["docker-mirror"], rounds.runs[DockerMirrorWithoutReferrers.name]
    if with_them and without:
        # Of what has something: the signature, the list, and the one manifest in it; and these are subjects themselves.
        signed = len(images.images) if name == "signed" else 0
        subjects = 4 * len(images.images) + 2 * signed
        more = max(run.requests for run in with_them) - max(run.requests for run in without)
        blobs = max(run.blob_requests for run in with_them) - max(run.blob_requests for run in without)
        pulls = max(run.pulls for run in with_them) - max(run.pulls for run in without)
        ratio = table.ratio(rounds.runs, "docker-mirror", DockerMirrorWithoutReferrers.name)
        text.append(table.goal("wall to an export without referrers", ratio, 1.3))
        text.append(table.goal("more requests for each subject, without blobs", (more - blobs) / subjects, 5))
        if signed:
            text.append(table.goal("pulls for each manifest that is carried or lists them", pulls / (3 * signed), 1))
    return "\n".join(text)


def report(options):
    """All tables of the export side."""
    parts = [
        scenario_table(scenario, options)
        for scenario in SCENARIOS
        if not options.scenarios or scenario.name in options.scenarios
    ]
    if not options.scenarios or "memory" in options.scenarios:
        parts.append(memory_table(options))
    if not options.scenarios or "unchanged" in options.scenarios:
        parts.append(unchanged_table(options))
    if not options.scenarios or "referrers" in options.scenarios:
        parts += [referrers_table(name, options) for name in ("small", "signed")]
    return "\n\n".join(part for part in parts if part)
