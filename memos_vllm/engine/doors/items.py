"""Items of `/v1/responses` as chat messages, one for one, so that memory is placed into them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from memos_vllm.ports import Messages

Item = Mapping[str, Any]


def plain(item: Any) -> dict[str, Any]:
    """An item as a dict: vLLM's models parse some of them in place."""
    if hasattr(item, "model_dump"):
        found: dict[str, Any] = item.model_dump(mode="json", exclude_none=True)
        return found
    return dict(item)


def items_of(given: str | Sequence[Any]) -> list[dict[str, Any]]:
    """The `input` of a request as items."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [plain(item) for item in given]


def messages_of(items: Sequence[Item]) -> Messages:
    """One chat message for each item; calls of tools that follow one another stand in the last one."""
    messages: Messages = []
    for item in items:
        kind = item.get("type") or "message"
        if kind == "message" and item.get("role"):
            messages.append(_spoken(item))
        elif kind in ("function_call", "custom_tool_call"):
            before = messages[-1].get("tool_calls", ()) if messages else ()
            messages.append(
                {"role": "assistant", "content": None, "tool_calls": [*before, _call(item)]}
            )
        elif kind in ("function_call_output", "custom_tool_call_output"):
            messages.append(
                {
                    "role": "tool",
                    "tool_call_id": item.get("call_id"),
                    "content": _parts(item.get("output")),
                }
            )
        else:  # reasoning, calls of built-in tools: not said by anyone
            messages.append({"role": "assistant", "content": None})
    return messages


def with_content(item: Item, content: Any) -> dict[str, Any]:
    """The item with the content of a message that memory was placed into."""
    if isinstance(content, list):
        content = [
            {**part, "type": "input_text"}
            if isinstance(part, Mapping) and part.get("type") == "text"
            else part
            for part in content
        ]
    return {**item, "content": content}


def text_of_output(output: Sequence[Item]) -> str:
    """The text of a reply's messages."""
    return "".join(
        str(part.get("text") or "")
        for item in output
        if item.get("type") == "message"
        for part in item.get("content") or ()
        if part.get("type") == "output_text"
    )


def calls_tool(output: Sequence[Item]) -> bool:
    """Whether a reply asks the client to call a tool."""
    return any(item.get("type") in ("function_call", "custom_tool_call") for item in output)


def continued(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Stored items as they are sent to the model again: vLLM refuses a message without any text."""
    return [
        dict(item)
        for item in items
        if not (item.get("type") == "message" and item.get("content") in ([], None))
    ]


def _spoken(item: Item) -> dict[str, Any]:
    content = item.get("content")
    if item["role"] == "assistant" and isinstance(content, list):
        content = "".join(str(plain(part).get("text") or "") for part in content)
    return {"role": item["role"], "content": content}


def _call(item: Item) -> dict[str, Any]:
    arguments = item.get("arguments", item.get("input")) or ""
    function = {"name": str(item.get("name") or ""), "arguments": str(arguments)}
    return {"id": item.get("call_id"), "type": "function", "function": function}


def _parts(output: Any) -> Any:
    return output if isinstance(output, str | list) else json.dumps(output)
