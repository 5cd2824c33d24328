"""The page in a real browser: what it shows, that no content of the log gets out of its text, and
that everybody can use it."""

import asyncio
import base64
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import CHROMIUM, chromium, innocent_page
from tests.conftest import DEADLINE, Serve, Service, eventually
from tests.ollama_stand_in import OllamaStandIn, hang, refuse, then, tokens

pytestmark = pytest.mark.long  # two of them do not pass every time yet
KEY = "a-key-that-nobody-guesses"
PIXEL = (  # a PNG
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Debian's package chromium")

expect.set_options(timeout=DEADLINE * 1000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser; all tests here share it."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a session of its own."""
    with innocent_page(browser, DEADLINE) as page:
        yield page


@pytest.fixture
def opened(serve: Serve, page: Page, tmp_path: Path) -> "Opened":
    """A service whose log the page may read."""
    return Opened(serve(log_key=KEY), page)


class Opened:
    """A service, its log, and a page that is about to show it."""

    def __init__(self, service: Service, page: Page) -> None:
        self.service = service
        self.page = page

    def show(self, address: str = "#log") -> None:
        """Come by the link that the start prints, and go to an address of the page."""
        self.page.goto(f"{self.service.url}/#key={KEY.replace(' ', '%20')}")
        self.page.goto(f"{self.service.url}/{address}")

    def write(self, *entries: dict[str, Any]) -> None:
        """Add entries to the log, oldest first."""
        for entry in entries:
            with (self.service.log_dir / f"{entry['finished_at'][:10]}.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")

    @property
    def rows(self) -> Locator:
        """The log's rows."""
        return self.page.locator("#log tbody tr")


def ago(**age: float) -> str:
    """Return the moment so long ago, as the log writes it."""
    return (datetime.now(UTC) - timedelta(**age)).isoformat().replace("+00:00", "Z")


def entry(number: int = 0, **fields: Any) -> dict[str, Any]:
    """Return an entry of the log."""
    return {
        "id": f"00000000-0000-4000-8000-{number:012}",
        "started_at": ago(seconds=9),
        "finished_at": ago(seconds=7),
        "duration_ms": 2000.0,
        "endpoint": "/generate",
        "llm_type": "ollama",
        "model": "tinyllama",
        "status": "ok",
        "prompt": f"Question {number}",
        "system": None,
        "options": None,
        "format": None,
        "think": None,
        "response": f"Answer {number}",
        "thinking": None,
        "error": None,
        "ttft_ms": 500.0,
        "prompt_tokens": 7,
        "response_tokens": 30,
        **fields,
    }


# What comes without a browser


def test_a_browser_gets_the_page_and_everybody_else_ollamas_words(serve: Serve) -> None:
    client = serve().client
    accepted = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    for accept, words in (("*/*", "Ollama is running"), (accepted, "<!doctype html>")):
        answer = client.get("/", headers={"Accept": accept})
        assert answer.text.startswith(words)
        assert answer.headers["vary"] == "Accept"
        head = client.head("/", headers={"Accept": accept})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == answer.headers["content-length"]
    assert client.get("/").headers["content-type"] == "text/plain; charset=utf-8"


def test_all_of_the_page_has_headers_that_keep_it_to_itself(serve: Serve) -> None:
    client = serve().client
    html = {"Accept": "text/html"}
    for path in ("/", *(f"/page/{file.name}" for file in Path("page").iterdir())):
        headers = client.get(path, headers=html).headers
        policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        again = client.get(path, headers={**html, "If-None-Match": headers["etag"]})
        assert (headers["cache-control"], again.status_code) == ("no-cache", 304)
    for outside in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page/"):
        assert client.get(outside).status_code == 404


# Asking


@needs_browser
def test_the_answer_appears_as_it_comes_and_is_in_the_log(
    serve: Serve, ollama: OllamaStandIn, page: Page
) -> None:
    go_on: list[bool] = []

    async def rest(talk: Any) -> None:
        while not go_on:
            await asyncio.sleep(0.01)
        await talk.line(response=" is blue.", done=False)
        await talk.done()

    ollama.answer = then("The sky", end=rest)
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, log_key=KEY)
    page.goto(f"{service.url}/#key={KEY.replace(' ', '%20')}")
    page.get_by_role("link", name="Ask").click()
    page.get_by_label("Prompt").fill("Why?")
    page.keyboard.press("Control+Enter")
    answer = page.get_by_role("region", name="The answer's text")
    expect(answer).to_have_text("The sky")
    expect(page.locator(".facts")).to_contain_text("Answering · first token")
    go_on.append(True)
    expect(answer).to_have_text("The sky is blue.")
    expect(page.locator(".facts")).to_contain_text("Done · tinyllama")
    expect(page.locator(".facts")).to_contain_text("12 tokens")
    page.get_by_role("link", name="In the log").click()
    expect(page.get_by_role("dialog")).to_contain_text("The sky is blue.")


@needs_browser
def test_all_fields_are_sent_and_thinking_is_kept_apart(
    vault: Service, ollama: OllamaStandIn, page: Page
) -> None:
    ollama.answer = tokens("Because.", thinking=("Let me", " see."))
    page.route("**/api/tags", lambda route: route.fulfill(json={"models": [{"name": "qwen3:8b"}]}))
    page.goto(vault.url)
    page.get_by_label("Prompt").fill("Why?")
    page.get_by_role("combobox", name="Model").fill("qwen3:8b")
    page.get_by_text("System message and options").click()
    page.get_by_label("System message").fill("Be brief.")
    page.get_by_label("Options, as JSON").fill('{"temperature": 0}')
    page.get_by_label("Think").select_option("yes")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#answer .response")).to_have_text("Because.")
    expect(page.locator("#answer .thinking .text")).to_be_hidden()
    page.locator("#answer summary").click()
    expect(page.locator("#answer .thinking .text")).to_have_text("Let me see.")
    asked = vault.entry()
    assert (asked["model"], asked["system"]) == ("qwen3:8b", "Be brief.")
    assert (asked["options"], asked["think"]) == ({"temperature": 0}, True)


@needs_browser
def test_bad_json_is_said_at_its_field_and_nothing_is_sent(vault: Service, page: Page) -> None:
    page.goto(vault.url)
    page.get_by_label("Prompt").fill("Why?")
    page.get_by_text("System message and options").click()
    options = page.get_by_label("Options, as JSON")
    options.fill("{temperature: 0}")
    page.get_by_role("button", name="Ask", exact=True).click()
    assert "JSON" in options.evaluate("field => field.validationMessage")
    options.fill("")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".facts")).to_contain_text("Done")
    assert len(vault.entries) == 1


