"""What a request and its answer are made of: a prompt goes in, chunks of the answer come out."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import to_json

from protocols.turns import Opening


def check_encodable(value: dict[str, Any]) -> dict[str, Any]:
    """Return the value; raise ValueError where it cannot be sent on and logged as JSON."""
    # nested as deeply as in the request and in the log
    with_null, with_constants = (
        to_json({"options": value}, inf_nan_mode=mode) for mode in ("null", "constants")
    )
    if with_null != with_constants:
        raise ValueError("Input should have finite numbers only")
    return value


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(check_encodable)]


class Prompt(BaseModel):
    """The body of `/generate` and `/stream`; Ollama gets every field as it is."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra={"examples": [{"prompt": "Why is the sky blue?"}]},
    )

    prompt: str = Field(min_length=1, description="the question", examples=["Why is the sky blue?"])
    model: str | None = Field(
        None, min_length=1, description="the model's name in Ollama", examples=["tinyllama"]
    )
    system: str | None = Field(None, description="the system message", examples=["Be brief."])
    options: JsonObject | None = Field(
        None,
        description="Ollama's parameters",
        examples=[{"temperature": 0.2, "num_predict": 100}],
    )
    format: Literal["json"] | JsonObject | None = Field(
        None, description="structured output: `json` or a JSON schema", examples=["json"]
    )
    think: bool | Literal["low", "medium", "high", "max"] | None = Field(
        None, description="for reasoning models", examples=[True]
    )


UTF8_CONTINUATIONS = bytes(range(0x80, 0xC0))
"""The bytes of a character that are not its first one."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request as the log keeps it."""

    prompt: str | bytes | None = None
    """What was asked; where it is large, in UTF-8: Python's text may take four times as much."""
    model: str | None = None
    system: str | None = None
    options: Any = None
    format: Any = None
    think: Any = None
    streamed: bool | None = None
    """Whether the answer is to come piece by piece; None where that is unknown."""
    body: bytes | None = None
    """The body of a forwarded request as JSON: as it was sent, or a text where it is none."""
    counted_body: bytes | None = None
    """The body with the question for token counts, if it can and has to be added."""
    tools: list[str] | None = None
    """The names of the tools that were offered."""
    opening: Opening | None = None
    """How the conversation began, where there is one."""
    unread: str | None = None
    """Why the body was not read, for the entry of an answer that has no other error."""

    @property
    def prompt_chars(self) -> int | None:
        """How many characters the prompt has."""
        if isinstance(self.prompt, bytes):
            return len(self.prompt.translate(None, UTF8_CONTINUATIONS))
        return None if self.prompt is None else len(self.prompt)

    def shorten_prompt(self, length: int) -> str | None:
        """Return the first characters of the prompt."""
        if isinstance(self.prompt, bytes):
            return self.prompt[: 4 * length].decode(errors="ignore")[:length]
        return self.prompt and self.prompt[:length]

    @property
    def is_forwarded_whole(self) -> bool:
        """Whether the answer comes from the service as a whole, so that no token is the first."""
        return self.streamed is False and self.body is not None


@dataclass(slots=True)
class ToolCallDelta:
    """A piece of a tool call; pieces with equal keys belong to one call."""

    key: object
    """Where in the answer the call is."""
    id: str | None = None
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    """A piece of the arguments' JSON, or all of them as an object."""
    result: Any = None
    """What the call found, where Ollama itself made it: a web search."""
    begins: bool = False
    """Whether a new call begins with it, whatever the key and the id are."""


FACTS = (
    *("model", "prompt_tokens", "response_tokens"),
    *("load_ms", "prompt_ms", "response_ms", "finish_reason"),
)
"""What chunks say of the whole answer, the last one of them that says it."""


@dataclass(slots=True)
class Chunk:
    """A piece of an answer: what arrived together. Counts and reasons come with the last ones."""

    response: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    """The texts of the answer and of the thinking, none of them empty."""
    other_choices: dict[int, list[str]] = field(default_factory=dict)
    """The texts of further answers to the same request, by their index."""
    images: list[str] = field(default_factory=list)
    """Generated images, in base64."""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)
    model: str | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    load_ms: float | None = None
    prompt_ms: float | None = None
    response_ms: float | None = None
    """What Ollama measured: loading the model, reading the prompt, making the answer."""
    finish_reason: str | None = None
    done: bool = False
    """Whether the answer is complete with this chunk."""
    error: str | None = None
    """Why a forwarded answer failed, in its own words. No exception: its bytes still go to the
    client. What fails in any other way, or on `/generate` and `/stream`, raises."""
    unreadable: int = 0
    """How many events of it could not be read; their text is in `response`."""
    has_progress: bool = False
    """Whether it says how far the model is with something that has no tokens."""
    wire: bytes = b""
    """The bytes that it arrived in."""

    def extend(self, other: "Chunk") -> None:
        """Add what arrived after this chunk."""
        self.update_facts(other)
        self.error = other.error or self.error
        self.response += other.response
        self.thinking += other.thinking
        for index, texts in other.other_choices.items():
            self.other_choices.setdefault(index, []).extend(texts)
        self.images += other.images
        self.tool_calls += other.tool_calls
        self.done = (self.done or other.done) and not self.error
        self.unreadable += other.unreadable
        self.wire += other.wire

    def update_facts(self, other: "Chunk") -> None:
        """Take what a later chunk says of the whole answer."""
        for name in FACTS:
            if (value := getattr(other, name)) is not None:
                setattr(self, name, value)

    @property
    def has_token(self) -> bool:
        """Whether the model produced anything with it."""
        return bool(
            self.response
            or self.thinking
            or self.tool_calls
            or any(self.other_choices.values())
            or self.images
            or self.has_progress
        )
