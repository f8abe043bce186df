"""HTML as visible text below its headings, in one pass and without a tree: linear in the document.

Tags are read as browsers tokenize them: what the end of the document leaves open (a comment, a tag, a
quoted attribute) is dropped.  Scripts, comments and hidden elements are left out.
"""

from __future__ import annotations

import codecs
import html
import re
from collections import Counter
from collections.abc import Iterator

from memos_vllm.errors import TooLarge

_VOID = frozenset(
    [
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
        "keygen",
        "frame",
    ]
)
# Their text ends at their own end tag only.
_RAW = frozenset(
    ["script", "style", "textarea", "title", "noscript", "iframe", "xmp", "noembed", "noframes"]
)
_UNSEEN = frozenset(
    [
        "script",
        "style",
        "template",
        "noscript",
        "svg",
        "math",
        "iframe",
        "object",
        "canvas",
        "select",
        "button",
        "textarea",
        "audio",
        "video",
        "noembed",
        "noframes",
        "datalist",
    ]
)
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "dd",
        "div",
        "dl",
        "dt",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hr",
        "main",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "table",
        "ul",
        "body",
        "title",
    ]
)
_LINES = frozenset(("br", "li", "tr"))
_CELLS = frozenset(("td", "th"))
# An element that ends where its next sibling begins, by the group it is in.
_SIBLINGS = {
    name: group
    for group in (
        *(frozenset(("p",)), frozenset(("li",)), frozenset(("dt", "dd")), frozenset(("tr",))),
        *(_CELLS, frozenset(("option",))),
    )
    for name in group
}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LONGEST_HEADING = 1000  # characters; a longer "heading" is text whose end tag is missing
_HIDDEN_STYLE = re.compile(
    r"display\s*+:\s*+none|visibility\s*+:\s*+(?:hidden|collapse)|opacity\s*+:\s*+0(?:\.0++)?\s*+(?:;|$)"
    r"|font-size\s*+:\s*+0|text-indent\s*+:\s*+-\d{3}",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z][^\s/>]*+")
_BETWEEN = re.compile(r"[\s/=]*+")
_ATTRIBUTE = re.compile(
    r"(?P<name>[^\s/>=]++)(?:\s*+=\s*+(?:\"(?P<double>[^\"]*+)\"|'(?P<single>[^']*+)'|(?P<open>[\"'])"
    r"|(?P<bare>[^\s>\"'][^\s>]*+)))?+"
)
_LONG_REFERENCE = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9A-Fa-f]{7,});?")
_CHARSET = re.compile(rb"<meta\b[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?([\w-]{1,40})", re.I)
_SPACE = re.compile(r"[^\S\n]+")
_PRESCAN = 1024  # bytes in which browsers look for a charset

Headed = tuple[int, str, str]
"""Level and text of a heading (0: none), and the text below it."""


def html_sections(data: bytes, depth: int) -> Iterator[Headed]:
    """Each heading with the text below it, in order.

    Args:
        depth: of nested elements, at most.
    Raises:
        TooLarge: deeper.
    """
    yield from _Reader(_decoded(data), depth).sections()