@needs_browser
def test_stop_ends_the_answer_and_its_entry_says_cancelled(
    vault: Service, ollama: OllamaStandIn, page: Page
) -> None:
    ollama.answer = then("The sky", end=hang)
    page.goto(vault.url)
    page.get_by_label("Prompt").fill("Why?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#answer .response")).to_have_text("The sky")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".facts")).to_contain_text("Stopped")
    assert vault.entry()["status"] == "cancelled"


@needs_browser
def test_errors_are_shown_in_the_services_words(
    vault: Service, ollama: OllamaStandIn, page: Page
) -> None:
    ollama.answer = refuse(404, "model 'tinyllama' not found")
    page.goto(vault.url)
    page.get_by_label("Prompt").fill("Why?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("ollama pull tinyllama")
    ollama.answer = then("The sky", end=hang)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#answer .response")).to_have_text("The sky")
    expect(page.get_by_role("alert")).to_be_hidden()


@needs_browser
def test_where_the_api_has_a_key_the_page_asks_for_it(serve: Serve, page: Page) -> None:
    service = serve(api_key="s3cret-key")
    page.goto(service.url)
    page.get_by_label("Prompt").fill("Why?")
    page.get_by_role("button", name="Ask", exact=True).click()
    for key, said in (("wrong", "MINIVAULT_API_KEY"), ("s3cret-key", "That was not it.")):
        expect(page.get_by_role("dialog")).to_contain_text(said)
        page.get_by_role("textbox", name="Key").fill(key)
        page.get_by_role("button", name="Use it").click()
    expect(page.locator(".facts")).to_contain_text("Done")


@needs_browser
def test_as_curl_is_the_same_request_whatever_the_prompt_holds(
    serve: Serve, browser: Browser
) -> None:
    service = serve()
    prompt = 'it\'s "$HOME" `id` \\ \u202e\x85\u2028 !! Größe\n👍🏽'
    with innocent_page(
        browser, DEADLINE, permissions=["clipboard-read", "clipboard-write"]
    ) as page:
        page.goto(service.url)
        page.get_by_label("Prompt").fill(prompt)
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        command = page.evaluate("navigator.clipboard.readText()")
    assert "\u202e" not in command
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    assert service.entry()["prompt"] == prompt


# The log's key


@needs_browser
def test_the_key_leaves_the_address_at_once_and_lives_in_the_tab_alone(
    opened: Opened, browser: Browser
) -> None:
    opened.write(entry())
    opened.page.goto(f"{opened.service.url}/#key={KEY.replace(' ', '%20')}")
    expect(opened.rows).to_have_count(1)
    assert opened.page.url == f"{opened.service.url}/#log"
    state = opened.page.context.storage_state()
    assert "nobody guesses" not in json.dumps(state)  # which has cookies and local storage
    opened.page.reload()
    expect(opened.rows).to_have_count(1)
    with innocent_page(browser, DEADLINE) as other:
        other.goto(opened.page.url)
        expect(other.get_by_role("dialog")).to_contain_text("The log's key")


@needs_browser
def test_who_comes_without_the_key_is_asked_and_told_where_it_is(opened: Opened) -> None:
    opened.write(entry())
    page = opened.page
    page.goto(f"{opened.service.url}/#log")
    expect(page.get_by_role("dialog")).to_contain_text(".key")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.reload()
    for key in ("wrong", KEY):
        page.get_by_role("textbox", name="Key").fill(key)
        page.keyboard.press("Enter")
    expect(opened.rows).to_have_count(1)


# The log


@needs_browser
def test_the_filter_is_in_the_address_and_can_be_sent(opened: Opened, browser: Browser) -> None:
    opened.write(
        entry(1, finished_at=ago(days=2)),
        entry(2, status="error", model="qwen3:8b"),
        entry(3, response="Grüße\naus Köln", endpoint="/api/chat"),
    )
    opened.show()
    expect(opened.rows).to_have_count(3)
    page = opened.page
    page.get_by_label("Status").select_option("error")
    expect(opened.rows).to_have_count(1)
    page.get_by_label("Status").select_option("any")
    page.get_by_role("searchbox").fill("GRÜSSE")
    page.keyboard.press("Enter")
    expect(opened.rows).to_have_count(1)
    expect(opened.rows).to_contain_text("Question 3")
    page.get_by_label("Endpoint").fill("/api/chat")
    page.get_by_role("link", name="Today").click()
    expect(page.get_by_role("link", name="Today")).to_have_attribute("aria-current", "true")
    expect(opened.rows).to_have_count(1)
    sent = page.url
    assert "key" not in sent
    with innocent_page(browser, DEADLINE) as other:
        other.goto(sent)
        other.get_by_role("textbox", name="Key").fill(KEY)
        other.keyboard.press("Enter")
        expect(other.locator("#log tbody tr")).to_have_count(1)
        expect(other.get_by_role("searchbox")).to_have_value("GRÜSSE")
        other.get_by_role("searchbox").fill("")
        other.get_by_label("Endpoint").fill("")
        other.get_by_role("link", name="Any day").click()
        expect(other.locator("#log tbody tr")).to_have_count(3)


@needs_browser
def test_who_is_quicker_than_the_browser_loses_nothing_of_the_filter(opened: Opened) -> None:
    """The next field is typed in, and a day clicked, before it is said that the address changed."""
    opened.show("#log?q=one&endpoint=/api/chat")
    page = opened.page
    expect(page.get_by_role("searchbox")).to_have_value("one")
    left = page.evaluate("""() => {
        const { q, endpoint } = document.querySelector("#filter").elements;
        const leave = (field) => field.dispatchEvent(new Event("change", { bubbles: true }));
        q.value = "two";
        leave(q);
        endpoint.value = "/generate";
        return new Promise((resolve) => setTimeout(() => {
            const typed = endpoint.value;
            endpoint.value = "/stream";
            leave(endpoint);
            document.querySelector(".days a").click();
            resolve(typed);
        }, 100));
    }""")
    assert left == "/generate"
    expect(page).to_have_url(re.compile("#log[?]q=two&endpoint=%2Fstream$"))


@needs_browser
def test_new_entries_appear_without_moving_what_is_read(opened: Opened) -> None:
    opened.write(*(entry(number) for number in range(100)))
    opened.show()
    read = opened.rows.filter(has_text="Question 70")
    read.scroll_into_view_if_needed()
    read.evaluate("row => row.scrollIntoView({block: 'center'})")
    before = read.bounding_box()
    opened.write(entry(500), entry(501))
    expect(opened.rows.nth(0)).to_contain_text("Question 501")
    expect(opened.rows.nth(1)).to_contain_text("Question 500")
    assert read.bounding_box() == pytest.approx(before, abs=1)
    opened.page.locator("#log .scroller").evaluate("node => node.scrollTo(0, 0)")
    opened.write(entry(502))
    expect(opened.rows.filter(has_text="Question 502")).to_be_in_viewport()


@needs_browser
def test_a_page_that_nobody_sees_asks_nothing(opened: Opened) -> None:
    opened.write(entry())
    page = opened.page
    page.add_init_script("Object.defineProperty(document, 'hidden', {get: () => self.unseen})")
    page.clock.install()
    opened.show()
    expect(opened.rows).to_have_count(1)
    for _ in range(3):
        with page.expect_request("**/log?*"):
            page.clock.run_for(11_000)
    page.evaluate("self.unseen = true")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(600_000)
    assert asked == []
    with page.expect_request("**/log?*"):
        page.evaluate("self.unseen = false; document.dispatchEvent(new Event('visibilitychange'))")


@needs_browser
def test_scrolling_back_loads_more_and_the_rows_stay_bounded(opened: Opened) -> None:
    opened.write(*(entry(number) for number in range(1200)))
    opened.show()
    last = opened.rows.last
    while opened.rows.count() < 1000:
        count = opened.rows.count()
        last.scroll_into_view_if_needed()
        expect(opened.rows).not_to_have_count(count)
    opened.page.get_by_role("button", name="Load older entries").click()
    expect(opened.rows.nth(0)).to_contain_text("Question 199")
    opened.page.get_by_role("button", name="Show the newest").click()
    expect(opened.rows.nth(0)).to_contain_text("Question 1199")
    assert opened.rows.count() <= 1000


@needs_browser
def test_an_entry_opens_whole_with_its_conversation(opened: Opened) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Lisbon"}}}
    request = {
        "model": "qwen3:8b",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is this?", "images": [PIXEL]},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_name": "weather", "content": "rain"},
        ],
    }
    opened.write(
        entry(1),
        entry(2, endpoint="/api/chat", request=request, system="Be brief.", thinking="Hm."),
    )
    opened.show()
    opened.page.get_by_role("link", name="Question 2").click()
    dialog = opened.page.get_by_role("dialog")
    expect(dialog.locator(".message > h4")).to_have_text(
        ["system", "user", "assistant", "tool weather", "assistant"]
    )
    expect(dialog).to_contain_text("first token after 500 ms, then 1.50 s of streaming")
    expect(dialog).to_contain_text("Lisbon")
    expect(dialog.get_by_text("Hm.")).to_be_hidden()
    picture = dialog.get_by_role("img")
    eventually(lambda: picture.evaluate("image => image.naturalWidth") == 1)
    opened.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert opened.page.url.endswith("/#log")


