"""What an Ollama says to a request, on each of its interfaces: `answer_to` makes its `Wire`.

Streamed or whole, with tool calls, thinking or structured output as the body asks, refused where a
real one refuses. The replies themselves are in `ollama_protocols.py`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Any

from tests.ollama_protocols import (
    EPOCH,
    Body,
    Pieces,
    Reply,
    completions,
    go,
    messages,
    native,
    responses,
)

NAMES = ("tinyllama:latest", "tiny-embed:latest")
RUNNER_DIED = "an error was encountered while running the model: unexpected EOF"
JSON, JSON_UTF8 = "application/json", "application/json; charset=utf-8"
LINES, EVENTS = "application/x-ndjson", "text/event-stream"
NO_CACHE = (("Cache-Control", "no-cache"),)
ALLOW = (("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),)


@dataclass(frozen=True)
class Wire:
    """An answer: a chunk a piece where it is a stream, else one piece with a length."""

    status: int
    content_type: str | None
    pieces: tuple[bytes, ...]
    headers: tuple[tuple[str, str], ...] = ()
    is_chunked: bool = False
    has_body: bool = True

    @property
    def body(self) -> bytes:
        """What a client gets when the framing is gone."""
        return b"".join(self.pieces) if self.has_body else b""

    def encode(self) -> list[bytes]:
        """Return what goes over the wire: the head, then a piece each, then the end."""
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        headers = [*self.headers, ("Date", "Mon, 23 Nov 2026 05:33:52 GMT")]
        if self.content_type:
            headers.insert(0, ("Content-Type", self.content_type))
        if self.is_chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif self.status != 204:
            headers.append(("Content-Length", str(sum(map(len, self.pieces)))))
        lines += [f"{name}: {value}" for name, value in headers]
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        if not self.is_chunked:
            return [head, self.body]
        return [head, *(b"%x\r\n%s\r\n" % (len(p), p) for p in self.pieces), b"0\r\n\r\n"]


PROTOCOLS: dict[str, Callable[..., Pieces]] = {
    "/api/generate": partial(native, chat=False),
    "/api/chat": partial(native, chat=True),
    "/v1/chat/completions": partial(completions, chat=True),
    "/v1/completions": partial(completions, chat=False),
    "/v1/responses": responses,
    "/v1/messages": messages,
}
ERROR_TYPES = {400: "invalid_request_error", 404: "not_found_error"}


def whole(status: int, content: Any, content_type: str = JSON_UTF8, **fields: Any) -> Wire:
    """Return an answer of one piece with a length."""
    body = content.encode() if isinstance(content, str) else go(content)
    return Wire(status, content_type, (body,), **fields)


def error(path: str, status: int, words: str) -> Wire:
    """Return an error in the shape of the path's protocol."""
    kind = ERROR_TYPES.get(status, "api_error")
    if path.startswith("/api/"):
        return whole(status, {"error": words})
    if path == "/v1/messages":
        content = {"type": "error", "error": {"type": kind, "message": words}}
        return whole(status, {**content, "request_id": "req_ae4e94df"}, JSON)
    said: Body = {"message": words, "type": kind, "param": None, "code": None}
    headers = NO_CACHE if path == "/v1/responses" else ()
    return whole(status, {"error": said}, JSON, headers=headers)


def objection(path: str, body: Body) -> tuple[int, str] | None:
    """Return the status and the words with which the request is refused, if it is."""
    if body.get("model") == "nope":
        return 404, "model 'nope' not found"
    for key, kind, name in (("prompt", str, "string"), ("messages", list, "array")):
        if not isinstance(body.get(key, kind()), kind):
            return 400, f"json: cannot unmarshal number into Go struct field .{key} of type {name}"
    if isinstance(body.get("options", {}).get("temperature", 0), str):
        return 500, 'option "temperature" must be of type float32'
    return None


def is_streamed(path: str, body: Body) -> bool:
    """Return whether the answer comes as a stream: by default only on Ollama's own interfaces."""
    is_load = path.startswith("/api/") and not (body.get("messages") or body.get("prompt"))
    return bool(body.get("stream", path.startswith("/api/"))) and not is_load


