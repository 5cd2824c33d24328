"""The documentation: its page, which needs no other host.

FastAPI's page and a package's copy of Swagger UI; no script runs there but these two.
"""

from base64 import b64encode
from hashlib import sha256

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from browser import HEADERS, PageFiles

POLICY = (
    "default-src 'none'; script-src 'self' 'sha256-{}'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

swagger_files = PageFiles(packages=[("fastapi_swagger", "resources")])
documentation = APIRouter()


@documentation.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
async def docs(request: Request) -> Response:
    """Answer FastAPI's documentation page, with the files that are here."""
    root = request.scope.get("root_path", "").rstrip("/")
    page = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="MiniVault",
        swagger_js_url=f"{root}/docs/swagger-ui-bundle.js",
        swagger_css_url=f"{root}/docs/swagger-ui.css",
        swagger_favicon_url=f"{root}/docs/favicon-32x32.png",
        swagger_ui_parameters={"tryItOutEnabled": True},
    )
    script = bytes(page.body).rpartition(b"<script>")[2].partition(b"</script>")[0]
    known = b64encode(sha256(script).digest()).decode()
    page.headers.update({**HEADERS, "Content-Security-Policy": POLICY.format(known)})
    return page
