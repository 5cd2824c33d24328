"""Ollama's wire, as far as it is read here: a stream of JSON lines, and the list of models."""

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


ANSWER_LINE = TypeAdapter(AnswerLine)


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
            if line and not line.isspace():
                self._read(line, chunk)
            if self.done or self.failure:
                break
        return chunk

    def _read(self, line: bytes, chunk: Chunk) -> None:
        try:
            part: AnswerLine = ANSWER_LINE.validate_json(line)
        except ValidationError:
            what = line[:200].decode(errors="replace")
            self.failure = f"Ollama sent what is not its protocol: {what}"
            return
        if "error" in part:
            self.failure = f"Ollama failed: {part['error']}"
            return
        chunk.model = part.get("model")
        chunk.response += part.get("response", "")
        chunk.thinking += part.get("thinking", "")
        if part.get("done"):
            self.done = True
            chunk.prompt_tokens = part.get("prompt_eval_count")
            chunk.response_tokens = part.get("eval_count")


def listed_name(model: str) -> str:
    """Return a model's name as `/api/tags` lists it, in lower case: Ollama ignores case."""
    name = model.casefold().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def error_words(body: bytes) -> str | None:
    """Return what an error answer says, None where it is not Ollama's."""
    try:
        return ANSWER_LINE.validate_json(body).get("error")
    except ValidationError:
        return None
