"""Preflight: everything that would make `serve` misbehave with a database and a mapping, each with its mend."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bridge.decide import decide
from bridge.discover import mapping_for
from bridge.inspect.fields import percent
from bridge.inspect.findings import Finding, about_columns, note, problem
from bridge.inspect.trial import newest
from bridge.mapping import Mapping
from bridge.wallet import BadCredential, wallet_key
from storage.elements import reader_for
from storage.errors import ConfigurationError, MappingMisfit, WalcastError
from storage.files import is_mounted_alone, real_path
from storage.profile import Profile, opened, read_profile
from storage.reader import SectionReader
from storage.survey import ids_of, is_indexed
from storage.types import Change, Op, Row, Section

CHECKED_ROWS = 20_000
MOST_UNOWNED = 0.2
HUGE_BYTES = 1 << 20
REMOTE = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "davfs",
        "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.davfs", "fuse.juicefs", "fuse.gcsfuse",
    }
)  # fmt: skip
SHARED = frozenset({"9p", "virtiofs", "vboxsf", "fuse.vmhgfs-fuse", "drvfs", "fuse.grpcfuse", "fakeowner"})
"""Folders of a host inside its guest: locks mostly work, file events often do not."""


def preflight(
    database: Path, given: Path | None, state: Path, *, outbox_bytes: int, owner_format: str
) -> list[Finding]:
    """All findings, the problems first. Never raises for what it is there to find."""
    found = [*_about_file(database, state)]
    try:
        mapping = mapping_for(database, given, wait=False)
    except ConfigurationError as error:
        return [problem(error.args[0], error.hint), *found]
    except WalcastError as error:
        found.append(problem(error.args[0], error.hint))
        mapping = None
    try:
        with opened(database) as connection:
            profile = read_profile(connection, database)
            found += _about_mode(profile, database)
            for section in mapping.sections if mapping else ():
                found += _about_section(connection, section, outbox_bytes, owner_format)
            for section in (*mapping.children, *mapping.others) if mapping else ():
                found += _about_fit(connection, section)
            found += _about_children(connection, mapping) if mapping else []
            found += about_columns(profile, mapping) if mapping else []
    except WalcastError as error:
        found.append(problem(error.args[0], error.hint))
    return sorted(dict.fromkeys(found), key=lambda finding: finding.level != "problem")


# -- the file


def _about_file(database: Path, state: Path) -> Iterator[Finding]:
    if database.exists() and not os.access(database, os.R_OK):
        yield problem(f"{database} cannot be read by this user", "give walcast's user the right to read it")
    system = file_system(database)
    if system in REMOTE:
        yield problem(
            f"{database} lies on a network file system ({system}): its locks and memory maps are not to be trusted "
            f"and no "
            "file events come from other machines",
            "run walcast on the machine that holds the file, or keep the file on a local disk",
        )
    elif system in SHARED:
        yield note(
            f"{database} lies on a shared folder ({system}): file events may not come",
            "run beside the writer; polling works",
        )
    folder = state.absolute().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        yield problem(
            f"the folder of the state file, {folder}, cannot be written", "give --state FILE in a writable folder"
        )


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The kind of file system a file lies on; empty where the system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place = str(path.absolute().resolve())
    best, kind = "", ""
    for line in lines:
        parts = line.split()
        if len(parts) < 3:
            continue
        mount = parts[1].replace("\\040", " ")
        is_above = place == mount or place.startswith(mount.rstrip("/") + "/")
        if is_above and len(mount) >= len(best):
            best, kind = mount, parts[2]
    return kind


def _about_mode(profile: Profile, database: Path) -> Iterator[Finding]:
    folder = real_path(database).absolute().parent
    if profile.journal_mode == "wal":
        if not os.access(folder, os.W_OK | os.X_OK):
            yield problem(
                f"the folder {folder} cannot be written: in WAL mode a reader needs -wal and -shm there, and the "
                f"writer may "
                "take them away at any time",
                "give walcast's user the right to write in the folder",
            )
        return
    if is_mounted_alone(database):
        yield problem(
            f"{database} was mounted alone, without its folder: journals are out of sight, so each commit makes for a "
            "pass over the tables, and what a crashed writer left half done is taken for data",
            "mount the folder it lies in",
        )
    yield note(
        f"the journal mode is {profile.journal_mode}: readers and the writer can be in each other's way",
        "let the writer run PRAGMA journal_mode=WAL once",
    )


# -- the mapping


def _about_section(connection: object, section: Section, outbox_bytes: int, owner_format: str) -> Iterator[Finding]:
    try:
        reader = reader_for(connection, section)  # type: ignore[arg-type]
    except MappingMisfit as error:
        yield problem(error.args[0], error.hint or "mend the mapping")
        return
    name = f"[{section.name}] ({section.table})"
    yield from _about_ids(connection, reader.section, name)
    rows, bad = _rows(reader)
    if bad:
        reason, count = Counter(bad.values()).most_common(1)[0]
        examples = ", ".join(str(loc) for loc, why in bad.items() if why == reason)[:60]
        yield problem(
            f"{name}: the expressions fail for {len(bad)} of {len(rows) + len(bad)} rows, {count} of them with: "
            f"{reason} "
            f"(rowid {examples})",
            "guard the expression, as CASE WHEN json_valid(x) THEN json_extract(x, '$.y') END, or leave the rows "
            "out with where",
        )
    yield from _about_rows(section, name, rows, outbox_bytes, owner_format)
    identifier = section.fields[0][1].strip()
    if identifier.isidentifier() and not reader.has_unique_id and section.each is None:
        yield note(
            f"{name}: no key: nothing in the database keeps {identifier} from standing twice",
            "map the key of the table if it has one; of two messages with one id only one is pushed",
        )
    if reader.rowid is None:
        yield note(f"{name}: the table is WITHOUT ROWID", "each commit costs a pass over it; small tables do not mind")


def _about_fit(connection: object, section: Section) -> Iterator[Finding]:
    try:
        reader = SectionReader(connection, section)  # type: ignore[arg-type]
    except MappingMisfit as error:
        yield problem(error.args[0], error.hint or "mend the mapping")
        return
    if section.kind == "child" and reader.rowid is None:
        yield note(
            f"{section.title}: the table is WITHOUT ROWID", "each commit costs a pass over it; small tables do not mind"
        )


def _about_children(connection: object, mapping: Mapping) -> Iterator[Finding]:
    for child in mapping.children:
        key, expression = child.fields[0]
        if not is_indexed(connection, child.table, expression):  # type: ignore[arg-type]
            yield note(
                f"{child.title}: no index on {expression}: each look at a row that depends on it may read all of it",
                f"an index on {child.table}({expression}) helps walcast, and most likely the writer too",
            )
        for number, field in child.feeds:
            parent = mapping.sections[number]
            if not is_indexed(connection, parent.table, dict(parent.fields)[field]):  # type: ignore[arg-type]
                yield note(
                    f"{child.title}: no index on {field} of {parent.table}: a {key} that walcast has not seen yet "
                    f"costs a pass over {parent.table}",
                    f"an index on {parent.table}({dict(parent.fields)[field]}) helps; small tables do not mind",
                )


def _rows(reader: SectionReader) -> tuple[list[Row], dict[int, str]]:
    """The newest rows, and from the start as many again."""
    rows: dict[tuple[int, bytes], Row] = {}
    bad: dict[int, str] = {}
    for chunk in (newest(reader, CHECKED_ROWS // 2), reader.chunk(None, CHECKED_ROWS // 2)):
        rows |= {(row.loc, row.key): row for row in chunk.rows}
        bad |= {row.loc: row.reason for row in chunk.bad}
    return list(rows.values()), bad


def _about_ids(connection: object, section: Section, name: str) -> Iterator[Finding]:
    ids = ids_of(connection, section)  # type: ignore[arg-type]
    if ids is None:
        return
    if ids.missing:
        yield problem(
            f"{name}: {ids.missing} of {ids.rows} rows have no id",
            "map an id that every row has, or leave them out with where",
        )
    if ids.repeated:
        shown = ", ".join(ids.examples)
        if section.kind == "message":
            yield problem(
                f"{name}: {ids.repeated} of {ids.rows} rows repeat an id ({shown}): only one message comes of each id",
                "map an id that is different in each row, such as conversation_id || ':' || id",
            )
        else:
            yield note(
                f"{name}: {ids.repeated} of {ids.rows} rows repeat an id ({shown}): the one with the highest rowid "
                f"is the task",
                "nothing, if the writer appends snapshots of a task",
            )


def _about_rows(
    section: Section, name: str, rows: list[Row], outbox_bytes: int, owner_format: str
) -> Iterator[Finding]:
    outcomes = [(row, decide(Change(section, Op.NEW, row, None))) for row in rows]
    broken = {row.loc: outcome.problem for row, outcome in outcomes if outcome.problem}
    if broken:
        reason, _ = Counter(broken.values()).most_common(1)[0]
        examples = ", ".join(str(loc) for loc, why in broken.items() if why == reason)[:60]
        yield problem(
            f"{name}: {len(broken)} of {len(rows)} rows cannot be rendered: {reason} (rowid {examples})",
            "they are kept aside and pushed when they are mended; mend the mapping if it is to blame",
        )
    unowned = [row for row, outcome in outcomes if outcome.draft is None and not outcome.problem]
    if unowned:
        share = len(unowned) / len(rows)
        count = f"{len(unowned)} of {len(rows)} rows ({percent(share)})"
        what = f"{name}: {count} have no owner: nobody gets them until they have one"
        mend = "mend the owner expression, or leave them out with where if they are nobody's"
        yield problem(what, mend) if share > MOST_UNOWNED else note(what, mend)
    drafts = [(row, outcome.draft) for row, outcome in outcomes if outcome.draft]
    biggest = max(drafts, key=lambda pair: len(pair[1].body), default=None)
    if biggest is not None and len(biggest[1].body) > min(HUGE_BYTES, outbox_bytes):
        size = len(biggest[1].body)
        what = f"{name}: an event of {size:,} bytes (rowid {biggest[0].loc})"
        if size > outbox_bytes:
            yield problem(
                f"{what} is more than may wait for a client", f"raise --outbox-bytes above {size}, or map less content"
            )
        else:
            yield note(f"{what}: slow clients will be cut and resume", "map less content, or raise --outbox-bytes")
    owners = {owner for _, draft in drafts for owner in draft.owners}
    if owner_format == "solana" and owners and not any(map(_is_wallet, owners)):
        yield note(
            f"{name}: owners such as {min(owners)!r} are no wallet addresses, and --owner-format is solana",
            "serve with --owner-format any",
        )


def _is_wallet(owner: str) -> bool:
    try:
        return bool(wallet_key(owner))
    except BadCredential:
        return False
