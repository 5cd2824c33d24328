"""What to send on the two ways to a model, straight and through MiniVault, and what is expected.

What a client gets has to be the same on both; on the way through `check_entries` compares the log
with what the stand-in was asked and what it answered.
"""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h11

from tests.conftest import DEADLINE, Way, eventually
from tests.ollama_protocols import CALLS, PROMPT_TOKENS, RESPONSE_TOKENS, Body, Reply
from tests.ollama_stand_in import Conversation
from tests.ollama_wires import PROTOCOLS

PATHS = list(PROTOCOLS)
SYSTEM, PROMPT = "Be brief.", "Why is the sky “blue”?"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
ADDED_HERE = {"x-request-id", "x-accel-buffering"}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "date"}


def check_entries(way: Way, count: int) -> None:
    """Check that the log has one entry for each of so many requests, each as it should be."""
    if not (service := way.service):
        return
    eventually(lambda: len(service.entries) >= count)
    asked = [talk for talk in way.ollama.requests if talk.path in PATHS]
    assert len(asked) == len(service.entries) == count
    for talk, entry in zip(asked, service.entries, strict=True):
        check_entry(talk, entry)


def expected(path: str, body: Body) -> Body:
    """Return what the entry has to say about the answer to a request."""
    reply = Reply.to(body)
    calls = bool(reply.calls)
    reasons = {"/v1/messages": "tool_use" if calls else "end_turn", "/v1/responses": "completed"}
    reason = "tool_calls" if calls and path == "/v1/chat/completions" else "stop"
    is_counted = not (path in ("/v1/chat/completions", "/v1/completions") and body.get("stream"))
    is_counted = is_counted or bool(body.get("stream_options"))
    return {
        "status": "ok",
        "model": body["model"],
        "prompt": PROMPT,
        "system": SYSTEM if path != "/v1/completions" else None,
        "response": "".join(reply.text),
        "thinking": "".join(reply.thinking) or None if path != "/v1/completions" else None,
        "tool_calls": CALLS if calls and path != "/v1/completions" else None,
        "prompt_tokens": PROMPT_TOKENS if is_counted else None,
        "response_tokens": RESPONSE_TOKENS if is_counted else None,
        "finish_reason": reasons.get(path, reason),
        "error": None,
    }


def check_entry(talk: Conversation, entry: Body) -> None:
    """Compare an entry with the request that Ollama got and the answer that it gave."""
    assert entry["endpoint"] == talk.path and entry["llm_type"] == "ollama"
    sent = json.loads(talk.unpacked)
    if "stream_options" not in entry["request"]:
        sent.pop("stream_options", None)  # what MiniVault asked for
    assert entry["request"] == sent
    wire = talk.wire
    if wire.status == 200:
        known = expected(talk.path, talk.body)
        assert {key: entry[key] for key in known} == known
        assert entry["ttft_ms"] is None or 0 <= entry["ttft_ms"] <= entry["duration_ms"]
    else:
        refusal = json.loads(wire.body)["error"]
        words = refusal if isinstance(refusal, str) else refusal["message"]
        assert entry["status"] == "error" and words in entry["error"]
    for key in ("options", "format", "think") if talk.path.startswith("/api/") else ():
        assert entry[key] == talk.body.get(key)


def ask(path: str, **more: Any) -> Body:
    """Return the body of a request for a generation."""
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    said.append({"role": "user", "content": PROMPT})
    system = [{"role": "system", "content": SYSTEM}]
    asked: dict[str, Body] = {
        "/api/generate": {"prompt": PROMPT, "system": SYSTEM},
        "/api/chat": {"messages": system + said},
        "/v1/chat/completions": {"messages": system + said},
        "/v1/completions": {"prompt": PROMPT},
        "/v1/responses": {"input": PROMPT, "instructions": SYSTEM},
        "/v1/messages": {"messages": said, "system": SYSTEM, "max_tokens": 99},
    }
    return {"model": "tinyllama", **asked[path], **more}


THINK: dict[str, Body] = {
    "/api/generate": {"think": True},
    "/api/chat": {"think": "high"},
    "/v1/chat/completions": {"reasoning_effort": "high"},
    "/v1/responses": {"reasoning": {"effort": "high"}},
    "/v1/messages": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
}
USAGE = {"stream_options": {"include_usage": True}}


