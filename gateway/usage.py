"""Token counts for OpenAI's streams: asked for where the client did not, and left out of what it
gets.

This is the one place where a request is changed. Ollama 0.33 counts the tokens of a stream only if
`stream_options.include_usage` is true. Then its events differ in this alone, by its
`middleware/openai.go` and by recorded bytes: before `[DONE]` there is one more, with `usage` and
without choices; and on `/v1/completions` every other one ends with a `usage` of zeros.
"""

from pydantic_core import from_json

from protocols.base import Json, as_dict
from protocols.json_reading import fold_keys

ASK = b'"stream_options":{"include_usage":true}}'
ZEROS = b',"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}'
MAX_EVENT_BYTES = 2**20
"""A longer event is no event with a usage."""

PATHS = ("/v1/chat/completions", "/v1/completions")


def ask_for_usage(body: bytes, parsed: Json) -> bytes:
    """Return the body with the question for usage, if it asks for a stream without one.

    It stands last: of two `stream_options` Go's decoder joins the members.
    """
    options = fold_keys(as_dict(fold_keys(parsed).get("stream_options")))
    if fold_keys(parsed).get("stream") is not True or options.get("include_usage") is True:
        return body
    return body.rstrip().removesuffix(b"}") + b"," + ASK


class UsageFilter:
    """Takes the usage out of a stream's bytes, which come in pieces that end anywhere.

    Whole lines go on at once; of one that is not whole nothing goes on before its end.
    """

    def __init__(self) -> None:
        self._partial: list[bytes] = []
        self._partial_bytes = 0
        self._skips_blank_line = False

    def feed(self, data: bytes) -> bytes:
        """Return what of the data, and of what was held back, goes on."""
        *lines, rest = [*data.splitlines(keepends=True), b""]
        if lines and not lines[-1].endswith((b"\n", b"\r")):
            rest = lines.pop()
        kept = []
        for line in lines:
            line = b"".join([*self._partial, line])
            self._partial, self._partial_bytes = [], 0
            kept.append(self._filter_line(line))
        if rest:
            self._partial.append(rest)
            self._partial_bytes += len(rest)
            if self._partial_bytes > MAX_EVENT_BYTES:
                kept += self._partial
                self._partial, self._partial_bytes = [], 0
        return b"".join(kept)

    def end(self) -> bytes:
        """Return what was held back at the end of the stream."""
        rest, self._partial = b"".join(self._partial), []
        return rest

    def _filter_line(self, line: bytes) -> bytes:
        if self._skips_blank_line:
            self._skips_blank_line = False
            if not line.strip():
                return b""
        content = line.rstrip()
        if content.endswith(ZEROS):
            line_end = line[len(content) :]
            return content.removesuffix(ZEROS) + b"}" + line_end
        if b'"usage":' in line and is_usage(content):
            self._skips_blank_line = True
            return b""
        return line


def is_usage(line: bytes) -> bool:
    """Return whether a line is an event that has a usage and no choices."""
    try:
        event = as_dict(from_json(line.removeprefix(b"data:")))
    except ValueError:
        return False
    return event.get("choices") == [] and isinstance(event.get("usage"), dict)
