"""The log's entry: one request and its answer, as a line of JSON."""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic_core import to_json, to_jsonable_python

Status = Literal["ok", "cancelled", "error"]
"""How a request ended: complete, left by its client or by a stop, or failed."""


NO_ANSWERS = ("load", "unload")
"""The `finish_reason` of what is no answer: the model was loaded or unloaded."""


@dataclass(slots=True)
class LogEntry:
    """One request and its answer; the keys of a line, in their order."""

    id: str
    started_at: str
    finished_at: str
    duration_ms: float
    endpoint: str
    llm_type: str
    model: str | None
    status: Status
    prompt: str | bytes | None
    """A text, as it is or in UTF-8."""
    system: str | None
    options: Any
    format: Any
    think: Any
    response: str | None
    thinking: str | None
    error: str | None
    ttft_ms: float | None
    prompt_tokens: int | None
    response_tokens: int | None
    finish_reason: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    request: bytes | None = None
    """JSON as it was sent."""
    client: str | None = None
    user_agent: str | None = None
    trace_id: str | None = None
    prompt_chars: int | None = None
    response_chars: int | None = None
    streamed: bool | None = None
    load_ms: float | None = None
    prompt_ms: float | None = None
    response_ms: float | None = None
    tools: list[str] | None = None
    conversation: str | None = None
    client_request_id: str | None = None
    images: list[str] | list[int] | None = None
    """Generated images in base64; how long these texts are where texts are not kept."""

    def without_texts(self) -> "LogEntry":
        """Return the entry without its texts, and without what could tell whether one was sent:
        an error message that may quote it, a hash."""
        texts = ("prompt", "system", "response", "thinking", "tool_calls", "request")
        quoting = ("error",) if self.status == "error" else ()
        removed: dict[str, Any] = dict.fromkeys((*texts, "conversation", *quoting))
        lengths = [len(str(image)) for image in self.images or ()]
        return replace(self, **removed, images=lengths or None)

    @property
    def day(self) -> str:
        """The UTC day on which the answer was finished, `YYYY-MM-DD`."""
        return self.finished_at[:10]

    def to_line(self) -> bytes:
        """Return the entry as a line of JSON, which Python's text files take for one line too."""
        entry = replace(self, request=None)
        try:
            line = to_json(entry, inf_nan_mode="null")
        except ValueError:  # not Unicode, as a file's name may not be: \u escapes carry it
            plain = to_jsonable_python(asdict(entry), inf_nan_mode="null")
            line = json.dumps(plain, separators=(",", ":")).encode()
        line = escape_line_ends(line)
        if self.request is None:
            return line + b"\n"
        # both are white space between JSON's tokens, and both end a line
        sent = escape_line_ends(self.request.replace(b"\n", b" ").replace(b"\r", b" "))
        # the last one: no key behind it holds an object
        cut = line.rindex(b'"request":null') + len(b'"request":')
        whole = memoryview(line)
        # a large join lets other threads run
        return b"".join((whole[:cut], sent, whole[cut + len(b"null") :], b"\n"))


def escape_line_ends(data: bytes) -> bytes:
    """Return JSON with the three characters escaped at which only Python also ends a line."""
    for character in ("\u2028", "\u2029", "\x85"):
        encoded = character.encode()
        if encoded[:1] in data:  # to find a single byte is many times faster
            data = data.replace(encoded, b"\\u%04x" % ord(character))
    return data


def format_timestamp(time: datetime) -> str:
    """Return the time as RFC 3339 has it, in UTC with microseconds."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
