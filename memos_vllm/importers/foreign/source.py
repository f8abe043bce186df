"""Records of other systems as cubes of one person.

chat      `chatgpt:<id>:1` …      turns, 64 to a cube; the name follows from the chat: a chat that went
                                  on is extended by a later export
fact      `mem0:<user>:facts-a`   one of 16 cubes by the fact's id, for the same reason
document  `claude:<id>:1` …       passages
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from memos_vllm.cube.model import ASSISTANT, Claim, Item, ItemType
from memos_vllm.errors import BadRequest
from memos_vllm.importers.foreign.parser import Parsed
from memos_vllm.importers.foreign.records import Chat, Document, Fact
from memos_vllm.importers.skipped import Skipped
from memos_vllm.importers.source import ImportedCube, ImportSource, chunk_cube
from memos_vllm.plaintext.reader.by_rules import is_instruction

_PART_CHARACTERS = 500_000
"""Of the items in one cube: below `limits.text_bytes` in every script, eight cubes at a time."""
_EARLIEST = datetime.min.replace(tzinfo=UTC)


def foreign_source(path: Path, parsed: Parsed, person: str, size: int) -> ImportSource:
    """Cubes of a parsed file.

    Args:
        person: whose memory they become.
        size: items of a cube (`remember.items_per_cube`).
    Raises:
        BadRequest: nothing in it can be imported.
    """
    total = sum(1 for _ in _Cubes(parsed, person, size, Skipped()).all())
    if not total:
        reasons = "; ".join(group.line() for group in parsed.skipped.groups()[:3])
        raise BadRequest(f"{path}: nothing in it can be imported ({reasons or 'it is empty'})")
    skipped = parsed.skipped

    def cubes() -> Iterator[ImportedCube]:
        return _Cubes(parsed, person, size, skipped).all()

    return ImportSource(parsed.kind, path, total, cubes, skipped=skipped)


class _Cubes:
    def __init__(self, parsed: Parsed, person: str, size: int, skipped: Skipped) -> None:
        self._parsed, self._person, self._size, self._skipped = parsed, person, size, skipped

    def all(self) -> Iterator[ImportedCube]:
        """Chats in the order in which they began, so that a newer claim comes behind an older one."""
        records = list(self._parsed.records())
        chats = [each for each in records if isinstance(each, Chat)]
        for chat in sorted(chats, key=_began):
            yield from self._chat(chat)
        for each in records:
            if isinstance(each, Document):
                yield from self._document(each)
        yield from self._facts([each for each in records if isinstance(each, Fact)])

    def _chat(self, chat: Chat) -> Iterator[ImportedCube]:
        items: list[Item] = []
        turn, replies = chat.messages[0].id, 0
        for message in chat.messages:
            if len(message.text) > _PART_CHARACTERS:
                reason = f"it has more than {_PART_CHARACTERS} characters: import it as a document"
                self._skipped.add("message", reason, message.id)
                continue
            is_own = message.role == "user"
            turn, replies = (message.id, 0) if is_own else (turn, replies + 1)
            part = "user" if is_own else "reply" if replies == 1 else f"reply{replies}"
            items.append(
                Item(
                    type=ItemType.EPISODE,
                    text=message.text,
                    speaker=self._person if is_own else ASSISTANT,
                    time=message.time,
                    session=chat.id,
                    source=_source(turn, part),
                )
            )
        for number, run in enumerate(_parts(items, self._size), start=1):
            cube = self._cube(chat.id, number, run, chat.title)
            yield ImportedCube(cube.new, is_conversation=True)

    def _document(self, document: Document) -> Iterator[ImportedCube]:
        text = document.text
        for number, start in enumerate(range(0, len(text), _PART_CHARACTERS), start=1):
            item = Item(
                type=ItemType.PASSAGE,
                text=text[start : start + _PART_CHARACTERS].strip() or " ",
                source=document.name,
                time=document.time,
            )
            yield self._cube(document.id, number, [item], document.name)

    def _facts(self, facts: list[Fact]) -> Iterator[ImportedCube]:
        users = {fact.user for fact in facts} - {None}
        of_one = len(users) <= 1
        buckets: dict[str, list[Item]] = {}
        for fact in facts:
            if not of_one and fact.user not in (None, self._person):
                reason = (
                    f"it is of another person ({fact.user}); import the file for that person, too"
                )
                self._skipped.add("memory", reason, fact.id)
                continue
            if is_instruction(fact.text):
                reason = "it would change the assistant's rules: store it as a cube if it should"
                self._skipped.add("memory", reason, fact.id)
                continue
            bucket = hashlib.sha256(fact.id.encode()).hexdigest()[0]
            buckets.setdefault(bucket, []).append(self._fact(fact))
        for bucket, items in sorted(buckets.items()):
            for number, run in enumerate(_parts(items, len(items)), start=1):
                yield self._cube(f"facts-{bucket}", number, run, None)

    def _fact(self, fact: Fact) -> Item:
        claim = Claim(
            subject=self._person,
            ends=fact.ended,
            confidence=fact.confidence,
            sources=[fact.id],
            superseded_by=fact.replaced_by,
        )
        return Item(
            type=fact.type,
            text=fact.text,
            time=fact.time,
            session=fact.session,
            source=fact.id,
            claim=None if fact.type is ItemType.PASSAGE else claim,
        )

    def _cube(self, name: str, number: int, items: list[Item], note: str | None) -> ImportedCube:
        return chunk_cube(self._parsed.kind, name, number, items, person=self._person, note=note)


def _source(turn: str, part: str) -> str:
    """`<turn>:<part>`, at most 500 characters."""
    return f"{turn if len(turn) <= 480 else hashlib.sha256(turn.encode()).hexdigest()}:{part}"


def _began(chat: Chat) -> tuple[datetime, str]:
    times = [message.time for message in chat.messages if message.time is not None]
    return min(times, default=_EARLIEST), chat.id


def _parts(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Runs of items, each with whole turns where they fit."""
    run: list[Item] = []
    length = 0
    for item in items:
        is_full = len(run) >= size or length + len(item.text) > _PART_CHARACTERS
        if run and is_full:
            yield run
            run, length = [], 0
        run.append(item)
        length += len(item.text)
    if run:
        yield run
