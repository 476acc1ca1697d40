"""`tests/bench/run kill`: SIGKILL at random moments, then the same command again."""

import filecmp
import random
import statistics
import subprocess
import time

from . import corpus, table
from .importing import check_tags
from .measure import Failed, environment, folder_size
from .partial import inspect, slots_of
from .registry import Registry, die_with_parent
from .rounds import fresh, say
from .tools import DockerMirror
from .watcher import Watcher

MIB = 1 << 20
# What may be fetched twice per slot that was open.
ALLOWANCE = 8 * MIB


def finish(command, folder, timeout):
    """Runs a command to its end; gives the seconds it took."""
    start = time.monotonic()
    done = subprocess.run(
        [str(word) for word in command],
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        preexec_fn=die_with_parent,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise Failed(f"exit code {done.returncode}: {' / '.join(said[-3:])[:400]}")
    return time.monotonic() - start


def kill_after(command, folder, seconds, timeout):
    """Starts a command and kills it after so many seconds; false if it had ended before."""
    process = subprocess.Popen(
        [str(word) for word in command],
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout)
        return True
    if process.returncode != 0:
        raise Failed(f"a run that was not killed ended with exit code {process.returncode}")
    return False


def fetched_since(source, since):
    """Bytes of blobs that a registry has sent since its log had this length."""
    source.settle()
    return sum(
        request.size
        for request in source.requests(since)
        if request.method == "GET" and request.about_blob and request.status in (200, 206)
    )


def spread(values, digits=1):
    """Least, median and most."""
    return " / ".join(f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))


def kill_exports(options):
    """Kills exports; returns the report and whether a promise was broken."""
    images = corpus.make(options.work, "kill", options.kill_scale)
    corpus.warm(images)
    tool = DockerMirror()
    chance = random.Random(options.seed)
    faults, again, left, excess, excess_recorded, whole = [], [], [], [], [], 0
    kills = late = 0
    with Registry(options.work / "source", images.storage, readonly=True) as source:
        folder = fresh(options.work / "kill")
        reference, output = folder / "reference.tar", folder / "bundle.tar"

        def command(target):
            return [tool.path(), "export", *images.references(source.host), "-o", target]

        times, beyond = [], []
        for _ in range(3):
            reference.unlink(missing_ok=True)
            since = source.settle()
            times.append(finish(command(reference), folder, options.timeout))
            beyond.append(fetched_since(source, since) - images.size)
        usual = statistics.median(times)
        slots = slots_of(reference)
        say(f"kill, export: undisturbed {usual:.2f} s")
        while kills < options.kills and late < 10 * options.kills:
            output.unlink(missing_ok=True)
            # Every fifth time the run after the kill is killed as well: what a resumed run leaves is resumed.
            wanted = 2 if kills % 5 == 4 else 1
            hit = 0
            while hit < wanted and kill_after(command(output), folder, chance.uniform(0, usual), options.timeout):
                hit += 1
                if output.exists():
                    # The rename is the commit point: a kill after it finds the whole bundle.
                    break
            if hit == 0 or output.exists():
                late += 1
                if output.exists() and not filecmp.cmp(output, reference, shallow=False):
                    faults.append("a killed run left a bundle under its final name that is not whole")
                for suffix in (".partial", ".partial.journal"):
                    output.with_name(output.name + suffix).unlink(missing_ok=True)
                continue
            kills += hit
            since = source.settle()
            found = inspect(output, reference, slots, images.blobs)
            try:
                finish(command(output), folder, options.timeout)
            except Failed as error:
                faults.append(f"kill {kills}: the next run failed: {error}")
                for suffix in ("", ".partial", ".partial.journal"):
                    output.with_name(output.name + suffix).unlink(missing_ok=True)
                continue
            fetched = fetched_since(source, since)
            again.append(fetched)
            left.append(found.absent)
            excess.append(fetched - found.absent)
            excess_recorded.append(fetched - found.unrecorded)
            if fetched > found.absent + ALLOWANCE * found.open_slots:
                faults.append(
                    f"kill {kills}: fetched {fetched} bytes where {found.absent} were absent and "
                    f"{found.open_slots} slots open"
                )
            if filecmp.cmp(output, reference, shallow=False):
                whole += 1
            else:
                faults.append(f"kill {kills}: the bundle differs from an undisturbed one")
            remains = [path.name for path in folder.glob("bundle.tar.*")]
            if remains:
                faults.append(f"kill {kills}: remains after the end: {remains}")
        if kills < options.kills:
            faults.append(f"only {kills} of {options.kills} kills came before the end of the run")
        size = reference.stat().st_size
        fresh(folder)
    if not again:
        return "\n".join(faults), True
    rows = [
        ["bundle, MiB", f"{size / MIB:,.1f}"],
        ["undisturbed run, s", f"{usual:.2f}"],
        ["fetched by an undisturbed run beyond the blobs, MiB", spread([value / MIB for value in beyond], 2)],
        ["kills (every fifth round twice)", str(kills)],
        ["kills that came after the end, repeated", str(late)],
        ["final bundles identical to an undisturbed one", f"{whole} of {len(again)}"],
        ["absent after the kill, MiB: least / median / most", spread([value / MIB for value in left])],
        ["fetched by the next run, MiB: least / median / most", spread([value / MIB for value in again])],
        ["fetched beyond what was absent, MiB", spread([value / MIB for value in excess], 2)],
        ["fetched beyond what the journal lacked, MiB", spread([value / MIB for value in excess_recorded], 2)],
    ]
    text = ["### Export, killed and started again", "", table.table(["", ""], rows), ""]
    text.append(
        "Absent are the blob bytes that differ from the finished bundle (in blocks of 4 KiB); fetched are the bodies "
        "of blob answers in the registry's access log, also of answers that the client cut short: what was on its way "
        "then counts. Allowed: what was absent plus 8 MiB per open slot."
    )
    text += ["", *verdict(faults)]
    return "\n".join(text), bool(faults)


