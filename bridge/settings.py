"""Settings: one name each, as an option, an environment variable and a key of the config file."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

AuthMode = Literal["header", "signed"]
OwnerFormat = Literal["solana", "any"]


def _listed(value: object) -> object:
    """`a,b` as it comes from an option or the environment; a TOML array as it is."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Settings(BaseSettings):
    """What `serve` can be told. The description is the option's help."""

    model_config = SettingsConfigDict(
        env_prefix="WALCAST_", extra="forbid", frozen=True, env_ignore_empty=True, allow_inf_nan=False
    )

    db: Path | None = Field(None, description="SQLite database of the legacy backend; opened read-only.")
    map: Path | None = Field(
        None, description="Mapping file (TOML): which tables and columns are messages, tasks and owners."
    )
    state: Path | None = Field(
        None, description="walcast's own file (event log, positions). Default: DB.walcast beside the database."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one and prints it.")
    wait: bool = Field(
        False, description="Wait for a database (or its tables) that is not there yet, instead of exit code 3."
    )
    auth: AuthMode = Field(
        "header", description="Who the owner is: the wallet header at its word, or proven by a signature."
    )
    trust_header: bool = Field(
        False, description="With --auth header: listen beyond loopback; a proxy in front authenticates the header."
    )
    owner_format: OwnerFormat = Field(
        "solana", description="What an owner looks like: base58 of 32 bytes, or any text."
    )
    signature_max_age: float = Field(
        300, gt=0, description="With --auth signed: at most so many seconds may a nonce lie in the future."
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = Field(
        (),
        description="Origins allowed beside the server's own, comma-separated; 'null' is a page opened as a file.",
    )
    log_format: Literal["text", "json"] = Field("text", description="Form of the log on standard error.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged.")
    inotify: bool = Field(True, description="Wake on file events where the system has them.")
    poll_interval: float | None = Field(
        None,
        gt=0,
        le=60,
        description="Seconds between looks without a hint. Default: 0.25 with file events, 0.02 without.",
    )
    scan_share: float = Field(
        0.25, gt=0, le=1, description="Share of one processor that a long pass over the tables may take."
    )
    heartbeat: float = Field(20, gt=0, description="Seconds between pings; a peer silent for two of them is dead.")
    max_connections: int = Field(
        20_000, ge=1, description="Open connections in all: sockets, event streams and requests that wait."
    )
    max_connections_per_owner: int = Field(100, ge=1, description="The same of one owner.")
    max_frame_bytes: int = Field(
        65_536, ge=128, description="Largest frame a client may send; a bigger one closes with 1009."
    )
    max_bad_frames: int = Field(20, ge=1, description="Invalid frames after which a connection is closed with 4008.")
    max_frames_per_second: float = Field(
        50, gt=0, description="Frames a client may send per second, on average; more closes with 4102."
    )
    outbox_bytes: int = Field(
        4 << 20, ge=1024, description="Bytes that may wait for one slow client; more closes with 4100."
    )
    outbox_frames: int = Field(
        10_000, ge=1, description="Frames that may wait for one slow client; more closes with 4100."
    )
    close_grace: float = Field(5, gt=0, description="Seconds a closed peer has to answer before its connection is cut.")
    replay_limit: int = Field(
        100_000, ge=1, description="Events replayed to a resuming client; one that missed more is told to refetch."
    )
    retention_events: int = Field(100_000, ge=1, description="Events kept in the log for resuming clients.")
    retention_seconds: float = Field(7 * 86_400, gt=0, description="Seconds for which events are kept in the log.")
    stall_seconds: float = Field(
        5, gt=0, description="Seconds without a sign of life of the watcher after which /readyz is 503."
    )
    max_behind_seconds: float = Field(
        30, gt=0, description="Seconds by which the bridge may be behind the commits before /readyz is 503."
    )

    @field_validator("allowed_origins")
    @classmethod
    def _plain_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(origin.rstrip("/").lower() for origin in value)

    @model_validator(mode="after")
    def _loopback_only(self) -> Settings:
        if self.auth == "header" and not self.trust_header and not is_loopback(self.host):
            raise ValueError(
                f"--host {self.host} with --auth header would let anyone who reaches it read every owner's messages; "
                "use --auth signed, or --trust-header if a proxy in front authenticates the header"
            )
        return self

    @property
    def effective_poll_interval(self) -> float:
        """Seconds between looks without a hint, when file events work."""
        return self.poll_interval or 0.25

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (the signature is the library's)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options first, then the environment, then the config file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # another name: it may point anywhere
        return False


def load_settings(options: dict[str, object], config: Path | None) -> Settings:
    """Settings from options, environment and a config file. Raises pydantic.ValidationError."""

    class Configured(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    return Configured(**options)  # type: ignore[arg-type]
