"""The docs are tested: what the program has is named there, what is shown is what it does, what is to be typed runs."""

import ast
import asyncio
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from websockets.asyncio.client import connect as connect_websocket

from bridge import filters, protocol
from bridge.content import content_parts
from bridge.decide import decide
from bridge.mapping import Conversations, Messages, Tasks, parse_mapping
from bridge.protocol import Close, Cursor, Recovery
from bridge.settings import AuthMode, Settings
from server import cli
from storage.legacy import connect
from storage.reader import SectionReader
from storage.types import Change, Draft, Event, Home, Known, Op, Row, Section, place_of

REPO = Path(__file__).parent.parent
README = REPO / "README.md"
DOCS = REPO / "docs"
SOON = 60.0
"""The failure bound of each wait, in seconds."""


def text_of(*names: str) -> str:
    """Some files below `docs`, or all of them, and the README in each case."""
    files = [DOCS / name for name in names] or sorted(DOCS.glob("*.md"))
    return "\n".join(file.read_text(encoding="utf-8") for file in (README, *files))


def blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """(language, content) of the fenced blocks in some languages, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(language, content) for language, content in found if language in languages]


def between(text: str, name: str) -> str:
    """What stands between the markers of a name."""
    return text.partition(f"<!-- {name}:begin -->")[2].partition(f"<!-- {name}:end -->")[0]


def frames_in(block: str) -> list[Any]:
    """The JSON of a block: one frame a line, or one document over several lines."""
    lines = block.strip().splitlines()
    return [json.loads(line) for line in lines] if lines[0].rstrip().endswith("}") else [json.loads(block)]


def constants(places: str, *callables: str, argument: int = 0) -> set[str]:
    """The strings that a callable is given at one place of its arguments, wherever it is called in some files."""
    found = set[str]()
    for file in REPO.glob(places):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or len(node.args) <= argument:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in callables:
                leaves = [leaf.value for leaf in ast.walk(node.args[argument]) if isinstance(leaf, ast.Constant)]
                found |= {leaf for leaf in leaves if isinstance(leaf, str) and re.fullmatch(r"[a-z_]+", leaf)}
    return found


def missing(names: Iterator[str] | set[str] | tuple[str, ...], text: str) -> list[str]:
    """The names that do not stand in the text as code."""
    return sorted(name for name in names if f"`{name}`" not in text)


# -- settings


def settings_rows() -> dict[str, str]:
    """The row of each setting in docs/settings.md, by its key."""
    rows = {}
    for name, field in Settings.model_fields.items():
        flag = name.replace("_", "-")
        option = f"`--{flag}`, `--no-{flag}`" if field.annotation is bool else f"`--{flag}`"
        default = field.default
        shown = "" if default in (None, ()) else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        choices = [str(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]
        listed = ", ".join(f"`{choice}`" for choice in choices)
        meaning = f"{field.description} One of: {listed}." if choices else field.description
        rows[name] = f"| {option} | `WALCAST_{name.upper()}` | `{name}` | {shown} | {meaning} |"
    return rows


def test_every_setting_has_its_row() -> None:
    """docs/settings.md shows each setting as the program has it, in its order, and no other."""
    shown = [line for line in (DOCS / "settings.md").read_text(encoding="utf-8").splitlines() if "WALCAST_" in line]
    rows = list(settings_rows().values())
    assert [line for line in shown if line.startswith("| `--")] == rows, "\n" + "\n".join(rows)


def test_the_example_of_a_config_file_is_accepted() -> None:
    """Every key of the examples in docs/settings.md is a setting."""
    examples = [tomllib.loads(content) for _, content in blocks((DOCS / "settings.md").read_text("utf-8"), "toml")]
    assert examples
    assert {key for example in examples for key in example} <= Settings.model_fields.keys()


# -- names


def test_every_close_code_is_explained() -> None:
    """docs/protocol.md has a row for each."""
    text = (DOCS / "protocol.md").read_text(encoding="utf-8")
    assert not [code for code in Close if f"| {int(code)} | `{code.name.lower()}` |" not in text]


def test_every_error_code_of_the_socket_is_explained() -> None:
    """Those of frames and those of refused upgrades stand in docs/protocol.md."""
    codes = constants("bridge/*.py", "BadFrame", "BadFilter", "_refuse")
    codes |= constants("bridge/wallet.py", "BadCredential") | constants("handlers/auth.py", "_unauthorized")
    codes |= constants("handlers/auth.py", "Problem", argument=3)
    codes |= constants("handlers/websocket.py", "Problem", argument=3)
    assert {"unknown_type", "binary", "missing_owner", "expired", "origin"} <= codes
    assert not missing(codes, (DOCS / "protocol.md").read_text(encoding="utf-8"))


@pytest.mark.skipif(not (DOCS / "http.md").exists(), reason="docs/http.md is not written yet")
def test_every_error_code_of_an_answer_is_explained() -> None:
    """Those of HTTP answers stand anywhere in the docs."""
    codes = constants("handlers/*.py", "Problem", argument=3) | constants("handlers/*.py", "bad_request")
    assert {"not_ready", "http"} <= codes
    assert not missing({code for code in codes if not code.endswith("_")}, text_of())


def test_every_message_type_is_explained() -> None:
    """In docs/protocol.md, with those that can be asked for."""
    names = (*protocol.SERVER_TYPES, *protocol.CLIENT_TYPES, *filters.EVENT_TYPES)
    assert not missing(names, (DOCS / "protocol.md").read_text(encoding="utf-8"))


def test_every_metric_is_explained_and_no_other() -> None:
    """docs/metrics.md names each as it is scraped."""
    counters = constants("bridge/metrics.py", "Counter", "CounterMetricFamily")
    gauges = constants("bridge/metrics.py", "Gauge", "GaugeMetricFamily")
    names = {f"{name}_total" for name in counters if name.startswith("walcast_")}
    names |= {name for name in gauges if name.startswith("walcast_")}
    assert len(names) > 10
    assert set(re.findall(r"`(walcast_\w+)", (DOCS / "metrics.md").read_text(encoding="utf-8"))) == names


def test_every_reason_of_a_gap_is_explained() -> None:
    """docs/metrics.md says why a look had no hint."""
    reasons = constants("storage/*.py", "Gap", "_gap", "_note_gap", "lose")
    assert {"burst", "wal_restarted"} <= reasons
    assert not missing(reasons, (DOCS / "metrics.md").read_text(encoding="utf-8"))


def test_every_key_of_a_mapping_is_explained() -> None:
    """docs/mapping.md names each."""
    keys = {*Conversations.model_fields, *Messages.model_fields, *Tasks.model_fields}
    assert not missing(keys, (DOCS / "mapping.md").read_text(encoding="utf-8"))


def test_what_is_missing_is_said_and_nothing_else() -> None:
    """The README's list of what is not there yet holds just what the program refuses."""
    text = README.read_text(encoding="utf-8")
    modes = set(re.findall(r"`(\w+)`", between(text, "auth-not-yet")))
    assert modes == {"header", "signed", "jwt"} - set(get_args(AuthMode))


