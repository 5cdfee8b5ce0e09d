"""walcast: the command line, and the wiring of the rooms. `python server.py` is the same program as `walcast`."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, get_args

import click
from pydantic import ValidationError

from bridge.discover import mapping_for
from bridge.protocol import Close
from bridge.service import Bridge
from bridge.settings import Settings, load_settings
from handlers.again import Left, Load, Signals, database_of, default_state, require_startable, start_again, state_of
from handlers.app import make_app
from handlers.context import VERSION, Context
from handlers.limits import fitted
from handlers.listening import Server
from handlers.logs import set_up_logging
from handlers.tail import Tail
from storage.errors import ConfigurationError, WalcastError

SAMPLES = Path(__file__).resolve().parent / "samples"
BASELINE_PATIENCE = 2.0
"""Seconds for which `serve` waits for the baseline before it accepts; a longer one goes on behind it."""

log = logging.getLogger("walcast")


# -- serving


async def serve(
    settings: Settings, left: Left, *, announce: Callable[[str], None], load: Load | None
) -> tuple[int, Signals] | None:
    """Run until SIGTERM or SIGINT; with `load`, until SIGHUP as well. Raises WalcastError.

    After SIGHUP: the descriptor of the socket that goes on listening, -1 if there is none, and what may yet tell us
    to end. Else None.
    """
    database = database_of(settings)
    mapping = await asyncio.to_thread(mapping_for, database, settings.map, wait=settings.wait)
    state, settings = state_of(settings), fitted(settings)
    bridge = Bridge(settings, database, state, mapping)
    server = Server(make_app(Context(settings, bridge, SAMPLES)))
    signals = Signals(hangup=left.may_hang_up)
    async with AsyncExitStack() as stack:
        await bridge.start(BASELINE_PATIENCE)
        stack.push_async_callback(bridge.stop)
        await server.start(settings.host, settings.port, left.listener(settings.host, settings.port))
        stack.push_async_callback(server.stop)
        gc.collect()
        gc.freeze()  # what lives as long as the program need not be looked at by every later collection
        announce(f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{server.port}")
        while await signals.hung_up() and load is not None:
            try:
                await asyncio.to_thread(require_startable, load, settings)
            except WalcastError as error:
                log.error("no new start, the old configuration stays: %s", error)
                continue
            if not signals.is_end:
                log.info("starting again")
                server.farewell(Close.RESTART)
                return server.kept_listener(), signals
        log.info("stopping")
    return None


def run(settings: Settings, announce: Callable[[str], None], load: Load | None = None) -> None:
    """Run the server on the fastest loop there is; ends the program with the exit code of its error.

    `load` reads the settings anew after a SIGHUP; without it that signal ends the program.
    """
    left = Left()
    # The capture thread and the loop share one interpreter lock: by default a busy one keeps the other out for 5 ms.
    sys.setswitchinterval(0.0005)
    try:
        with asyncio.Runner(loop_factory=fastest_loop) as runner:
            again = runner.run(serve(settings, left, announce=announce, load=load))
    except WalcastError as error:
        fail(error)
    if again is not None:
        listener, signals = again
        if signals.is_end:  # told so while it was closing; the new start would not know of it
            log.info("stopping")
        else:
            start_again(listener, settings.host, settings.port)


def fastest_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it exists: it also keeps its calm when the descriptors run out."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def announce_address(address: str) -> None:
    """The one line that scripts wait for."""
    try:
        print(f"walcast listening on {address}", flush=True)
    except BrokenPipeError:  # after a new start: whoever waited for the first line has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(error: WalcastError) -> NoReturn:
    """Say what is wrong and how to mend it, and end with the error's exit code."""
    print(f"walcast: {error.args[0]}", file=sys.stderr)
    if error.hint:
        print(f"  mend: {error.hint}", file=sys.stderr)
    sys.exit(error.exit_code)


