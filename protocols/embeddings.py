"""Embeddings, in Ollama's form and in OpenAI's: one object. Of an answer only its size is read."""

from dataclasses import replace

from messages import Chunk, LoggedRequest
from protocols.base import (
    Endpoint,
    Json,
    Protocol,
    as_dict,
    as_list,
    error_message,
    joined_text,
    read_durations,
    update_usage,
)
from protocols.json_reading import fold_keys
from protocols.native import Native
from protocols.openai import OpenAI


class Embeddings(Protocol):
    """What the two forms have in common. They are recorded with `MINIVAULT_LOG_EMBEDDINGS`."""

    streams_by_default = False

    def read_event(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        found = [as_dict(each).get("embedding") for each in as_list(event.get("data"))]
        vectors = as_list(event.get("embeddings")) or found
        vectors = vectors or [each for each in [event.get("embedding")] if each is not None]
        if vectors:
            plural = "s" * (len(vectors) != 1)
            chunk.response.append(
                f"{len(vectors)} vector{plural} of {dimensions(vectors[0])} numbers"
            )
            chunk.done = True
        if "error" in event:
            chunk.error = error_message(event["error"])
        chunk.model = joined_text(event.get("model"))
        update_usage(chunk, event.get("usage"))
        update_usage(chunk, {"prompt_tokens": event.get("prompt_eval_count")})
        read_durations(chunk, event)

    def read_request(self, body: Json) -> LoggedRequest:
        request = super().read_request(body)
        return replace(request, prompt=joined_text(fold_keys(body).get("input")) or request.prompt)


def dimensions(vector: object) -> int:
    """Return how many numbers a vector has; OpenAI's SDK asks for it as base64 of 32-bit floats."""
    if isinstance(vector, str):
        return len(vector.rstrip("=")) * 3 // 4 // 4
    return len(as_list(vector))


class NativeEmbeddings(Embeddings, Native):
    """`/api/embed` and `/api/embeddings`."""

    streams_by_default = False
    endpoints = (
        Endpoint("/api/embed", "Make embeddings", {"input": "Blue sky"}, operation="embeddings"),
        Endpoint(
            "/api/embeddings", "Make an embedding", {"prompt": "Blue sky"}, operation="embeddings"
        ),
    )


class OpenAIEmbeddings(Embeddings, OpenAI):
    """`/v1/embeddings`."""

    endpoints = (
        Endpoint(
            "/v1/embeddings", "Make embeddings", {"input": "Blue sky"}, operation="embeddings"
        ),
    )
