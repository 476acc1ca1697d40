"""`tests/bench/run pace`: the concurrency that docker-mirror finds by itself, against the best fixed `-j`.

Each scenario is a line: round trip, rate, limit. In each the fixed numbers are tried from 64 downwards, until they are much
slower than the best one; then the best ones and the automatic one run in turns.
"""

import statistics
from dataclasses import dataclass, field

from . import corpus, table
from .measure import Failed, run
from .rounds import fresh, say
from .server import Server
from .tools import DockerMirror

MIB = 1 << 20

FIXED = [64, 32, 16, 8, 4, 2, 1]

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


SCENARIOS = [
    Scenario("loopback", "loopback, 1.2 GB in 6 images", "base", 4),
    Scenario("loopback-small", "loopback, 200 small images", "small"),
    Scenario("40ms", "40 ms, 200 small images", "small", server={"delay": 40}),
    Scenario("150ms", "150 ms, 200 small images", "small", server={"delay": 150}),
    Scenario("per-connection", "40 ms, 100 MB/s per connection, one layer", "huge", 2, {"delay": 40, "connection_rate": 100}),
    Scenario("in-all", "40 ms, 10 MB/s in all, 200 small images", "small", server={"delay": 40, "total_rate": 10}),
    Scenario("refusing", "40 ms, 429 beyond 8 requests, 200 small images", "small", server={"delay": 40, "refuse_above": 8}),
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

    def measure(self, jobs, words=()):
        """One run; `jobs` is a number or None, `words` are more flags."""
        flags = self.scenario.server
        folder = fresh(self.options.work / "run" / "pace")
        program = [*self.scenario.prefix, DockerMirror().path()]
        more = ["--no-cache", *words] if jobs is None else ["--no-cache", "-j", jobs, *words]
        logs = self.options.work / "logs" / "pace"
        far = Server(self.images.storage, **(flags if self.direction != "import" else {}))
        with far as source, Server(**(flags if self.direction != "export" else {})) as sink:
            references = self.images.references(source.host)
            if self.direction == "one-step":
                command = [*program, "-d", f"{sink.host}/mirror", *references, *more]
            elif self.direction == "export":
                command = [*program, "export", *references, "-o", folder / "bundle.tar", *more]
            else:
                bundle = self.options.work / f"{self.scenario.corpus}-{self.scenario.scale}.tar"
                if not bundle.exists():
                    run([[DockerMirror().path(), "export", *references, "-o", bundle]], folder, logs, self.options.timeout)
                command = [*program, "import", bundle, "-d", f"{sink.host}/mirror", *more]
            result = run([command], folder, logs, self.options.timeout)
            self.refused = max(source.counts()["refused"], sink.counts()["refused"])
        return result

    def row(self):
        """A line of the table: the best fixed number, the automatic one, their ratio."""
        best = {}
        for jobs in FIXED:
            try:
                best[jobs] = [self.measure(jobs)]
            except Failed as error:
                say(f"    -j {jobs}: {error}")
                continue
            say(f"    -j {jobs}: {best[jobs][0].wall:.2f} s")
            if best[jobs][0].wall > HOPELESS * min(runs[0].wall for runs in best.values()):
                break
        finalists = sorted(best, key=lambda jobs: best[jobs][0].wall)[: self.scenario.finalists]
        chosen, refused = [], []
        for _ in range(self.options.rounds or 3):
            for jobs in finalists:
                best[jobs].append(self.measure(jobs))
            chosen.append(self.measure(None))
            refused.append(self.refused)
            say(f"    automatic: {chosen[-1].wall:.2f} s")
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
        ]


def report(options):
    """The table of all scenarios."""
    heads = ["line", "best fixed `-j`", "its wall s", "automatic wall s", "ratio", "peak memory MiB", "CPU s", "refused"]
    rows = []
    for scenario in SCENARIOS:
        for direction in DIRECTIONS:
            wanted = options.scenarios
            if wanted and scenario.name not in wanted:
                continue
            if options.tools and direction not in options.tools:
                continue
            say(f"pace, {scenario.title}, {direction}")
            rows.append(Line(scenario, direction, options).row())
            say("    " + " | ".join(rows[-1]))
    worst = max((float(row[4]) for row in rows), default=None)
    return "\n".join([table.table(heads, rows), "", table.goal("automatic to the best fixed number", worst, 1.15)])
