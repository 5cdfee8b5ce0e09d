"""Report: inspections, findings and presets as they look in a terminal. The one place that knows rich."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bridge.inspect.choice import CERTAIN, Choice, Draft
from bridge.inspect.findings import Finding
from bridge.inspect.inspection import Inspection
from bridge.inspect.presets import Preset
from bridge.inspect.toml import ORDER
from storage.survey import DeadLetter, LastRun

MOST_TABLES = 12
SAMPLE_CHARACTERS = 600


def inspection(looked: Inspection) -> Group:
    """All that was found, the mapping in the middle and what to do next at the end."""
    parts: list[RenderableType] = [_head(looked), *(_section(draft) for draft in looked.drafts)]
    if looked.missing:
        parts += [_title("not found"), *(_point(line, "yellow") for line in looked.missing)]
    if looked.notes:
        parts += [_title("worth knowing"), *(_point(line) for line in looked.notes)]
    if looked.samples:
        parts += [_title("newest events through this mapping"), *map(_sample, looked.samples)]
    return Group(*parts, Text(""), _next(looked))


def _head(looked: Inspection) -> Text:
    profile = looked.profile
    used = {draft.table.name: draft.kind for draft in looked.drafts}
    shown = [f"{table.name} ({table.rows:,})" for table in profile.tables if table.name in used or table.rows]
    more = len(shown) - MOST_TABLES
    head = Text.assemble(
        (str(profile.path), "bold"), "\n",
        "journal mode  ", (profile.journal_mode, "bold"), f"; changes are found by {looked.engine or 'scan'}\n",
        *_last_run(looked.last_run),
        "tables (rows) ", ", ".join(shown[:MOST_TABLES]) or "none with rows", f" and {more} more" if more > 0 else "",
        "\n",
    )  # fmt: skip
    preset = looked.preset
    told = (
        f"{preset.name}: {preset.package} {preset.versions}"
        if preset
        else "none is for this schema; what follows is read from the data"
    )
    return head.append_text(Text.assemble("preset        ", (told, "bold green" if preset else "")))


def _last_run(run: LastRun | None) -> list[str]:
    if run is None:
        return []
    reasons = sorted(run.fallbacks.items(), key=lambda reason: -reason[1])
    told = ", ".join(f"{reason} {count:,}" for reason, count in reasons)
    return [f"last serve    by {run.engine}; fell back to a pass over the tables: {told or 'never'}\n"]


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _point(line: str, style: str = "") -> Padding:
    return Padding(Text(f"- {line}", style=style), (0, 0, 0, 2))


def _section(draft: Draft) -> Group:
    title = Text.assemble((f"\n[{draft.kind}]", "bold cyan"), f" {draft.reason} ({draft.score:.0%})")
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold", ratio=3)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(style="dim", overflow="fold", ratio=2)
    grid.add_row("table", Text(draft.table.name), "", "")
    if draft.condition is not None:
        grid.add_row("where", Text(draft.condition), "", "rows that are none of these are left out")
    for key in ORDER:
        if key in draft.lines:
            grid.add_row(key, Text(draft.lines[key].sql), _sure(draft.lines[key]), Text(draft.lines[key].reason))
    return Group(title, Padding(grid, (0, 0, 0, 2)))


def _sure(choice: Choice) -> Text:
    if choice.confirm:
        return Text(f"{choice.score:.0%} CONFIRM", style="bold yellow")
    return Text(f"{choice.score:.0%}", style="green" if choice.score >= CERTAIN else "yellow")


def _sample(sample: dict[str, object]) -> Padding:
    owners = ", ".join(map(str, sample["owners"])) if isinstance(sample["owners"], list) else ""
    body = json.dumps(sample["event"], ensure_ascii=False)
    shown = body if len(body) <= SAMPLE_CHARACTERS else f"{body[:SAMPLE_CHARACTERS]} ... ({len(body):,} characters)"
    to = Text.assemble("to ", (owners or "nobody", "bold"), "  ")
    return Padding(to.append(shown, style="dim"), (0, 0, 0, 2))


def _next(looked: Inspection) -> Text:
    path = looked.profile.path
    if looked.is_certain:
        return Text(f"certain enough: walcast serve --db {path} finds this mapping by itself", style="bold green")
    return Text(
        f"not certain: walcast inspect {path} --write mapping.toml, confirm what is marked, "
        f"then\n"
        f"             walcast check --db {path} --map mapping.toml",
        style="bold yellow",
    )


def listing(presets: Sequence[Preset]) -> Table:
    """The presets that there are."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("preset", "for", "sections", "owner"):
        grid.add_column(heading, overflow="fold")
    for preset in presets:
        sections = ", ".join(preset.sections)
        grid.add_row(
            preset.name,
            f"{preset.package} {preset.versions}",
            sections,
            "in the data" if preset.has_owner else "yours to say",
        )
    return grid


def findings(found: Sequence[Finding]) -> Group:
    """Each with its mend."""
    if not found:
        return Group(Text("clean: nothing found that would make serve misbehave", style="bold green"))
    parts = [
        Padding(
            Text.assemble(
                (finding.level, "bold red" if finding.level == "problem" else "bold"),
                f": {finding.what}\n  mend: {finding.mend}",
            ),
            0,
        )
        for finding in found
    ]
    count = sum(finding.level == "problem" for finding in found)
    return Group(*parts, Text(f"{count} problem{'s' if count != 1 else ''}, {len(found) - count} notes", style="bold"))


def letters(found: Sequence[DeadLetter]) -> Table:
    """Rows that could not be pushed."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("table", "rowid", "since", "reason"):
        grid.add_column(heading, overflow="fold")
    for letter in found:
        since = datetime.fromtimestamp(letter.at / 1000, UTC).isoformat(timespec="seconds")
        grid.add_row(letter.table, str(letter.rowid), since, Text(letter.reason))
    return grid
