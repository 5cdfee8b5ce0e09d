"""Score: what an inspection found against what a person would have mapped, and the table of it in docs/inspect.md.

    python -m tests.bridge.inspect_score

writes the table anew between its two marks.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from bridge.inspect.inspection import Inspection, inspect_database
from tests.bridge.inspect_schemas import SCHEMAS, Schema
from tests.bridge.inspect_writers import WRITERS

DOCS = Path(__file__).parents[2] / "docs" / "inspect.md"
BEGIN, END = "<!-- scores: python -m tests.bridge.inspect_score -->", "<!-- end of scores -->"
COLUMNS = {
    "tables": ("table",),
    "ids": ("id", "conversation_id"),
    "roles": ("role",),
    "contents": ("content", "status_message", "history", "artifacts"),
    "states": ("state",),
    "owners": ("owner", "confirm"),
    "rest": ("name", "timestamp"),
}


def lines_of(looked: Inspection) -> dict[str, str]:
    """`section.line` to SQL."""
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for draft in looked.drafts:
        counts[draft.kind] = counts.get(draft.kind, 0) + 1
        name = draft.kind if counts[draft.kind] == 1 else f"{draft.kind}[{counts[draft.kind]}]"
        found[f"{name}.table"] = draft.table.name
        found |= {f"{name}.{key}": choice.sql for key, choice in draft.lines.items()}
    return found


def values_of(looked: Inspection) -> dict[str, set[object]]:
    """The values that the samples have: what a role, a state, an owner comes out as."""
    values: dict[str, set[object]] = {"role": set(), "state": set(), "owner": set()}
    for tried in looked.trials:
        values["role" if tried.section.kind == "message" else "state"] |= tried.values
        values["owner"] |= tried.owners
    return values


def misses(schema: Schema, looked: Inspection) -> list[str]:
    """What was expected and not found."""
    lines, values = lines_of(looked), values_of(looked)
    missed: list[str] = []
    for name, wanted in schema.expected.items():
        if name == "note":
            continue
        if name == "confirm":
            owners = [draft.lines["owner"] for draft in looked.drafts if draft.kind != "conversations"]
            missed += [] if all(owner.confirm for owner in owners) else ["confirm: an owner was guessed"]
        elif name in values:
            fits = wanted in values[name] if wanted is not None else not values[name]
            missed += [] if fits else [f"{name}: {wanted!r} is not among {sorted(map(str, values[name]))}"]
        elif lines.get(name) != wanted:
            missed.append(f"{name}: {wanted!r} wanted, {lines.get(name)!r} found")
    return missed


def inspected(schema: Schema, folder: Path) -> Inspection:
    """The look at a schema's database, presets off."""
    return inspect_database(schema.build(folder / f"{schema.name}.db"), use_presets=False)


def row_of(schema: Schema, folder: Path) -> str:
    """One line of the table."""
    looked = inspected(schema, folder)
    missed = {miss.partition(":")[0].rpartition(".")[2] for miss in misses(schema, looked)}
    wanted = {name.rpartition(".")[2] for name in schema.expected}
    cells = []
    for names in COLUMNS.values():
        asked = [name for name in names if name in wanted]
        right = sum(name not in missed for name in asked)
        cells.append("-" if not asked else "yes" if right == len(asked) else f"{right} of {len(asked)}")
    if schema.expected.get("confirm"):
        cells[list(COLUMNS).index("owners")] += ", asks"
    verdict = "yes" if looked.is_certain else "no"
    return f"| {schema.name} | {' | '.join(cells)} | {verdict} |"


def table() -> str:
    """The whole table."""
    head = f"| schema | {' | '.join(COLUMNS)} | certain |\n|---|{'---|' * (len(COLUMNS) + 1)}"
    with tempfile.TemporaryDirectory() as folder:
        mapped = [schema for schema in (*WRITERS, *SCHEMAS) if "note" not in schema.expected]
        return "\n".join([head, *(row_of(schema, Path(folder)) for schema in mapped)])


def with_table(text: str) -> str:
    """A page with the table put in anew."""
    return re.sub(
        f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: f"{BEGIN}\n\n{table()}\n\n{END}", text, flags=re.DOTALL
    )


if __name__ == "__main__":
    DOCS.write_text(with_table(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
