"""OpenAI's interfaces for sound and pictures as Ollama has them."""

from messages import Chunk
from protocols.base import (
    Endpoint,
    Json,
    append_text,
    as_dict,
    as_list,
    error_message,
    joined_text,
    update_usage,
)
from protocols.openai import OpenAI


class Transcriptions(OpenAI):
    """`/v1/audio/transcriptions`: a form with a sound file; text, one object, or events."""

    endpoints = (
        Endpoint(
            "/v1/audio/transcriptions",
            "Write down what is said",
            None,
            operation="generate_content",
        ),
    )
    takes_text = True

    def read_event(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        kind = event.get("type")
        if kind == "transcript.text.delta":
            append_text(chunk.response, joined_text(event.get("delta")))
        elif kind == "transcript.text.done":
            chunk.done = True
        elif "text" in event:
            append_text(chunk.response, joined_text(event["text"]))
            chunk.done = not streamed
        if "error" in event:
            chunk.error = error_message(event["error"])
        update_usage(chunk, event.get("usage"))


class Images(OpenAI):
    """`/v1/images/generations` and `/v1/images/edits`: one object."""

    endpoints = (
        Endpoint(
            "/v1/images/generations",
            "Draw a picture",
            {"prompt": "A blue sky"},
            operation="generate_content",
        ),
        Endpoint(
            "/v1/images/edits",
            "Change a picture",
            {"prompt": "A blue sky"},
            operation="generate_content",
        ),
    )

    def read_event(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        for picture in map(as_dict, as_list(event.get("data"))):
            append_text(chunk.images, joined_text(picture.get("b64_json")))
        if "completed" in event:
            chunk.has_progress = True
        if "error" in event:
            chunk.error = error_message(event["error"])
        if not streamed and "data" in event:
            chunk.done = True
