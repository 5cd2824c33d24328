"""How fast a model answers: the one rule for metrics and figures, which the page has too."""

from typing import TypeGuard

ONE_PIECE_MS = 20
"""An answer that ends so soon after its first token may have come in one piece: the end of a stream
is an event of its own, which can be some milliseconds late."""


def tokens_per_second(
    response_tokens: object,
    response_ms: object,
    streamed: object,
    duration_ms: object,
    ttft_ms: object,
) -> float | None:
    """Return how many tokens a second the model made, by the values of an entry; None if unknown.

    What Ollama measured counts. Otherwise it is the time from the first token of a stream to its
    end, unless the answer may have come in one piece.
    """
    if not is_number(response_tokens):
        return None
    if is_number(response_ms) and response_ms > 0:
        return response_tokens / response_ms * 1000
    if streamed is False or response_tokens < 2:
        return None
    if not is_number(duration_ms) or not is_number(ttft_ms):
        return None
    streaming_ms = duration_ms - ttft_ms
    return (response_tokens - 1) / streaming_ms * 1000 if streaming_ms > ONE_PIECE_MS else None


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value of an entry is a number, as in a line of ours."""
    return type(value) in (int, float)


SPEED_KEYS = (
    "response_tokens",
    "response_ms",
    "streamed",
    "duration_ms",
    "ttft_ms",
)
"""The keys of an entry whose values `tokens_per_second` takes, in this order."""