def generation(path: str, content: bytes) -> Wire:
    """Return the answer to a request for a generation."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return error(path, 400, "unexpected EOF" if content else "missing request body")
    if refused := objection(path, body):
        return error(path, *refused)
    streamed = is_streamed(path, body)
    pieces = tuple(PROTOCOLS[path](body, Reply.to(body), whole=not streamed))
    native_path = path.startswith("/api/")
    if not streamed:
        return Wire(200, JSON_UTF8 if native_path else JSON, pieces)
    headers = NO_CACHE if path in ("/v1/responses", "/v1/messages") else ()
    return Wire(200, LINES if native_path else EVENTS, pieces, headers, is_chunked=True)


def dying(path: str, content: bytes) -> Wire:
    """Return the answer of a model whose process is killed after some tokens.

    Only `/api/` says so. The streams of `/v1/` end as if all were well, without their last event.
    """
    alive = generation(path, content)
    if not alive.is_chunked:
        return error(path, 500, RUNNER_DIED)
    last: tuple[bytes, ...] = ()
    if path.startswith("/api/"):
        last = (go({"error": RUNNER_DIED}) + b"\n",)
    elif path == "/v1/chat/completions":
        choices = [{"index": 0, "delta": {"content": ""}, "finish_reason": None}]
        last = (b"data: " + go({"id": "chatcmpl-542", "model": "", "choices": choices}) + b"\n\n",)
    return replace(alive, pieces=alive.pieces[: len(alive.pieces) // 2] + last)


DETAILS = {"family": "llama", "format": "gguf", "parameter_size": "1B"}
MODELS = [{"name": name, "model": name, "digest": "efcf77", "details": DETAILS} for name in NAMES]
ENTRIES = [{"id": n, "object": "model", "created": EPOCH, "owned_by": "library"} for n in NAMES]
VECTOR = [0.0893427, -0.011199194, 0.5]
EMBEDDINGS = [{"object": "embedding", "embedding": VECTOR, "index": 0}]
OTHERS: dict[tuple[str, str], Wire] = {
    ("GET", "/"): whole(200, "Ollama is running", "text/plain; charset=utf-8"),
    ("GET", "/api/version"): whole(200, {"version": "0.33.0-rc2"}),
    ("GET", "/api/tags"): whole(200, {"models": MODELS}),
    ("GET", "/api/ps"): whole(200, {"models": [{**MODELS[0], "size_vram": 0}]}),
    ("GET", "/v1/models"): whole(200, {"object": "list", "data": ENTRIES}, JSON),
    ("GET", "/v1/models/tinyllama"): whole(200, {**ENTRIES[0], "id": "tinyllama"}, JSON),
    ("POST", "/api/show"): replace(
        whole(
            200,
            {
                "modelfile": "FROM x",
                "details": DETAILS,
                "model_info": {},
                "capabilities": ["completion"],
            },
        ),
        is_chunked=True,
    ),
    ("POST", "/api/embed"): whole(200, {"model": "tiny-embed", "embeddings": [VECTOR]}),
    ("POST", "/api/embeddings"): whole(200, {"embedding": VECTOR}),
    ("POST", "/v1/embeddings"): whole(
        200,
        {"object": "list", "data": EMBEDDINGS, "model": "tiny-embed"}
        | {"usage": {"prompt_tokens": 1, "total_tokens": 1}},
        JSON,
    ),
}
PICTURES = {"created": EPOCH, "data": [{"b64_json": "aVZCT1J3MEtHZ28="}]}
MEDIA = {
    "/v1/audio/transcriptions": whole(200, {"text": "Why is the sky blue?"}, JSON),
    "/v1/images/generations": whole(200, PICTURES, JSON),
    "/v1/images/edits": whole(200, PICTURES, JSON),
}
NOT_FOUND = whole(404, "404 page not found", "text/plain")
FORBIDDEN = Wire(403, None, (b"",))


def is_foreign(headers: dict[str, str]) -> bool:
    """Return whether Ollama would turn the request's `Host` or `Origin` away."""
    host = headers.get("host", "").rsplit(":", 1)[0]
    origin = headers.get("origin", "http://localhost").split("//")[-1].split(":")[0]
    return not {host, origin} <= {"localhost", "127.0.0.1"}


def answer_to(method: str, path: str, headers: dict[str, str], content: bytes) -> Wire:
    """Return Ollama's answer. Names and values of the headers are in lower case."""
    path = path.split("?")[0]
    if is_foreign(headers):
        return FORBIDDEN
    if method == "OPTIONS":
        origin = (("Access-Control-Allow-Origin", headers["origin"]),)
        vary = (("Vary", "Origin"), ("Vary", "Access-Control-Request-Method"))
        return Wire(204, None, (), ALLOW + origin + (("Allow", "POST"),) + vary)
    if method == "POST" and path in PROTOCOLS:
        return generation(path, content)
    if method == "POST" and path in MEDIA:
        return MEDIA[path]
    found = OTHERS.get(("GET" if method == "HEAD" else method, path), NOT_FOUND)
    return replace(found, has_body=method != "HEAD")
