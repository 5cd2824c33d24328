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
from protocols.turns import Turn, find_opening, find_prompt, read_turns

Json = dict[str, Any]

OPTIONS = (
    *("temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "max_output_tokens"),
    *("seed", "stop", "stop_sequences", "presence_penalty", "frequency_penalty", "n", "logprobs"),
    *("tool_choice", "reasoning_effort", "reasoning", "keep_alive"),
)
"""The parameters of OpenAI's and Anthropic's interfaces that the log keeps as options."""


@dataclass(frozen=True)
class Endpoint:
    """A path on which a model is asked to generate."""

    path: str
    summary: str
    example: Json | None
    """The body of a request that works, but for its model; None where it is a form."""
    operation: str = "chat"
    """What it does, as OpenTelemetry's conventions name it."""


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
    messages_key: ClassVar[str] = "messages"
    """Where a request has the conversation."""
    system_key: ClassVar[str] = "system"
    """Where it has the system message, unless that is one of the messages."""
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
        turns = self.read_turns(body)
        system = "\n".join(turn.text for turn in turns if turn.role == "system" and turn.texts)
        stream = body.get("stream")
        return LoggedRequest(
            prompt=find_prompt(turns) or joined_text(body.get("prompt")),
            system=joined_text(body.get(self.system_key)) or system or None,
            model=joined_text(body.get("model")),
            options=self.read_options(body),
            format=first_known(
                body.get("format"),
                body.get("response_format"),
                as_dict(body.get("text")).get("format"),
            ),
            think=first_known(
                body.get("think"),
                body.get("reasoning_effort"),
                body.get("thinking"),
                as_dict(body.get("reasoning")).get("effort"),
            ),
            streamed=stream if isinstance(stream, bool) else self.streams_by_default,
            tools=tool_names(body) or None,
            opening=find_opening(turns),
        )

    def read_turns(self, body: Json) -> list[Turn]:
        """Return what was said before the answer."""
        return read_turns(body.get(self.messages_key))

    def read_options(self, body: Json) -> Any:
        """Return the parameters of a request, by their own names; None where there are none.

        What is refused for its type stands here as it came.
        """
        return {name: body[name] for name in OPTIONS if body.get(name) is not None} or None


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


def first_known(*values: object) -> object:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)


def tool_names(body: Json) -> list[str]:
    """Return the names of the tools that a request offers; of one without a name its type."""
    names: list[str] = []
    for each in as_list(body.get("tools")) + as_list(body.get("functions")):
        tool = fold_keys(as_dict(each))
        function = fold_keys(as_dict(tool.get("function")))
        name = function.get("name") or tool.get("name") or tool.get("type")
        append_text(names, joined_text(name))
    return names


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


def read_durations(chunk: Chunk, event: Json) -> None:
    """Read what Ollama measured, in nanoseconds."""
    for name, key in DURATIONS.items():
        if is_count(nanoseconds := event.get(key)):
            setattr(chunk, name, round(nanoseconds / 1e6, 3))


DURATIONS = {
    "load_ms": "load_duration",
    "prompt_ms": "prompt_eval_duration",
    "response_ms": "eval_duration",
}
"""By the names of our own, how Ollama calls its durations (https://docs.ollama.com/api/usage)."""


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