def test_what_is_named_exists() -> None:
    """Every `make` target, `walcast` subcommand and linked file of the README and the docs."""
    text = text_of()
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *(content for _, content in blocks(text, "sh", "ini"))])
    targets = set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"run", "test"} <= set(re.findall(r"^make ([a-z]+)", code, re.MULTILINE)) <= targets
    assert {"serve"} <= set(re.findall(r"\bwalcast ([a-z]+)", code)) <= set(cli.commands)
    for file in (README, *DOCS.glob("*.md")):
        links = re.findall(r"\]\(([^)#:]+)[^):]*\)", file.read_text(encoding="utf-8"))
        assert not [link for link in links if not (file.parent / link).exists()], file.name


# -- frames


def drafts(section: Section, rows: list[Row]) -> list[Draft]:
    """The events of rows that are new."""
    outcomes = [decide(Change(section, Op.NEW, row, None)) for row in rows]
    assert not [outcome.problem for outcome in outcomes if outcome.problem]
    return [outcome.draft for outcome in outcomes if outcome.draft is not None]


def sent() -> list[Any]:
    """One frame of each form that the server sends."""
    values = {"history": b'[{"role": "user", "parts": "x"}]', "artifacts": b'[{"name": "a", "parts": "x"}]'}
    mapping = parse_mapping(blocks(text_of("mapping.md"), "toml")[1][1])
    cursor, events, optional = Cursor("e", 2), list[Event](), list[Draft | None]()
    for section in mapping.sections:
        row = Row(1, b"", tuple(values.get(name, b"x") for name, _ in section.fields))
        (draft,) = drafts(section, [row])
        events.append(Event(2, draft.type, draft.conversation_id, draft.subject, draft.body, (("x", 1),)))
        known = Known(1, row.key, b"-", place_of(section, row.values), id="x", home=1)
        optional.append(decide(Change(section, Op.GONE, None, known, Home("x", b"x"))).farewell)
        if section.kind == "message":
            optional.append(decide(Change(section, Op.CHANGED, row, known, Home("x", b"x"))).draft)
    made = [
        protocol.established("x"),
        protocol.established("x", cursor),
        protocol.established("x", cursor, Recovery(cursor, 1)),
        protocol.established("x", cursor, Recovery(cursor, reason="bad_cursor")),
        protocol.pong(b"1", None),
        protocol.pong(b"1", cursor),
        protocol.error("x", "x"),
        *(protocol.event_frame(event) for event in events),
        *(protocol.resumable_event_frame(event, "e", 1) for event in events),
        *(protocol.text_frame(draft.body) for draft in optional if draft is not None),
    ]
    return [json.loads(frame[frame.index(b"{") :]) for frame in made]