def generations() -> Iterator[tuple[str, Body]]:
    """Yield a request for each kind of answer in each protocol."""
    for path in PATHS:
        for stream in (True, False):
            yield path, ask(path, stream=stream)
            if path != "/v1/completions":
                yield path, ask(path, stream=stream, **THINK[path])
                if path != "/api/generate":
                    yield path, ask(path, stream=stream, tools=[{"name": "get_weather"}])
        yield path, ask(path, stream=True, model="nope")
    for path in ("/v1/chat/completions", "/v1/completions"):
        yield path, ask(path, stream=True, **USAGE)


@dataclass(frozen=True)
class Answer:
    """What came back on the wire, without the framing of the way."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_whole: bool
    request_id: str | None = field(compare=False)


def parse(method: str, data: bytes) -> Answer:
    """Read what a connection carried until it was closed."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    response: h11.Response | None = None
    body = b""
    try:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            assert event not in (h11.NEED_DATA, h11.PAUSED)
        is_whole = True
    except h11.RemoteProtocolError:
        is_whole = False
    assert response, f"no answer in {data!r}"
    headers = [(name.decode(), value.decode("latin-1")) for name, value in response.headers]
    # uvicorn names itself in every answer, and no app can take that back
    left_out = HOP_BY_HOP | ADDED_HERE
    kept = [each for each in headers if each[0] not in left_out and each != ("server", "uvicorn")]
    request_id = ", ".join(value for name, value in headers if name == "x-request-id") or None
    return Answer(response.status_code, sorted(kept), body, is_whole, request_id)


def connect(url: str) -> socket.socket:
    """Open a connection."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), DEADLINE)


def http(
    method: str, path: str, body: bytes = b"", *headers: str, host: str = "localhost"
) -> bytes:
    """Return a request's bytes, on a connection that is closed after the answer."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    if body or method == "POST":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def post(path: str, body: Body, *headers: str) -> bytes:
    """Return the bytes of a request with a JSON body."""
    return http("POST", path, json.dumps(body).encode(), *headers)


def read_all(connection: socket.socket) -> bytes:
    """Read until the other side closes or breaks the connection."""
    pieces = []
    try:
        while piece := connection.recv(2**20):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def receive(connection: socket.socket, end: bytes) -> bytes:
    """Read until these bytes are there."""
    data = b""
    while end not in data:
        piece = connection.recv(65536)
        assert piece, f"it ended before {end!r}"
        data += piece
    return data


def with_headers(request: bytes, *headers: str) -> bytes:
    """Return a request with more headers."""
    line, rest = request.split(b"\r\n", 1)
    return b"\r\n".join([line, *(header.encode() for header in headers), rest])


def exchange(url: str, request: bytes) -> bytes:
    """Send a request and return all that comes back until the connection ends."""
    with connect(url) as connection:
        connection.sendall(request)
        return read_all(connection)


def send(url: str, request: bytes) -> Answer:
    """Send a request and return its answer."""
    return parse(request.split(b" ", 1)[0].decode(), exchange(url, request))


def send_all(url: str, requests: list[bytes]) -> list[Answer]:
    """Send requests, some at a time."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(partial(send, url), requests))


def shaped(path: str, content: bytes) -> str:
    """Return an error's words; it has the shape of the path's protocol and nothing else."""
    known = json.loads(content)
    if path.startswith("/api/"):
        assert list(known) == ["error"]
        words = known["error"]
    elif path == "/v1/messages":
        assert known["type"] == "error" and isinstance(known["error"]["type"], str)
        words = known["error"]["message"]
    else:
        assert list(known) == ["error"]
        assert list(known["error"]) == ["message", "type", "param", "code"]
        words = known["error"]["message"]
    assert isinstance(words, str)
    return words


@contextmanager
def at_most_more_memory(kilobytes: int) -> Iterator[None]:
    """Fail where this process needs more than that at any moment of the block, if Linux tells."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        yield
        return
    clear.write_text("5")  # the peak begins anew at what is used now
    before = peak(status)
    yield
    assert peak(status) - before <= kilobytes


def peak(status: Path) -> int:
    """Return the most memory that a process has had, in kB."""
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])