@needs_browser
def test_an_entry_that_is_opened_while_another_closes_stays_open(opened: Opened) -> None:
    opened.write(entry(1), entry(2))
    opened.show("#log?entry=" + entry(1)["id"])
    expect(opened.page.get_by_role("dialog")).to_contain_text("Answer 1")
    address = f"#log?entry={entry(2)['id']}"
    opened.page.evaluate(f"""
        addEventListener("hashchange", () => {{ location.hash = "{address}"; }}, {{ once: true }});
        location.hash = "#log";
    """)
    expect(opened.page.get_by_role("dialog")).to_contain_text("Answer 2")
    assert opened.page.url.endswith(address)


@needs_browser
@pytest.mark.parametrize(
    "asked",
    [
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Here it is"}]}]},
        {"input": "Here it is", "instructions": "Be brief."},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Here it is"}]}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "tool_result", "content": "Here it is"}]}
            ]
        },
        {"messages": ["Here it is", None, 7, {"role": {"no": "role"}, "tool_calls": [None, 1]}]},
        {"messages": [{"content": {"unknown": "Here it is"}, "images": 5}]},
        "Here it is",
        ["Here it is"],
    ],
)
def test_a_request_of_any_shape_is_shown(opened: Opened, asked: Any) -> None:
    opened.write(entry(1, request=asked, prompt="Here it is", tool_calls=[None, "odd"]))
    opened.show("#log?entry=" + entry(1)["id"])
    expect(opened.page.get_by_role("dialog")).to_contain_text("Here it is")
    expect(opened.page.get_by_role("dialog")).to_contain_text("Answer 1")


