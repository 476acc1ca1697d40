"""Markdown for docs/benchmarks.md."""

import statistics

from .measure import median

MIB = 1 << 20


def number(value, digits=2):
    """A number that people read: three significant digits, more where the whole part has them."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.{digits}f}"


def table(heads, rows):
    """A Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def ratio(runs, tool, other):
    """The median of the ratios of wall time, round by round: what slows a whole round down cancels out."""
    pairs = [
        mine.wall / theirs.wall
        for mine, theirs in zip(runs.get(tool, []), runs.get(other, []), strict=False)
        if theirs.wall
    ]
    return statistics.median(pairs) if pairs else None


def results(runs, notes, floor):
    """The table of one scenario. `runs` is tool -> results, `notes` is tool -> why it has none."""
    heads = ["tool", "wall s", "min to max", "to floor", "CPU s", "peak memory MiB"]
    heads += ["written MiB", "peak disk MiB", "requests"]
    rows = []
    for tool, measured in runs.items():
        if not measured:
            continue
        walls = [result.wall for result in measured]
        to_floor = ratio(runs, tool, floor)
        rows.append(
            [
                tool,
                number(median(measured, "wall")),
                f"{number(min(walls))} to {number(max(walls))}",
                number(to_floor) if to_floor is not None else "",
                number(median(measured, "cpu")),
                number(median(measured, "memory") / MIB, 1),
                number(median(measured, "written") / MIB, 1),
                number(median(measured, "disk") / MIB, 1),
                f"{median(measured, 'requests'):,.0f}",
            ]
        )
    text = table(heads, rows)
    for tool, why in notes.items():
        text += f"\n\n{tool}: {why}."
    return text


def goal(words, value, limit, unit=""):
    """One line on a number that was promised."""
    if value is None:
        return f"- {words}: not measured"
    verdict = "reached" if value <= limit else "NOT reached"
    shown = f"{value:g}" if float(value).is_integer() else number(value, 3)
    return f"- {words}: {shown}{unit}, goal at most {limit:g}{unit}: {verdict}"
