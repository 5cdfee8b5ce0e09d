"""Presets: recognised by the schema alone, and a place to start a mapping from."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.discover import mapping_for
from bridge.inspect.inspection import inspect_database
from bridge.inspect.presets import parse_preset, preset_named, presets, recognised
from bridge.mapping import parse_mapping
from storage.errors import ConfigurationError, MappingMisfit
from storage.profile import opened, read_profile
from storage.reader import SectionReader
from tests.bridge.inspect_schemas import SCHEMAS, Schema
from tests.bridge.inspect_writers import WRITERS


def written(name: str, **more: str) -> str:
    """A mapping file that starts from a preset."""
    preset = preset_named(name)
    assert preset is not None
    lines = []
    for kind, sections in preset.sections.items():
        owner = [] if all("owner" in section for section in sections) else ["owner = \"'me'\""]
        lines += [f'[{kind}]\npreset = "{name}"', *owner]
    lines += [f'{key} = "{value}"' for key, value in more.items()]
    return "\n".join(lines)


def test_there_is_one_for_each_package_with_a_driver() -> None:
    """Contract section 6."""
    assert [preset.name for preset in presets()] == sorted(schema.name for schema in WRITERS)


@pytest.mark.parametrize("schema", WRITERS, ids=lambda schema: schema.name)
def test_a_preset_is_recognised_by_an_empty_schema(schema: Schema, tmp_path: Path) -> None:
    """No row is needed."""
    path = Schema(schema.name, schema.ddl, lambda _: None).build(tmp_path / "a.db")
    with opened(path) as connection:
        found = recognised(read_profile(connection, path))
    assert found is not None
    assert found.name == schema.name


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_no_other_schema_is_taken_for_a_package(schema: Schema, tmp_path: Path) -> None:
    """A table called messages is nobody's."""
    path = schema.build(tmp_path / "a.db")
    with opened(path) as connection:
        assert recognised(read_profile(connection, path)) is None


@pytest.mark.parametrize("schema", WRITERS, ids=lambda schema: schema.name)
def test_a_mapping_that_starts_from_a_preset_fits_and_renders(schema: Schema, tmp_path: Path) -> None:
    """With an owner given where the package has none."""
    mapping = parse_mapping(written(schema.name))
    path = schema.build(tmp_path / "a.db")
    with opened(path) as connection:
        for section in mapping.sections:
            chunk = SectionReader(connection, section).chunk(None, 100)
            assert chunk.rows
            assert not chunk.bad
    looked = inspect_database(path)
    assert looked.preset is not None
    assert all(tried.read and not tried.bad for tried in looked.trials)


def test_given_keys_win() -> None:
    """The rest is the preset's."""
    mapping = parse_mapping(written("a2a-sdk", state="upper(kind)", where="kind = 'task'"))
    (tasks,) = mapping.sections
    assert dict(tasks.fields)["state"] == "upper(kind)"
    assert dict(tasks.fields)["conversation_id"] == "context_id"
    assert tasks.where == "kind = 'task'"


def test_one_section_from_a_preset_may_be_several() -> None:
    """llm has two messages in each row."""
    mapping = parse_mapping(written("llm"))
    assert [section.name for section in mapping.sections] == ["messages", "messages[2]"]
    assert all(dict(section.fields)["owner"] == "'me'" for section in mapping.sections)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tasks]\npreset = "a2a"', 'm.toml:2: [tasks] preset: there is no preset "a2a"; did you mean "a2a-sdk"?'),
        ('\n[messages]\npreset = "a2a-sdk"', "m.toml:3: [messages] preset: a2a-sdk has no [messages]; it has: [tasks]"),
        ('[messages]\npreset = "llm"', "m.toml:1: [messages] owner is missing"),
    ],
)
def test_a_preset_that_cannot_be_used_says_why(text: str, said: str) -> None:
    """With the line in the file."""
    with pytest.raises(ConfigurationError) as refused:
        parse_mapping(text, "m.toml")
    assert said in str(refused.value)


def test_serve_uses_a_preset_whose_package_stores_the_owner(tmp_path: Path) -> None:
    """Also while there is no row yet; never one whose owner somebody has to say."""
    for schema in WRITERS:
        path = Schema(schema.name, schema.ddl, lambda _: None).build(tmp_path / f"{schema.name}.db")
        preset = preset_named(schema.name)
        assert preset is not None
        if preset.has_owner and not preset.confirm:
            assert mapping_for(path, None, wait=False).sections
        else:
            with pytest.raises(MappingMisfit, match="no mapping is certain"):
                mapping_for(path, None, wait=False)


def test_of_two_presets_that_fit_the_one_that_asks_more_is_taken(tmp_path: Path) -> None:
    """A newer schema has a table that the older one lacks."""
    told = '[recognise]\npackage = "p"\nversions = "1"\n[recognise.tables]\nmessage_store = ["id"]\n'
    text = told + '[messages]\ntable = "message_store"\n'
    path = WRITERS[3].build(tmp_path / "a.db")
    with opened(path) as connection:
        profile = read_profile(connection, path)
    found = recognised(profile, [parse_preset("old", text), *presets()])
    assert found is not None
    assert found.name == "langchain-community"