@needs_browser
def test_ask_again_fills_the_form_with_what_was_asked(opened: Opened) -> None:
    opened.write(entry(1, system="Be brief.", options={"seed": 1}, model="qwen3:8b"))
    opened.show("#log?entry=" + entry(1)["id"])
    page = opened.page
    page.get_by_role("button", name="Ask again").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_label("Prompt")).to_have_value("Question 1")
    expect(page.get_by_label("System message")).to_have_value("Be brief.")
    expect(page.get_by_label("Options, as JSON")).to_have_value('{"seed":1}')
    expect(page.get_by_role("combobox", name="Model")).to_have_value("qwen3:8b")


@needs_browser
def test_what_the_filter_shows_is_downloaded_as_json_lines(opened: Opened) -> None:
    entries = [entry(number, status="error" if number % 2 else "ok") for number in range(120)]
    opened.write(*entries)
    opened.show("#log?status=error")
    with opened.page.expect_download() as download:
        opened.page.get_by_role("button", name="Download").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert [json.loads(line) for line in lines] == entries[:0:-2]


# Figures


@needs_browser
def test_the_slowest_answer_of_a_day_is_found_in_three_clicks(opened: Opened) -> None:
    at = datetime.now().astimezone().replace(hour=12, minute=0) - timedelta(days=2)
    noon = at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    opened.write(
        *(entry(n, finished_at=noon, duration_ms=1000.0 + n % 97) for n in range(200)),
        entry(777, finished_at=noon, duration_ms=99_000.0, response="It took so long."),
        entry(999, duration_ms=500_000.0),
    )
    opened.show()
    page = opened.page
    page.get_by_role("link", name="Figures").click()
    page.get_by_role("link", name=f"{at:%A} {at.day}", exact=True).first.click()
    expect(page.get_by_role("status")).to_have_text("201 entries")
    page.get_by_role("region", name="The slowest").get_by_role("link").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("It took so long.")


