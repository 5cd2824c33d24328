"""Traces, where OpenTelemetry's own variables switch tracing on.

FastAPI makes the span of each request and takes up the client's `traceparent`. Here that span gets
the attributes of OpenTelemetry's conventions for language models, and no texts:
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

import os

from opentelemetry import propagate, trace
from opentelemetry.util.types import AttributeValue

from log.entry import LogEntry
from protocols.registry import is_chat

# seconds; a stop waits so long for a collector that is away, ten unless it is set
os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "1")


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


def annotate_span(entry: LogEntry) -> None:
    """Set the attributes of the current request's span."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    attributes: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": "chat" if is_chat(entry.endpoint) else "text_completion",
        "gen_ai.provider.name": entry.llm_type,
        "gen_ai.request.model": entry.model,
        "gen_ai.response.model": entry.model if entry.status == "ok" else None,
        "gen_ai.response.finish_reasons": [entry.finish_reason] if entry.finish_reason else None,
        "gen_ai.usage.input_tokens": entry.prompt_tokens,
        "gen_ai.usage.output_tokens": entry.response_tokens,
        "minivault.id": entry.id,
        "minivault.status": entry.status,
    }
    span.set_attributes({key: value for key, value in attributes.items() if value is not None})
    if entry.status == "error":
        span.set_attribute("error.type", "_OTHER")  # its message may quote the prompt
        span.set_status(trace.StatusCode.ERROR)
