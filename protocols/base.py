"""What Ollama's protocols mean: of a request the prompt, of an answer the text and how it ends.

    Native            /api/generate, /api/chat               JSON lines, or one object
    ChatCompletions   /v1/chat/completions, /v1/completions  SSE, or one object
    Responses         /v1/responses                          SSE, or one object
    Messages          /v1/messages                           SSE, or one object

Each turns an event into what a `Chunk` holds. What is not known is passed over, and what is `null`
or of another type is as absent: nothing that is read here is ever wrong, only without a meaning.

The shapes are those of bytes recorded from Ollama 0.33. When the model's process dies, all three
`/v1` streams end as clean HTTP: only the protocol's own last event says that an answer is whole.
"""

from abc import ABC, abstractmethod
from types import NoneType
from typing import Any, ClassVar, TypeGuard

from messages import Asked, Chunk, ToolCallPiece

Json = dict[str, Any]
TEXT, FLAG = {str, NoneType}, {bool, NoneType}


def text(value: object) -> str | None:
    """Return a text that stands as such or as a list of parts, None where there is none."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return None
    parts = (part if isinstance(part, str) else text(a_dict(part).get("text")) for part in value)
    return "\n".join(filter(None, parts)) or None


def a_dict(value: object) -> Json:
    """Return the value where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def a_list(value: object) -> list[Any]:
    """Return the value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def error_words(error: object) -> str | None:
    """Return what `"…"` or `{"message": "…"}` says, None where it is no error."""
    return text(a_dict(error).get("message") if isinstance(error, dict) else error) or None


def said(messages: object, *roles: str) -> list[str]:
    """Return the texts of the messages of these roles."""
    found = (a_dict(message) for message in a_list(messages))
    texts = (text(message.get("content")) for message in found if message.get("role") in roles)
    return [each for each in texts if each]


def is_count(value: object) -> TypeGuard[int]:
    """Return whether the value can be a number of tokens."""
    return type(value) is int and 0 <= value < 2**53


def an_index(value: object, otherwise: int = 0) -> int:
    """Return the value where it can be a place in a list."""
    return value if is_count(value) else otherwise


def add(texts: list[str], words: str | None) -> None:
    """Add what was said; it is joined once at last, as a text that grows is copied each time."""
    if words:
        texts.append(words)


def note_usage(usage: object, chunk: Chunk) -> None:
    """Note the tokens that were counted; `/v1/completions` sends zeros before the end."""
    counted = a_dict(usage)
    prompt = counted.get("prompt_tokens") or counted.get("input_tokens")
    response = counted.get("completion_tokens") or counted.get("output_tokens")
    chunk.prompt_tokens = prompt if is_count(prompt) else chunk.prompt_tokens
    chunk.response_tokens = response if is_count(response) else chunk.response_tokens


def note_call(chunk: Chunk, key: object, id: object, name: object, arguments: object) -> None:
    """Note a piece of a tool call."""
    given = arguments if isinstance(arguments, str | dict) else None
    chunk.tool_calls.append(ToolCallPiece(key, text(id), text(name), given))


def note_function(chunk: Chunk, key: object, call: Json) -> None:
    """Note a piece of a tool call, as Ollama and OpenAI's older interfaces write it."""
    if call:  # what is no object is as absent
        function = a_dict(call.get("function"))
        note_call(chunk, key, call.get("id"), function.get("name"), function.get("arguments"))


