"""Anthropic's client-side memory tool (`memory_20250818`) with its files in memory.

Each file below `/memories` is a cube of the person, with the file's path in its name and its text in items of the
speaker `tool`: what a model writes there is found by search in chats, too, and states nothing of the person.
Folders are the common beginnings of paths; an empty folder does not exist.

    tool = MemosMemoryTool(MemoryClient("http://127.0.0.1:8000", key="…", person="alice"))
    Anthropic().beta.messages.tool_runner(model=…, messages=…, tools=[tool], max_tokens=1024)

A person's token needs the scopes `memory.read`, `memory.write` and `memory.delete`. Messages follow those of the
library's own file system tool.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import unquote

import anyio.to_thread
from anthropic.lib.tools import BetaAbstractMemoryTool, BetaAsyncAbstractMemoryTool, ToolError
from anthropic.types.beta import (
    BetaMemoryTool20250818CreateCommand as Create,
)
from anthropic.types.beta import (
    BetaMemoryTool20250818DeleteCommand as Delete,
)
from anthropic.types.beta import (
    BetaMemoryTool20250818InsertCommand as Insert,
)
from anthropic.types.beta import (
    BetaMemoryTool20250818RenameCommand as Rename,
)
from anthropic.types.beta import (
    BetaMemoryTool20250818StrReplaceCommand as StrReplace,
)
from anthropic.types.beta import (
    BetaMemoryTool20250818ViewCommand as View,
)

from memos_vllm.cube.model import TOOL, MemCube
from memos_vllm.errors import Conflict, MemosError, NotFound
from memos_vllm.integrations.client import MemoryClient, payload
from memos_vllm.integrations.pieces import joined, pieces

ROOT = "/memories"
TAG = "memory-file"
ORIGIN = "anthropic:memory_20250818"
MOST_CHARACTERS = 200_000
"""Of one file."""
_LONGEST_PATH = 150
_LINE_NUMBER_WIDTH = 6
_DEPTH = 2
_MOST_LISTED = 1000

Made = TypeVar("Made")


class MemoryFiles:
    """The six commands of the tool. Each returns the text for the model, or raises ToolError."""

    def __init__(self, client: MemoryClient) -> None:
        self._client = client

    def view(self, path: str, lines: list[int] | None = None) -> str:
        path = checked(path)
        cube = None if path == ROOT else self._found(path)
        if cube is not None:
            return self._shown(path, text_of(cube), lines)
        below = list(self._below(path))
        if not below and path != ROOT:
            raise _absent(path)
        return _listing(path, below)

    def create(self, path: str, text: str) -> str:
        path = _of_file(path)
        if self._below_any(path):
            raise ToolError(f"The path {path} is a directory.")
        try:
            made = self._client.create(_meta(path), _items(path, text))
        except Conflict as error:
            raise ToolError(f"File {path} already exists") from error
        self._verify(made, text)
        return f"File created successfully at: {path}"

    def str_replace(self, path: str, old: str, new: str) -> str:
        path = _of_file(path)
        cube = self._existing(path)
        text = text_of(cube)
        count = text.count(old) if old else 0
        if count == 0:
            raise ToolError(
                f"No replacement was performed, old_str `{old}` did not appear verbatim in {path}."
            )
        if count > 1:
            found = ", ".join(map(str, _lines_with(text, old)))
            raise ToolError(
                f"No replacement was performed. Multiple occurrences of old_str `{old}` in lines: {found}. "
                "Please ensure it is unique"
            )
        at = text[: text.index(old)].count("\n")
        changed = self._write(cube, path, text.replace(old, new))
        shown = changed.split("\n")
        first = max(0, at - 2)
        snippet = _numbered(shown[first : at + 3], first + 1)
        return (
            "The memory file has been edited. Here is the snippet showing the change (with line numbers):\n"
            + snippet
        )

    def insert(self, path: str, line: int, text: str) -> str:
        path = _of_file(path)
        cube = self._existing(path)
        lines = text_of(cube).splitlines()
        if not 0 <= line <= len(lines):
            raise ToolError(
                f"Invalid `insert_line` parameter: {line}. It should be within the range [0, {len(lines)}]."
            )
        lines.insert(line, text.rstrip("\n"))
        self._write(cube, path, "\n".join(lines) + "\n")
        return f"The file {path} has been edited."

    def delete(self, path: str) -> str:
        path = checked(path)
        if path == ROOT:
            raise ToolError(f"Cannot delete the {ROOT} directory itself")
        files = [path] if self._found(path) is not None else [name for name, _ in self._below(path)]
        if not files:
            raise ToolError(f"The path {path} does not exist")
        for name in files:
            try:
                self._client.delete(_cube_name(name))
            except NotFound:
                continue  # deleted by another client meanwhile
        return f"Successfully deleted {path}"

    def rename(self, old: str, new: str) -> str:
        old, new = checked(old), _of_file(new)
        if old == ROOT:
            raise ToolError(f"Cannot rename the {ROOT} directory itself")
        if new == old or new.startswith(old + "/"):
            raise ToolError(f"{new} is inside of {old}")
        if self._found(new) is not None or self._below_any(new):
            raise ToolError(f"The destination {new} already exists")
        files = [old] if self._found(old) is not None else [name for name, _ in self._below(old)]
        if not files:
            raise ToolError(f"The path {old} does not exist")
        names = {name: _of_file(new + name.removeprefix(old)) for name in files}
        for name, renamed in names.items():
            patch = {"name": _cube_name(renamed), "provenance": _provenance(renamed)}
            self._client.change(_cube_name(name), patch)
        return f"Successfully renamed {old} to {new}"

    def clear(self) -> str:
        for name, _ in list(self._below(ROOT)):
            self._client.delete(_cube_name(name))
        return "All memory cleared"

    # -- inside -----------------------------------------------------------------------------------

    def _found(self, path: str) -> MemCube | None:
        cube = self._client.cube(_cube_name(path))
        if cube is None or cube.meta.person is None or TAG not in cube.meta.tags:
            return None
        return cube

    def _existing(self, path: str) -> MemCube:
        cube = self._found(path)
        if cube is None:
            if self._below_any(path):
                raise ToolError(f"The path {path} is not a file.")
            raise _absent(path)
        return cube

    def _below(self, folder: str) -> Iterator[tuple[str, int]]:
        """(path, number of the version) of the files in a folder, at any depth."""
        prefix = _cube_name(folder + "/")
        for header in self._client.headers(tag=TAG, name_prefix=prefix):
            path = _path_of(header["name"])
            if path is not None:
                yield path, header["sequence"]

    def _below_any(self, folder: str) -> bool:
        return next(self._below(folder), None) is not None

    def _write(self, cube: MemCube, path: str, text: str) -> str:
        """Replace a file's text. Returns it as stored."""
        patch = {"payload": payload(_items(path, text)), "provenance": _provenance(path)}
        try:
            made = self._client.change(cube.meta.id, patch, if_match=cube.meta.version)
        except Conflict as error:
            raise ToolError(
                f"{path} was changed by another client meanwhile: view it again"
            ) from error
        return self._verify(made, text)

    @staticmethod
    def _verify(made: MemCube, text: str) -> str:
        return joined(pieces(text), [item.text for item in made.items])

    @staticmethod
    def _shown(path: str, text: str, lines: list[int] | None) -> str:
        shown, first = text.split("\n"), 1
        if lines is not None and len(lines) == 2:
            first = max(1, lines[0])
            shown = shown[first - 1 : None if lines[1] == -1 else lines[1]]
        return f"Here's the content of {path} with line numbers:\n{_numbered(shown, first)}"


