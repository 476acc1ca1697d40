"""`tests/bench/run pace`: the concurrency that docker-mirror finds by itself, against the best fixed `-j`.

Each scenario is a line: round trip, rate, limit. In each the fixed numbers are tried from 64 downwards, until they are much
slower than the best one; then the best ones and the automatic one run in turns. With `--peers` other tools go over the same
line.
"""

import statistics
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from . import corpus, table
from .measure import Failed, run
from .rounds import fresh, say
from .server import Server
from .slow_disk import SlowDisk
from .tools import PEERS, DockerMirror, Job

MIB = 1 << 20

FIXED = [64, 32, 16, 8, 4, 2, 1]

# Round trips before the first byte of a layer: a connection, the tag, its manifest, and the request itself.
START = 4

# Fixed numbers that are this much slower than the best one are out, and all smaller ones with them.
HOPELESS = 1.6


@dataclass
class Scenario:
    """A line and what goes over it."""

    name: str
    title: str
    corpus: str
    scale: int = 1
    server: dict = field(default_factory=dict)
    # before the program's command line
    prefix: tuple = ()
    # how many of the best fixed numbers run again
    finalists: int = 2
    # MB/s of the disk that holds the bundle, if it is a slow one
    disk: int = 0


SCENARIOS = [
    Scenario("loopback", "loopback, 1.2 GB in 6 images", "base", 4),
    Scenario("loopback-small", "loopback, 200 small images", "small"),
    Scenario("40ms", "40 ms, 200 small images", "small", server={"delay": 40}),
    Scenario("150ms", "150 ms, 200 small images", "small", server={"delay": 150}),
    Scenario("per-connection", "40 ms, 100 MB/s per connection, one layer", "huge", 2, {"delay": 40, "connection_rate": 100}),
    Scenario("slow-connections", "40 ms, 10 MB/s per connection, one layer", "huge", 10, {"delay": 40, "connection_rate": 10}),
    Scenario("in-all", "40 ms, 10 MB/s in all, 200 small images", "small", server={"delay": 40, "total_rate": 10}),
    Scenario("refusing", "40 ms, 429 beyond 8 requests, 200 small images", "small", server={"delay": 40, "refuse_above": 8}),
    Scenario("slow-disk", "a disk of 20 MB/s, 306 MB in 6 images", "base", 4, disk=20),
    Scenario("one-core", "one core, 200 small images", "small", prefix=("taskset", "-c", "0")),
]

NAMES = [scenario.name for scenario in SCENARIOS]

DIRECTIONS = ["export", "import", "one-step"]


