"""The log's entry: one request and what came of it, and its line of JSON."""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic_core import to_json


@dataclass(slots=True)
class LogEntry:
    """One request and what came of it; the keys of a line, in their order."""

    id: str
    started_at: str
    finished_at: str
    duration_ms: float
    endpoint: str
    llm_type: str
    model: str | None
    status: Literal["ok", "cancelled", "error"]
    prompt: str | None
    system: str | None
    options: dict[str, Any] | None
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
    request: bytes | str | None = None
    """JSON as it was sent, where it is bytes."""
    client: str | None = None
    user_agent: str | None = None
    trace_id: str | None = None
    prompt_chars: int | None = None
    response_chars: int | None = None

    def without_texts(self) -> "LogEntry":
        """Return the entry without what was asked and answered, and without words that quote it."""
        texts = ("prompt", "system", "response", "thinking", "tool_calls", "request")
        quoting = ("error",) if self.status == "error" else ()
        left_out: dict[str, Any] = dict.fromkeys((*texts, *quoting))
        return replace(self, **left_out)

    @property
    def day(self) -> str:
        """The UTC day on which the answer was finished, `YYYY-MM-DD`."""
        return self.finished_at[:10]

    def line(self) -> bytes:
        """Return the entry as a line of JSON."""
        sent = self.request if isinstance(self.request, bytes) else None
        entry = replace(self, request=None) if sent else self
        try:
            line = to_json(entry, inf_nan_mode="null")
        except ValueError:  # text that is not Unicode, as in a file's name: \u escapes carry it
            line = json.dumps(asdict(entry), separators=(",", ":")).encode()
        if not sent:
            return one_line(line) + b"\n"
        # the last of its kind: behind it there is no object that could hold another
        before, key, after = line.rpartition(b'"request":')
        # between JSON's tokens both are white space, and Python's text files end a line at either
        sent = sent.replace(b"\n", b" ").replace(b"\r", b" ")
        parts = (before, key, sent, after.removeprefix(b"null"), b"\n")
        return b"".join(map(one_line, parts))  # a large join lets other threads run meanwhile


def one_line(data: bytes) -> bytes:
    """Return JSON without the three characters at which Python, unlike JSON, ends a line too."""
    for character in ("\u2028", "\u2029", "\x85"):
        encoded = character.encode()
        if encoded[:1] in data:  # a single byte is looked for many times faster
            data = data.replace(encoded, b"\\u%04x" % ord(character))
    return data


def timestamp(moment: datetime) -> str:
    """Return the moment as RFC 3339 in UTC with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