@needs_browser
def test_figures_are_drawn_and_said_as_numbers(opened: Opened) -> None:
    opened.write(
        entry(1, finished_at=ago(hours=5), status="error", ttft_ms=None),
        *(entry(n, finished_at=ago(hours=1), ttft_ms=100.0 * n) for n in range(2, 9)),
    )
    opened.show("#figures")
    page = opened.page
    expect(page.get_by_role("img")).to_have_count(3)
    assert page.locator("svg .bar[height='0']").count() < page.locator("svg .bar").count()
    expect(page.get_by_role("region", name="Tokens per second")).to_contain_text("tinyllama")
    page.get_by_text("All of it as a table").click()
    row = page.get_by_role("region", name="Requests and times").get_by_role("row").last
    expect(row).to_contain_text("500 ms")
    assert page.locator("svg").first.evaluate("svg => svg.innerHTML.includes('NaN')") is False


@needs_browser
def test_a_page_that_leaves_the_figures_stops_them(opened: Opened) -> None:
    page = opened.page
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.route("**/log/figures?*", lambda route: None)  # never answered
    opened.show("#figures")
    expect(page.get_by_role("main", name="Figures")).to_contain_text("Reading the log")
    page.get_by_role("link", name="Ask").click()
    eventually(lambda: page.evaluate("1") and any("figures" in url for url in failed))


