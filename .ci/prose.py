"""Check the prose of tracked files for habits that the house does not write.

    python .ci/prose.py [FILE ...]

Two habits are found: pronouns that stand in place of a noun (`WORDS`), and docstrings that list
arguments or errors on one line.  Python files are searched in comments and strings, Markdown, YAML and
TOML files in every line.  CONTRIBUTING.md has the rule.

To overrule a line, end it with `# prose: <reason>` (in Markdown `<!-- prose: <reason> -->`); a string
of several lines is overruled where it ends.  `DATA` lists files that are data as a whole.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORDS = ("nobody", "somebody", "whoever", "everybody", "anybody")  # prose: the list itself
DATA = {
    "CHANGELOG.md": "history of released words",
    "LICENSE*": "text of the licence",
    "benchmarks/results/*": "records, and answers of models",
    "benchmarks/hygiene/turns.py": "sentences that people say",
    "benchmarks/recall/facts.py": "sentences that an adapter learns",
    "memos_vllm/parametric/training/everyday.py": "texts of lessons",
    "memos_vllm/plaintext/english/lexicon.py": "word lists of the language pack",
    "tests/unit/test_prose.py": "examples of the habits",
}
"""Files whose strings are data: pattern of the path, and the reason."""

_WORD = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)
_LISTED = re.compile(r"(?<![\w`])(?:Args|Raises):[^\S\n]+\S")
_OVERRULED = re.compile(r"(?:#|<!--)\s*prose:(?P<reason>.*?)(?:-->|$)")
_STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
NO_REASON = "`prose:` without a reason"
LISTED = "arguments or errors listed on one line of a docstring; give each a line below `Args:`"
HOW = (
    "Name the thing (tenant, person, request, thread ...); CONTRIBUTING.md has the rule. Where the word "
    "is data, end the line with `# prose: <reason>`."
)

Finding = tuple[int, str]
"""(line, what is wrong)"""


def check(path: str, text: str) -> list[Finding]:
    """Findings of one file, by line. `path`: relative to the repository, with `/`."""
    if any(fnmatch(path, pattern) for pattern in DATA):
        return []
    if not any(habit.search(text) for habit in (_WORD, _LISTED, _OVERRULED)):
        return []  # before any parsing: most files
    found = _python(text) if path.endswith(".py") else _lines(text)
    return sorted(set(found))


def _lines(text: str) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines(), 1):
        override = _OVERRULED.search(line)
        if override and not override["reason"].strip():
            yield number, NO_REASON
        elif not override:
            yield from ((number, word[0]) for word in _WORD.finditer(line))


def _python(text: str) -> Iterator[Finding]:
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    overruled: set[int] = set()
    for token in tokens:
        override = token.type == tokenize.COMMENT and _OVERRULED.search(token.string)
        if override and override["reason"].strip():
            overruled.add(token.start[0])
        elif override:
            yield token.start[0], NO_REASON
    for token in tokens:
        is_prose = token.type == tokenize.COMMENT or token.type in _STRINGS
        if is_prose and token.end[0] not in overruled:
            yield from _in_block(_WORD, token.string, token.start[0])
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue
        if isinstance(node.value.value, str) and node.end_lineno not in overruled:
            source = ast.get_source_segment(text, node) or ""
            for number, _ in _in_block(_LISTED, source, node.lineno):
                yield number, LISTED


def _in_block(habit: re.Pattern[str], block: str, first: int) -> Iterator[Finding]:
    for match in habit.finditer(block):
        yield first + block.count("\n", 0, match.start()), match[0]


def tracked() -> list[Path]:
    command = ["git", "ls-files", "-z", "--", "*.py", "*.md", "*.yaml", "*.toml"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name]


def main(arguments: Sequence[str]) -> int:
    files = [Path(name).resolve() for name in arguments] or tracked()
    count = 0
    for file in files:
        if not file.is_file():  # deleted, and not yet committed so
            continue
        path = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.as_posix()
        for line, what in check(path, file.read_text(encoding="utf-8")):
            sys.stdout.write(f"{path}:{line}: {what}\n")
            count += 1
    if count:
        sys.stdout.write(f"{count} found. {HOW}\n")
    return int(bool(count))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