def paths(value: Any, place: str = "") -> list[str]:
    """The keys of a JSON value, with where they stand, in their order; the elements of an array share one place."""
    if isinstance(value, dict):
        return [path for key, inner in value.items() for path in (f"{place}.{key}", *paths(inner, f"{place}.{key}"))]
    if isinstance(value, list):
        return list(dict.fromkeys(path for inner in value for path in paths(inner, f"{place}[]")))
    return []


def test_the_frames_shown_are_those_sent() -> None:
    """Each has the keys that the server sends, in its order; each form that is sent is shown; and they are compact."""
    forms = {(frame["type"], *paths(frame)) for frame in sent()}
    shown = [frame for _, block in blocks(text_of("protocol.md"), "json") for frame in frames_in(block)]
    from_server = [frame for frame in shown if frame["type"] not in protocol.CLIENT_TYPES]
    assert {(frame["type"], *paths(frame)) for frame in from_server} == forms
    for frame in shown:
        if frame["type"] in protocol.CLIENT_TYPES:
            assert protocol.parse_request(json.dumps(frame))[0] == frame["type"]
    lines = [line for _, block in blocks(README.read_text("utf-8"), "json") for line in block.strip().splitlines()]
    for line, frame in ((line, json.loads(line)) for line in lines):
        if frame["type"] not in protocol.CLIENT_TYPES:
            assert json.dumps(frame, ensure_ascii=False, separators=(",", ":")) == line


# -- mappings


def made_database(folder: Path, schema: str) -> Path:
    """A database of a schema as `sqlite_master` shows it."""
    path = folder / "legacy.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(schema)
    return path


