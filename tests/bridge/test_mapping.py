"""A mapping file says where things are; a mistake in it is named with its line and the nearest right name."""

from pathlib import Path

import pytest

from bridge.mapping import REFERENCE, Conversations, Mapping, load_mapping, parse_mapping
from storage.errors import ConfigurationError

MESSAGES = """\
[messages]
table = "m"
id = "id"
conversation_id = "c"
role = "r"
content = "b"
owner = "o"
"""
TASKS = """\
[tasks]
table = "t"
id = "id"
conversation_id = "c"
state = "s"
owner = "o"
"""


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_mapping(text, "map.toml")
    assert caught.value.exit_code == 2
    return str(caught.value)


def fields(mapping: Mapping, number: int) -> dict[str, str]:
    return dict(mapping.sections[number].fields)


def test_the_reference_schema_is_a_mapping() -> None:
    """Two sections to watch, and the conversations."""
    mapping = parse_mapping(REFERENCE)
    assert [(section.name, section.kind, section.number) for section in mapping.sections] == [
        ("messages", "message", 0),
        ("tasks", "task", 1),
    ]
    assert mapping.conversations == Conversations(table="conversations", id="id", owner="wallet_address", name="title")


@pytest.mark.parametrize("text", [MESSAGES, TASKS])
def test_fields_come_in_the_order_that_storage_relies_on(text: str) -> None:
    """First `id`, then `owner`, then `conversation_id`; `where` and `table` are no fields."""
    section = parse_mapping(text + 'where = "x"').sections[0]
    assert [name for name, _ in section.fields[:3]] == ["id", "owner", "conversation_id"]
    assert {"where", "table"}.isdisjoint(dict(section.fields))
    assert (section.where, section.table) == ("x", text[text.index('"') + 1])


def test_what_a_task_leaves_out_is_null_and_its_session_is_its_conversation() -> None:
    """Only the state is asked for."""
    given = fields(parse_mapping(TASKS), 0)
    assert given["session_id"] == "c"
    assert {given[name] for name in ("status_message", "timestamp", "history", "artifacts")} == {"NULL"}


def test_a_section_may_be_given_several_times() -> None:
    """Each is a section of its own, and its errors name which."""
    again = MESSAGES.replace("[messages]", "[[messages]]")
    mapping = parse_mapping(again + again.replace('"m"', '"n"'))
    assert [(section.name, section.table) for section in mapping.sections] == [("messages", "m"), ("messages[2]", "n")]
    assert len({section.number for section in mapping.sections}) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MESSAGES + 'rol = "x"\n', 'map.toml:8: [messages] rol is not a key of this section; did you mean "role"?'),
        (MESSAGES.replace('role = "r"\n', ""), "map.toml:1: [messages] role is missing"),
        (MESSAGES.replace('owner = "o"\n', ""), "map.toml:1: [messages] owner is missing; say whose the rows are"),
        (MESSAGES.replace('"r"', "3"), "map.toml:5: [messages] role: "),
        (MESSAGES.replace('"r"', '"  "'), "map.toml:5: [messages] role: "),
        ("[mesages]\n", 'map.toml:1: unknown section [mesages]; did you mean "messages"?'),
        ("[zzz]\n", "there are: conversations, messages, tasks"),
        ("x", "map.toml is not TOML"),
        ("", "neither [messages] nor [tasks]"),
        ('messages = "m"', "messages is not a table"),
        ('messages = ["m"]', "messages is not a table"),
        ("[conversations]\ntable='c'\nid='i'\nowner='o'\n", "neither [messages] nor [tasks]"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_its_cure(text: str, said: str) -> None:
    """File, line, section, key, and the name that was probably meant."""
    assert said in refusal(text)


def test_a_mistake_in_a_later_section_of_the_same_name_has_its_own_line() -> None:
    """Lines are counted in the section that is wrong, not in the first of its name."""
    again = MESSAGES.replace("[messages]", "[[messages]]")
    assert "map.toml:15: [messages] rol " in refusal(again + again + 'rol = "x"\n')
    assert "map.toml:8: [messages] role is missing" in refusal(again + again.replace('role = "r"\n', "") + TASKS)


def test_a_key_of_another_section_on_an_earlier_line_is_not_taken_for_it() -> None:
    """Both sections have an `id`."""
    assert "map.toml:10: [tasks] id: " in refusal(MESSAGES + TASKS.replace('"id"', "3"))


@pytest.mark.parametrize("kind", ["messages", "tasks"])
def test_each_is_part_of_a_section_and_of_its_identity(kind: str) -> None:
    """It is no field; a section without it is the same section as ever."""
    text = MESSAGES if kind == "messages" else TASKS
    [plain] = parse_mapping(text).sections
    [given] = parse_mapping(text + "each = \" json_each(doc, '$.m') \"\n").sections
    assert (plain.each, given.each, given.fields) == (None, "json_each(doc, '$.m')", plain.fields)
    assert given.identity != plain.identity


def test_conversations_have_no_each() -> None:
    """One row is one conversation."""
    said = refusal("[conversations]\ntable='c'\nid='i'\nowner='o'\neach='json_each(d)'\n" + MESSAGES)
    assert "[conversations] each is not a key of this section" in said


def test_conversations_are_given_once() -> None:
    """There is one list of them."""
    one = "[[conversations]]\ntable='c'\nid='i'\nowner='o'\n"
    assert "[conversations] is given 2 times" in refusal(one + one + MESSAGES)


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Missing, or no UTF-8."""
    path = tmp_path / "map.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"map\.toml (cannot be read|is not UTF-8)"):
        load_mapping(path)


def test_a_file_is_read_as_utf_8(tmp_path: Path) -> None:
    """Table names may be Chinese."""
    path = tmp_path / "map.toml"
    path.write_text(MESSAGES.replace('"m"', '"消息"'), encoding="utf-8")
    assert load_mapping(path).sections[0].table == "消息"


def test_identity_and_definition_follow_what_they_must() -> None:
    """Another table or id makes other rows; another expression only makes other digests."""
    base, other_role, other_id = (
        parse_mapping(text).sections[0]
        for text in (MESSAGES, MESSAGES.replace('"r"', '"x"'), MESSAGES.replace('"id"', '"x"'))
    )
    assert base.identity == other_role.identity != other_id.identity
    assert base.definition != other_role.definition
