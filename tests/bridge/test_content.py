"""Every dialect of content that a backend stores becomes a list of parts."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.content import Json, content_parts, element_parts, joined_text, parse_json, parts_of
from bridge.decide import encode

HI: list[Json] = [{"type": "text", "text": "hi"}]
FILE: dict[str, Json] = {"type": "file", "file": {"name": "a.png", "bytes": "AAAA"}}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "kind", "text", "parts", "content", "data", "url", "raw", "role", "file", "metadata"]
            )
            | st.text(max_size=3),
            inner | st.sampled_from(["text", "input_text", "output_text", "file", "data"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "stored",
    [
        "hi",
        '{"type": "text", "text": "hi"}',
        '{"kind": "text", "text": "hi"}',
        '{"text": "hi"}',
        '{"text": "hi", "mediaType": "text/plain", "metadata": {"a": 1}}',
        '{"type": "input_text", "text": "hi"}',
        '{"type": "output_text", "text": "hi", "annotations": []}',
        '[{"type": "text", "text": "hi"}]',
        '[{"kind": "text", "text": "hi"}]',
        '[{"text": "hi"}]',
        '[{"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}]',
        '{"parts": [{"kind": "text", "text": "hi"}]}',
        '{"parts": [{"text": "hi"}], "role": "ROLE_AGENT", "messageId": "m"}',
        '{"parts": ["hi"]}',
        '{"parts": {"parts": [1]}, "type": "text", "text": "hi"}',
        '  \n [{"type": "text", "text": "hi"}] ',
    ],
)
def test_text_in_every_dialect_is_one_text_part(stored: str) -> None:
    """A2A 0.1, 0.3 and 1.0, OpenAI, and plain text all come out in the seed's form, with nothing else in it."""
    assert content_parts(stored) == HI


@pytest.mark.parametrize(
    "part",
    [
        FILE,
        {"kind": "file", "file": {"uri": "https://example.org/a", "mimeType": "image/png"}, "metadata": {"x": 1}},
        {"kind": "data", "data": {"a": [1, 2]}},
        {"data": {"a": 1}, "mediaType": "application/json"},
        {"url": "https://example.org/a", "filename": "a"},
        {"raw": "AAAA", "mediaType": "image/png"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a"}},
        {"type": "tool_use", "id": "1", "name": "f", "input": {}},
        {"type": "reasoning", "text": "not said aloud"},
        {"type": "text", "text": None, "more": 1},
    ],
)
def test_a_part_that_is_not_text_passes_through_whole(part: dict[str, Json]) -> None:
    """File, data and unknown parts keep every key, alone in a list and inside `parts`."""
    beside: list[Json] = [*HI, part]
    wrapped: dict[str, Json] = {"parts": beside}
    if part.get("type") != "text":
        assert content_parts(json.dumps(part)) == [part]
        assert content_parts(json.dumps(beside)) == beside
    assert content_parts(json.dumps(wrapped)) == beside


@pytest.mark.parametrize(
    "typed",
    [
        "[1, 2]",
        "[]x",
        "{",
        "[",
        "{}",
        '{"a": 1}',
        '{"type": "text"}',
        '{"type": "file"}',
        '{"text": 1}',
        "null",
        "42",
        '"hi"',
        "[[1]]",
        '["a", "b"]',
        '[{"a": 1}]',
        '[{"type": "text", "text": "hi"}, 3]',
        '{"parts": "hi"}',
        pytest.param("[" * 100_000, id="deep"),
        '{"text": "hi", "other": 1}',
        "",
        " ",
    ],
)
def test_text_that_merely_looks_like_json_stays_text(typed: str) -> None:
    """What a user may well have typed is pushed as typed, to the last blank."""
    assert content_parts(typed) == [{"type": "text", "text": typed}]


def test_no_content_is_no_parts() -> None:
    """NULL and an empty array are content without parts."""
    assert content_parts(None) == content_parts("[]") == content_parts('{"parts": []}') == parts_of(None) == []


def test_nested_parts_are_unfolded() -> None:
    """An object with `parts` inside an object with `parts` is one list; plain strings in it are texts."""
    inner: Json = {"parts": ["a", {"kind": "text", "text": "b"}, 3, FILE]}
    assert element_parts({"role": "agent", "parts": inner}) == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
        {"type": "text", "text": "3"},
        FILE,
    ]


@pytest.mark.parametrize("name", ["parts", "content", "text"])
@pytest.mark.parametrize("value", ["hi", ["hi"], [{"text": "hi"}], {"kind": "text", "text": "hi"}])
def test_an_element_has_its_text_in_any_of_three_places(name: str, value: Json) -> None:
    """Elements of a history carry `parts`, `content` or `text`, and each in any dialect."""
    assert element_parts({"role": "user", name: value}) == HI


def test_of_several_places_the_first_that_is_there_counts() -> None:
    """`parts` goes before `content` before `text`; null is not there."""
    assert element_parts({"parts": None, "content": "hi", "text": "no"}) == HI
    assert element_parts({"parts": ["hi"], "content": "no"}) == HI
    assert element_parts({"role": "user"}) == []
    assert element_parts("hi") == HI


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "agent", "parts": [{"kind": "text", "text": "a"}, FILE, {"text": "b"}]}, "ab"),
        ({"kind": "text", "text": "a"}, "a"),
        ({"role": "agent", "content": "a"}, "a"),
        ([{"text": "a"}, {"text": "b"}], "ab"),
        ("a", "a"),
        (None, ""),
        ({"parts": [FILE]}, ""),
    ],
)
def test_a_status_message_is_the_text_of_its_text_parts(message: Json, text: str) -> None:
    """What is no text is left out, and nothing stands between the texts."""
    assert joined_text(message) == text


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_number_becomes_null(constant: str) -> None:
    """A browser could not parse NaN."""
    assert parse_json(f"[{constant}]") == [None]


def test_json_nested_too_deeply_is_an_error_like_any_other() -> None:
    """RecursionError does not leave this module."""
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


@example([{"type": "text"}])
@given(json_values | st.text())
def test_any_content_gives_objects_that_any_client_can_parse(stored: Json) -> None:
    """Never an error, always a list of objects, and strict JSON that comes back the same."""
    text = stored if isinstance(stored, str) else json.dumps(stored)
    for parts in (
        content_parts(text),
        parts_of(parse_json(json.dumps(stored))),
        element_parts(parse_json(json.dumps(stored))),
    ):
        assert all(isinstance(part, dict) for part in parts)
        body = encode(list(parts))
        assert json.loads(body, parse_constant=pytest.fail) == parts
    assert isinstance(joined_text(parse_json(json.dumps(stored))), str)


@given(st.text())
def test_plain_text_is_pushed_as_it_is(text: str) -> None:
    """Text that does not begin like JSON is never touched."""
    plain = f"x{text}"
    assert content_parts(plain) == [{"type": "text", "text": plain}]
