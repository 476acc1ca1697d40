"""The command line: what to measure, and the report on stdout."""

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from . import auditing, charting, exporting, importing, interrupting, killing, pacing, starting
from .measure import Failed, file_system
from .tools import EXPORTERS, DockerMirror

# The layer of 4.2 GB once per tool, unpacked once more, and in the destination; and the corpora.
NEEDED_DISK = 45 << 30

ESSENTIAL = ["docker-registry", "curl", "openssl", "time", "bash"]


def arguments():
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="tests/bench/run",
        description="Measures docker-mirror against its peers and a floor; prints Markdown for docs/benchmarks.md.",
    )
    parser.add_argument("what", nargs="?", choices=["export", "import", "pace", "chart", "audit", "kill", "interrupt", "start", "check", "all"], default="all")
    parser.add_argument("--quick", action="store_true", help="everything about 50 times smaller: a smoke test")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds per table (default: 2 to 5, by table)")
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        dest="scenarios",
        choices=["base", "small", "delayed", "huge", "shared", "memory", "unchanged", "referrers", "export", "import", "verify", "inspect", "want", *pacing.NAMES],
        metavar="NAME",
        help=f"only this table (repeatable); for kill: export or import; for pace: {', '.join(pacing.NAMES)}",
    )
    parser.add_argument(
        "--tool",
        action="append",
        default=[],
        dest="tools",
        metavar="WORD",
        help="only tools with this in their name (repeatable); for pace and chart: export, import or one-step",
    )
    parser.add_argument("--peers", action="store_true", help="for pace: the other tools over the same lines, once each")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="kills per direction (default 50)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="for the moments of the kills (default 1)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="corpora and runs (default: target/bench)")
    parser.add_argument("--timeout", type=int, default=1800, metavar="S", help="for one run of one tool (default 1800)")
    parser.add_argument("--project", type=Path, default=Path.cwd(), help=argparse.SUPPRESS)
    return parser.parse_args()


def processor():
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def memory():
    """The machine's memory in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


def first_line(*command):
    """What a program says first."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[:1] or ["unknown"]


def head(options):
    """What the numbers were made with."""
    versions = [tool.version() for tool in EXPORTERS[:-1] if tool.path()]
    registry = first_line("docker-registry", "--version")[0].split()[-1]
    words = [word for word in sys.argv[1:] if word != "--project" and word != str(options.project)]
    kind = file_system(options.folder)
    lines = [
        f"Made with `tests/bench/run {' '.join(words)}`:",
        "",
        f"- {os.cpu_count()} processors ({processor()}), {memory():.0f} GiB of memory, "
        f"Linux {platform.release()}, {kind}",
        f"- docker-registry {registry}, {', '.join(versions)}",
    ]
    if kind in ("tmpfs", "ramfs"):
        lines.append("- the work folder is in memory: bytes written to it are not counted by the kernel")
    if os.getloadavg()[0] > 1:
        lines.append(f"- the machine was busy at the start: load {os.getloadavg()[0]:.1f}")
    if options.quick:
        lines.append("- `--quick`: a smoke test, its numbers say nothing about speed")
    return "\n".join(lines)


def terminate(*_):
    """Turns a signal into an orderly end: every `with` stops what it started."""
    sys.exit(143)


def main():
    """Returns the exit code: 1 when something promised was broken, not when something was slow."""
    options = arguments()
    if options.what == "check":
        import unittest

        from . import checks

        suite = unittest.defaultTestLoader.loadTestsFromModule(checks)
        return 0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1
    signal.signal(signal.SIGTERM, terminate)
    missing = [program for program in ESSENTIAL if shutil.which(program) is None]
    if missing:
        print(f"missing: {', '.join(missing)}", file=sys.stderr)
        return 1
    if DockerMirror().path() is None:
        print("DOCKER_MIRROR does not name a program: docker-mirror is left out", file=sys.stderr)
    options.scale = 50 if options.quick else 1
    options.folder = options.work or options.project / "target/bench"
    options.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(options.folder).free
    if not options.quick and free < NEEDED_DISK:
        print(f"only {free >> 30} GiB are free in {options.folder}: everything needs 45, see --work", file=sys.stderr)
    print(head(options), flush=True)
    broken = False
    # Corpora are kept in the work folder; what a run makes is in a folder of its own, which goes with it.
    with tempfile.TemporaryDirectory(prefix="run-", dir=options.folder) as folder:
        options.work = Path(folder).resolve()
        (options.work / "corpora").symlink_to(options.folder.resolve() / "corpora")
        (options.folder / "corpora").mkdir(exist_ok=True)
        try:
            if options.what in ("export", "all"):
                print("\n## Export\n\n" + exporting.report(options), flush=True)
            if options.what in ("import", "all"):
                print("\n## Import\n\n" + importing.report(options), flush=True)
            if options.what in ("pace", "all"):
                print("\n## Concurrency\n\n" + pacing.report(options), flush=True)
            if options.what in ("chart", "all"):
                print("\n## Requests over time\n\n" + charting.report(options), flush=True)
            if options.what in ("audit", "all"):
                print("\n## Audit\n\n" + auditing.report(options), flush=True)
            if options.what in ("kill", "all"):
                text, broken = killing.report(options)
                print("\n## Kills\n\n" + text, flush=True)
            if options.what in ("interrupt", "all"):
                print("\n## Interrupts\n\n" + interrupting.report(options), flush=True)
            if options.what in ("start", "all"):
                print("\n## Start, help and logs\n\n" + starting.report(options), flush=True)
        except Failed as error:
            print(f"docker-mirror: {error}", file=sys.stderr)
            return 1
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
