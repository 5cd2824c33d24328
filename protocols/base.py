"""A protocol: one of the HTTP interfaces through which a model is asked.

A subclass says all that is particular to it: its paths, how a request and an answer are read, what
an error looks like. Whatever else needs a fact about a protocol derives it from there.

A field that is unknown, `null` or of another type counts as absent, so that reading never fails.
The shapes are those of bytes recorded from Ollama 0.33.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

from messages import Chunk, LoggedRequest, ToolCallDelta
from protocols.json_reading import fold_keys

Json = dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """A path on which a model is asked to generate."""

    path: str
    summary: str
    example: Json | None
    """The body of a request that works, but for its model; None where it is a form."""
    is_chat: bool = True


class Protocol(ABC):
    """One interface. A subclass is registered in `protocols.registry`."""

    prefix: ClassVar[str]
    """What those paths begin with whose errors have the shape of `error_body`."""
    reference: ClassVar[str]
    """Where the interface is documented."""
    endpoints: ClassVar[tuple[Endpoint, ...]]
    last_data: ClassVar[bytes | None] = None
    """What ends a stream of events where that is no JSON."""
    streams_by_default: ClassVar[bool] = False
    """Whether an answer comes as a stream if a request says nothing of it."""
    takes_text: ClassVar[bool] = False
    """Whether a whole answer may be plain text."""
    error_event: ClassVar[str | None] = None
    """The name of the server-sent event that carries an error; None for an event without one."""

    @abstractmethod
    def error_body(self, status: int, message: str) -> Json:
        """Return an error as the interface's reference describes it."""

    @abstractmethod
    def read_event(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        """Update the chunk with what the event, or a whole answer, adds to the answer."""

    def is_event(self, event: Json) -> bool:
        """Return whether the object can be one of the protocol's events."""
        return True

    def read_request(self, body: Json) -> LoggedRequest:
        """Return what a request asks, without its body."""
        body = fold_keys(body)
        system, prompt = self.read_prompt(body)
        stream = body.get("stream")
        return LoggedRequest(
            prompt=prompt,
            system=system,
            model=joined_text(body.get("model")),
            options=as_dict(body.get("options")) or None,
            format=body.get("format"),
            think=body.get("think"),
            streamed=stream if isinstance(stream, bool) else self.streams_by_default,
        )

    def read_prompt(self, body: Json) -> tuple[str | None, str | None]:
        """Return the system message and what the user wrote last."""
        messages = body.get("messages")
        system = "\n".join(message_texts(messages, "system", "developer"))
        return system or None, next(reversed(message_texts(messages, "user")), None)


def as_dict(value: object) -> Json:
    """Return the value where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """Return the value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def joined_text(value: object) -> str | None:
    """Return a text, or the texts of a list of parts; None where there is none."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return None
    parts = (
        part if isinstance(part, str) else joined_text(as_dict(part).get("text")) for part in value
    )
    return "\n".join(filter(None, parts)) or None


def message_texts(messages: object, *roles: str) -> list[str]:
    """Return the texts of the messages of these roles."""
    found = (fold_keys(as_dict(message)) for message in as_list(messages))
    texts = (
        joined_text(message.get("content")) for message in found if message.get("role") in roles
    )
    return [text for text in texts if text]


def error_message(error: object) -> str | None:
    """Return the message of an error, `"…"` or `{"message": "…"}`; None where there is none."""
    if isinstance(error, dict):
        error = error.get("message")
    return joined_text(error) or None


def is_count(value: object) -> TypeGuard[int]:
    """Return whether the value can be a number of tokens."""
    return type(value) is int and 0 <= value < 2**53


def as_index(value: object, default: int = 0) -> int:
    """Return the value where it can be a position in a list."""
    return value if is_count(value) else default


def append_text(texts: list[str], text: str | None) -> None:
    """Append a text that is not empty; they are joined once at the end, not copied each time."""
    if text:
        texts.append(text)


def update_usage(chunk: Chunk, usage: object) -> None:
    """Update the token counts; `/v1/completions` sends zeros before the last event."""
    counts = as_dict(usage)
    prompt = counts.get("prompt_tokens") or counts.get("input_tokens")
    response = counts.get("completion_tokens") or counts.get("output_tokens")
    chunk.prompt_tokens = prompt if is_count(prompt) else chunk.prompt_tokens
    chunk.response_tokens = response if is_count(response) else chunk.response_tokens


def append_tool_call(
    chunk: Chunk, key: object, id: object, name: object, arguments: object, result: object = None
) -> None:
    """Append a piece of a tool call."""
    known = arguments if isinstance(arguments, str | dict) else None
    chunk.tool_calls.append(ToolCallDelta(key, joined_text(id), joined_text(name), known, result))


def append_function_call(chunk: Chunk, key: object, call: Json) -> None:
    """Append a piece of a tool call in the form of Ollama and of OpenAI's older interfaces."""
    if call:
        function = as_dict(call.get("function"))
        append_tool_call(
            chunk, key, call.get("id"), function.get("name"), function.get("arguments")
        )
