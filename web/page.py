"""The page for browsers: the files in `page/`, with headers that keep it safe.

Prompts and answers can contain anything. Even where the page failed to treat them as text, no
script but its own files runs, nothing is loaded from or sent to another host, and no other site can
frame it.
"""

import os
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles

from llm_services import LLMServiceError
from web.state import Request

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "Cache-Control": "no-cache",  # cached, but revalidated each time: a 304 if unchanged
}

assert hasattr(StaticFiles, "file_response"), "Starlette makes a file's response in another way now"


class PageFiles(StaticFiles):
    """Static files with the page's headers."""

    def file_response(self, full_path: str | os.PathLike[str], *args: Any, **kw: Any) -> Response:
        response = super().file_response(full_path, *args, **kw)
        response.headers.update(PAGE_HEADERS)
        return response


page_files = PageFiles(directory=Path(__file__).parent.parent / "page")
router = APIRouter()


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def index(request: Request) -> Response:
    """Return the page to a browser, and to all others what Ollama answers there while it runs."""
    if "text/html" in request.headers.get("accept", ""):
        return await page_files.get_response("index.html", request.scope)
    service = request.state["service"]
    try:
        await service.check_running()
    except LLMServiceError as exc:
        raise HTTPException(503, str(exc), {"Vary": "Accept"}) from None
    text = (
        "Ollama is running" if service.is_ollama else f"MiniVault is running with {service.source}"
    )
    return PlainTextResponse(text, headers={"Vary": "Accept"})