# -- the command line


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="walcast")
@click.pass_context
def cli(context: click.Context) -> None:
    """Turn the SQLite file that a legacy backend writes into a live push service.

    Without a command: demo.
    """
    if context.invoked_subcommand is None:
        context.invoke(demo_command)


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for each setting, checked by the settings themselves."""
    for name, field in reversed(Settings.model_fields.items()):
        flag = "--" + name.replace("_", "-")
        if field.annotation is bool:
            option = click.option(
                f"{flag}/--no-{flag[2:]}",
                name,
                default=None,
                help=f"{field.description}  [default: {'yes' if field.default else 'no'}]",
            )
        else:
            shown = "" if field.default in (None, ()) else f"  [default: {field.default}]"
            option = click.option(
                flag, name, default=None, metavar=_metavar(field.annotation), help=f"{field.description}{shown}"
            )
        command = option(command)
    config = click.option(
        "--config", type=click.Path(path_type=Path), default=None, envvar="WALCAST_CONFIG", help="Settings file (TOML)."
    )
    return config(command)


def _metavar(annotation: Any) -> str:
    choices = [str(choice) for choice in get_args(annotation) if isinstance(choice, str)]
    if choices:
        return "|".join(choices)
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    names = {Path: "FILE", int: "N", float: "NUMBER", str: "TEXT"}
    return next((names[kind] for kind in kinds if kind in names), "TEXT")


def settings_from(config: Path | None, options: dict[str, object]) -> Settings:
    """As `read_settings`; ends the program with exit code 2 if they do not fit."""
    try:
        return read_settings(config, options)
    except ConfigurationError as error:
        fail(error)


def read_settings(config: Path | None, options: dict[str, object]) -> Settings:
    """Options, then the environment, then the config file. Raises ConfigurationError."""
    if config is not None and not config.is_file():
        raise ConfigurationError(f"the config file {config} is not there", "check --config")
    try:
        return load_settings({name: value for name, value in options.items() if value is not None}, config)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = str(problem["loc"][0]).replace("_", "-") if problem["loc"] else ""
            reason = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "extra_forbidden":
                reason = "there is no such setting; walcast serve --help lists them"
            lines.append(f"{f'--{name}: ' if name else ''}{reason}{_given(problem)}")
        raise ConfigurationError("\nwalcast: ".join(lines)) from error
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"the settings cannot be read: {error}", "check --config and the WALCAST_ variables"
        ) from error


def _given(problem: Any) -> str:
    value = problem.get("input")
    return f" (given: {value!r})" if isinstance(value, str | int | float) else ""


@cli.command("serve")
@setting_options
def serve_command(config: Path | None, **options: object) -> None:
    """Attach to a database and push what is committed to it."""
    settings = settings_from(config, options)
    set_up_logging(settings)
    run(settings, announce_address, lambda: read_settings(config, options))


@cli.command("inspect")
@click.argument("database", metavar="DB", required=False, type=click.Path(path_type=Path))
@click.option("--write", "target", metavar="FILE", type=click.Path(path_type=Path), help="Save the mapping.")
@click.option("--state", metavar="FILE", type=click.Path(path_type=Path), help="Of a serve on this database.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("--presets", "list_presets", is_flag=True, help="List the presets and end.")
@click.option("--no-presets", is_flag=True, help="Look at the data even where a preset is for the schema.")
def inspect_command(
    database: Path | None,
    target: Path | None,
    state: Path | None,
    as_json: bool,
    list_presets: bool,
    no_presets: bool,
) -> None:
    """Look at a database never seen before, and propose a mapping."""
    from bridge.inspect import inspection, report
    from bridge.inspect.presets import presets

    if list_presets:
        show(report.listing(presets()))
        return
    if database is None:
        fail(ConfigurationError("no database given", "say walcast inspect DB, or --presets"))
    try:
        looked = inspection.inspect_database(
            database, use_presets=not no_presets, state=state or default_state(database)
        )
        if target is not None:
            inspection.save(looked, target)
    except WalcastError as error:
        fail(error)
    if as_json:
        print(json.dumps(inspection.as_json(looked), ensure_ascii=False, indent=2))
        return
    show(report.inspection(looked))
    if target is not None:
        print(f"\nsaved: {target}")


@cli.command("check")
@setting_options
@click.option("--dead-letters", is_flag=True, help="List the rows that could not be pushed, and end.")
def check_command(config: Path | None, dead_letters: bool, **options: object) -> None:
    """Say beforehand what would make serve misbehave, each with its mend; exit 0 only if there is nothing."""
    from bridge.inspect import report
    from bridge.inspect.preflight import preflight
    from storage import survey

    settings = settings_from(config, options)
    if settings.db is None:
        fail(ConfigurationError("no database given", "say --db FILE"))
    try:
        state = state_of(settings)
        if dead_letters:
            show(report.letters(survey.dead_letters(state)))
            return
        found = preflight(
            settings.db, settings.map, state, outbox_bytes=settings.outbox_bytes, owner_format=settings.owner_format
        )
    except WalcastError as error:
        fail(error)
    show(report.findings(found))
    sys.exit(max((finding.exit_code for finding in found), default=0))


def show(what: Any) -> None:
    """Print for a terminal; wide and plain for a pipe."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 240, highlight=False).print(what)


