"""The mapping file: TOML in, sections of SQL expressions out. Mistakes are named with their line."""

from __future__ import annotations

import re
import tomllib
from collections import abc
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from bridge.depends import Dependency, Expression, MessageDependency, TaskDependency, children
from bridge.inspect.presets import preset_named, presets
from storage.errors import ConfigurationError
from storage.types import Kind, Section


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    table: Annotated[str, StringConstraints(min_length=1)]
    where: Expression | None = None
    id: Expression
    owner: Expression


class Conversations(_Table):
    """`[conversations]`: names, and the initial load."""

    name: Expression = "NULL"


class Messages(_Table):
    """`[messages]`: each row is one message, or with `each` holds many."""

    each: Expression | None = None
    conversation_id: Expression
    role: Expression
    content: Expression
    depends_on: list[MessageDependency] = []


class Tasks(_Table):
    """`[tasks]`: each row is one task in its present state, or with `each` holds many."""

    each: Expression | None = None
    conversation_id: Expression
    session_id: Expression | None = None
    state: Expression
    status_message: Expression = "NULL"
    timestamp: Expression = "NULL"
    history: Expression = "NULL"
    artifacts: Expression = "NULL"
    depends_on: list[TaskDependency] = []


@dataclass(frozen=True, slots=True)
class Mapping:
    """What a mapping file says: the sections to watch, and where conversations are, if it says so.

    `children` are the tables that sections depend on; they are watched as sections are, and give no events.
    """

    sections: tuple[Section, ...]
    conversations: Conversations | None = None
    children: tuple[Section, ...] = ()
    conversation_origins: abc.Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def others(self) -> tuple[Section, ...]:
        """What is not watched but has to fit the database too: `[conversations]`."""
        if self.conversations is None:
            return ()
        return (conversation_section(self.conversations, self.conversation_origins),)


_MODELS: dict[str, type[_Table]] = {"conversations": Conversations, "messages": Messages, "tasks": Tasks}


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file. Raises ConfigurationError, which names the file, the line and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"the mapping {path} cannot be read ({error.strerror})", "check --map") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the mapping {path} is not UTF-8 text", "save it as UTF-8") from error
    return parse_mapping(text, str(path))


def parse_mapping(text: str, name: str = "mapping") -> Mapping:
    """Parse a mapping. Raises ConfigurationError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{name} is not TOML: {error}", "see the mapping file in the README") from error
    for key in document:
        if key not in _MODELS:
            raise ConfigurationError(
                f"{name}{_line(text, key, 0, None)}: unknown section [{key}]", _nearest(key, _MODELS)
            )
    tables = [
        (key, place, _section(text, name, key, number, table), _Origins(text, name, key, number))
        for key in _MODELS
        for place, (number, table) in enumerate(_from_presets(text, name, key, _tables(document.get(key), name, key)))
    ]
    conversations = [(model, origins) for _, _, model, origins in tables if isinstance(model, Conversations)]
    if len(conversations) > 1:
        raise ConfigurationError(f"{name}: [conversations] is given {len(conversations)} times", "give it once")
    watched = [entry for entry in tables if not isinstance(entry[2], Conversations)]
    if not watched:
        raise ConfigurationError(
            f"{name}: neither [messages] nor [tasks]", "a mapping says where at least one of them is"
        )
    sections = tuple(_as_section(place, *entry) for place, entry in enumerate(watched))
    depending = [
        (section, dependency, origins.of_dependency(number, dependency.given))
        for section, (_, _, model, origins) in zip(sections, watched, strict=True)
        if isinstance(model, Messages | Tasks)
        for number, dependency in enumerate(model.depends_on)
    ]
    model, origins = conversations[0] if conversations else (None, None)
    return Mapping(sections, model, children(depending, len(sections)), origins.of(Conversations) if origins else {})


def _tables(value: object, name: str, key: str) -> list[dict[str, Any]]:
    tables: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    for table in tables:
        if not isinstance(table, dict):
            raise ConfigurationError(f"{name}: {key} is not a table", f"write [{key}], or [[{key}]] several times")
    return tables


def _from_presets(text: str, name: str, key: str, tables: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each table with its place in the file; one that starts from a preset is each of the preset's, given keys won."""
    for number, table in enumerate(tables):
        if "preset" not in table:
            yield number, table
            continue
        where = f"{name}{_line(text, key, number, 'preset')}: [{key}] preset"
        preset = preset_named(str(table["preset"]))
        if preset is None:
            wrong = str(table["preset"])
            raise ConfigurationError(
                f'{where}: there is no preset "{wrong}"', _nearest(wrong, [known.name for known in presets()])
            )
        if key not in preset.sections:
            there = ", ".join(f"[{kind}]" for kind in preset.sections)
            raise ConfigurationError(f"{where}: {preset.name} has no [{key}]", f"it has: {there}")
        given = {field: value for field, value in table.items() if field != "preset"}
        yield from ((number, section | given) for section in preset.sections[key])


def _section(text: str, name: str, key: str, number: int, table: dict[str, Any]) -> _Table:
    model = _MODELS[key]
    try:
        return model.model_validate(table)
    except ValidationError as error:
        if any(problem["loc"][:1] == ("depends_on",) for problem in error.errors()):
            raise _dependency_refused(error, _Origins(text, name, key, number)) from error
        # A misspelt key is the reason why another one is missing, so it comes first.
        first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        field = str(first["loc"][0]) if first["loc"] else ""
        where = f"{name}{_line(text, key, number, field)}: [{key}] {field}"
        if first["type"] == "extra_forbidden":
            raise ConfigurationError(
                f"{where} is not a key of this section", _nearest(field, model.model_fields)
            ) from error
        if first["type"] == "missing":
            raise ConfigurationError(
                f"{where} is missing", _MISSING.get(field, "give an SQL expression over one row")
            ) from error
        raise ConfigurationError(f"{where}: {first['msg']}", "give an SQL expression, as a TOML string") from error


