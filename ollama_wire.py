"""Ollama's wire, as far as it is read here: a stream of JSON lines, and the list of models."""

from collections.abc import Callable

from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from exchange import Chunk


class AnswerLine(TypedDict, total=False):
    """A line of Ollama's stream, as far as it is read here."""

    model: str
    response: str
    thinking: str
    done: bool
    error: str
    prompt_eval_count: int
    eval_count: int


class ModelList(BaseModel):
    """Ollama's `/api/tags`, as far as it is read here."""

    class Model(BaseModel):
        name: str

    models: list[Model]


# the validator itself: the adapter's method around it takes half as long again
parse_line: Callable[[bytes], AnswerLine] = TypeAdapter(AnswerLine).validator.validate_json


class AnswerReader:
    """Ollama's stream of lines, put together from reads that end anywhere."""

    def __init__(self) -> None:
        self.done = False
        self.failure: str | None = None
        self._begun: list[bytes] = []

    def feed(self, data: bytes) -> Chunk:
        """Return what the lines carry that the data completes, as one chunk.

        Sets `done` at the answer's last line, and `failure` at a line that is an error or not of
        the protocol: what came before it has its chunk all the same.
        """
        chunk = Chunk()
        if b"\n" not in data:
            self._begun.append(data)
            return chunk
        *lines, rest = b"".join([*self._begun, data]).split(b"\n")
        self._begun = [rest]
        for line in lines:
            if not line or line.isspace():
                continue
            try:
                part = parse_line(line)
            except ValidationError:
                what = line[:200].decode(errors="replace")
                self.failure = f"Ollama sent what is not its protocol: {what}"
                break
            if "error" in part:
                self.failure = f"Ollama failed: {part['error']}"
                break
            chunk.model = part.get("model")
            chunk.response += part.get("response", "")
            chunk.thinking += part.get("thinking", "")
            if part.get("done"):
                self.done = True
                chunk.prompt_tokens = part.get("prompt_eval_count")
                chunk.response_tokens = part.get("eval_count")
                break
        return chunk


def listed_name(model: str) -> str:
    """Return a model's name as `/api/tags` lists it, in lower case: Ollama ignores case."""
    name = model.casefold().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def error_words(body: bytes) -> str | None:
    """Return what an error answer says, None where it is not Ollama's."""
    try:
        return parse_line(body).get("error")
    except ValidationError:
        return None