def _tool_errors(command: Callable[..., Made]) -> Callable[..., Made]:
    """Errors of the server as results of the tool, which the model can read."""

    @functools.wraps(command)
    def run(*arguments: Any) -> Made:
        try:
            return command(*arguments)
        except MemosError as error:
            raise ToolError(f"The memory server refused: {error.message}") from error

    return run


class MemosMemoryTool(BetaAbstractMemoryTool):
    """The memory tool for `Anthropic().beta.messages.tool_runner`."""

    def __init__(self, client: MemoryClient, **options: Any) -> None:
        """
        Args:
            options: of the library's base class (`cache_control`).
        """
        super().__init__(**options)
        self._files = MemoryFiles(client)

    @_tool_errors
    def view(self, command: View) -> str:
        return self._files.view(command.path, command.view_range)

    @_tool_errors
    def create(self, command: Create) -> str:
        return self._files.create(command.path, command.file_text)

    @_tool_errors
    def str_replace(self, command: StrReplace) -> str:
        return self._files.str_replace(command.path, command.old_str, command.new_str)

    @_tool_errors
    def insert(self, command: Insert) -> str:
        return self._files.insert(command.path, command.insert_line, command.insert_text)

    @_tool_errors
    def delete(self, command: Delete) -> str:
        return self._files.delete(command.path)

    @_tool_errors
    def rename(self, command: Rename) -> str:
        return self._files.rename(command.old_path, command.new_path)

    @_tool_errors
    def clear_all_memory(self) -> str:
        return self._files.clear()