def _dependency_refused(error: ValidationError, origins: _Origins) -> ConfigurationError:
    found = [problem for problem in error.errors() if problem["loc"][:1] == ("depends_on",)]
    first = min(found, key=lambda problem: problem["type"] != "extra_forbidden")
    own = _DEPENDENCIES[origins.key]
    place, given = first["loc"][1:2], [str(part) for part in first["loc"][2:]]
    lines = origins.of_dependency(int(place[0]) if place else 0, given)
    where = (
        f"{lines[given[0]] if given else lines['table']}: [{origins.key}] depends_on{''.join(f' {k}' for k in given)}"
    )
    if first["type"] == "extra_forbidden":
        return ConfigurationError(f"{where} is not a key of it", _nearest(given[0], own.model_fields))
    shape = f'{{ table = "TABLE", {own.own} = "SQL" }}'
    reason = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
    return ConfigurationError(f"{where}: {reason}", f"write depends_on = [{shape}]")


_DEPENDENCIES: dict[str, type[Dependency]] = {"messages": MessageDependency, "tasks": TaskDependency}

_MISSING = {
    "table": "name the table that holds the rows",
    "owner": "say whose the rows are: a column, a sub-select, or one fixed owner as \"'NAME'\"; "
    "walcast never guesses an owner",
}


def _line(text: str, key: str, number: int, field: str | None) -> str:
    """`:LINE` of a key in its section, or of the section's header when the key is not there."""
    seen, header = -1, None
    for line, content in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[\[?\s*([\w-]+)\s*\]", content):
            seen += found[1] == key
            inside = found[1] == key and seen == number
            header = line if inside else header
            if not inside and header is not None:
                break
        elif header is not None and field and re.match(rf'\s*"?{re.escape(field)}"?\s*=', content):
            return f":{line}"
    return f":{header}" if header is not None else ""


def _nearest(name: str, names: object) -> str:
    known = list(names)  # type: ignore[call-overload]
    close = get_close_matches(name, known, n=1)
    return f'did you mean "{close[0]}"?' if close else f"there are: {', '.join(known)}"


@dataclass(frozen=True, slots=True)
class _Origins:
    """Where the keys of one section of a file are written, for what is found wrong only against the database."""

    text: str
    name: str
    key: str
    number: int

    def of(self, model: type[_Table]) -> dict[str, str]:
        """`FILE:LINE` of each key; of the preset or the header of the section for those that are not given."""
        preset = _line(self.text, self.key, self.number, "preset")
        keys = {field: _line(self.text, self.key, self.number, field) for field in model.model_fields}
        header = _line(self.text, self.key, self.number, None)
        return {field: self.name + (preset if line == header else line) for field, line in keys.items()}

    def of_dependency(self, place: int, given: abc.Iterable[str]) -> dict[str, str]:
        """`FILE:LINE` of the keys of one entry of `depends_on`, of that itself if they cannot be made out."""
        line = int(_line(self.text, self.key, self.number, "depends_on")[1:] or 1)
        start = sum(len(one) for one in self.text.splitlines(keepends=True)[: line - 1])
        entry = next(islice(re.finditer(r"\{[^{}]*\}", self.text[start:]), place, None), None)
        lines = {}
        for key in ("table", *given):
            found = re.search(rf"\b{key}\s*=", entry[0]) if entry else None
            before = self.text[start : start + entry.start() + found.start()] if entry and found else ""
            lines[key] = f"{self.name}:{line + before.count(chr(10))}"
        return lines


def conversation_section(mapped: Conversations, origins: abc.Mapping[str, str] | None = None) -> Section:
    """`[conversations]` as a section that has the conversation for its id."""
    fields = (("id", mapped.id), ("owner", mapped.owner), ("conversation_id", mapped.id), ("name", mapped.name))
    return Section(-1, "conversations", "message", mapped.table, fields, mapped.where, origins=origins or {})


def _as_section(place: int, key: str, number: int, model: _Table, origins: _Origins) -> Section:
    kind: Kind = "message" if isinstance(model, Messages) else "task"
    given = model.model_dump()
    if isinstance(model, Tasks) and given["session_id"] is None:
        given["session_id"] = given["conversation_id"]
    order = ["id", "owner", "conversation_id"]
    order += [name for name in type(model).model_fields if name not in (*order, "table", "where", "each", "depends_on")]
    title = key if number == 0 else f"{key}[{number + 1}]"
    fields = tuple((name, given[name]) for name in order)
    return Section(
        place, title, kind, model.table, fields, model.where, each=given["each"], origins=origins.of(type(model))
    )


REFERENCE = """\
[conversations]
table = "conversations"
id    = "id"
owner = "wallet_address"
name  = "title"

[messages]
table           = "messages"
id              = "id"
conversation_id = "conversation_id"
role            = "role"
content         = "body"
owner           = "(SELECT wallet_address FROM conversations c WHERE c.id = messages.conversation_id)"

[tasks]
table           = "tasks"
id              = "id"
conversation_id = "conversation_id"
session_id      = "session_id"
state           = "json_extract(status, '$.state')"
status_message  = "json_extract(status, '$.message')"
timestamp       = "json_extract(status, '$.timestamp')"
history         = "history"
artifacts       = "artifacts"
owner           = "owner"
"""
"""The mapping of the reference schema, which the demo writes."""
