"""OpenAI's interfaces as Ollama has them: server-sent events, or one object.

When a model's process dies, Ollama ends the streams as clean, whole HTTP: only the protocol's own
last event tells a complete answer.
"""

from messages import Chunk
from protocols.base import (
    Endpoint,
    Json,
    Protocol,
    append_function_call,
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
    413: "invalid_request_error",
}
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]


class OpenAI(Protocol):
    """What OpenAI's interfaces have in common."""

    prefix = "/v1/"
    reference = "https://platform.openai.com/docs/api-reference"

    def error_body(self, status: int, message: str) -> Json:
        kind = ERROR_TYPES.get(status, "api_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}


class ChatCompletions(OpenAI):
    """`/v1/chat/completions` and `/v1/completions`."""

    endpoints = (
        Endpoint("/v1/chat/completions", "Answer a conversation", {"messages": MESSAGES}),
        Endpoint(
            "/v1/completions",
            "Answer a prompt",
            {"prompt": "Why is the sky blue?"},
            operation="text_completion",
        ),
    )
    last_data = b"[DONE]"

    def read_event(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        chunk.model = joined_text(event.get("model")) or chunk.model
        for choice in map(as_dict, as_list(event.get("choices"))):
            self._read_choice(choice, as_index(choice.get("index")), chunk)
        if "usage" in event:
            update_usage(chunk, event["usage"])
        if "error" in event:
            chunk.error = error_message(event["error"])
        if not streamed and "choices" in event:
            chunk.done = True

    def _read_choice(self, choice: Json, index: int, chunk: Chunk) -> None:
        message = as_dict(choice.get("delta") or choice.get("message"))
        texts = chunk.other_choices.setdefault(index, []) if index else chunk.response
        append_text(texts, joined_text(message.get("content")) or joined_text(choice.get("text")))
        if "refusal" in message:
            append_text(texts, joined_text(message["refusal"]))
        if "reasoning" in message:
            append_text(chunk.thinking, joined_text(message["reasoning"]))
        if "tool_calls" in message:
            for position, call in enumerate(map(as_dict, as_list(message["tool_calls"]))):
                append_function_call(chunk, (index, as_index(call.get("index"), position)), call)
        if "function_call" in message:  # what tool calls were called before
            call = {"function": message["function_call"]}
            append_function_call(chunk, (index, "function_call"), call)
        chunk.finish_reason = joined_text(choice.get("finish_reason")) or chunk.finish_reason


class Responses(OpenAI):
    """`/v1/responses`."""

    endpoints = (
        Endpoint(
            "/v1/responses", "Answer a prompt or a conversation", {"input": "Why is the sky blue?"}
        ),
    )
    messages_key = "input"
    system_key = "instructions"
    error_event = "error"
    LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")

    def read_event(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        kind = event.get("type")
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            append_text(chunk.response, joined_text(event.get("delta")))
        elif kind == "response.reasoning_summary_text.delta":
            append_text(chunk.thinking, joined_text(event.get("delta")))
        elif kind == "response.output_item.done":
            self._read_call(as_dict(event.get("item")), chunk)
        elif kind in self.LAST_EVENTS:
            self._read_end(as_dict(event.get("response")), chunk)
        elif not streamed and "output" in event:
            for item in map(as_dict, as_list(event["output"])):
                if item.get("type") == "message":
                    for part in map(as_dict, as_list(item.get("content"))):
                        text = joined_text(part.get("text")) or joined_text(part.get("refusal"))
                        append_text(chunk.response, text)
                append_text(chunk.thinking, joined_text(item.get("summary")))
                self._read_call(item, chunk)
            self._read_end(event, chunk)
        else:
            chunk.error = error_message(event if kind == "error" else event.get("error"))

    def _read_call(self, item: Json, chunk: Chunk) -> None:
        if item.get("type") == "function_call":
            name, arguments = item.get("name"), item.get("arguments")
            append_tool_call(chunk, object(), item.get("call_id"), name, arguments)
        elif item.get("type") == "web_search_call":  # Ollama's own search
            query = {"query": as_dict(item.get("action")).get("query")}
            append_tool_call(chunk, object(), item.get("id"), "web_search", query)

    def _read_end(self, response: Json, chunk: Chunk) -> None:
        reason = as_dict(response.get("incomplete_details")).get("reason")
        chunk.finish_reason = joined_text(reason) or joined_text(response.get("status"))
        chunk.model = joined_text(response.get("model"))
        update_usage(chunk, response.get("usage"))
        failed = "the response failed" if response.get("status") == "failed" else None
        chunk.error = error_message(response.get("error")) or failed
        chunk.done = True