class Line:
    """One scenario in one direction, with its servers."""

    def __init__(self, scenario, direction, options):
        self.scenario, self.direction, self.options = scenario, direction, options
        self.images = corpus.make(options.work, scenario.corpus, scenario.scale * options.scale)
        corpus.warm(self.images)
        self.refused = 0
        # the most requests at a time
        self.peak = 0

    @contextmanager
    def ready(self):
        """For one run: the servers, an empty folder, the words before a command line, and the disk if it is a slow one."""
        flags = self.scenario.server
        far = Server(self.images.storage, **(flags if self.direction != "import" else {}))
        disk = SlowDisk(self.options.work, self.scenario.disk) if self.scenario.disk else nullcontext()
        with far as source, Server(**(flags if self.direction != "export" else {})) as sink, disk as slow:
            folder = fresh((slow.folder if slow else self.options.work / "run") / "pace")
            yield source, sink, folder, [*self.scenario.prefix, *(slow.prefix if slow else [])], slow

    def measure(self, jobs, words=()):
        """One run; `jobs` is a number or None, `words` are more flags."""
        more = ["--no-cache", *words] if jobs is None else ["--no-cache", "-j", jobs, *words]
        logs = self.options.work / "logs" / "pace"
        with self.ready() as (source, sink, folder, prefix, slow):
            program = [*prefix, DockerMirror().path()]
            references = self.images.references(source.host)
            if self.direction == "one-step":
                command = [*program, "-d", f"{sink.host}/mirror", *references, *more]
            elif self.direction == "export":
                command = [*program, "export", *references, "-o", folder / "bundle.tar", *more]
            else:
                bundle = self.options.work / f"{self.scenario.corpus}-{self.scenario.scale}.tar"
                if not bundle.exists():
                    run([[DockerMirror().path(), "export", *references, "-o", bundle]], folder, logs, self.options.timeout)
                bundle = slow.copy(bundle, "bundle.tar") if slow else bundle
                command = [*program, "import", bundle, "-d", f"{sink.host}/mirror", *more]
            result = run([command], folder, logs, self.options.timeout)
            counts = [source.counts(), sink.counts()]
            self.refused = max(count["refused"] for count in counts)
            self.peak = max(count["peak"] for count in counts)
        return result

    def used(self, result):
        """The share of the rate of all its connections that the last run used, after the start; `None` without such a rate."""
        flags = self.scenario.server
        if "connection_rate" not in flags:
            return None
        body = result.wall - START * flags["delay"] / 1000
        return self.images.size / (body * self.peak * flags["connection_rate"] * 1e6)

    def note(self, name, result):
        """Tells the time of the last run, and what it used of its connections."""
        used = self.used(result)
        more = "" if used is None else f", {self.peak} at a time, {used:.3f} of their rate"
        say(f"    {name}: {result.wall:.2f} s{more}")

    def measure_peer(self, tool):
        """One run of another tool over the same line; an import reads what the same tool exported."""
        logs, archive = self.options.work / "logs" / "pace", None
        if self.direction == "import":
            made = self.options.work / f"{tool.program}-{self.scenario.corpus}-{self.scenario.scale}"
            archive = made / "out"
            if not archive.exists():
                archive.mkdir(parents=True)
                with Server(self.images.storage) as source:
                    run(tool.export(Job(self.images, source.host, made)), made, logs, self.options.timeout)
        with self.ready() as (source, sink, folder, prefix, slow):
            if slow and archive:
                archive = slow.copy_tree(archive, "out")
            (folder / "out").mkdir()
            job = Job(self.images, sink.host if archive else source.host, folder, archive)
            if self.direction == "one-step":
                steps = tool.copy(job, sink.host)
            else:
                steps = tool.load(job) if archive else tool.export(job)
            return run([[*prefix, *step] for step in steps], folder, logs, self.options.timeout)

    def best_peer(self):
        """Name and seconds of the fastest peer; each runs once, since most take many times as long."""
        best = ("none", None)
        for tool in PEERS:
            if tool.path() is None:
                continue
            try:
                wall = self.measure_peer(tool).wall
            except Failed as error:
                say(f"    {tool.program}: {error}")
                continue
            say(f"    {tool.program}: {wall:.2f} s")
            if best[1] is None or wall < best[1]:
                best = (tool.program, wall)
        return best

    def row(self):
        """A line of the table: the best fixed number, the automatic one, their ratio."""
        best = {}
        for jobs in FIXED:
            try:
                best[jobs] = [self.measure(jobs)]
            except Failed as error:
                say(f"    -j {jobs}: {error}")
                continue
            self.note(f"-j {jobs}", best[jobs][0])
            if best[jobs][0].wall > HOPELESS * min(runs[0].wall for runs in best.values()):
                break
        finalists = sorted(best, key=lambda jobs: best[jobs][0].wall)[: self.scenario.finalists]
        chosen, refused, used = [], [], {None: [], **{jobs: [] for jobs in finalists}}
        for _ in range(self.options.rounds or 3):
            for jobs in finalists:
                best[jobs].append(self.measure(jobs))
                used[jobs].append(self.used(best[jobs][-1]))
                self.note(f"-j {jobs}", best[jobs][-1])
            chosen.append(self.measure(None))
            refused.append(self.refused)
            used[None].append(self.used(chosen[-1]))
            self.note("automatic", chosen[-1])
        medians = {jobs: statistics.median(result.wall for result in best[jobs][1:]) for jobs in finalists}
        jobs = min(medians, key=medians.get)
        wall = statistics.median(result.wall for result in chosen)
        return [
            f"{self.scenario.title}, {self.direction}",
            str(jobs),
            table.number(medians[jobs]),
            table.number(wall),
            table.number(wall / medians[jobs]),
            table.number(max(result.memory for result in chosen) / MIB, 1),
            table.number(statistics.median(result.cpu for result in chosen)),
            str(max(refused)),
            *("" if None in used[way] else table.number(statistics.median(used[way]), 3) for way in (jobs, None)),
            *(self.peer_cells(wall) if self.options.peers else []),
        ]

    def peer_cells(self, wall):
        """The columns about the fastest peer."""
        name, seconds = self.best_peer()
        return [name, table.number(seconds), table.number(wall / seconds)] if seconds else [name, "", ""]


def report(options):
    """The table of all scenarios."""
    heads = ["line", "best fixed `-j`", "its wall s", "automatic wall s", "ratio", "peak memory MiB", "CPU s", "refused"]
    heads += ["its share of the rate of its connections", "automatic's share"]
    heads += ["fastest peer", "its wall s", "automatic to it"] if options.peers else []
    rows = []
    for scenario in SCENARIOS:
        for direction in DIRECTIONS:
            wanted = options.scenarios
            if wanted and scenario.name not in wanted:
                continue
            if options.tools and direction not in options.tools:
                continue
            # The one-step mirror writes to no disk.
            if scenario.disk and direction == "one-step":
                continue
            say(f"pace, {scenario.title}, {direction}")
            rows.append(Line(scenario, direction, options).row())
            say("    " + " | ".join(rows[-1]))
    worst = max((float(row[4]) for row in rows), default=None)
    return "\n".join([table.table(heads, rows), "", table.goal("automatic to the best fixed number", worst, 1.15)])
