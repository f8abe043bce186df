"""Split Markdown, HTML, PDF and plain text into passages, each below its headings.

A passage's source is the document with its heading or page.  Scripts, comments and hidden elements are
left out; text that a PDF hides by colour or size is not detected.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePath

from memos_vllm.cube.model import Item, ItemType
from memos_vllm.errors import BadRequest, TooLarge, Unprocessable
from memos_vllm.plaintext.documents.html import html_sections

_LONGEST_PASSAGE = 1500  # characters; under the embedder's window, so that each keeps its heading
_LONGEST_SOURCE = 500
_LONGEST_HEADING = 200
_MOST_PAGES = 5000
_SUFFIXES = {
    **dict.fromkeys((".md", ".markdown", ".mdown"), "markdown"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **dict.fromkeys((".txt", ".text", ".log", ".rst", ""), "text"),
    ".pdf": "pdf",
}
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_PARAGRAPH = re.compile(r"\n[^\S\n]*+\n\s*+")
DEPTH = 5000
# Errors that pypdf raises on damaged files.
_DAMAGE = (
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError),
    *(NotImplementedError, RecursionError, EOFError, OSError, struct.error, zlib.error),
)
_Section = tuple[tuple[str, ...], str | None, str]  # headings from the outermost, page, text


def read_document(name: str, data: bytes, max_bytes: int, depth: int = DEPTH) -> list[Item]:
    """A document's passages, in order.

    Args:
        name: the file's name; its suffix determines the format (for a PDF also its first bytes).
        depth: of nested HTML elements, at most.

    Raises:
        TooLarge: more than `max_bytes`.
        BadRequest: an unsupported format, or no UTF-8 text.
        Unprocessable: encrypted, damaged, or without text.
    """
    if len(data) > max_bytes:
        raise TooLarge(f"{name}: {len(data)} bytes; at most {max_bytes} (limits.document_bytes)")
    label = clean_name(name)
    kind = "pdf" if data.startswith(b"%PDF-") else _SUFFIXES.get(PurePath(label).suffix.lower())
    if kind is None:
        raise BadRequest(
            f"{label}: this format is not read; Markdown (.md), HTML (.html), PDF and plain text (.txt) are"
        )
    items = [
        Item(type=ItemType.PASSAGE, text=text, source=_source(label, headings, page))
        for headings, page, section in _READERS[kind](label, data, depth)
        for text in _passages(headings, section)
    ]
    if not items:
        scanned = "; scanned pages need text recognition first" if kind == "pdf" else ""
        raise Unprocessable(f"{label}: there is no text in it{scanned}")
    return items


def clean_name(name: str) -> str:
    """The last part of a path, without characters that a cube's name may not have."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(char for char in last if char.isprintable()).strip()[-150:] or "document"


def _source(name: str, headings: tuple[str, ...], page: str | None) -> str:
    where = f"{name}, page {page}" if page else " > ".join((name, *headings))
    return where[:_LONGEST_SOURCE]


def _passages(headings: tuple[str, ...], section: str) -> Iterator[str]:
    """The section split at paragraph borders, each piece below the headings."""
    head = " > ".join(headings)
    piece = ""
    for paragraph in _PARAGRAPH.split(_storable(section)):
        paragraph = paragraph.strip("\n").rstrip()
        if not paragraph:
            continue
        if piece and len(piece) + len(paragraph) > _LONGEST_PASSAGE:
            yield f"{head}\n\n{piece}" if head else piece
            piece = ""
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
    if piece.strip():
        yield f"{head}\n\n{piece}" if head else piece


def _storable(text: str) -> str:
    """Remove NUL and lone surrogates, which databases refuse."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def _below(
    path: tuple[tuple[int, str], ...], level: int, heading: str
) -> tuple[tuple[int, str], ...]:
    """The path of headings with one more, which closes those of its level and below."""
    title = _storable(" ".join(heading.split())[:_LONGEST_HEADING]).strip()
    above = tuple(one for one in path if one[0] < level)
    return (*above, (level, title)) if title else above


def _titles(path: tuple[tuple[int, str], ...]) -> tuple[str, ...]:
    return tuple(title for _, title in path)


def _text(name: str, data: bytes, depth: int) -> Iterator[_Section]:
    yield (), None, _decoded(name, data)


def _decoded(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"{name}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error


def _markdown(name: str, data: bytes, depth: int) -> Iterator[_Section]:
    from markdown_it import MarkdownIt

    text = _COMMENT.sub("", _decoded(name, data))
    lines = text.split("\n")
    path: tuple[tuple[int, str], ...] = ()
    body: list[str] = []
    # Blocks alone: the text is kept as it is written, and inline rules need quadratic time.
    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    parser.disable("reference")
    tokens = parser.parse(text)
    for position, token in enumerate(tokens):
        if token.level or token.map is None or token.nesting < 0:
            continue
        if token.type == "heading_open":
            yield _titles(path), None, "\n\n".join(body)
            path, body = _below(path, int(token.tag[1]), tokens[position + 1].content), []
        elif token.type == "html_block":
            body += [
                section
                for _, _, section in _html(name, token.content.encode("utf-8", "replace"), depth)
            ]
        else:
            body.append("\n".join(lines[token.map[0] : token.map[1]]).strip("\n"))
    yield _titles(path), None, "\n\n".join(body)


def _html(name: str, data: bytes, depth: int) -> Iterator[_Section]:
    path: tuple[tuple[int, str], ...] = ()
    for level, heading, text in html_sections(data, depth):
        path = _below(path, level, heading) if level else path
        yield _titles(path), None, text


def _pdf(name: str, data: bytes, depth: int) -> Iterator[_Section]:
    from pypdf import PasswordType, PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data))
        # Many files are encrypted only against changes, and open with an empty password.
        if reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED:
            raise Unprocessable(f"{name}: encrypted; remove its password and send it again")
        pages = len(reader.pages)
        if pages > _MOST_PAGES:
            raise TooLarge(f"{name}: {pages} pages; at most {_MOST_PAGES}")
        for number in range(pages):
            yield (), str(number + 1), reader.pages[number].extract_text()
    except (PyPdfError, *_DAMAGE) as error:
        problem = " ".join(str(error).split())[:200] or type(error).__name__
        raise Unprocessable(f"{name}: damaged, or not a PDF ({problem})") from error


_READERS: dict[str, Callable[[str, bytes, int], Iterator[_Section]]] = {
    "text": _text,
    "markdown": _markdown,
    "html": _html,
    "pdf": _pdf,
}
