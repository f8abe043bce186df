"""Extract tool calls and their results from the messages of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memos_vllm.prompt.messages import Message, text_of
from memos_vllm.prompt.quoting import quoted

_LONGEST_NAME, _LONGEST_ARGUMENTS, _LONGEST_RESULT = 100, 1000, 2000  # characters
_MOST = 32
_CUT = " [cut]"


def tool_traces(messages: Sequence[Message]) -> list[dict[str, str]]:
    """`name`, `arguments`, `result` of the tool results at the end of the messages.

    Earlier results were at the end of an earlier request, whose turn has them.
    """
    start = len(messages)
    while start and messages[start - 1].get("role") == "tool":
        start -= 1
    calls = _calls(messages[start - 1]) if start else {}
    traces = []
    for message in messages[start:][:_MOST]:
        name, arguments = calls.get(str(message.get("tool_call_id")), ("", ""))
        name = name or str(message.get("name") or "unknown")
        traces.append(
            {
                "name": name[:_LONGEST_NAME],
                "arguments": _cut(arguments, _LONGEST_ARGUMENTS),
                "result": _cut(text_of(message), _LONGEST_RESULT),
            }
        )
    return traces


def trace_text(trace: Mapping[str, Any]) -> str:
    """One trace as text, with arguments and result quoted."""
    name = " ".join(str(trace.get("name") or "unknown").split())
    lines = [f"tool {name} was called with:", quoted(str(trace.get("arguments") or "{}"), str)]
    lines += ["it returned:", quoted(str(trace.get("result") or "nothing"), str)]
    return "\n".join(line for line in lines if line)


def _calls(message: Message) -> dict[str, tuple[str, str]]:
    """(name, arguments) by call id."""
    calls = message.get("tool_calls")
    found = {}
    for call in calls if isinstance(calls, Sequence) and not isinstance(calls, str) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            name, arguments = function.get("name"), function.get("arguments")
            found[str(call.get("id"))] = (str(name or ""), str(arguments or ""))
    return found


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(_CUT)] + _CUT