# Hostile contents

SCRIPT = "self.ran = true"
HOSTILE = [
    f'<img src=x onerror="{SCRIPT}">',
    f"</script><script>{SCRIPT}</script>",
    f'<svg onload="{SCRIPT}"><a xlink:href="javascript:{SCRIPT}">x</a></svg>',
    f"javascript:{SCRIPT}",
    f'"><iframe srcdoc="<script>parent.{SCRIPT}</script>">',
    "{{constructor.constructor('" + SCRIPT + "')()}}",
    "\x00\x07\x1b[31m\x7f\x9b",
    "\u202eevil\u202d \u2066\u2069\u200b",
    "\ud800",
    "__proto__",
    " ",
]
HOSTILE_KEYS: tuple[str, ...] = (
    "prompt",
    "system",
    "model",
    "endpoint",
    "status",
    "response",
    "thinking",
)
HOSTILE_KEYS += ("error", "finish_reason", "client", "user_agent", "trace_id", "started_at")


def hostile_entries() -> Iterator[dict[str, Any]]:
    """Yield entries that carry each hostile text in every place."""
    for number, text in enumerate(HOSTILE):
        image = f"data:image/svg+xml;base64,{base64.b64encode(HOSTILE[2].encode()).decode()}"
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        content += [{"type": "image_url", "image_url": image}]
        content += [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]
        message = {"role": text, "content": content, "images": [text], "tool_name": text}
        calls = [{"function": {"name": text, "arguments": text}}]
        keys = HOSTILE_KEYS if text != "\ud800" else ("response", "thinking", "error")
        asked = {"messages": [message | {"tool_calls": calls}]}
        more = {"request": asked, "tool_calls": calls, "options": {text: text}}
        yield entry(number) | dict.fromkeys(keys, text) | more


@needs_browser
def test_what_the_log_holds_stays_text(opened: Opened) -> None:
    opened.write(*hostile_entries())
    opened.show()
    expect(opened.rows).to_have_count(len(HOSTILE))
    page = opened.page
    dialog = page.get_by_role("dialog")
    for number in range(len(HOSTILE)):
        page.goto(f"{opened.service.url}/#log?entry={entry(number)['id']}")
        expect(dialog.locator("dd").first).to_have_text(entry(number)["id"])
        dialog.locator("summary").evaluate_all("nodes => nodes.forEach(node => node.click())")
    page.goto(f"{opened.service.url}/#figures")
    expect(page.get_by_role("status")).to_have_text(f"{len(HOSTILE)} entries")
    assert page.evaluate("self.ran") is None
    elements = page.locator("main, dialog").locator("img, iframe, script, object, embed, [onerror]")
    assert elements.count() == 0
    schemes = "[...document.links].map(link => link.protocol)"
    assert set(page.evaluate(schemes)) == {"http:"}
    assert not set("\x1b\u202e\u2066") & set(page.locator("body").inner_text())


@needs_browser
def test_hostile_texts_in_the_address_and_in_answers_stay_text(
    vault: Service, ollama: OllamaStandIn, page: Page
) -> None:
    ollama.answer = tokens(*HOSTILE[:8], thinking=tuple(HOSTILE[:8]))
    page.goto(f"{vault.url}/#ask?{HOSTILE[0]}")
    page.get_by_label("Prompt").fill(HOSTILE[1])
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".facts")).to_contain_text("Done")
    for hash in (
        HOSTILE[0],
        "__proto__",
        "constructor",
        "%",
        "key=%",
        "log?%=%&since=" + HOSTILE[1],
    ):
        page.goto(f"{vault.url}/#{hash}")
        page.reload()
        expect(page.get_by_role("navigation", name="Views")).to_be_visible()
    assert page.evaluate("self.ran") is None
    assert page.locator("main img, main script").count() == 0


