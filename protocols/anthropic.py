"""Anthropic's interface as Ollama has it: server-sent events, or one object."""

from messages import Chunk
from protocols.base import (
    Endpoint,
    Json,
    Protocol,
    append_text,
    append_tool_call,
    as_dict,
    as_index,
    as_list,
    error_message,
    joined_text,
    update_usage,
)

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}


class Messages(Protocol):
    """`/v1/messages`."""

    prefix = "/v1/messages"
    reference = "https://platform.claude.com/docs/en/api/messages"
    endpoints = (
        Endpoint(
            "/v1/messages",
            "Answer a conversation",
            {
                "max_tokens": 200,
                "messages": [{"role": "user", "content": "Why is the sky blue?"}],
            },
        ),
    )
    error_event = "error"

    def error_body(self, status: int, message: str) -> Json:
        kind = ERROR_TYPES.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}

    def read_event(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        match event.get("type"):
            case "content_block_start":
                calls = len(chunk.tool_calls)
                self._read_part(as_dict(event.get("content_block")), event.get("index"), chunk)
                for call in chunk.tool_calls[calls:]:
                    call.begins = True
            case "content_block_delta":
                self._read_part(as_dict(event.get("delta")), event.get("index"), chunk)
            case "message_start":
                # its token counts are an estimate
                self._read_message({**as_dict(event.get("message")), "usage": None}, chunk)
            case "message_delta":
                self._read_message({**event, **as_dict(event.get("delta"))}, chunk)
            case "message_stop":
                chunk.done = True
            case "message":
                for position, part in enumerate(map(as_dict, as_list(event.get("content")))):
                    self._read_part(part, position, chunk)
                self._read_message(event, chunk)
                chunk.done = True
            case _:
                chunk.error = error_message(event.get("error"))

    def _read_part(self, part: Json, index: object, chunk: Chunk) -> None:
        append_text(chunk.response, joined_text(part.get("text")))
        append_text(chunk.thinking, joined_text(part.get("thinking")))
        match part.get("type"):
            case "tool_use" | "server_tool_use" | "input_json_delta":
                arguments = part.get("partial_json") or part.get("input") or None
                id, name = part.get("id"), part.get("name")
                append_tool_call(chunk, as_index(index), id, name, arguments)
            case "web_search_tool_result":  # what Ollama's own search found
                id, found = part.get("tool_use_id"), part.get("content")
                append_tool_call(chunk, as_index(index), id, "web_search", None, found)

    def _read_message(self, message: Json, chunk: Chunk) -> None:
        chunk.model = joined_text(message.get("model")) or chunk.model
        chunk.finish_reason = joined_text(message.get("stop_reason")) or chunk.finish_reason
        update_usage(chunk, message.get("usage"))