def verdict(faults):
    """The last lines of a table."""
    if not faults:
        return ["- no promise broken"]
    return [f"- BROKEN: {fault}" for fault in faults[:20]] + [f"- {len(faults)} faults in all"]


def kill_imports(options):
    """Kills imports under the eyes of a watcher; returns the report and whether a promise was broken."""
    images = corpus.make(options.work, "kill", options.kill_scale)
    tool = DockerMirror()
    chance = random.Random(options.seed + 1)
    folder = fresh(options.work / "kill")
    bundle, storage = folder / "bundle.tar", options.work / "destination-storage"
    with Registry(options.work / "source", images.storage, readonly=True) as source:
        finish([tool.path(), "export", *images.references(source.host), "-o", bundle], folder, options.timeout)
    tags = [(f"mirror/{image.repository}", image.tag) for image in images.images]
    faults, durations = [], []
    kills = late = complete = looks = seen = 0

    def command(destination):
        return [tool.path(), "import", bundle, "-d", f"{destination.host}/mirror"]

    def undisturbed():
        fresh(storage)
        with Registry(options.work / "destination", storage) as destination:
            with Watcher(destination.host, tags):
                return finish(command(destination), folder, options.timeout)

    usual = statistics.median(undisturbed() for _ in range(3))
    say(f"kill, import: undisturbed {usual:.2f} s")
    while kills < options.kills and late < 10 * options.kills:
        fresh(storage)
        with Registry(options.work / "destination", storage) as destination:
            with Watcher(destination.host, tags) as watcher:
                wanted = 2 if kills % 5 == 4 else 1
                hit = 0
                while hit < wanted and kill_after(
                    command(destination), folder, chance.uniform(0, usual), options.timeout
                ):
                    hit += 1
                if hit == 0:
                    late += 1
                    continue
                kills += hit
                try:
                    durations.append(finish(command(destination), folder, options.timeout))
                    check_tags(destination, images)
                    watcher.over.set()
                    watcher.thread.join()
                    watcher.look()
                    whole = all(watcher.complete.get(tag) for tag in tags)
                except Failed as error:
                    faults.append(f"kill {kills}: {error}")
                    whole = False
            complete += whole
            looks += watcher.looks
            seen += watcher.seen
            faults += [f"kill {kills}: {fault}" for fault in watcher.faults]
    if kills < options.kills:
        faults.append(f"only {kills} of {options.kills} kills came before the end of the run")
    if seen == 0:
        faults.append("the watcher never saw a tag")
    size = folder_size(folder)
    fresh(folder)
    fresh(storage)
    if not durations:
        return "\n".join(faults), True
    rows = [
        ["bundle, MiB", f"{size / MIB:,.1f}"],
        ["undisturbed run, s", f"{usual:.2f}"],
        ["kills (every fifth round twice)", str(kills)],
        ["kills that came after the end, repeated", str(late)],
        ["destinations complete after the next run", f"{complete} of {len(durations)}"],
        ["next run, s: least / median / most", spread(durations, 2)],
        ["looks at a tag", f"{looks:,}"],
        ["of these, the tag was there and its tree was walked", f"{seen:,}"],
    ]
    text = ["### Import, killed and started again", "", table.table(["", ""], rows), "", *verdict(faults)]
    return "\n".join(text), bool(faults)


def report(options):
    """Both directions."""
    # About 510 MiB in layers of 12 to 28 MiB and one of 200; small enough to be repeated a hundred times.
    options.kill_scale = 4 if options.quick else 1
    parts, broken = [], False
    for name, part in [("export", kill_exports), ("import", kill_imports)]:
        if options.scenarios and name not in options.scenarios:
            continue
        try:
            text, bad = part(options)
        except Failed as error:
            text, bad = f"kill, {name}: {error}", True
        parts.append(text)
        broken |= bad
    return "\n\n".join(parts) + f"\n\nSeed {options.seed}.", broken
