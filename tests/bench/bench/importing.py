"""`tests/bench/run import`: from files to a registry that is fresh for each run."""

import shutil
import urllib.error
import urllib.request

from . import corpus, table
from .exporting import Scenario, export_once, memory_row, memory_text
from .measure import Failed, run
from .registry import Registry
from .rounds import Rounds, Storages, behind, fresh, say
from .server import Delayed
from .tools import IMPORTERS, DockerMirror, Floor, Job

MIB = 1 << 20
SECOND = "docker-mirror, the same bundle again"


SCENARIOS = [
    Scenario("base", "1.2 GB in 6 images of 2 to 4 platforms", "base", 5, 0, (("floor", 1.1), ("skopeo", 0.333))),
    Scenario("small", "200 small images of 3 platforms", "small", 3),
    Scenario("delayed", "200 small images of 3 platforms, behind 40 ms", "small", 2, 20),
    Scenario("huge", "One image with a layer of 4.2 GB", "huge", 3, 0, (("floor", 1.1),)),
]


def archives(rounds, images, options):
    """Lets every tool export the corpus once: what it wrote is what it imports. A tool that cannot is taken out."""
    found = {}
    with Registry(options.work / "source", images.storage, readonly=True) as source:
        for number, tool in enumerate(list(rounds.tools)):
            if isinstance(tool, Floor):
                found[tool.name] = images.storage
                continue
            try:
                export_once(tool, source, images, source.host, options, f"prepared/{number}")
                found[tool.name] = options.work / f"run/prepared/{number}/out"
            except Failed as error:
                rounds.fail(tool, f"its export: {error}")
    return found


def import_once(tool, destination, images, host, archive, options):
    """One import by one tool, measured and checked; also gives the requests."""
    folder = fresh(options.work / "run/import")
    job = Job(images, host, folder, archive)
    tool.prepare(job)
    since = destination.settle()
    result = run(tool.load(job), folder, options.work / "logs/import", options.timeout)
    destination.settle()
    requests = destination.requests(since)
    result.requests = len(requests)
    result.blob_requests = sum(request.about_blob for request in requests)
    if not isinstance(tool, Floor):
        check_tags(destination, images)
    return result, requests


def check_tags(destination, images):
    """Whether every tag is there with the digest that the source has."""
    for image in images.images:
        url = f"http://{destination.host}/v2/mirror/{image.repository}/manifests/{image.tag}"
        request = urllib.request.Request(url, method="HEAD", headers={"Accept": corpus.INDEX})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                digest = answer.headers["Docker-Content-Digest"]
        except urllib.error.HTTPError as error:
            digest = f"status {error.code}"
        if digest != image.digest:
            raise Failed(f"mirror/{image.repository}:{image.tag} is {digest} instead of {image.digest}")


def scenario_table(scenario, options):
    """Runs one scenario and gives its part of the report."""
    say(f"import, {scenario.name}: {scenario.title}")
    images = corpus.make(options.work, scenario.corpus, options.scale)
    rounds = Rounds(IMPORTERS, options.tools)
    sources = archives(rounds, images, options)
    again = []

    def measure(tool, _):
        registry = Registry(options.work / "destination", storages.new())
        with registry as destination, behind(destination, scenario.delay) as host:
            result, _ = import_once(tool, destination, images, host, sources[tool.name], options)
            if isinstance(tool, DockerMirror):
                second, _ = import_once(tool, destination, images, host, sources[tool.name], options)
                again.append(second)
        return result

    with Storages(options.work / "destination-storage", images.size) as storages:
        rounds.go(options.rounds or scenario.rounds, measure)
    shutil.rmtree(options.work / "run", ignore_errors=True)
    runs = {}
    for name, results in rounds.runs.items():
        runs[name] = results
        if name == "docker-mirror" and results:
            runs[SECOND] = again[: len(results)]
    floor = rounds.name_of("floor:")
    text = [f"### {scenario.title}", ""]
    text += [f"{len(images.images)} images, {len(images.blobs)} blobs, {images.size / MIB:,.0f} MiB.", ""]
    text += [table.results(runs, rounds.notes, floor), ""]
    for program, limit in scenario.limits:
        value = table.ratio(runs, "docker-mirror", rounds.name_of(program))
        text.append(table.goal(f"wall to {program}", value, limit))
    ours = runs.get("docker-mirror")
    if ours:
        if scenario.name == "base":
            text.append(table.goal("second import to the first", table.ratio(runs, SECOND, "docker-mirror"), 0.02))
        text.append(table.goal("blob requests of the second import", max(r.blob_requests for r in runs[SECOND]), 0))
        text.append(table.goal("peak memory", max(r.memory for r in ours) / MIB, 64, " MiB"))
        text.append(table.goal("temporary disk, peak", max(r.disk for r in ours) / MIB, 0, " MiB"))
    return "\n".join(text)


