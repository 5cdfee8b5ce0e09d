"""Results to and from JSON, as a table, and into the marked sections of the documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from bench.machine import Taken
from bench.stats import Figure, Report

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark's report and its circumstances."""

    taken: Taken
    report: Report


Results = Mapping[str, Result]
_results = TypeAdapter(dict[str, Result])


class NoMarks(ValueError):
    """A document has no marked section to rewrite."""


def load(path: Path) -> dict[str, Result]:
    """What an earlier run has written; nothing if there was none."""
    return _results.validate_json(path.read_bytes()) if path.exists() else {}


def save(path: Path, results: Results) -> None:
    """Write the results."""
    text = json.dumps({name: asdict(result) for name, result in results.items()}, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def plain(result: Result) -> str:
    """A table for a terminal."""
    rows = [(figure.name, f"{figure.value} {figure.unit}", figure.note) for figure in result.report.figures]
    wide = max(len(name) for name, _, _ in rows)
    value = max(len(text) for _, text, _ in rows)
    lines = [f"  {name:<{wide}}  {text:<{value}}  {note}".rstrip() for name, text, note in rows]
    return "\n".join(["", result.report.title, *lines, *(f"  · {note}" for note in result.report.notes)])


def markdown(results: Results, *, headlines_only: bool) -> str:
    """Tables of all benchmarks; without `headlines_only` also what ran and when, for each."""
    lines: list[str] = []
    if headlines_only:
        lines += ["| | median (lowest–highest) |", "|---|---|"]
    for result in results.values():
        report = result.report
        if headlines_only:
            lines += [f"| **{report.title}** | |"]
        else:
            lines += ["", f"### {report.title}", "", "| | median (lowest–highest) | |", "|---|---|---|"]
        lines += [_row(figure, headlines_only) for figure in report.figures if figure.headline or not headlines_only]
        if not headlines_only:
            lines += ["", *(f"- {note}" for note in report.notes), f"- {_taken(result.taken)}"]
    if headlines_only:
        lines += ["", *sorted({_taken(result.taken, shortly=True) for result in results.values()})]
    return "\n".join(lines).strip()


def _row(figure: Figure, headlines_only: bool) -> str:
    note = "" if headlines_only else f" {figure.note} |"
    return f"| {figure.name} | {figure.value} {figure.unit} |{note}"


def _taken(taken: Taken, *, shortly: bool = False) -> str:
    where = f"{taken.machine}, {taken.kernel}, {taken.python}, SQLite {taken.sqlite}"
    if shortly:
        return f"Taken on {taken.date.partition(' ')[0]}: {where}."
    scale = "" if taken.scale == "full" else f", scale: {taken.scale}"
    return f"taken {taken.date}, {where}, revision {taken.revision}, load {taken.load}, {taken.seconds:g} s{scale}"


def rewrite(document: Path, section: str) -> None:
    """Put a new text between the marks of a document. Raises NoMarks."""
    text = document.read_text(encoding="utf-8") if document.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoMarks(f"{document.name} has no section between {BEGIN} and {END}")
    document.write_text(f"{before}{BEGIN}\n{section}\n{END}{after}", encoding="utf-8")
