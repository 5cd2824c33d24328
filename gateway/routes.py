"""The gateway's routes: Ollama's own HTTP interfaces, forwarded unchanged and recorded.

The bytes of an answer go to the client as and when they arrived, and a reader makes of the same
bytes what the recorder keeps. The one exception is the recorder's: the piece that completes an
answer is sent when the log has its entry.

The tables are Ollama's own routes, from its `server/routes.go` and for pictures from its docs.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, NoReturn

from fastapi import APIRouter, Depends, HTTPException, Response
from pydantic_core import from_json
from starlette.responses import RedirectResponse

from gateway.forwarding import Forward, ForwardedAnswer, find_ollama
from gateway.request_body import RequestReader, collect_body
from protocols.base import Protocol, as_dict
from protocols.registry import embeddings, endpoints
from settings import Settings
from web.keys import KeyedRoute
from web.state import Request

FORWARDED = {
    "GET": (
        "/api/version",
        "/api/tags",
        "/api/ps",
        "/api/status",
        "/api/experimental/model-recommendations",
        "/v1/models",
        "/v1/models/{model:path}",
    ),
    "HEAD": ("/api/blobs/{digest}",),
    "POST": (
        "/api/show",
        "/api/embed",
        "/api/embeddings",
        "/api/me",
        "/api/experimental/web_search",
        "/api/experimental/web_fetch",
        "/v1/embeddings",
        "/v1/messages/count_tokens",
    ),
    "OPTIONS": ("/api/{path:path}", "/v1/{path:path}"),
}
"""What is forwarded and not recorded: it reads, or asks who one is."""

REFUSED = {
    "POST": (
        "/api/pull",
        "/api/push",
        "/api/create",
        "/api/copy",
        "/api/blobs/{digest}",
        "/api/signout",
    ),
    "DELETE": ("/api/delete", "/api/user/keys/{key}"),
}
"""What changes models or the account."""

ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
NOT_FOUND = "404 page not found"
MAX_NAME_BYTES = 2**16
"""Of the body in which a model to pull is named."""

RecordedEndpoint = Callable[[ForwardedAnswer], Awaitable[Response]]


def create_recorded_endpoint(protocol: Protocol, reader: RequestReader) -> RecordedEndpoint:
    """Return the function that forwards requests of a protocol and records them."""

    async def open_forward(request: Request) -> AsyncIterator[ForwardedAnswer]:
        """Forward a request; after the response, end what is left of it."""
        state = request.state
        body = await collect_body(request)
        forward = Forward(request, body, protocol)
        with state["recorder"].admit():
            headers = request.headers
            logged = await reader.read(
                body,
                protocol,
                headers.get("content-type", ""),
                headers.get("content-encoding", ""),
                state["hold_bytes"],
            )
            forward.prepare(logged, counts_tokens=state["settings"].count_tokens)
            async with state["recorder"].record(
                logged,
                forward.chunks(),
                state["client"],
                id=state["request_id"],
                endpoint=request.scope["route"].path,
            ) as recording:
                yield ForwardedAnswer(request, forward, protocol, recording)

    async def forward_recorded(
        answer: Annotated[ForwardedAnswer, Depends(open_forward)],
    ) -> Response:
        return answer

    return forward_recorded


async def forward_unrecorded(request: Request) -> Response:
    """Forward a request without recording it."""
    if {".", ".."} & {*request.url.path.split("/")}:  # on the way it would become another path
        raise HTTPException(404, NOT_FOUND)
    # a preflight's body means nothing
    body = b"" if request.method == "OPTIONS" else await collect_body(request)
    return ForwardedAnswer(request, Forward(request, body, None))


def refuse(request: Request) -> NoReturn:
    """Refuse what would change models or the account."""
    url = find_ollama(request).url
    message = f"{request.method} {request.url.path} is not forwarded; call Ollama directly at {url}"
    raise HTTPException(403, message)


async def refuse_change(request: Request) -> Response:
    """Refuse what would change models or the account; `ollama run` asks for a pull by itself."""
    if request.url.path != "/api/pull":
        refuse(request)
    find_ollama(request)
    name = await read_model_name(request)
    raise HTTPException(
        403, f"model '{name}' not found; pull it with `ollama pull {name}` where Ollama runs"
    )


async def read_model_name(request: Request) -> str:
    """Return the model that the body of a small request names."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_NAME_BYTES:
            break
    try:
        named = as_dict(from_json(body))
    except ValueError:
        named = {}
    return str(named.get("model") or named.get("name") or "<model>")[:200]


async def answer_unknown(request: Request) -> Response:
    """Answer a path or a method that Ollama does not have as it does, in the protocol's shape."""
    find_ollama(request)
    path = request.url.path
    if (known := find_clean_path(path)) != path:
        query = request.url.query
        url = request.scope["root_path"] + known + (f"?{query}" if query else "")
        return RedirectResponse(url, 301 if request.method in ("GET", "HEAD") else 307)
    if methods := find_methods(path):
        raise HTTPException(405, "405 method not allowed", {"Allow": ", ".join(methods)})
    raise HTTPException(404, NOT_FOUND)


def find_methods(path: str) -> list[str]:
    """Return the methods that Ollama has for a path."""
    recorded = tuple(endpoint.path for endpoint, _ in endpoints())
    routes = {
        "GET": FORWARDED["GET"],
        "HEAD": FORWARDED["GET"] + FORWARDED["HEAD"],
        "POST": recorded + FORWARDED["POST"] + REFUSED["POST"],
        "DELETE": REFUSED["DELETE"],
    }
    return [
        method
        for method, paths in routes.items()
        if any(re.fullmatch(re.sub(r"\{\w+(:path)?\}", ".+", each), path) for each in paths)
    ]


def find_clean_path(path: str) -> str:
    """Return the path that Ollama redirects to from one with doubled or closing slashes; the path
    itself if it does not."""
    clean = re.sub(r"/+", "/", path).rstrip("/")
    return clean if find_methods(clean) else path


def create_router(settings: Settings) -> APIRouter:
    """Return the routes of all registered protocols, and of embeddings if they are recorded."""
    reader = RequestReader(settings.max_body_bytes)
    router = APIRouter(route_class=KeyedRoute, include_in_schema=False)
    recorded = endpoints() + (embeddings() if settings.log_embeddings else [])
    for endpoint, protocol in recorded:
        router.add_api_route(
            endpoint.path, create_recorded_endpoint(protocol, reader), methods=["POST"]
        )
    for method, paths in FORWARDED.items():
        methods = ["GET", "HEAD"] if method == "GET" else [method]
        for path in paths:
            router.add_api_route(path, forward_unrecorded, methods=methods)
    for method, paths in REFUSED.items():
        for path in paths:
            router.add_api_route(path, refuse_change, methods=[method])
    for path in ("/api", "/v1", "/api/{path:path}", "/v1/{path:path}", "//{path:path}"):
        router.add_api_route(path, answer_unknown, methods=ALL_METHODS)
    return router