@cli.command("tail")
@click.argument("url")
@click.option("--owner", required=True, metavar="ID", help="Whose events.")
@click.option("--since", metavar="CURSOR", help="First what was missed since this cursor.")
@click.option(
    "--events", metavar="TYPES", help="Which event types, separated by commas; new_message,task_update if left out."
)
@click.option("--json", "as_json", is_flag=True, help="Each event as it was sent, one a line.")
def tail_command(url: str, owner: str, since: str | None, events: str | None, as_json: bool) -> None:
    """Print an owner's events as they come; reconnects and resumes."""
    try:
        asyncio.run(_tail(Tail(url, owner, since, _print_line, _print_note, as_json=as_json, events=events)))
    except WalcastError as error:
        fail(error)


async def _tail(tail: Tail) -> None:
    running, stopped = asyncio.ensure_future(tail.run()), asyncio.ensure_future(Signals(hangup=False).hung_up())
    await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not running.done():
        running.cancel()
        await asyncio.wait({running})
    else:
        running.result()


def _print_line(line: str) -> None:
    print(line, flush=True)


def _print_note(line: str) -> None:
    print(f"walcast: {line}", file=sys.stderr, flush=True)


@cli.command("demo")
@setting_options
def demo_command(config: Path | None, **options: object) -> None:
    """A demo database, a simulated backend in a process of its own, and the sample page."""
    from samples.legacy_backend import DEMO_WALLETS

    with tempfile.TemporaryDirectory(prefix="walcast-demo-") as folder:
        database, mapping = Path(folder) / "demo.db", Path(folder) / "mapping.toml"
        mapping.write_text(demo_mapping(), encoding="utf-8")
        given = {"db": database, "map": mapping, "wait": True, "allowed_origins": "null", "log_level": "warning"}
        settings = settings_from(config, given | {name: value for name, value in options.items() if value is not None})
        set_up_logging(settings)

        def announce(address: str) -> None:
            announce_address(address)
            query = f"publicKey={DEMO_WALLETS[0]}&wallets={','.join(DEMO_WALLETS)}&connect=1"
            print(f"open {address}/samples/websocket_client_example.html?{query}", flush=True)

        with simulated_backend(database):
            run(settings, announce)


def demo_mapping() -> str:
    """The mapping of the reference schema."""
    from bridge.mapping import REFERENCE

    return REFERENCE


@contextmanager
def simulated_backend(database: Path) -> Iterator[None]:
    """The legacy backend of the demo: it ends with us, however we end, since it reads the pipe that we hold."""
    program = [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, str(Path(__file__).resolve())]
    backend = subprocess.Popen(
        [*program, "demo-backend", str(database), "--exit-with-stdin", "--rate", "4"],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield
    finally:
        if backend.stdin is not None:
            backend.stdin.close()
        try:
            backend.wait(3)
        except subprocess.TimeoutExpired:
            backend.kill()
            backend.wait()


@cli.command("demo-backend", hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo_backend_command(arguments: tuple[str, ...]) -> None:
    """The simulated backend alone."""
    from samples.legacy_backend import main as backend

    sys.exit(backend(list(arguments)))


def main() -> None:
    """The console script."""
    cli(prog_name="walcast")


if __name__ == "__main__":
    main()
