"""Inspection: all that a look at a database tells, and whether its mapping is certain enough to be used unasked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bridge.inspect import owners, trial
from bridge.inspect.candidates import Candidate, candidates_of
from bridge.inspect.choice import NEEDED, Choice, Draft, is_certain
from bridge.inspect.presets import Preset, recognised
from bridge.inspect.propose import Found, propose
from bridge.inspect.toml import rendered
from bridge.inspect.trial import Trial
from bridge.mapping import Mapping, Messages, parse_mapping
from storage.errors import ConfigurationError, MappingMisfit
from storage.profile import Profile, capture_engine, opened, read_profile
from storage.survey import LastRun, last_run

MOST_UNOWNED = 0.2
"""More rows without an owner than that, and the mapping is not used unasked."""


@dataclass
class Inspection:
    """A database, the mapping proposed for it, and what it does."""

    profile: Profile
    preset: Preset | None
    drafts: list[Draft]
    trials: list[Trial]
    missing: list[str] = field(default_factory=list)
    """What could not be found, with the ways out."""
    notes: list[str] = field(default_factory=list)
    engine: str = ""
    """What will say where to look; empty when it was not asked for."""
    last_run: LastRun | None = None
    """How `serve` has found changes in this database, where its state file tells."""

    @property
    def is_certain(self) -> bool:
        """Whether `serve` may use the mapping without asking."""
        watched = [draft for draft in self.drafts if draft.kind != "conversations"]
        return (
            bool(watched)
            and all(is_certain(draft) for draft in watched)
            and all(trial.unowned_share <= MOST_UNOWNED and len(trial.bad) * 10 <= trial.read for trial in self.trials)
        )

    @property
    def doubts(self) -> list[str]:
        """The lines that are not certain."""
        return [
            f"[{draft.kind}] {key} ({choice.score:.0%}): {choice.reason}".replace("%)", " %)")
            for draft in self.drafts
            for key, choice in draft.lines.items()
            if key in NEEDED[draft.kind] and draft.kind != "conversations" and (choice.confirm or choice.score < 0.85)
        ]

    @property
    def text(self) -> str:
        """The mapping file."""
        heading = [f"Mapping for {self.profile.path.name}, as walcast inspect proposed it."]
        if self.preset is not None:
            heading.append(f"Preset {self.preset.name}: {self.preset.package} {self.preset.versions}.")
        heading += [f"Not found: {line}" for line in self.missing]
        return rendered(self.drafts, heading)

    def mapping(self) -> Mapping:
        """The mapping as `serve` takes it. Conversations whose owner is not certain are left out."""
        drafts = [draft for draft in self.drafts if draft.kind != "conversations" or is_certain(draft)]
        return parse_mapping(rendered(drafts, comments=False), "the mapping that was found")

    @property
    def samples(self) -> list[dict[str, object]]:
        """Three events, of different sections if there are several."""
        ranked = [(place, sample) for found in self.trials for place, sample in enumerate(found.samples)]
        return [sample for _, sample in sorted(ranked, key=lambda pair: pair[0])][:3]


def inspect_database(
    path: Path, *, use_presets: bool = True, with_engine: bool = True, state: Path | None = None
) -> Inspection:
    """Look at a database. Raises DatabaseUnusable, DatabaseAway; MappingMisfit when nothing in it fits.

    `state` is the state file of a `serve` that runs or ran on it, if there is one.
    """
    with opened(path) as connection:
        profile = read_profile(connection, path)
        preset = recognised(profile) if use_presets else None
        with_each = "each" in Messages.model_fields
        found = Found(_from_preset(profile, preset)) if preset else propose(profile, with_each=with_each)
        drafts, wrong = _fitted(connection, found.drafts)
        if not [draft for draft in drafts if draft.kind != "conversations"]:
            raise _nothing(profile, found)
        mapping = parse_mapping(rendered(drafts, comments=False), "the proposed mapping")
        trials = trial.try_out(connection, mapping)
    drafts = _with_trials(drafts, trials)
    looked = Inspection(
        profile, preset, drafts, trials, _missing(drafts, trials), [*wrong, *found.notes, *found.others]
    )
    looked.notes += list(preset.notes) if preset else []
    looked.notes += _about_tables(drafts)
    if with_engine:
        looked.engine = capture_engine(path)
        looked.notes += _about_engine(profile)
    looked.last_run = last_run(state) if state is not None else None
    return looked


def _fitted(connection: trial.Connection, drafts: Iterable[Draft]) -> tuple[list[Draft], list[str]]:
    fitting: list[Draft] = []
    wrong: list[str] = []
    for draft in drafts:
        mended, problems = trial.fitted(connection, draft)
        fitting.append(mended)
        wrong += problems
    return fitting, wrong


def _nothing(profile: Profile, found: Found) -> MappingMisfit:
    names = ", ".join(table.name for table in profile.tables[:20]) or "none"
    told = "".join(f"; {note}" for note in found.notes)
    return MappingMisfit(
        f"nothing in {profile.path} looks like messages or tasks; its tables are: {names}{told}",
        "write a mapping file by hand if one of them is, and give it with --map",
    )


def _with_trials(drafts: list[Draft], trials: list[Trial]) -> list[Draft]:
    watched = [draft for kind in ("messages", "tasks") for draft in drafts if draft.kind == kind]
    for draft, tried in zip(watched, trials, strict=True):
        draft.lines["owner"] = trial.told(draft.lines["owner"], tried)
        if tried.read and not tried.unowned:
            draft.lines |= {key: _borne_out(choice) for key, choice in draft.lines.items() if _is_from_preset(choice)}
    return drafts


def _is_from_preset(choice: Choice) -> bool:
    return choice.confirm and choice.reason.startswith("preset ")


def _borne_out(choice: Choice) -> Choice:
    return replace(choice, score=0.9, confirm=False, reason=f"{choice.reason}; every row looked at has one")


# -- presets


def _from_preset(profile: Profile, preset: Preset) -> list[Draft]:
    return [
        _draft(profile, preset, kind, dict(section))
        for kind in ("conversations", "messages", "tasks")
        for section in preset.sections.get(kind, ())
    ]


def _draft(profile: Profile, preset: Preset, kind: str, section: dict[str, str]) -> Draft:
    table = profile.table(section.pop("table"))
    assert table is not None, "a recognised preset names tables that are there"
    where = section.pop("where", None)
    lines = {
        key: Choice(sql, 0.8 if key in preset.confirm else 1.0, f"preset {preset.name}", confirm=key in preset.confirm)
        for key, sql in section.items()
    }
    group = lines.get("conversation_id", lines["id"])
    candidates = candidates_of(table)
    column = next((candidate for candidate in candidates if candidate.sql() == group.sql), None)
    if "owner" not in lines:
        lines["owner"] = _owner(profile, candidates, column)
    return Draft(kind, table, lines, 1.0, f"as {preset.package} writes it", [where] if where else [], column)


def _owner(profile: Profile, candidates: list[Candidate], group: Candidate | None) -> Choice:
    """The package stores no owner: only an id that holds one may be proposed."""
    if group is None:
        return owners.NO_OWNER
    found = [choice for choice in owners.owner(profile, group.table, [], group) if choice.confirm]
    return found[0] if found and candidates else owners.NO_OWNER


# -- what could not be found


def _missing(drafts: list[Draft], trials: list[Trial]) -> list[str]:
    lines: list[str] = []
    for draft in drafts:
        owner = draft.lines["owner"]
        if draft.kind != "conversations" and owner.score == 0:
            lines.append(
                f"an owner for [{draft.kind}]: none is in the data. One fixed owner for all is owner = \"'NAME'\"; "
                "an owner that stands in another table needs a sub-select; until then nobody gets these events"
            )
        elif draft.kind != "conversations" and owner.confirm and "OWNER" in owner.reason:
            lines.append(
                f"an owner column for [{draft.kind}]: the ids look as if they begin with one. Confirm the line that "
                f"takes "
                "it from there, or give one fixed owner: owner = \"'NAME'\""
            )
    if not any(draft.kind == "conversations" for draft in drafts):
        lines.append("a table of conversations; names and the list of conversations are not available")
    lines += [f"[{kind}]" for kind in ("messages", "tasks") if not any(draft.kind == kind for draft in drafts)]
    for tried in trials:
        if tried.bad:
            lines.append(f"{len(tried.bad)} of {tried.read} rows of [{tried.section.name}] fail: {tried.bad[0]}")
        if not tried.read:
            lines.append(f"rows in {tried.section.table} to try [{tried.section.name}] on")
    return list(dict.fromkeys(lines))


def _about_tables(drafts: list[Draft]) -> list[str]:
    plain = {draft.table.name for draft in drafts if not draft.table.has_rowid and draft.kind != "conversations"}
    return [
        f"{name} is WITHOUT ROWID: the engine for it is scan, a pass over the table after each commit"
        for name in sorted(plain)
    ]


def _about_engine(profile: Profile) -> list[str]:
    if profile.journal_mode == "wal":
        return []
    return [
        f"the journal mode is {profile.journal_mode}: a long read can make the writer wait. PRAGMA "
        f"journal_mode=WAL, run once by "
        "the writer, is kept in the file, lets both work undisturbed and makes changes cheaper to find"
    ]


def as_json(looked: Inspection) -> dict[str, object]:
    """The same for scripts."""
    roles = {draft.table.name: draft.kind for draft in looked.drafts}
    return {
        "database": str(looked.profile.path),
        "journal_mode": looked.profile.journal_mode,
        "engine": looked.engine,
        "last_run": asdict(looked.last_run) if looked.last_run is not None else None,
        "preset": looked.preset.name if looked.preset else None,
        "certain": looked.is_certain,
        "tables": [{"name": t.name, "rows": t.rows, "used_as": roles.get(t.name)} for t in looked.profile.tables],
        "sections": [_section_json(draft) for draft in looked.drafts],
        "missing": looked.missing,
        "notes": looked.notes,
        "samples": looked.samples,
        "mapping": looked.text,
    }


def _section_json(draft: Draft) -> dict[str, object]:
    lines = {
        key: {
            "value": choice.sql, "confidence": round(100 * choice.score), "reason": choice.reason,
            "confirm": choice.confirm,
        }
        for key, choice in draft.lines.items()
    }  # fmt: skip
    return {
        "section": draft.kind,
        "table": draft.table.name,
        "where": draft.condition,
        "confidence": round(100 * draft.score),
        "reason": draft.reason,
        "lines": lines,
    }


def save(looked: Inspection, target: Path) -> None:
    """Write the mapping file; what stood there stays beside it. Raises ConfigurationError."""
    try:
        if target.is_file() and target.stat().st_size:
            target.replace(target.with_name(target.name + ".bak"))
        target.write_text(looked.text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{target} cannot be written ({error.strerror})", "name another file") from error
