"""Flags of a command line of vLLM."""

from __future__ import annotations

from collections.abc import Sequence


def flag_name(argument: str) -> str:
    """Normalize a flag: `--max_model_len=8192` → `max-model-len`, also for its `--no-` form."""
    name = argument.lstrip("-").partition("=")[0].replace("_", "-")
    return name.removeprefix("no-")


def flag_value(arguments: Sequence[str], name: str) -> str | None:
    """The last value of a flag, as argparse resolves it; empty for a flag without a value."""
    value = None
    for position, argument in enumerate(arguments):
        if argument.startswith("--") and flag_name(argument) == name:
            _, equals, attached = argument.partition("=")
            following = arguments[position + 1 : position + 2]
            value = attached if equals else "".join(following)
    return value


def without_flag(arguments: Sequence[str], name: str) -> list[str]:
    """The arguments without a flag and its values."""
    remaining: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument.startswith("--") and flag_name(argument) == name:
            skip = "=" not in argument
        else:
            remaining.append(argument)
    return remaining