@needs_browser
def test_a_log_of_a_hundred_thousand_entries_and_ten_megabytes_a_line_is_usable(
    opened: Opened,
) -> None:
    lines = "".join(json.dumps(entry(number)) + "\n" for number in range(100_000))
    (opened.service.log_dir / f"{ago()[:10]}.jsonl").write_text(lines)
    huge = {"prompt": "W" * 10_000_000, "response": "long " * 2_000_000}
    opened.write(entry(100_001, **huge), entry(100_002, **huge))
    opened.show()
    page = opened.page
    expect(opened.rows).not_to_have_count(0)
    assert page.evaluate("document.querySelectorAll('*').length") < 5000
    page.goto(f"{opened.service.url}/#log?entry={entry(100_001)['id']}")
    dialog = page.get_by_role("dialog")
    more = dialog.get_by_role("button", name="Show 1 MB more of 10 MB").first
    more.click()
    assert len(dialog.locator(".text").first.inner_text()) == 1_020_000
    page.get_by_role("button", name="Close").click()
    page.get_by_role("link", name="Figures").click()
    expect(page.get_by_role("status")).to_have_text("100,002 entries")


# Everybody


@contextmanager
def all_views(opened: Opened) -> Iterator[Iterator[str]]:
    """Go through all that the page shows."""
    call = {"function": {"name": "weather", "arguments": {}}}
    opened.write(
        *(entry(n, finished_at=ago(hours=n)) for n in range(1, 20)),
        entry(30, status="error", error="It broke.", response=""),
        entry(31, status="cancelled", thinking="Hm.", tool_calls=[call], options={"seed": 1}),
    )

    def views() -> Iterator[str]:
        page = opened.page
        opened.show("#ask")
        page.get_by_text("System message and options").click()
        page.get_by_label("Prompt").fill("Why?")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".facts")).to_contain_text("Done")
        yield "ask"
        opened.show()
        expect(opened.rows).not_to_have_count(0)
        yield "log"
        for number in (30, 31):
            opened.show(f"#log?entry={entry(number)['id']}")
            expect(page.locator("dd").first).to_have_text(entry(number)["id"])
            yield "entry"
        opened.show("#figures")
        expect(page.get_by_role("img")).to_have_count(3)
        page.get_by_text("All of it as a table").click()
        yield "figures"
        page.evaluate("sessionStorage.clear()")
        page.reload()
        expect(page.get_by_role("dialog")).to_be_visible()
        yield "key"

    yield views()


@needs_browser
@pytest.mark.parametrize(
    ("size", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk-light", "phone-dark"]
)
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    serve: Serve, browser: Browser, scheme: str, size: Any
) -> None:
    with ExitStack() as stack:
        options = {"viewport": size, "color_scheme": scheme, "reduced_motion": "reduce"}
        page = stack.enter_context(innocent_page(browser, DEADLINE, **options))
        for view in stack.enter_context(all_views(Opened(serve(log_key=KEY), page))):
            found = Axe().run(page).response["violations"]
            assert [(view, each["id"], each["nodes"][0]["html"]) for each in found] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
            moves = "getComputedStyle(document.links[0]).transitionDuration"
            assert page.evaluate(moves) == "0s"


@needs_browser
def test_all_of_it_can_be_done_by_keyboard(opened: Opened) -> None:
    opened.write(entry(1), entry(2, duration_ms=90_000.0))
    opened.show("#ask")
    page = opened.page

    def tab_to(name: str) -> None:
        focus = "document.activeElement.textContent.trim() || document.activeElement.name"
        for _ in range(100):
            page.keyboard.press("Tab")
            if page.evaluate(focus) == name:
                return
        raise AssertionError(f"Tab does not come to {name}")

    page.keyboard.type("Why?")
    tab_to("Ask")
    page.keyboard.press("Enter")
    expect(page.locator(".facts")).to_contain_text("Done")
    tab_to("Log")
    page.keyboard.press("Enter")
    tab_to("Question 1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("Answer 1")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "Question 1"
    tab_to("Figures")
    page.keyboard.press("Enter")
    tab_to("Today")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="The slowest")).to_be_visible()


def test_the_page_is_small_and_has_nothing_of_elsewhere() -> None:
    files = [file.read_text() for file in Path("page").iterdir()]
    assert not any("//cdn" in text or "https://" in text for text in files)
    scripts = [file.read_text() for file in Path("page").glob("*.js")]
    assert sum(text.count("\n") for text in scripts) < 800
