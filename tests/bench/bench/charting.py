"""`tests/bench/run chart`: which requests are in flight when, from the log that `-vv` writes.

Each request is a bar from its start to the head of its answer; the body that follows is not in the log. The picture is an
SVG file in the work folder; the report has the number of requests in flight over time, and the idle time.
"""

import heapq
import re
from dataclasses import dataclass
from datetime import datetime

from . import pacing, table
from .rounds import say

LINE = re.compile(r"^(\S+Z)\s+DEBUG ([<>!]) (?:(\d{3}) )?([A-Z]+) (\S+)")

# Kinds of requests: the first pattern that fits, and the colour of its bars.
KINDS = [
    ("manifest, HEAD", r"^HEAD \S*/manifests/", "#9ecae1"),
    ("manifest, GET", r"^GET \S*/manifests/", "#3182bd"),
    ("manifest, PUT", r"^PUT \S*/manifests/", "#756bb1"),
    ("upload", r"^(POST|PATCH|PUT) \S*/blobs/", "#e6550d"),
    ("blob, HEAD", r"^HEAD \S*/blobs/", "#a1d99b"),
    ("blob, GET", r"^GET \S*/blobs/", "#31a354"),
    ("other", r"", "#969696"),
]

SCENARIOS = ["40ms", "150ms"]
COLUMNS = 10


@dataclass
class Request:
    """One request, in seconds from the first one."""

    start: float
    end: float
    kind: int


def read(text):
    """The requests of a log, by their starts. An answer belongs to the oldest open request of its method and URL."""
    open_ones, requests, first = {}, [], None
    for line in text.splitlines():
        found = LINE.match(line)
        if not found:
            continue
        time, mark, _, method, url = found.groups()
        at = datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()
        first = at if first is None else first
        what = f"{method} {url.rstrip(':')}"
        if mark == ">":
            kind = next(number for number, (_, pattern, _) in enumerate(KINDS) if re.search(pattern, what))
            request = Request(at - first, at - first, kind)
            requests.append(request)
            open_ones.setdefault(what, []).append(request)
        elif open_ones.get(what):
            open_ones[what].pop(0).end = at - first
    return requests


def in_flight(requests, columns):
    """The mean number of requests in flight in each of `columns` equal parts of the run."""
    length = max((request.end for request in requests), default=0) / columns
    if not length:
        return [0.0] * columns
    overlap = [0.0] * columns
    for request in requests:
        for column in range(columns):
            begin, end = max(request.start, column * length), min(request.end, (column + 1) * length)
            overlap[column] += max(0.0, end - begin)
    return [time / length for time in overlap]


def longest_gap(requests):
    """The longest time in seconds without a request in flight."""
    gap, reached = 0.0, 0.0
    for request in sorted(requests, key=lambda request: request.start):
        gap = max(gap, request.start - reached)
        reached = max(reached, request.end)
    return gap


def svg(requests, title):
    """A Gantt chart: each request in the lowest line that is free when it starts."""
    length = max((request.end for request in requests), default=0) or 1.0
    free, used, bars = [], 0, []
    busy = []
    for request in requests:
        while busy and busy[0][0] <= request.start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, used = used, used + 1
        heapq.heappush(busy, (request.end, lane))
        left, width = request.start / length * 1000, max(0.3, (request.end - request.start) / length * 1000)
        bars.append(f'<rect x="{left:.1f}" y="{40 + lane * 4}" width="{width:.1f}" height="3" fill="{KINDS[request.kind][2]}"/>')
    legend = "".join(
        f'<text x="{10 + number * 140}" y="32" fill="{colour}">{name}</text>' for number, (name, _, colour) in enumerate(KINDS)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="1000" height="{60 + used * 4}" font-family="sans-serif" font-size="12">'
        f'<text x="10" y="14">{title}, {length:.2f} s, {len(requests)} requests</text>{legend}{"".join(bars)}</svg>\n'
    )


def report(options):
    """The table of all directions; pictures go to the work folder."""
    heads = ["line", "requests", "wall s", "longest time without a request ms"]
    heads += [f"in flight, tenth {number + 1}" for number in range(COLUMNS)]
    rows = []
    for scenario in pacing.SCENARIOS:
        if scenario.name not in (options.scenarios or SCENARIOS):
            continue
        for direction in pacing.DIRECTIONS:
            if options.tools and direction not in options.tools:
                continue
            say(f"chart, {scenario.title}, {direction}")
            line = pacing.Line(scenario, direction, options)
            result = line.measure(None, ["-vv"])
            requests = read((options.work / "logs/pace/err").read_text(errors="replace"))
            picture = options.folder / f"chart-{scenario.name}-{direction}.svg"
            picture.write_text(svg(requests, f"{scenario.title}, {direction}"))
            say(f"    {picture}")
            rows.append(
                [
                    f"{scenario.title}, {direction}",
                    f"{len(requests):,}",
                    table.number(result.wall),
                    table.number(longest_gap(requests) * 1000),
                    *(f"{mean:.0f}" for mean in in_flight(requests, COLUMNS)),
                ]
            )
    return table.table(heads, rows)
