"""What is exchanged with a service: a prompt goes in, chunks of the answer come out."""

from dataclasses import dataclass
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

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    prompt: str = Field(min_length=1, examples=["Why is the sky blue?"])
    model: str | None = Field(None, min_length=1, description="Ollama's name of the model")
    system: str | None = Field(None, description="the system message")
    options: JsonObject | None = Field(None, examples=[{"temperature": 0.2, "num_predict": 100}])
    format: Literal["json"] | JsonObject | None = Field(None, description="structured output")
    think: bool | Literal["low", "medium", "high"] | None = Field(
        None, description="for reasoning models"
    )


@dataclass(slots=True)
class Chunk:
    """A piece of an answer: the tokens that arrived together. The last one carries the counts."""

    response: str = ""
    thinking: str = ""
    model: str | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None
