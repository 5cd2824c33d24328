"""What traces say of an answer, where OpenTelemetry's own variables switch tracing on.

FastAPI makes the span of each request and takes up the client's `traceparent`. Here that span gets
what OpenTelemetry's conventions for language models want, and nothing of what was asked or said:
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

import os

from opentelemetry import propagate, trace
from opentelemetry.util.types import AttributeValue

from log.entry import LogEntry

# seconds; a stop waits so long for a receiver of traces that is away, ten unless it is set
os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "1")

CHATS = ("/api/chat", "/v1/chat/completions", "/v1/responses", "/v1/messages")


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


def describe(entry: LogEntry) -> None:
    """Let the current request's span say what came of it."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    attributes: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": "chat" if entry.endpoint in CHATS else "text_completion",
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
        span.set_attribute("error.type", "_OTHER")  # whose words may quote what was asked
        span.set_status(trace.StatusCode.ERROR)
