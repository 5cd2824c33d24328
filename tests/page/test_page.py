"""The page as a whole: what comes without a browser, that no content of the log gets out of its
text, and that everybody can use it."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, expect

import llm_services
from tests.browser import innocent_page
from tests.conftest import DEADLINE, Serve, Way, eventually
from tests.ollama_stand_in import OllamaStandIn
from tests.page.conftest import Opened, ago, chat, entry, needs_browser

DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


# What comes without a browser


def test_a_browser_gets_the_page_and_everybody_else_ollamas_words(
    serve: Serve, ollama: OllamaStandIn
) -> None:
    client = serve(llm_service="ollama", ollama_base_url=ollama.url).client
    accepted = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    for accept, words in (("*/*", "Ollama is running"), (accepted, "<!doctype html>")):
        answer = client.get("/", headers={"Accept": accept})
        assert answer.text.startswith(words)
        assert answer.headers["vary"] == "Accept"
        head = client.head("/", headers={"Accept": accept})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == answer.headers["content-length"]
    assert client.get("/").headers["content-type"] == "text/plain; charset=utf-8"


def test_that_ollama_runs_is_said_only_while_it_does(
    serve: Serve, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_services, "LOOK_SECONDS", 0)
    client = serve(llm_service="ollama", ollama_base_url=ollama.url, ollama_model="nope").client
    assert client.get("/").text == "Ollama is running", "also without the default model"
    with OllamaStandIn() as gone:
        pass
    away = serve(llm_service="ollama", ollama_base_url=gone.url).client
    answer = away.get("/")
    assert answer.status_code == 503 and "retry-after" in answer.headers
    assert f"Ollama is unreachable at {gone.url}" in answer.json()["detail"]
    assert away.get("/", headers={"Accept": "text/html"}).status_code == 200
    assert away.head("/").status_code == 503
    off = serve(llm_service="ollama", ollama_base_url=ollama.url, gateway=False).client
    assert off.get("/").text == "Ollama is running"
    assert serve().client.get("/").text == "MiniVault is running with the stub"


def test_many_who_ask_at_once_share_one_look(serve: Serve, ollama: OllamaStandIn) -> None:
    client = serve(llm_service="ollama", ollama_base_url=ollama.url).client
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.get("/").text, range(20)))
    assert set(answers) == {"Ollama is running"} and ollama.looks == 1


def test_a_look_for_ollama_is_remembered(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_services, "LOOK_SECONDS", DEADLINE)
    with OllamaStandIn() as ollama:
        client = serve(llm_service="ollama", ollama_base_url=ollama.url).client
        assert client.get("/").status_code == 200
    assert client.get("/ready").status_code == 503
    assert client.get("/").status_code == 200


def test_all_of_the_page_has_headers_that_keep_it_to_itself(serve: Serve) -> None:
    client = serve().client
    html = {"Accept": "text/html"}
    for path in ("/", *(f"/{file}" for file in Path("page").rglob("*") if file.is_file())):
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


@needs_browser
def test_the_page_works_behind_a_prefix_of_a_proxy(opened: Opened) -> None:
    opened.write(entry(1))
    page, url = opened.page, opened.service.url
    page.route("**/*", lambda route: route.continue_(url=route.request.url.replace("/vault", "")))
    paths: list[str] = []
    page.on("request", lambda request: paths.append(request.url.removeprefix(url)))
    page.goto(f"{url}/vault/#key={opened.key}")
    expect(opened.rows).to_have_count(1)
    page.get_by_role("link", name="Question 1").click()
    expect(opened.entry).to_contain_text("Answer 1")
    expect(opened.entry.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Figures").click()
    expect(page.get_by_role("status")).to_have_text("1 entry")
    page.get_by_role("link", name="Ask").click()
    page.get_by_label("Prompt").fill("Why?")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".facts")).to_contain_text("Done")
    assert [path for path in paths if not path.startswith(("/vault/", "data:"))] == []


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
        asked = {"messages": [message | {"tool_calls": calls}]}
        more = {"request": asked, "tool_calls": calls, "options": {text: text}}
        yield entry(number) | dict.fromkeys(HOSTILE_KEYS, text) | more


@needs_browser
def test_what_the_log_holds_stays_text(opened: Opened) -> None:
    opened.write(*hostile_entries())
    opened.show()
    expect(opened.rows).to_have_count(len(HOSTILE))
    page = opened.page
    dialog = page.get_by_role("dialog")
    for number in range(len(HOSTILE)):
        page.goto(f"{opened.service.url}/#log?entry={entry(number)['id']}")
        expect(dialog.locator("dd.id")).to_have_text(entry(number)["id"])
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
def test_hostile_texts_in_the_address_and_in_answers_stay_text(through: Way, page: Page) -> None:
    through.ollama.answer = chat(*HOSTILE[:8], thinking=tuple(HOSTILE[:8]))
    page.goto(f"{through.url}/#ask?{HOSTILE[0]}")
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
        page.goto(f"{through.url}/#{hash}")
        page.reload()
        expect(page.get_by_role("navigation", name="Views")).to_be_visible()
        assert page.evaluate("self.ran") is None
    assert page.locator("main img, main script").count() == 0


@needs_browser
def test_a_log_of_a_hundred_thousand_entries_and_ten_megabytes_a_line_is_usable(
    opened: Opened,
) -> None:
    line = json.dumps(entry(999_999)) + "\n"
    with (opened.service.log_dir / f"{ago()[:10]}.jsonl").open("w") as file:
        file.writelines(line.replace("999999", f"{number:06}") for number in range(100_000))
    huge = {"prompt": "W" * 10_000_000, "response": "long " * 2_000_000}
    opened.write(entry(100_001, **huge), entry(100_002, **huge))
    opened.show()
    page = opened.page
    expect(opened.rows).not_to_have_count(0)
    assert page.evaluate("document.querySelectorAll('*').length") < 5000
    page.goto(f"{opened.service.url}/#log?entry={entry(100_001)['id']}")
    dialog = page.get_by_role("dialog")
    more = dialog.get_by_role("button", name="Show more of 10 MB").first
    more.click()
    text = dialog.locator(".text").first
    eventually(lambda: text.evaluate("node => node.textContent.length") > 40_000)
    page.get_by_role("button", name="Close").click()
    page.get_by_role("link", name="Figures").click()
    # read at the lowest priority, so that a busy machine lets it wait
    expect(page.get_by_role("status")).to_have_text("100,002 entries", timeout=10_000 * DEADLINE)


# Everybody


MARKDOWN = """# Why

