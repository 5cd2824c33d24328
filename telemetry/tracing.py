"""Traces, where OpenTelemetry's own variables switch tracing on.

FastAPI makes the span of each request and takes up the client's `traceparent`. Under it is one for
what the service does, with the attributes of OpenTelemetry's conventions for language models, and
no texts: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.util.types import AttributeValue
from starlette._utils import get_route_path
from starlette.types import Scope

from log.entry import LogEntry
from messages import LoggedRequest
from protocols.registry import find_operation
from settings import VERSION
from telemetry.metrics import MAX_NAME_LENGTH
from telemetry.output import PROBES

# seconds; a stop waits so long for a collector that is away, ten unless it is set
os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "1")


TRACER = trace.get_tracer("minivault", VERSION)
PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "num_predict": "max_tokens",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "n": "choice.count",
}
"""Options that are numbers, and their names in the conventions."""


def is_probe(scope: Scope) -> bool:
    """Return whether a request is a probe, which is not traced."""
    return scope["type"] == "http" and get_route_path(scope) in PROBES


def trace_id() -> str | None:
    """Return the id of the trace that the current request is part of, None without tracing."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def headers() -> dict[str, str]:
    """Return the headers that carry the trace on to Ollama, none without tracing."""
    carrier: dict[str, str] = {}
    if trace_id():
        propagate.inject(carrier)
    return carrier


@contextmanager
def trace_call(
    request: LoggedRequest, endpoint: str, provider: str, address: tuple[str, int] | None
) -> Iterator[Callable[[LogEntry], None]]:
    """Make a span of what the service does, for the length of the block; yield what says in it how
    the request ended. `address` is the service's host and port, where it has any."""
    operation, model = find_operation(endpoint), shorten(request.model) or ""
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model or None,
        "gen_ai.request.stream": request.streamed,
        **read_parameters(request.options),
    }
    if address:
        attributes |= {"server.address": address[0], "server.port": address[1]}
    server = trace.get_current_span()
    with TRACER.start_as_current_span(
        f"{operation} {model}".rstrip(),
        kind=trace.SpanKind.CLIENT,
        attributes=drop_unknown(attributes),
        record_exception=False,  # its message may quote the prompt
        set_status_on_exception=False,
    ) as span:
        yield partial(annotate_spans, server, span)


def shorten(name: str | None) -> str | None:
    """Return the beginning of a name that a client or a model chose."""
    return name and name[:MAX_NAME_LENGTH]


def read_parameters(options: object) -> dict[str, Any]:
    """Return the parameters of a request that are numbers."""
    known = options if isinstance(options, dict) else {}
    return {
        f"gen_ai.request.{name}": known[option]
        for option, name in PARAMETERS.items()
        if type(known.get(option)) in (int, float) and abs(known[option]) < 2**63
    }


def drop_unknown(attributes: dict[str, Any]) -> dict[str, AttributeValue]:
    """Return the attributes that are known."""
    return {key: value for key, value in attributes.items() if value is not None}


def annotate_spans(server: trace.Span, span: trace.Span, entry: LogEntry) -> None:
    """Say in the request's span, and in that of the service, how the request ended."""
    ours = {"minivault.id": entry.id, "minivault.status": entry.status}
    server.set_attributes(ours)
    is_complete = entry.status == "ok"
    attributes: dict[str, Any] = {
        "gen_ai.response.model": shorten(entry.model) if is_complete else None,
        "gen_ai.response.finish_reasons": (
            [reason] if (reason := shorten(entry.finish_reason)) else None
        ),
        "gen_ai.response.time_to_first_chunk": entry.ttft_ms and entry.ttft_ms / 1000,
        "gen_ai.usage.input_tokens": entry.prompt_tokens,
        "gen_ai.usage.output_tokens": entry.response_tokens,
        "error.type": "_OTHER" if entry.status == "error" else None,
    }
    span.set_attributes(ours | drop_unknown(attributes))
    if entry.status == "error":
        server.set_attribute("error.type", "_OTHER")
        server.set_status(trace.StatusCode.ERROR)
        span.set_status(trace.StatusCode.ERROR)
    elif entry.status == "cancelled":
        # FastAPI takes an answer without an end for an error, unless this has been said
        server.set_status(trace.StatusCode.OK)