def _decoded(data: bytes) -> str:
    """By byte order mark, by the declared charset, as UTF-8, else as Windows-1252."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(name, "replace")
    declared = _CHARSET.search(data[:_PRESCAN])
    if declared is not None:
        try:
            found = codecs.lookup(declared[1].decode("ascii", "replace"))
            if getattr(found, "_is_text_encoding", False) and not found.name.startswith("utf-"):
                return data.decode(found.name, "replace")
        except (LookupError, ValueError):
            pass
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


class _Reader:
    def __init__(self, text: str, depth: int) -> None:
        self._text, self._depth = text, depth
        self._open: list[str] = []
        self._count: Counter[str] = Counter()
        self._hidden_from: int | None = None  # depth of the outermost hidden element
        self._body: list[str] = []
        self._heading: list[str] | None = None
        self._heading_level, self._heading_size = 0, 0
        self._last: tuple[int, str] = (0, "")
        self._done: list[Headed] = []

    def sections(self) -> Iterator[Headed]:
        position, text = 0, self._text
        while (start := text.find("<", position)) >= 0:
            self._say(text[position:start])
            position = self._markup(start)
            yield from self._done
            self._done.clear()
        self._say(text[position:])
        if self._heading is not None:
            self._body += self._heading
        yield (*self._last, self._visible())

    def _markup(self, start: int) -> int:
        """Take the markup at a `<`; the position behind it."""
        text = self._text
        if text.startswith("<!--", start):
            # "<!-->" and "<!--->" are whole comments.
            return (
                len("<!--") + start
                if text[start + 4 : start + 5] == ">"
                else self._past("-->", start + 2)
            )
        if text.startswith(("<!", "<?"), start):
            is_data = text.startswith("<![CDATA[", start) and self._hidden_from is not None
            return self._past("]]>" if is_data else ">", start)
        is_end = text.startswith("</", start)
        name = _NAME.match(text, start + 1 + is_end)
        if name is None:
            if is_end:
                return self._past(">", start)  # a bogus comment
            self._say("<")
            return start + 1
        position, is_hidden, closes = self._attributes(name.end())
        element = name[0].lower()
        if position < 0:
            return len(text)
        if is_end:
            self._end(element)
            return position
        self._start(element, is_hidden, closes)
        return self._past_raw(element, position) if element in _RAW else position

    def _past(self, mark: str, start: int) -> int:
        found = self._text.find(mark, start)
        return len(self._text) if found < 0 else found + len(mark)

    def _past_raw(self, element: str, start: int) -> int:
        """Behind the text of an element that holds no markup, at its end tag."""
        end = re.compile(rf"</{element}(?=[\s/>])", re.IGNORECASE).search(self._text, start)
        inside = self._text[start : end.start() if end is not None else len(self._text)]
        self._say(inside)
        return end.start() if end is not None else len(self._text)

    def _attributes(self, position: int) -> tuple[int, bool, bool]:
        """(position behind the tag, or -1 where it never ends; hidden; `/>`)."""
        text, is_hidden = self._text, False
        while True:
            position = _skipped(text, position)
            if text.startswith(">", position):
                return position + 1, is_hidden, text[position - 1] == "/"
            found = _ATTRIBUTE.match(text, position)
            if found is None or found["open"] is not None:
                return -1, is_hidden, False
            position = found.end()
            value = found["double"] or found["single"] or found["bare"] or ""
            is_hidden = is_hidden or _hides(found["name"].lower(), value)

    def _start(self, name: str, is_hidden: bool, closes: bool) -> None:
        siblings = _SIBLINGS.get(name)
        if siblings is not None and self._open and self._open[-1] in siblings:
            self._pop()
        level = _HEADINGS.get(name)
        if name in _VOID or (closes and name in ("svg", "math")):
            self._border(name)
            return
        if len(self._open) >= self._depth:
            raise TooLarge(
                f"HTML nested deeper than {self._depth} elements (reader.documents.depth); "
                "send the text without its markup"
            )
        self._open.append(name)
        self._count[name] += 1
        if self._hidden_from is None and (is_hidden or name in _UNSEEN):
            self._hidden_from = len(self._open)
        if self._hidden_from is not None:
            return
        if level is not None:
            self._end_heading()
            self._heading, self._heading_level, self._heading_size = [], level, 0
        self._border(name)

    def _end(self, name: str) -> None:
        if not self._count[name]:
            return
        while self._open[-1] != name:
            self._pop()
        self._pop()

    def _pop(self) -> None:
        name = self._open.pop()
        self._count[name] -= 1
        if self._hidden_from is not None:
            if len(self._open) < self._hidden_from:
                self._hidden_from = None
            return
        if name in _HEADINGS:
            self._end_heading()
        elif name in _BLOCKS:
            self._border(name)
        elif name in _CELLS:
            self._say(" ")

    def _border(self, name: str) -> None:
        if name in _LINES:
            self._add("\n")
        elif name in _BLOCKS:
            self._add("\n\n")

    def _say(self, text: str) -> None:
        if text:
            self._add(html.unescape(_LONG_REFERENCE.sub("\ufffd", text)) if "&" in text else text)

    def _add(self, text: str) -> None:
        if self._hidden_from is not None:
            return
        if self._heading is None:
            self._body.append(text)
            return
        self._heading.append(text)
        self._heading_size += len(text)
        if self._heading_size > _LONGEST_HEADING:
            self._body += self._heading
            self._heading = None

    def _end_heading(self) -> None:
        if self._heading is None:
            return
        self._done.append((*self._last, self._visible()))
        self._last = (self._heading_level, "".join(self._heading))
        self._heading, self._body = None, []

    def _visible(self) -> str:
        return _SPACE.sub(" ", "".join(self._body))


def _skipped(text: str, position: int) -> int:
    between = _BETWEEN.match(text, position)
    return between.end() if between is not None else position


def _hides(name: str, value: str) -> bool:
    if name == "hidden" or (name == "aria-hidden" and value.strip().lower() == "true"):
        return True
    return name == "style" and _HIDDEN_STYLE.search(html.unescape(value[:10_000])) is not None