def cookbook() -> list[Any]:
    """The recipes of docs/mapping.md: a schema with a few rows, the mapping that fits it, and what is pushed."""
    found = blocks(between(text_of("mapping.md"), "cookbook"), "sql", "toml", "json")
    kinds = [kind for kind, _ in found]
    assert kinds == ["sql", "toml", "json"] * (len(kinds) // 3)
    recipes = [tuple(content for _, content in found[place : place + 3]) for place in range(0, len(found), 3)]
    return [pytest.param(*recipe, id=re.findall(r"CREATE TABLE (\w+)", recipe[0])[0]) for recipe in recipes]


@pytest.mark.parametrize(("schema", "mapping", "pushed"), cookbook())
def test_a_recipe_gives_what_it_says(tmp_path: Path, schema: str, mapping: str, pushed: str) -> None:
    """The mapping fits the schema, and its rows become the frames shown."""
    bodies = list[bytes]()
    with closing(connect(made_database(tmp_path, schema))) as database:
        for section in parse_mapping(mapping).sections:
            chunk = SectionReader(database, section).chunk(None, 100)
            assert not chunk.bad
            bodies += [draft.body for draft in drafts(section, chunk.rows)]
    assert [json.loads(body) for body in bodies] == frames_in(pushed)


def test_every_mapping_shown_is_accepted() -> None:
    """Whatever stands in the docs as a mapping can be copied."""
    shown = [content for _, content in blocks(text_of("mapping.md"), "toml")]
    assert len(shown) >= 4
    assert all(parse_mapping(content).sections for content in shown)


def test_the_table_of_contents_forms_is_right() -> None:
    """What docs/mapping.md says is pushed for a stored content is what is pushed."""
    table = between((DOCS / "mapping.md").read_text(encoding="utf-8"), "content")
    rows = re.findall(r"^\|[^|]*\| (?:`(.*?)`|NULL) \| `(.*)` \|$", table, re.MULTILINE)
    assert len(rows) >= 12
    for stored, pushed in rows:
        assert content_parts(stored or None) == json.loads(pushed), stored


# -- what is to be typed


def started(command: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    """A command line of the README, run by this interpreter; what it logs goes to a file."""
    program, *arguments = shlex.split(command.partition("#")[0].rstrip("& "))
    assert program == "walcast"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WALCAST_")}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(REPO / "server.py"), *arguments, *more],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip


@contextmanager
def serving(command: str, folder: Path) -> Iterator[str]:
    """The server that a command line starts, on a free port; its address."""
    process = started(command, folder, "--port", "0")
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("walcast listening on http://"), (folder / "log").read_text()
        yield said.split("http://")[1].strip()
    finally:
        process.terminate()
        process.communicate(timeout=SOON)


@dataclass(frozen=True)
class Attaching:
    """The part of the README on attaching: a schema, a mapping, the commands, and the frame that comes of them."""

    schema: str
    mapping: str
    commands: str
    frame: str

    def command(self, name: str) -> str:
        """The line that runs a subcommand."""
        return next(line for line in self.commands.splitlines() if line.startswith(f"walcast {name} "))


@pytest.fixture
def attaching(tmp_path: Path) -> Attaching:
    """That part, and its database as `chat.db`."""
    found = blocks(between(README.read_text(encoding="utf-8"), "attach"), "sql", "toml", "sh", "json")
    assert [kind for kind, _ in found] == ["sql", "toml", "sh", "json"]
    part = Attaching(*(content for _, content in found))
    made_database(tmp_path, part.schema).rename(tmp_path / "chat.db")
    return part


def test_looking_first_as_the_readme_says_works(tmp_path: Path, attaching: Attaching) -> None:
    """`inspect` writes a mapping for what the README maps by hand, and `check` has nothing against it."""
    for name in ("inspect", "check"):
        process = started(attaching.command(name), tmp_path)
        said, _ = process.communicate(timeout=SOON)
        assert process.returncode == 0, said + (tmp_path / "log").read_text()
    written, shown = parse_mapping((tmp_path / "chat.toml").read_text("utf-8")), parse_mapping(attaching.mapping)
    assert [section.table for section in written.sections] == [section.table for section in shown.sections]


async def test_attaching_as_the_readme_says_works(tmp_path: Path, attaching: Attaching) -> None:
    """The server it starts pushes the message that it writes, as the frame that it shows."""
    (tmp_path / "chat.toml").write_text(attaching.mapping, encoding="utf-8")
    (statement,) = re.findall(r'^sqlite3 chat\.db "(.*)"', attaching.commands, re.MULTILINE)
    (owner,) = re.findall(r"publicKey=(\w+)", attaching.commands)
    with serving(attaching.command("serve"), tmp_path) as address:
        async with asyncio.timeout(SOON), connect_websocket(f"ws://{address}/api/ws?publicKey={owner}") as client:
            assert json.loads(await client.recv())["type"] == "connection_established"
            with closing(sqlite3.connect(tmp_path / "chat.db")) as database:
                database.execute(statement)
                database.commit()
            assert await client.recv() == attaching.frame.strip()
