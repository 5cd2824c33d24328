"""The gateway's routes: Ollama's own HTTP interfaces, forwarded unchanged and recorded.

The bytes of an answer go to the client as and when they arrived, and a reader makes of the same
bytes what the recorder keeps. The one exception is the recorder's: the piece that completes an
answer is sent when the log has its entry.

What MiniVault does not understand is forwarded all the same; what would change models or the
account is not.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Response

from gateway.forwarding import Forward, ForwardedAnswer, find_ollama
from gateway.request_body import RequestReader, collect_body
from protocols.base import Protocol
from protocols.registry import endpoints, find_protocol
from web.keys import KeyedRoute
from web.state import Request

FORWARDED = {
    "GET": ("/api/version", "/api/tags", "/api/ps", "/v1/models", "/v1/models/{model:path}"),
    "POST": (
        "/api/show",
        "/api/embed",
        "/api/embeddings",
        "/v1/embeddings",
        "/v1/messages/count_tokens",
    ),
    "OPTIONS": ("/api/{path:path}", "/v1/{path:path}"),
}
"""What is forwarded and not recorded, beside HEAD for each GET."""

REFUSED_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

Endpoint = Callable[[ForwardedAnswer], Awaitable[Response]]


def create_recorded_endpoint(protocol: Protocol, reader: RequestReader) -> Endpoint:
    """Return the function that forwards requests of a protocol and records them."""

    async def open_forward(request: Request) -> AsyncIterator[ForwardedAnswer]:
        """Forward a request; after the response, end what is left of it."""
        state = request.state
        body = await collect_body(request)
        forward = Forward(request, body, protocol)
        with state["recorder"].admit():
            encoding = request.headers.get("content-encoding", "")
            logged = await reader.read(encoding, body, protocol)
            forward.streamed = logged.streamed
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


async def forward(request: Request) -> Response:
    """Forward a request without recording it."""
    if {".", ".."} & {*request.url.path.split("/")}:
        return await refuse(request)  # on the way it would become another path
    protocol = find_protocol(request.url.path)
    return ForwardedAnswer(request, Forward(request, await collect_body(request), None), protocol)


async def refuse(request: Request) -> Response:
    """Refuse what would change models or the account."""
    url = find_ollama(request).url
    message = f"{request.method} {request.url.path} is not forwarded; call Ollama directly at {url}"
    raise HTTPException(403, message)


def create_router(max_body_bytes: int) -> APIRouter:
    """Return the routes of all registered protocols."""
    reader = RequestReader(max_body_bytes)
    router = APIRouter(route_class=KeyedRoute, include_in_schema=False)
    for endpoint, protocol in endpoints():
        router.add_api_route(
            endpoint.path, create_recorded_endpoint(protocol, reader), methods=["POST"]
        )
    for method, paths in FORWARDED.items():
        for path in paths:
            methods = ["GET", "HEAD"] if method == "GET" else [method]
            router.add_api_route(path, forward, methods=methods)
    for path in ("/api/{path:path}", "/v1/{path:path}"):
        router.add_api_route(path, refuse, methods=REFUSED_METHODS)
    return router
