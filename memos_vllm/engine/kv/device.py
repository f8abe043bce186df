"""Streams of a device for copies beside the engine's steps. On a CPU there are none, and all of it is nothing.

The engine computes on a stream of its own and launches steps ahead.  A block that is given to a request may still
be written, or zeroed, by a step that was launched before: a copy into it, or out of it, waits for what was launched
up to then, on the device (`CopyStream.after`).  No copy waits for later steps, and no step for a copy.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def launched(device: torch.device) -> Any:
    """An event behind what the calling thread has launched on the device so far; None on a CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


class CopyStream:
    """One stream, for one direction of copies; several threads may use it."""

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def after(self, event: Any) -> None:
        """Let the copies that follow wait, on the device, for an event of `launched`."""
        if self._stream is not None and event is not None:
            self._stream.wait_event(event)

    def used(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the calling thread launches copies."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def synchronize(self) -> None:
        """Wait until all copies that were launched are done."""
        if self._stream is not None:
            self._stream.synchronize()
