"""The documentation's page in a real browser, with nothing but this machine within its reach."""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from playwright.sync_api import Page, Route, expect

from tests.conftest import Serve
from tests.page.conftest import needs_browser
from tests.processes import GRACE, SERVE, process

KEY = "a-key-that-nobody-guesses"
PREFIX = "/vault"
FILES = ["swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"]


def try_generate(page: Page) -> None:
    """Ask as the page proposes it, and wait for what was answered."""
    row = page.locator(".opblock", has=page.get_by_text("/generate", exact=True)).first
    if not row.get_by_role("button", name="Execute").count():
        row.get_by_role("button", name="/generate").first.click()
    row.get_by_role("button", name="Execute").click()


def answer(page: Page, status: int) -> str:
    """Return the body of the answer, once it has this status."""
    shown = page.locator(".live-responses-table")
    expect(shown.locator(".response-col_status").last).to_contain_text(str(status))
    return shown.inner_text()


def test_the_page_names_no_other_host_and_lets_no_other_script_run(serve: Serve) -> None:
    client = serve().client
    page = client.get("/docs")
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page.text)) == {f"/docs/{f}" for f in FILES}
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    known = b64encode(sha256(script.encode()).digest()).decode()
    policy = dict(
        rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; ")
    )
    assert policy.pop("script-src") == f"'self' 'sha256-{known}'"
    assert policy.pop("img-src") == "'self' data:"
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert client.head("/docs").status_code == 200
    assert client.get("/redoc").status_code == 404


def test_its_files_are_here(serve: Serve) -> None:
    client = serve().client
    for name in FILES:
        file = client.get(f"/docs/{name}")
        assert file.status_code == 200 and file.headers["x-content-type-options"] == "nosniff"
    for outside in ("%2e%2e/main.py", "..%2fmain.py", "nothing", ""):
        assert client.get(f"/docs/{outside}").status_code == 404


@needs_browser
def test_a_prompt_is_answered_from_the_page(serve: Serve, page: Page) -> None:
    service = serve()
    page.goto(f"{service.url}/docs")
    try_generate(page)
    shown = answer(page, 200)
    assert '"response":' in shown and service.entry()["id"] in shown
    assert service.entry()["prompt"] == "Why is the sky blue?"


@needs_browser
def test_where_a_key_is_set_the_page_can_send_it(serve: Serve, page: Page) -> None:
    service = serve(api_key=KEY)
    page.goto(f"{service.url}/docs")
    try_generate(page)
    assert "MINIVAULT_API_KEY" in answer(page, 401)
    page.get_by_role("button", name="Authorize", exact=True).click()
    dialog = page.locator(".auth-container", has_text="MINIVAULT_API_KEY").first
    dialog.get_by_role("textbox").fill(KEY)
    dialog.get_by_role("button", name="Apply credentials").click()
    page.get_by_role("button", name="Close").first.click()
    try_generate(page)
    assert service.entry()["id"] in answer(page, 200)


@needs_browser
def test_the_page_works_behind_a_prefix(page: Page, tmp_path: Path) -> None:
    asked = []

    def strip(route: Route) -> None:
        """Do what the proxy does that puts the service under the prefix."""
        asked.append(route.request.url.removeprefix(service.url))
        route.continue_(url=route.request.url.replace(PREFIX, "", 1))

    command = [*SERVE, *GRACE, "--root-path", PREFIX]
    with process(command, tmp_path / "logs", MINIVAULT_STUB_DELAY="0") as service:
        page.route(f"{service.url}/**", strip)
        page.goto(f"{service.url}{PREFIX}/docs")
        try_generate(page)
        assert '"response":' in answer(page, 200)
    assert all(path.startswith(f"{PREFIX}/") for path in asked), asked
