"""The floor: MiniVault's server and its HTTP client, with nothing between them. It logs nothing."""

import os

import aiohttp
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

URL = os.environ.get("OLLAMA_HOST", "http://localhost:11434") + "/api/generate"

session: aiohttp.ClientSession | None = None


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Pass a request on, whatever its path, and the answer back as it comes."""
    global session
    if scope["type"] != "http":
        return
    session = session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    async with session.post(URL, data=await Request(scope, receive).body()) as answer:
        await send({"type": "http.response.start", "status": answer.status})
        while piece := await answer.content.readany():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})
