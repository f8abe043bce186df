"""OpenTelemetry spans of the steps of a request, under the `traceparent` that came with it.

vLLM sets the exporter up (`--otlp-traces-endpoint`), or whatever else sets OpenTelemetry's global provider;
without one a span costs microseconds, without the package nothing.  Spans carry no tenant, person or text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

try:
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # it comes with vLLM; what stands without an engine needs none

    @contextlib.contextmanager
    def span(name: str) -> Iterator[None]:
        """Nothing."""
        yield

    @contextlib.contextmanager
    def under(headers: Mapping[str, str]) -> Iterator[None]:
        """Nothing."""
        yield

else:
    _PROPAGATOR = TraceContextTextMapPropagator()
    _TRACER = trace.get_tracer("memos_vllm")

    @contextlib.contextmanager
    def span(name: str) -> Iterator[None]:
        """A step of the current request."""
        # The text of an exception may name what a person wrote: its class alone is recorded.
        with _TRACER.start_as_current_span(
            f"memos.{name}", record_exception=False, set_status_on_exception=False
        ) as current:
            try:
                yield
            except BaseException as error:
                current.set_status(trace.StatusCode.ERROR, type(error).__name__)
                raise

    @contextlib.contextmanager
    def under(headers: Mapping[str, str]) -> Iterator[None]:
        """Make spans children of the client's: by `traceparent` and `tracestate`.

        Args:
            headers: by lower-case name.
        """
        if "traceparent" not in headers:
            yield
            return
        token = context.attach(_PROPAGATOR.extract(headers))
        try:
            yield
        finally:
            context.detach(token)
