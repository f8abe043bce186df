"""The process that parses documents. It imports neither torch nor vLLM."""

from __future__ import annotations

from typing import Any

from memos_vllm.parsing.child import Answer, run
from memos_vllm.plaintext.documents.read import read_document


def read(order: dict[str, Any], data: bytes) -> Answer:
    items = read_document(order["name"], data, order["max_bytes"], order["depth"])
    size = sum(len(item.text) for item in items)
    if size > order["output_bytes"]:
        return {"error": "TooLarge", "message": "output"}, b""
    return {"passages": [[item.text, item.source] for item in items]}, b""


if __name__ == "__main__":
    run(read, ("markdown_it", "pypdf"))