class Protocol(ABC):
    """One of Ollama's interfaces."""

    last_data: ClassVar[bytes | None] = None
    """What ends a stream of events where that is no JSON."""
    events_are_alike: ClassVar[bool] = True
    """Whether the events of a stream often differ in nothing but their text."""

    def fits(self, event: Json) -> bool:
        """Return whether the event is of this protocol."""
        return True

    @abstractmethod
    def note(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        """Note in the chunk what the event adds to the answer."""

    def asked(self, body: Json) -> Asked:
        """Return what a request's body asks, without that body itself."""
        system, prompt = self.texts(body)
        return Asked(
            prompt=prompt,
            system=system,
            model=text(body.get("model")),
            options=a_dict(body.get("options")) or None,
            format=body.get("format"),
            think=body.get("think"),
        )

    def texts(self, body: Json) -> tuple[str | None, str | None]:
        """Return the system text and the last of what the user said."""
        messages = body.get("messages")
        system = "\n".join(said(messages, "system", "developer"))
        return system or None, next(reversed(said(messages, "user")), None)


class Native(Protocol):
    """Ollama's own `/api/generate` and `/api/chat`."""

    def fits(self, event: Json) -> bool:
        """Return whether what is there of the event has the types that it should have."""
        texts = type(event.get("response")), type(event.get("thinking")), type(event.get("error"))
        return TEXT.issuperset(texts) and type(event.get("done")) in FLAG

    def note(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        message = a_dict(event.get("message")) or event
        chunk.model = text(event.get("model"))
        add(chunk.response, text(message.get("response")) or text(message.get("content")))
        if "thinking" in message:
            add(chunk.thinking, text(message["thinking"]))
        if "tool_calls" in message:
            for call in map(a_dict, a_list(message["tool_calls"])):
                # each is whole, and so a key of its own; its index says nothing over several lines
                note_function(chunk, object(), call)
        if event.get("done"):
            chunk.done = True
            chunk.finish_reason = text(event.get("done_reason"))
            note_usage({"prompt_tokens": event.get("prompt_eval_count")}, chunk)
            note_usage({"completion_tokens": event.get("eval_count")}, chunk)
        if "error" in event:
            chunk.error = error_words(event["error"])

    def texts(self, body: Json) -> tuple[str | None, str | None]:
        if "messages" in body:
            return super().texts(body)
        return text(body.get("system")), text(body.get("prompt"))


class ChatCompletions(Protocol):
    """OpenAI's `/v1/chat/completions` and `/v1/completions`."""

    last_data = b"[DONE]"

    def note(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        chunk.model = text(event.get("model"))
        for choice in map(a_dict, a_list(event.get("choices"))):
            message = a_dict(choice.get("delta") or choice.get("message"))
            add(chunk.response, text(message.get("content")) or text(choice.get("text")))
            if "reasoning" in message:
                add(chunk.thinking, text(message["reasoning"]))
            if "tool_calls" in message:
                for position, call in enumerate(map(a_dict, a_list(message["tool_calls"]))):
                    note_function(chunk, an_index(call.get("index"), position), call)
            chunk.finish_reason = text(choice.get("finish_reason")) or chunk.finish_reason
        if "usage" in event:
            note_usage(event["usage"], chunk)
        if "error" in event:
            chunk.error = error_words(event["error"])
        chunk.done = not streamed and "choices" in event

    def texts(self, body: Json) -> tuple[str | None, str | None]:
        return super().texts(body) if "messages" in body else (None, text(body.get("prompt")))


class Responses(Protocol):
    """OpenAI's `/v1/responses`."""

    events_are_alike = False  # they are numbered
    ENDS = ("response.completed", "response.incomplete", "response.failed")

    def note(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        kind = event.get("type")
        if kind == "response.output_text.delta":
            add(chunk.response, text(event.get("delta")))
        elif kind == "response.reasoning_summary_text.delta":
            add(chunk.thinking, text(event.get("delta")))
        elif kind == "response.output_item.done":
            self._note_call(a_dict(event.get("item")), chunk)
        elif kind in self.ENDS:
            self._note_end(a_dict(event.get("response")), chunk)
        elif not streamed and "output" in event:
            for item in map(a_dict, a_list(event["output"])):
                if item.get("type") == "message":
                    add(chunk.response, text(item.get("content")))
                add(chunk.thinking, text(item.get("summary")))
                self._note_call(item, chunk)
            self._note_end(event, chunk)
        else:
            chunk.error = error_words(event if kind == "error" else event.get("error"))

    def _note_call(self, item: Json, chunk: Chunk) -> None:
        if item.get("type") == "function_call":
            call = item.get("call_id")
            note_call(chunk, text(call) or object(), call, item.get("name"), item.get("arguments"))

    def _note_end(self, response: Json, chunk: Chunk) -> None:
        reason = a_dict(response.get("incomplete_details")).get("reason")
        chunk.finish_reason = text(reason) or text(response.get("status"))
        chunk.model = text(response.get("model"))
        note_usage(response.get("usage"), chunk)
        failed = "the response failed" if response.get("status") == "failed" else None
        chunk.error = error_words(response.get("error")) or failed
        chunk.done = True

    def texts(self, body: Json) -> tuple[str | None, str | None]:
        given = body.get("input")
        system, prompt = super().texts({"messages": given})
        return text(body.get("instructions")) or system, prompt or text(given)


class Messages(Protocol):
    """Anthropic's `/v1/messages`."""

    def note(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        match event.get("type"):
            case "content_block_start":
                self._note_part(a_dict(event.get("content_block")), event.get("index"), chunk)
            case "content_block_delta":
                self._note_part(a_dict(event.get("delta")), event.get("index"), chunk)
            case "message_start":
                self._note_message(a_dict(event.get("message")), chunk)
            case "message_delta":
                self._note_message({**event, **a_dict(event.get("delta"))}, chunk)
            case "message_stop":
                chunk.done = True
            case "message":
                for position, part in enumerate(map(a_dict, a_list(event.get("content")))):
                    self._note_part(part, position, chunk)
                self._note_message(event, chunk)
                chunk.done = True
            case _:
                chunk.error = error_words(event.get("error"))

    def _note_part(self, part: Json, index: object, chunk: Chunk) -> None:
        add(chunk.response, text(part.get("text")))
        add(chunk.thinking, text(part.get("thinking")))
        if part.get("type") in ("tool_use", "input_json_delta"):
            arguments = part.get("partial_json") or part.get("input") or None
            note_call(chunk, an_index(index), part.get("id"), part.get("name"), arguments)

    def _note_message(self, message: Json, chunk: Chunk) -> None:
        chunk.model = text(message.get("model")) or chunk.model
        chunk.finish_reason = text(message.get("stop_reason")) or chunk.finish_reason
        note_usage(message.get("usage"), chunk)

    def texts(self, body: Json) -> tuple[str | None, str | None]:
        return text(body.get("system")), super().texts(body)[1]


NATIVE = Native()
PROTOCOLS: dict[str, Protocol] = {
    **dict.fromkeys(("/api/generate", "/api/chat"), NATIVE),
    **dict.fromkeys(("/v1/chat/completions", "/v1/completions"), ChatCompletions()),
    "/v1/responses": Responses(),
    "/v1/messages": Messages(),
}


def refusal(path: str, status: int, detail: str) -> Json:
    """Return an error of our own as the interface under the path has it, by its own reference."""
    if path.startswith("/v1/messages"):
        kind = ANTHROPIC_TYPES.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": detail}}
    if path.startswith("/v1/"):
        kind = OPENAI_TYPES.get(status, "api_error")
        return {"error": {"message": detail, "type": kind, "param": None, "code": None}}
    return {"error" if path.startswith("/api/") else "detail": detail}


OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
}
ANTHROPIC_TYPES = OPENAI_TYPES | {413: "request_too_large", 503: "overloaded_error"}
