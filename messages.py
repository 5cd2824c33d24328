"""What is exchanged: a prompt goes in, chunks of the answer come out."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import to_json


def encodable(value: dict[str, Any]) -> dict[str, Any]:
    """Return the value; raise ValueError where it cannot be sent on and logged as JSON."""
    to_json({"options": value})  # as deep as it will stand in the request and in the log
    return value


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(encodable)]


class Prompt(BaseModel):
    """What a client asks; every field but `prompt` is handed to Ollama as it is."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra={"examples": [{"prompt": "Why is the sky blue?"}]},
    )

    prompt: str = Field(
        min_length=1, description="what is asked", examples=["Why is the sky blue?"]
    )
    model: str | None = Field(
        None, min_length=1, description="Ollama's name of the model", examples=["tinyllama"]
    )
    system: str | None = Field(None, description="the system message", examples=["Be brief."])
    options: JsonObject | None = Field(
        None,
        description="handed to Ollama as it is",
        examples=[{"temperature": 0.2, "num_predict": 100}],
    )
    format: Literal["json"] | JsonObject | None = Field(
        None, description="structured output: `json` or a JSON schema", examples=["json"]
    )
    think: bool | Literal["low", "medium", "high"] | None = Field(
        None, description="for reasoning models", examples=[True]
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked, as the log keeps it."""

    prompt: str | None = None
    model: str | None = None
    system: str | None = None
    options: dict[str, Any] | None = None
    format: Any = None
    think: Any = None
    request: bytes | str | None = None
    """A request's body that was passed on: its JSON, or its text where it is none."""


@dataclass(slots=True)
class ToolCallPiece:
    """A piece of a tool call; pieces with equal keys belong together."""

    key: object
    id: str | None = None
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    """A piece of the arguments' JSON, or all of them as an object."""


@dataclass(slots=True)
class Chunk:
    """A piece of an answer: what arrived together. Counts and reasons come with the last ones."""

    response: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    """What the model said and thought, text by text; none of them empty."""
    tool_calls: list[ToolCallPiece] = field(default_factory=list)
    model: str | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    finish_reason: str | None = None
    done: bool = False
    """The answer is whole with this chunk."""
    error: str | None = None
    """Why the answer ends here as a failed one."""
    wire: bytes = b""
    """The bytes that it came in."""

    @property
    def has_token(self) -> bool:
        """Whether the model said anything with it."""
        return bool(self.response or self.thinking or self.tool_calls)