It *scatters*, **strongly**; see [this](https://example.org/sky).

> A quotation

1. One
   - Two

| colour | length |
|---|--:|
| blue | 450 nm |

```python
print("a line that is longer than any telephone's screen is wide, so that it has to be scrolled")
```
"""


def all_views(opened: Opened) -> Iterator[str]:
    """Go through all that the page shows."""
    call = {"function": {"name": "weather", "arguments": {}}}
    talk = [{"role": role, "content": MARKDOWN} for role in ("user", "assistant") * 6]
    chatting = {"endpoint": "/api/chat", "conversation": "c", "request": {"messages": talk[:-1]}}
    opened.write(
        *(entry(n, finished_at=ago(hours=n)) for n in range(1, 20)),
        entry(30, status="error", error="It broke.", response=""),
        entry(31, status="cancelled", thinking="Hm.", tool_calls=[call], options={"seed": 1}),
        entry(32, response=MARKDOWN, tool_calls=[call], user_agent="curl/8.14.1", **chatting),
        entry(33, response=MARKDOWN, prompt="Why?", model="qwen3:8b", **chatting),
    )
    page = opened.page
    opened.show("#ask")
    page.get_by_text("System message and options").click()
    for question in ("Why?", "And then?"):
        page.get_by_label("Prompt").fill(question)
        page.keyboard.press("Enter")
        expect(page.locator(".facts")).to_contain_text("Done")
    yield "ask"
    opened.show("#log?q=question")
    expect(opened.rows.locator("mark")).not_to_have_count(0)
    yield "search"
    opened.show()
    expect(opened.rows).not_to_have_count(0)
    page.get_by_role("button", name="Question 32").click()
    page.get_by_text("Download").click()
    yield "log"
    for number in (30, 31, 32):
        opened.show(f"#log?entry={entry(number)['id']}")
        expect(page.locator("dd.id")).to_have_text(entry(number)["id"])
        for fold in page.locator("dialog summary").all():
            fold.click()
        yield "entry"
    page.keyboard.press("?")
    yield "keys"
    page.keyboard.press("Escape")
    opened.show(f"#log?entry={entry(32)['id']}&with={entry(33)['id']}")
    expect(opened.entry.locator("table mark")).not_to_have_count(0)
    yield "two entries"
    page.get_by_role("button", name="Close").click()
    opened.show(f"#log?entry={entry(33)['id']}")
    page.get_by_role("button", name="Ask again").click()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".facts")).to_contain_text("Done")
    yield "ask again"
    opened.show("#figures")
    expect(page.locator("svg .bar")).not_to_have_count(0)
    page.get_by_text("All figures as a table").click()
    yield "figures"
    page.evaluate("sessionStorage.clear()")
    page.reload()
    expect(page.get_by_role("dialog")).to_be_visible()
    yield "key"


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    through: Way, browser: Browser, scheme: str, size: Any
) -> None:
    assert through.service
    options = {"viewport": size, "color_scheme": scheme, "reduced_motion": "reduce"}
    with innocent_page(browser, DEADLINE, **options) as page:
        for view in all_views(Opened(through.service, page)):
            found = Axe().run(page).response["violations"]
            assert [(view, each["id"], each["nodes"][0]["html"]) for each in found] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
            moves = "getComputedStyle(document.links[0]).transitionDuration"
            assert page.evaluate(moves) == "0s"


@needs_browser
@pytest.mark.parametrize("width", [390, 768, 1024, 1280, 1920])
def test_what_was_asked_has_the_most_room_on_every_screen(opened: Opened, width: int) -> None:
    opened.write(entry(1, prompt="A question of some length, as people ask it of a model " * 3))
    page = opened.page
    page.set_viewport_size({"width": width, "height": 800})
    opened.show()
    expect(opened.rows).to_have_count(1)
    widths = opened.rows.locator("td").evaluate_all(
        "cells => Object.fromEntries(cells.map(cell => [cell.className, cell.offsetWidth]))"
    )
    prompt = widths.pop("prompt")
    assert prompt > width * 0.3 and prompt > max(widths.values()), widths
    assert (widths["model"] > 0) is (width > 1100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


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

    expect(page.get_by_label("Prompt")).to_be_focused()
    page.keyboard.type("Why?")
    tab_to("Ask")
    page.keyboard.press("Enter")
    expect(page.locator(".facts")).to_contain_text("Done")
    tab_to("Log")
    page.keyboard.press("Enter")
    expect(opened.rows).to_have_count(3)
    tab_to("Question 1")
    page.keyboard.press("Enter")
    expect(opened.entry).to_contain_text("Answer 1")
    expect(opened.entry.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Question 1")).to_be_focused()
    tab_to("Figures")
    page.keyboard.press("Enter")
    expect(page.get_by_role("main", name="Figures")).to_be_visible()
    tab_to("Today")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="The slowest")).to_be_visible()


def test_the_page_is_small_and_has_nothing_of_elsewhere() -> None:
    files = [file.read_text() for file in Path("page").iterdir() if file.is_file()]
    assert not any("//cdn" in text or "https://" in text for text in files)
    scripts = [file.read_text() for file in Path("page").glob("*.js")]
    assert sum(text.count("\n") for text in scripts) < 1800
