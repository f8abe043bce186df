"""The process that reads files of other systems. It imports neither torch nor vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from memos_vllm.errors import BadRequest, TooLarge
from memos_vllm.importers.foreign.reading import read_file
from memos_vllm.parsing.child import Answer, run


def read(order: dict[str, Any], data: bytes) -> Answer:
    lines: list[bytes] = []
    size = 0

    def emit(record: dict[str, Any]) -> None:
        nonlocal size
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        size += len(line)
        if size > order["output_bytes"]:
            raise TooLarge(
                f"more than {order['output_bytes']} bytes of conversations and facts "
                "(imports.output_bytes): import the file in parts"
            )
        lines.append(line)

    path = Path(order["path"])
    try:
        kind, skipped = read_file(path, order["format"], order, emit)
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}") from error
    return {"kind": kind, "left_out": skipped.tree()}, b"".join(lines)


if __name__ == "__main__":
    run(read, ("zipfile",))
