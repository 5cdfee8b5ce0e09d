"""`python -m bench`: run the benchmarks, print a table, keep the results, and write them into the documents."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import fanout, harm, idle, latency, memory, noticing, report, resume
from bench.lab import FULL, QUICK, TINY, Lab
from bench.machine import here
from bench.peer import REPO
from bench.proc import raise_descriptor_limit
from bench.report import Result
from bench.stats import Report

BENCHMARKS: dict[str, Callable[[Lab], Report]] = {
    "latency": latency.run,
    "noticing": noticing.run,
    "idle": idle.run,
    "fanout": fanout.run,
    "memory": memory.run,
    "harm": harm.run,
    "resume": resume.run,
}
RESULTS = REPO / "bench" / "results.json"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m bench", description="Measure walcast. See docs/benchmarks.md.")
    made.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=f"some of: {', '.join(BENCHMARKS)}")
    made.add_argument(
        "--quick", dest="scale", action="store_const", const=QUICK, help="a smoke test; figures mean little"
    )
    made.add_argument("--tiny", dest="scale", action="store_const", const=TINY, help="only see whether everything runs")
    made.add_argument("--output", type=Path, help="where results go; default: bench/results.json after a full run")
    made.add_argument("--folder", type=Path, help="where the databases are made (2 GB); default: a temporary folder")
    made.add_argument(
        "--write-readme", action="store_true", help="put the results into README.md and docs/benchmarks.md"
    )
    made.add_argument("--no-run", action="store_true", help="measure nothing; use the results that are there")
    made.set_defaults(scale=FULL)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 if a benchmark failed or a document has no place for the results."""
    options = parser().parse_args(arguments)
    output = options.output or (RESULTS if options.scale is FULL else None)
    results = report.load(output) if output else {}
    failed: list[str] = []
    if not options.no_run:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the processes and removes the databases
        raise_descriptor_limit()
        with tempfile.TemporaryDirectory(prefix="walcast-bench-", dir=options.folder) as folder:
            lab = Lab(Path(folder), options.scale)
            failed = run(lab, options.only or list(BENCHMARKS), results, output)
    results = {name: results[name] for name in BENCHMARKS if name in results}
    for result in results.values():
        print(report.plain(result))
    if options.write_readme:
        failed += write_documents(results)
    return 1 if failed else 0


def write_documents(results: report.Results) -> list[str]:
    """Put the results into the documents; returns those that have no place for them."""
    failed = []
    for name, is_short in (("docs/benchmarks.md", False), ("README.md", True)):
        try:
            report.rewrite(REPO / name, report.markdown(results, headlines_only=is_short))
        except report.NoMarks as error:
            print(f"bench: {error}", file=sys.stderr)
            failed.append(name)
    return failed


def run(lab: Lab, names: Sequence[str], results: dict[str, Result], output: Path | None) -> list[str]:
    """Run some benchmarks into `results`, saved after each; returns the names of those that failed."""
    failed = []
    for name in names:
        began, load = time.monotonic(), os.getloadavg()[0]
        try:
            found = BENCHMARKS[name](lab)
        except (RuntimeError, OSError) as error:
            print(f"bench: {name} failed: {error}", file=sys.stderr)
            failed.append(name)
            continue
        results[name] = Result(here(lab.scale.name, time.monotonic() - began, load), found)
        if output is not None:
            report.save(output, results)
    return failed


if __name__ == "__main__":
    sys.exit(main())
