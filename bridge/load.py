"""The initial load: what an owner's conversations hold now, each item rendered exactly as its event would be."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from bridge.decide import Unrenderable, decide, encode, owners_of
from bridge.errors import LoadFailed, WalcastError
from bridge.mapping import Conversations, conversation_section
from storage.load import BUDGET, PAGE_BYTES, Reads
from storage.loadelements import CONVERSATIONS
from storage.loadsql import BadPlace, Place, Sought
from storage.types import Change, Draft, Kind, Op, Row, Section, text_of

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 4
"""Loads that run at the same time; more wait."""


class BadToken(ValueError):
    """A `before` that was not given by us."""


@dataclass(frozen=True, slots=True)
class Item:
    """A row as its owner may see it: the id, the conversation, and the JSON object."""

    subject: str
    conversation: str
    body: bytes


Take = Callable[[Section, Row], Item | None]


@dataclass(frozen=True, slots=True)
class Page:
    """Items, newest first; `before` is what to ask with for those before them, None when these were the last."""

    items: list[Item]
    before: str | None


@dataclass(frozen=True, slots=True)
class _At:
    """Where a page begins: in which of several sections, and below which row."""

    section: int = 0
    below: Place | None = None

    @classmethod
    def parse(cls, token: str | None) -> _At:
        """Raises BadToken."""
        if token is None:
            return cls()
        try:
            section, *below = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            place = tuple(bytes.fromhex(part[0]) if isinstance(part, list) else part for part in below)
        except (ValueError, TypeError, IndexError, binascii.Error, RecursionError) as error:
            raise BadToken(token) from error
        is_place = all(
            isinstance(part, float | str | bytes) or (isinstance(part, int) and abs(part) < 1 << 63) for part in place
        )
        if isinstance(section, bool) or not isinstance(section, int) or section < 0 or not is_place:
            raise BadToken(token)
        return cls(section, place or None)

    def __str__(self) -> str:
        below = [[part.hex()] if isinstance(part, bytes) else part for part in self.below or ()]
        return base64.urlsafe_b64encode(json.dumps([self.section, *below]).encode()).decode().rstrip("=")


class Loader:
    """Reads for HTTP clients. `close` once no request is under way."""

    def __init__(self, database: Path, sections: Sequence[Section], conversations: Conversations | None) -> None:
        self._reads = Reads(database)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._messages, self._tasks = _of_kind(sections, "message"), _of_kind(sections, "task")
        self._is_derived = conversations is None
        self._conversations = (
            [_conversation_section(section) for section in sections]
            if conversations is None
            else [conversation_section(conversations)]
        )

    async def close(self) -> None:
        """Close the database."""
        await asyncio.to_thread(self._reads.close)

    def bar(self, is_barred: Callable[[], bool]) -> None:
        """Requests fail while this says so, as with any database that cannot be read. Called from any thread."""
        self._reads.is_barred = is_barred

    def forget(self) -> None:
        """Close the database until the next request, since the capture opens it anew. From any thread."""
        self._reads.forget()

    async def conversations(self, owner: str, before: str | None, limit: int) -> Page:
        """The owner's conversations. Raises BadToken, LoadFailed."""
        at, sought = _At.parse(before), Sought("owner", owner)
        return await self._run(self._page, self._conversations, sought, at, limit, partial(_conversation, owner))

    async def messages(self, owner: str, conversation: str, before: str | None, limit: int) -> Page | None:
        """The owner's messages of a conversation; None if it is not the owner's. Raises as `conversations`."""
        return await self._run(self._of_conversation, self._messages, owner, conversation, _At.parse(before), limit)

    async def tasks(self, owner: str, conversation: str, before: str | None, limit: int) -> Page | None:
        """The owner's tasks of a conversation; None if it is not the owner's. Raises as `conversations`."""
        return await self._run(self._of_conversation, self._tasks, owner, conversation, _At.parse(before), limit)

    async def task(self, owner: str, task: str) -> Item | None:
        """One task; None if there is none, or if it is not the owner's. Raises LoadFailed."""
        return await self._run(self._task, owner, task)

    async def _run(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._slots:
            try:
                return await asyncio.to_thread(read, *args, **kwargs)
            except BadPlace as error:
                raise BadToken(str(error)) from error
            except WalcastError as error:
                raise LoadFailed(str(error)) from error

    # -- in a thread

    def _of_conversation(
        self, sections: list[Section], owner: str, conversation: str, at: _At, limit: int
    ) -> Page | None:
        is_owned = None if self._is_derived else self._is_owned(owner, conversation)
        # What is another's is answered as what does not exist, on every page: so that is what is looked for.
        sought = Sought("conversation_id", secrets.token_hex() if is_owned is False else conversation)
        page = self._page(sections, sought, at, limit, partial(_item, owner))
        if page.items or page.before is not None or at != _At() or is_owned or self._is_derived_of(owner, sought):
            return page
        return None

    def _is_owned(self, owner: str, conversation: str) -> bool | None:
        """Whether a conversation of [conversations] is the owner's; None if it does not stand there: then each of its
        rows tells."""
        sought, take = Sought("id", conversation), partial(_is_of, owner)
        found = self._reads.page(self._conversations[0], sought, None, 1, take)
        return found.items[0][1] if found.items else None

    def _is_derived_of(self, owner: str, sought: Sought) -> bool:
        """Whether a conversation is the owner's by any row, though what was asked for is not in it."""
        take = partial(_conversation, owner)
        return self._is_derived and bool(self._page(self._conversations, sought, _At(), 1, take).items)

    def _task(self, owner: str, task: str) -> Item | None:
        sought, deadline = Sought("id", task), time.monotonic() + 10 * BUDGET
        for section in self._tasks:
            found = self._reads.page(section, sought, None, 1, _drafted, deadline)
            if found.items:
                [(_, draft)] = found.items
                return _shown(draft) if owner in draft.owners else None
            if found.below is not None:
                raise LoadFailed(f"[{section.name}] has no index on its id, and is too big to be searched")
        return None

    def _page(self, sections: list[Section], sought: Sought, at: _At, limit: int, take: Take) -> Page:
        """One item more than asked for tells whether there is a page before this one."""
        deadline, size = time.monotonic() + BUDGET, 0
        items: dict[str, tuple[_At, Item]] = {}
        end: _At | None = None
        for number, below in self._sections(sections, at):
            while len(items) <= limit:
                found = self._reads.page(sections[number], sought, below, limit + 1 - len(items), take, deadline)
                below = found.below
                for place, item in found.items:
                    if item.subject not in items and self._is_first(sections, number, place, item, take):
                        items[item.subject] = _At(number, place), item
                        size += len(item.body)
                if below is None or time.monotonic() > deadline or size > PAGE_BYTES:
                    break
            end = _At(number, below) if below is not None else None
            if end is None and number + 1 < len(sections) and (time.monotonic() > deadline or size > PAGE_BYTES):
                end = _At(number + 1)
            if end is not None or len(items) > limit:
                break
        kept = list(items.values())[:limit]
        if len(items) > limit:
            end = kept[-1][0]
        return Page([item for _, item in kept], None if end is None else str(end))

    def _sections(self, sections: list[Section], at: _At) -> Iterator[tuple[int, Place | None]]:
        for number in range(at.section, len(sections)):
            yield number, at.below if number == at.section else None

    def _is_first(self, sections: list[Section], number: int, place: Place, item: Item, take: Take) -> bool:
        """Whether an item has not been on an earlier page: the newest row with the id of a task is the task, and the
        newest message of a conversation stands for it. Asked only where an index answers; else it may come again.
        """
        section, sought = sections[number], Sought("id", item.subject)
        if section.kind == "task":
            return self._newest(section, sought, _anything) in (None, place)
        if sections is not self._conversations or not self._is_derived:
            return True
        before = [self._newest(earlier, sought, take) for earlier in sections[:number]]
        return not any(before) and self._newest(section, sought, take) in (None, place)

    def _newest(self, section: Section, sought: Sought, take: Callable[[Section, Row], object]) -> Place | None:
        if not self._reads.is_indexed(section, sought):
            return None
        return next((place for place, _ in self._reads.page(section, sought, None, 1, take).items), None)


def _anything(_section: Section, _row: Row) -> bool:
    return True


def _of_kind(sections: Sequence[Section], kind: Kind) -> list[Section]:
    return [section for section in sections if section.kind == kind]


def _conversation_section(section: Section) -> Section:
    """The conversations that a section's rows belong to."""
    given = dict(section.fields)
    id_, owner = given["conversation_id"], given["owner"]
    fields = (("id", id_), ("owner", owner), ("conversation_id", id_), ("name", "NULL"))
    return Section(CONVERSATIONS, section.name, "message", section.table, fields, section.where, each=section.each)


def _drafted(section: Section, row: Row) -> Draft | None:
    return decide(Change(section, Op.NEW, row, None)).draft


class _Event(msgspec.Struct):
    message: msgspec.Raw = msgspec.Raw()
    task: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.json.Decoder(_Event)


def _shown(draft: Draft) -> Item:
    """The object inside the event, byte for byte."""
    event = _decoder.decode(draft.body)
    return Item(draft.subject, draft.conversation_id, bytes(event.message) or bytes(event.task))


def _item(owner: str, section: Section, row: Row) -> Item | None:
    draft = _drafted(section, row)
    return _shown(draft) if draft is not None and owner in draft.owners else None


def _conversation(owner: str, _section: Section, row: Row) -> Item | None:
    subject = text_of(row.values[0])
    if subject is None or not _is_of(owner, _section, row):
        return None
    name = row.values[3]
    return Item(subject, subject, encode({"id": subject, "name": text_of(name)}))


def _is_of(owner: str, _section: Section, row: Row) -> bool:
    try:
        return owner in owners_of(row.values[1])
    except Unrenderable:
        return False
