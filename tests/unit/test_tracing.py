"""Spans of a request's steps, by a real OpenTelemetry provider."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry comes with vLLM")
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from memos_vllm import tracing
from memos_vllm.api.auth import AuthMiddleware
from memos_vllm.api.identity import Authenticator
from memos_vllm.config.tree import GovernanceConfig
from tests.unit.test_pipeline import ask, know, make_pipeline

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    found = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(found))
    return found


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    exporter.clear()
    return exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_each_step_is_a_child_of_the_clients_span_and_carries_no_text(system, spans):
    know(system, "The boat is blue.")
    with tracing.under({"traceparent": TRACEPARENT}):
        ask(make_pipeline(system), "Which colour has the boat?")
    found = by_name(spans)
    assert {"memos.stable", "memos.embed", "memos.search", "memos.render"} <= found.keys()
    for span in found.values():
        assert span.parent is not None
        assert f"{span.context.trace_id:032x}" == TRACE
        assert f"{span.parent.span_id:016x}" == PARENT
        assert not span.attributes
        assert not span.events
    ask(make_pipeline(system), "Which colour has the boat?")
    assert len(spans.get_finished_spans()) > len(found)
    assert spans.get_finished_spans()[-1].parent is None, "a request without a trace begins one"


def test_a_failed_step_says_its_class_and_not_what_the_person_wrote(spans):
    with pytest.raises(ValueError, match="secret"), tracing.span("search"):
        raise ValueError("a secret")
    (span,) = spans.get_finished_spans()
    assert span.status.description == "ValueError"
    assert not span.events


@pytest.mark.parametrize(
    "sent", ["", "00-zz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "é" * 999]
)
def test_a_damaged_traceparent_is_ignored(system, spans, sent):
    async def app(scope, receive, send):
        with tracing.span("step"):
            pass

    async def nothing(*_):
        return {}

    async def run():
        middleware = AuthMiddleware(
            app, Authenticator(GovernanceConfig(), system.keys), GovernanceConfig()
        )
        headers = [(b"host", b"localhost"), (b"traceparent", sent.encode("utf-8"))]
        scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": headers}
        await middleware({**scope, "client": ("127.0.0.1", 1)}, nothing, nothing)

    asyncio.run(run())
    (span,) = spans.get_finished_spans()
    assert span.parent is None
