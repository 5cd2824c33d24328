"""Ollama's own interface: JSON lines, or one object."""

from types import NoneType
from typing import Any

from messages import Chunk
from protocols.base import (
    Endpoint,
    Json,
    Protocol,
    append_function_call,
    append_text,
    as_dict,
    as_list,
    error_message,
    joined_text,
    read_durations,
    update_usage,
)

TEXT_TYPES, FLAG_TYPES = {str, NoneType}, {bool, NoneType}


class Native(Protocol):
    """`/api/generate` and `/api/chat`."""

    prefix = "/api/"
    reference = "https://docs.ollama.com/api"
    streams_by_default = True
    endpoints = (
        Endpoint(
            "/api/generate",
            "Answer a prompt",
            {"prompt": "Why is the sky blue?"},
            operation="text_completion",
        ),
        Endpoint(
            "/api/chat",
            "Answer a conversation",
            {"messages": [{"role": "user", "content": "Why is the sky blue?"}]},
        ),
    )

    def error_body(self, status: int, message: str) -> Json:
        return {"error": message}

    def is_event(self, event: Json) -> bool:
        texts = type(event.get("response")), type(event.get("thinking")), type(event.get("error"))
        return TEXT_TYPES.issuperset(texts) and type(event.get("done")) in FLAG_TYPES

    def read_event(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        message = as_dict(event.get("message")) or event
        chunk.model = joined_text(event.get("model")) or chunk.model
        text = joined_text(message.get("response")) or joined_text(message.get("content"))
        append_text(chunk.response, text)
        if "thinking" in message:
            append_text(chunk.thinking, joined_text(message["thinking"]))
        if "tool_calls" in message:
            for call in map(as_dict, as_list(message["tool_calls"])):
                # each is complete; its index restarts with every line, so it identifies nothing
                append_function_call(chunk, object(), call)
        if "image" in event:
            append_text(chunk.images, joined_text(event["image"]))
        if "completed" in event:
            chunk.has_progress = True
        if "_debug_info" in event:  # the answer to `_debug_render_only`, which has no `done`
            rendered = as_dict(event["_debug_info"]).get("rendered_template")
            append_text(chunk.response, joined_text(rendered))
            chunk.done = True
        if event.get("done"):
            chunk.done = True
            chunk.finish_reason = joined_text(event.get("done_reason"))
            update_usage(chunk, {"prompt_tokens": event.get("prompt_eval_count")})
            update_usage(chunk, {"completion_tokens": event.get("eval_count")})
            read_durations(chunk, event)
        if "error" in event:
            chunk.error = error_message(event["error"])

    def read_options(self, body: Json) -> Any:
        return body.get("options")
