"""What a browser gets: the page, from `page/` as it is, and the headers that keep it to itself.

Prompts and answers are anybody's text. Even where the page failed to treat them so, no script but
its own files runs, nothing is loaded from or sent to another host, and no other site frames it.
"""

import os
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "Cache-Control": "no-cache",  # kept, but asked for anew each time: a 304 where it is the same
}


class PageFiles(StaticFiles):
    """The page's files, with its headers."""

    def file_response(self, full_path: str | os.PathLike[str], *args: Any, **kw: Any) -> Response:
        response = super().file_response(full_path, *args, **kw)
        response.headers.update(HEADERS)
        return response


page_files = PageFiles(directory=Path(__file__).parent.parent / "page")
front = APIRouter()


@front.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def index(request: Request) -> Response:
    """Answer the page to a browser, and to everybody else what Ollama says there."""
    if "text/html" in request.headers.get("accept", ""):
        return await page_files.get_response("index.html", request.scope)
    return PlainTextResponse("Ollama is running", headers={"Vary": "Accept"})