def shared_table(options):
    """How often a base layer that 40 repositories share is sent."""
    say("import, shared: a base layer in 40 repositories")
    images = corpus.make(options.work, "shared", options.scale)
    base = images.marks["base"]
    rounds = Rounds(IMPORTERS, options.tools)
    sources = archives(rounds, images, options)
    storage = options.work / "destination-storage"
    rows, sent_by_us = [], None
    for tool in list(rounds.tools):
        if isinstance(tool, Floor):
            continue
        fresh(storage)
        with Registry(options.work / "destination", storage) as destination, Delayed(destination.host, 0) as proxy:
            try:
                result, requests = import_once(tool, destination, images, proxy.host, sources[tool.name], options)
            except Failed as error:
                rounds.fail(tool, error)
                continue
            received = proxy.counts()["up"]
        # A query may carry the digest's colon as it is or escaped.
        about = [request for request in requests if base[7:] in request.path]
        uploads = sum(request.method == "PUT" and request.status == 201 for request in about)
        mounts = sum(request.method == "POST" and request.status == 201 for request in about)
        if isinstance(tool, DockerMirror):
            sent_by_us = uploads
        rows.append(
            [
                tool.name,
                str(uploads),
                str(mounts),
                table.number(received / MIB, 1),
                table.number(received / images.size),
                table.number(result.wall),
                f"{result.requests:,}",
            ]
        )
    shutil.rmtree(storage, ignore_errors=True)
    shutil.rmtree(options.work / "run", ignore_errors=True)
    heads = ["tool", "uploads of the base layer", "mounts", "bytes sent MiB", "to the blobs", "wall s", "requests"]
    text = [
        "### A base layer shared by 40 repositories",
        "",
        f"The base layer has {images.blobs[base] / MIB:,.1f} MiB, all blobs have {images.size / MIB:,.1f} MiB. "
        "One run each, through a counting proxy.",
        "",
        table.table(heads, rows),
        *(f"\n{name}: {why}." for name, why in rounds.notes.items()),
        "",
        table.goal("uploads of the base layer by docker-mirror", sent_by_us, 1),
    ]
    return "\n".join(text)


def memory_table(options):
    """Peak memory of docker-mirror alone with 200 and with 2,000 tiny images."""
    say("import, memory: 200 and 2,000 tiny images")
    rows, peaks, manifests = [], [], []
    tool = DockerMirror()
    if tool.path() is None:
        return ""
    storage = options.work / "destination-storage"
    for name in ["many-200", "many-2000"]:
        images = corpus.make(options.work, name, options.scale)
        with Registry(options.work / "source", images.storage, readonly=True) as source:
            export_once(tool, source, images, source.host, options, "prepared/0")
        fresh(storage)
        with Registry(options.work / "destination", storage) as destination:
            archive = options.work / "run/prepared/0/out"
            result, _ = import_once(tool, destination, images, destination.host, archive, options)
        peaks.append(result.memory)
        manifests.append(images.manifest_bytes)
        rows.append(memory_row(images, result))
        shutil.rmtree(options.work / "run")
    shutil.rmtree(storage, ignore_errors=True)
    return memory_text("Memory from 200 to 2,000 images", rows, peaks, manifests)


def report(options):
    """All tables of the import side."""
    parts = [
        scenario_table(scenario, options)
        for scenario in SCENARIOS
        if not options.scenarios or scenario.name in options.scenarios
    ]
    for name, part in [("shared", shared_table), ("memory", memory_table)]:
        if not options.scenarios or name in options.scenarios:
            parts.append(part(options))
    return "\n\n".join(part for part in parts if part)