class AsyncMemosMemoryTool(BetaAsyncAbstractMemoryTool):
    """The same for `AsyncAnthropic`: each command runs in a thread."""

    def __init__(self, client: MemoryClient, **options: Any) -> None:
        super().__init__(**options)
        self._tool = MemosMemoryTool(client)

    async def view(self, command: View) -> str:
        return await anyio.to_thread.run_sync(self._tool.view, command)

    async def create(self, command: Create) -> str:
        return await anyio.to_thread.run_sync(self._tool.create, command)

    async def str_replace(self, command: StrReplace) -> str:
        return await anyio.to_thread.run_sync(self._tool.str_replace, command)

    async def insert(self, command: Insert) -> str:
        return await anyio.to_thread.run_sync(self._tool.insert, command)

    async def delete(self, command: Delete) -> str:
        return await anyio.to_thread.run_sync(self._tool.delete, command)

    async def rename(self, command: Rename) -> str:
        return await anyio.to_thread.run_sync(self._tool.rename, command)

    async def clear_all_memory(self) -> str:
        return await anyio.to_thread.run_sync(self._tool.clear_all_memory)


def checked(path: str) -> str:
    """A path below `/memories` in its one spelling.

    Raises:
        ToolError: it leaves `/memories`, also in percent-encoding, or has characters that no path has.
    """
    path = unicodedata.normalize("NFC", path)
    if len(path) > _LONGEST_PATH or not path.isprintable() or "\\" in path:
        raise ToolError(f"A path has at most {_LONGEST_PATH} printable characters and no backslash")
    plain = path.rstrip("/") if path != "/" else path
    if plain != ROOT and not plain.startswith(ROOT + "/"):
        raise ToolError(f"Path must start with {ROOT}, got: {path}")
    for part in plain.split("/")[2:]:
        decoded = part
        while (further := unquote(decoded)) != decoded:
            decoded = further
        if decoded in ("", ".", "..") or "/" in decoded or "\\" in decoded or "\x00" in decoded:
            raise ToolError(f"Path {path} would escape {ROOT} directory")
    return plain


def text_of(cube: MemCube) -> str:
    return "".join(item.text for item in cube.items)


def _of_file(path: str) -> str:
    path, given = checked(path), path
    if path == ROOT or given.endswith("/"):
        raise ToolError(f"The path {given} is not a file.")
    return path


def _cube_name(path: str) -> str:
    """The cube's name of a path: names have no slash, and `%` keeps the mapping unambiguous."""
    return "memory-file:" + path.removeprefix("/").replace("%", "%25").replace("/", "%2F")


def _path_of(name: str | None) -> str | None:
    if name is None or not name.startswith("memory-file:"):
        return None
    return "/" + name.removeprefix("memory-file:").replace("%2F", "/").replace("%25", "%")


def _provenance(path: str) -> dict[str, str]:
    return {"origin": ORIGIN, "note": json.dumps({"path": path}, ensure_ascii=False)}


def _meta(path: str) -> dict[str, Any]:
    return {"name": _cube_name(path), "tags": [TAG], "provenance": _provenance(path)}


def _items(path: str, text: str) -> list[dict[str, str]]:
    if len(text) > MOST_CHARACTERS:
        raise ToolError(f"A file has at most {MOST_CHARACTERS} characters; split it")
    if "\x00" in text:
        raise ToolError("A file holds no NUL character")
    return [
        {"type": "passage", "text": piece, "speaker": TOOL, "source": f"{path}#{number}"}
        for number, piece in enumerate(pieces(text), 1)
    ]


def _absent(path: str) -> ToolError:
    return ToolError(f"The path {path} does not exist. Please provide a valid path.")


def _numbered(lines: list[str], first: int) -> str:
    return "\n".join(
        f"{str(number).rjust(_LINE_NUMBER_WIDTH)}\t{line}"
        for number, line in enumerate(lines, first)
    )


def _lines_with(text: str, part: str) -> list[int]:
    found, at = [], text.find(part)
    while at >= 0:
        found.append(text.count("\n", 0, at) + 1)
        at = text.find(part, at + 1)
    return found


def _listing(folder: str, files: list[tuple[str, int]]) -> str:
    """Files and folders up to two levels deep, as the tool shows them."""
    names: set[str] = set()
    for path, _ in files:
        parts = path.removeprefix(folder + "/").split("/")
        if any(part.startswith(".") for part in parts):
            continue
        for depth in range(1, min(len(parts), _DEPTH) + 1):
            is_folder = depth < len(parts)
            names.add("/".join(parts[:depth]) + ("/" if is_folder else ""))
    shown = sorted(names)[:_MOST_LISTED]
    head = f"Here're the files and directories up to 2 levels deep in {folder}, excluding hidden items:"
    more = [f"… and {len(names) - len(shown)} more"] if len(names) > len(shown) else []
    return "\n".join([head, folder, *(f"{folder}/{name}" for name in shown), *more])
