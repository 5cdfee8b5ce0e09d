"""One name per setting: as an option, an environment variable and a key of the config file."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from bridge.settings import Settings, is_loopback, load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"WALCAST_{name.upper()}", raising=False)


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "walcast.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_option_goes_before_the_environment_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is taken only where those before it say nothing."""
    file = config(tmp_path, "port = 1\nheartbeat = 1\nreplay_limit = 1")
    monkeypatch.setenv("WALCAST_PORT", "2")
    monkeypatch.setenv("WALCAST_HEARTBEAT", "2")
    settings = load_settings({"port": "3"}, file)
    assert (settings.port, settings.heartbeat, settings.replay_limit) == (3, 2, 1)
    assert settings.outbox_frames == Settings.model_fields["outbox_frames"].default


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass empty variables on."""
    monkeypatch.setenv("WALCAST_PORT", "")
    assert load_settings({}, None).port == 8080


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_help_text(name: str) -> None:
    """A sentence, which is the option's help."""
    text = Settings.model_fields[name].description or ""
    assert len(text) > 10
    assert text.endswith(".")


def test_origins_are_a_list_in_each_of_the_three_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comma-separated as text, an array in the file; case and a last slash do not matter."""
    expected = ("https://a.example", "null")
    assert load_settings({"allowed_origins": "https://A.example/, null,"}, None).allowed_origins == expected
    file = config(tmp_path, 'allowed_origins = ["https://a.example", "null"]')
    assert load_settings({}, file).allowed_origins == expected
    monkeypatch.setenv("WALCAST_ALLOWED_ORIGINS", "https://a.example,null")
    assert load_settings({}, None).allowed_origins == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "-1"),
        ("port", "x"),
        ("heartbeat", "0"),
        ("poll_interval", "0"),
        ("poll_interval", "61"),
        ("auth", "basic"),
        ("max_connections", "0"),
        ("outbox_bytes", "1"),
        ("scan_share", "1.5"),
        ("wait", "perhaps"),
        ("max_frame_bytes", "127"),
        ("log_level", "loud"),
        ("retention_seconds", "-1"),
        ("no_such_setting", "1"),
    ],
)
def test_a_bad_value_is_refused_and_named(name: str, value: str) -> None:
    """Nothing is rounded to what was perhaps meant."""
    with pytest.raises(ValidationError) as caught:
        load_settings({name: value}, None)
    assert caught.value.errors()[0]["loc"] == (name,)


def test_an_unknown_key_of_the_file_is_refused(tmp_path: Path) -> None:
    """A mistyped limit must not be silently absent."""
    with pytest.raises(ValidationError) as caught:
        load_settings({}, config(tmp_path, "prot = 1"))
    assert (caught.value.errors()[0]["type"], caught.value.errors()[0]["loc"]) == ("extra_forbidden", ("prot",))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", "localhost.evil.example"])
def test_the_header_is_taken_at_its_word_on_loopback_only(host: str) -> None:
    """Anyone who reaches the port could name any owner."""
    with pytest.raises(ValidationError, match="--trust-header"):
        load_settings({"host": host}, None)
    assert load_settings({"host": host, "trust_header": True}, None).host == host
    assert load_settings({"host": host, "auth": "signed"}, None).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_loopback_needs_no_trust(host: str) -> None:
    """The default listens there."""
    assert load_settings({"host": host}, None).host == host


@pytest.mark.parametrize("host", ["127.evil.example", "127.0.0.1.evil.example", "127.0.0.1000", ""])
def test_a_name_that_looks_like_loopback_is_none(host: str) -> None:
    """Only addresses begin with 127: a host name may point anywhere, and an empty host is every address."""
    assert not is_loopback(host)
