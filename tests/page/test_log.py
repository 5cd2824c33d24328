"""The log in a browser: its filter, new and older entries, and an entry that is opened."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import innocent_page
from tests.conftest import DEADLINE, Serve, Way, eventually
from tests.ollama_stand_in import hang
from tests.page.conftest import Opened, ago, chat, entry, needs_browser

pytestmark = needs_browser
POLL = 3_000  # milliseconds
PIXEL = (  # a PNG
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


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
    sent = page.evaluate("location.href")
    assert "key" not in sent
    with innocent_page(browser, DEADLINE) as other:
        other.goto(sent)
        other.get_by_role("textbox", name="Key").fill(opened.key)
        other.keyboard.press("Enter")
        expect(other.locator("#log tbody tr")).to_have_count(1)
        expect(other.get_by_role("searchbox")).to_have_value("GRÜSSE")
        other.get_by_role("searchbox").fill("")
        other.get_by_label("Endpoint").fill("")
        other.get_by_role("link", name="Any day").click()
        expect(other.locator("#log tbody tr")).to_have_count(3)


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


def test_new_entries_appear_without_moving_what_is_read(opened: Opened) -> None:
    opened.write(*(entry(number) for number in range(100)))
    opened.page.clock.install()
    opened.show()
    read = opened.rows.filter(has_text="Question 70")
    read.scroll_into_view_if_needed()
    read.evaluate("row => row.scrollIntoView({block: 'center'})")
    before = read.bounding_box()
    opened.write(entry(500), entry(501))
    opened.page.clock.run_for(POLL)
    expect(opened.rows.nth(0)).to_contain_text("Question 501")
    expect(opened.rows.nth(1)).to_contain_text("Question 500")
    assert read.bounding_box() == pytest.approx(before, abs=1)
    opened.page.locator("#log .scroller").evaluate("node => node.scrollTo(0, 0)")
    opened.write(entry(502))
    opened.page.clock.run_for(POLL)
    expect(opened.rows.filter(has_text="Question 502")).to_be_in_viewport()


def test_a_page_that_nobody_sees_asks_nothing(opened: Opened) -> None:
    opened.write(entry())
    page = opened.page
    page.add_init_script("Object.defineProperty(document, 'hidden', {get: () => self.unseen})")
    page.clock.install()
    opened.show()
    expect(opened.rows).to_have_count(1)
    for _ in range(3):
        with page.expect_response("**/log?*"):
            page.clock.run_for(POLL)
    page.evaluate("self.unseen = true")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(600_000)
    assert asked == []
    with page.expect_request("**/log?*"):
        page.evaluate("self.unseen = false; document.dispatchEvent(new Event('visibilitychange'))")


def test_scrolling_back_loads_more_and_the_rows_stay_bounded(opened: Opened) -> None:
    opened.write(*(entry(number) for number in range(1200)))
    opened.show()
    opened.page.evaluate("""() => {
        const [scroller, rows] = document.querySelectorAll("#log .scroller, #log tbody");
        const toTheEnd = () => scroller.scrollTo(0, scroller.scrollHeight);
        new MutationObserver(toTheEnd).observe(rows, { childList: true });
        toTheEnd();
    }""")
    for count in range(100, 1001, 50):  # each load has its own time
        eventually(lambda: opened.rows.count() >= count)
    opened.page.get_by_role("button", name="Load older entries").click()
    expect(opened.rows.nth(0)).to_contain_text("Question 199")
    opened.page.get_by_role("button", name="Show the newest").click()
    expect(opened.rows.nth(0)).to_contain_text("Question 1199")
    assert opened.rows.count() <= 1000


def test_a_browser_that_tells_late_of_two_scrolls_loads_what_the_last_one_wants(
    opened: Opened,
) -> None:
    opened.page.add_init_script("""
        const { IntersectionObserver } = window;
        window.IntersectionObserver = class extends IntersectionObserver {
            constructor(told, options) {
                const changes = [];
                super((records) => {
                    changes.push(...records);
                    if (changes.length > 1) told(changes.splice(0));
                }, options);
            }
        };
    """)
    opened.write(*(entry(number) for number in range(100)))
    opened.show()
    expect(opened.rows).to_have_count(50)
    opened.page.evaluate("""async () => {
        const frame = () => new Promise(requestAnimationFrame);
        await frame().then(frame); // the first change is that the end is not in sight
        document.querySelector("#log .scroller").scrollTo(0, 1e6);
    }""")
    expect(opened.rows).to_have_count(100)


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
    dialog = opened.entry
    expect(dialog.locator(".message > h3")).to_have_text(
        ["system", "user", "assistant", "tool weather", "assistant"]
    )
    expect(dialog).to_contain_text("first token after 500 ms, then 1.50 s of streaming")
    expect(dialog).to_contain_text("Lisbon")
    expect(dialog.get_by_text("Hm.")).to_be_hidden()
    picture = dialog.get_by_role("img")
    eventually(lambda: picture.evaluate("image => image.naturalWidth") == 1)
    opened.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(opened.page).to_have_url(re.compile("/#log$"))


def test_an_entry_that_is_opened_while_another_closes_stays_open(opened: Opened) -> None:
    opened.write(entry(1), entry(2))
    opened.show("#log?entry=" + entry(1)["id"])
    expect(opened.entry).to_contain_text("Answer 1")
    address = f"#log?entry={entry(2)['id']}"
    opened.page.evaluate(f"""
        addEventListener("hashchange", () => {{ location.hash = "{address}"; }}, {{ once: true }});
        location.hash = "#log";
    """)
    expect(opened.entry).to_contain_text("Answer 2")
    expect(opened.page).to_have_url(re.compile(f"{re.escape(address)}$"))


def test_a_request_of_any_shape_is_shown(opened: Opened) -> None:
    shapes: list[Any] = [
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
    ]
    for number, asked in enumerate(shapes):
        opened.write(entry(number, request=asked, prompt="Here it is", tool_calls=[None, "odd"]))
    for number in range(len(shapes)):
        opened.show(f"#log?entry={entry(number)['id']}")
        expect(opened.entry).to_contain_text(f"Answer {number}")
        expect(opened.entry.locator(".asked")).to_contain_text("Here it is")


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


def test_where_no_texts_are_kept_their_lengths_are_shown(serve: Serve, page: Page) -> None:
    service = serve(log_content="metadata")
    service.client.post("/generate", json={"prompt": "Why is the sky blue?"})
    opened = Opened(service, page)
    opened.show()
    expect(opened.rows).to_contain_text("(20 characters; the text was not kept)")
    page.get_by_role("link", name="not kept").click()
    expect(opened.entry.locator(".asked")).to_contain_text("(20 characters; the text was not kept)")
    answer = f"{service.entry()['response_chars']} characters; the text was not kept"
    expect(opened.entry.locator(".answered")).to_contain_text(answer)
    for name in ("Ask again", "Copy answer", "Copy as curl"):
        expect(opened.entry.get_by_role("button", name=name)).to_be_disabled()
    opened.show("#figures")
    expect(page.get_by_role("region", name="The slowest")).to_contain_text("not kept")


@pytest.mark.parametrize(
    ("button", "name"), [("JSON lines", ".jsonl"), ("CSV", ".csv"), ("Chat data", "-chat.jsonl")]
)
def test_what_the_filter_shows_is_downloaded_under_a_name_that_says_it(
    opened: Opened, button: str, name: str
) -> None:
    day = "2026-11-24"
    entries = [
        entry(
            number,
            finished_at=f"{day}T12:00:00.{number:06}Z",
            model="llama3.2:3b" if number % 2 else "tinyllama",
        )
        for number in range(120)
    ]
    opened.write(*entries)
    opened.show(f"#log?model=llama3.2&from={day}&to={day}")
    with opened.page.expect_download() as download:
        opened.page.get_by_text("Download").click()
        opened.page.get_by_role("button", name=button).click()
    assert download.value.suggested_filename == f"minivault-{day}-llama3.2{name}"
    lines = Path(download.value.path()).read_text().splitlines()
    wanted = entries[:0:-2]
    if button == "JSON lines":
        assert [json.loads(line) for line in lines] == wanted
    elif button == "CSV":
        assert lines[0].startswith("id,started_at") and len(lines) == len(wanted) + 1
    else:
        messages = json.loads(lines[0])["messages"]
        assert [each["content"] for each in messages] == ["Question 119", "Answer 119"]
        assert len(lines) == len(wanted)


# What a row says


def session(calls: int) -> Iterator[dict[str, Any]]:
    """Yield the entries of a coding agent's session, whose last one answers."""
    for number in range(1, calls + 1):
        name = "bash" if number % 3 else "read_file"
        call = {"id": f"t{number}", "name": name, "arguments": {"n": number}}
        yield entry(
            number,
            finished_at=ago(minutes=calls + 1 - number),
            conversation="c1",
            prompt="Fix the test",
            response="Fixed." if number == calls else "",
            tool_calls=None if number == calls else [call],
            user_agent="claude-cli/2.0.1 (external, cli)",
            prompt_tokens=100,
            response_tokens=10,
        )


def test_a_session_of_an_agent_is_one_row_that_opens_to_its_requests(opened: Opened) -> None:
    opened.write(entry(900, finished_at=ago(minutes=90)), *session(60), entry(901))
    opened.show()
    page = opened.page
    group = opened.rows.filter(has_text="60 requests")
    expect(group).to_contain_text("Fix the test")
    expect(group).to_contain_text("called bash ×40, read_file ×19")
    expect(group).to_contain_text("Fixed.")
    expect(group.locator(".tokens")).to_have_text("6,600")
    expect(group).to_contain_text("claude-cli")
    expect(opened.rows.filter(visible=True)).to_have_count(3)
    expect(page.get_by_role("status")).to_have_text("62 entries, 1 conversation")
    group.get_by_role("button", name="Fix the test").click()
    expect(opened.rows.filter(visible=True)).to_have_count(63)
    third = page.locator(f"[data-id='{entry(3)['id']}']")
    expect(third).to_contain_text('called read_file {"n":3}')
    expect(third.locator("p")).to_have_attribute("data-number", "3")
    third.get_by_role("link").click()
    expect(opened.entry.locator(".answered")).to_contain_text('"n": 3')
    page.keyboard.press("Escape")
    page.get_by_label("Single requests").check()
    expect(opened.rows.filter(visible=True)).to_have_count(50)
    expect(page.get_by_role("button", name="Fix the test")).to_have_count(0)


def test_a_new_request_takes_its_conversation_to_the_top(opened: Opened) -> None:
    talk = {"conversation": "c1", "endpoint": "/api/chat"}
    opened.write(entry(1, **talk), entry(2))
    opened.page.clock.install()
    opened.show()
    expect(opened.rows.nth(0)).to_contain_text("Question 2")
    opened.write(entry(3, **talk))
    opened.page.clock.run_for(POLL)
    expect(opened.rows.filter(visible=True)).to_have_count(2)
    expect(opened.rows.nth(0)).to_contain_text("Question 1")
    expect(opened.rows.nth(0)).to_contain_text("2 requests")
    expect(opened.rows.nth(0)).to_contain_text("Answer 3")


def test_a_row_says_what_was_asked_and_what_came_of_it(opened: Opened) -> None:
    opened.write(
        entry(1, response="Blue light\nscatters most."),
        entry(2, response="", tool_calls=[{"name": "weather", "arguments": {}}]),
        entry(3, response="", status="error", error="It broke."),
        entry(4, response="", status="cancelled", error="the client left"),
    )
    opened.show()
    for number, said in (
        (1, "Blue light scatters most."),
        (2, "called weather"),
        (3, "It broke."),
        (4, "the client left"),
    ):
        expect(opened.rows.filter(has_text=f"Question {number}")).to_contain_text(said)
    red = opened.rows.nth(1).locator(".status").evaluate("cell => getComputedStyle(cell).color")
    cancelled = opened.rows.nth(0).locator(".status")
    expect(cancelled).to_have_text("cancelled")
    expect(cancelled).not_to_have_css("color", red)
    expect(opened.page.get_by_role("columnheader", name="Duration").locator("a")).to_have_count(0)


def test_a_match_is_marked_where_it_stands(opened: Opened) -> None:
    opened.write(entry(1, response="It is far below, " * 50 + "<b>the needle</b> in it"), entry(2))
    opened.show()
    opened.page.get_by_role("searchbox").fill("NEEDLE")
    opened.page.keyboard.press("Enter")
    expect(opened.rows).to_have_count(1)
    expect(opened.rows.locator("mark")).to_have_text("needle")
    expect(opened.rows).to_contain_text("below, <b>the needle</b> in it")


def test_clients_and_models_are_chosen_from_those_that_are_there(opened: Opened) -> None:
    page = opened.page
    opened.write(
        entry(1, finished_at=ago(days=1), user_agent="OpenAI/Python 1.55.0", model="qwen3:8b"),
        *(entry(number, user_agent="claude-cli/2.0.1 (external)") for number in range(2, 60)),
    )
    page.set_viewport_size({"width": 1280, "height": 400})
    opened.show()
    expect(opened.rows.first.locator(".program")).to_have_text("claude-cli")
    page.get_by_label("Client", exact=True).focus()
    for name, list_id in (("OpenAI/Python", "programs"), ("qwen3:8b", "models")):
        option = page.locator(f"#{list_id} option[value='{name}']")
        expect(option).to_have_count(1)
    page.get_by_label("Client", exact=True).fill("OpenAI/Python")
    page.keyboard.press("Enter")
    expect(opened.rows).to_have_count(1)
    expect(opened.rows).to_contain_text("Question 1")
    page.get_by_role("link", name="Clear the filter").click()
    page.get_by_role("combobox", name="Model").fill("qwen3")
    page.keyboard.press("Enter")
    expect(opened.rows).to_have_count(1)


def test_no_more_is_asked_for_than_the_list_shows(opened: Opened) -> None:
    asked: list[str] = []
    opened.page.on("request", lambda request: asked.append(request.url))
    opened.write(entry(1))
    opened.show()
    expect(opened.rows).to_have_count(1)
    pages = [url for url in asked if "/log?" in url]
    assert pages and all("fields=" in url and "preview" in url for url in pages)
    assert not any("request%2C" in url or "%2Cresponse%2C" in url for url in pages)


def test_how_many_there_are_is_said_also_while_they_are_counted(opened: Opened) -> None:
    """A server of the test's own counts as the service does, and stops half-way."""
    page = opened.page
    go_on = threading.Event()

    def answer(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            client.recv(1 << 16)
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
            client.sendall(head + b'{"count":400,"progress":0.5}\n')
            go_on.wait(DEADLINE)
            client.sendall(b'{"count":1234}\n')

    opened.write(*(entry(number) for number in range(200)))
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(answer, server)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        page.route("**/log/count?*", lambda route: route.continue_(url=url))
        opened.show()
        expect(page.get_by_role("status")).to_have_text("at least 400 entries, still counting")
        go_on.set()
        expect(page.get_by_role("status")).to_have_text("1,234 entries")


def test_what_is_in_flight_stands_on_top_and_becomes_its_entry(
    through: Way, opened: Opened
) -> None:
    go_on = threading.Event()

    async def rest(talk: Any) -> None:
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        await talk.done()

    through.ollama.answer = chat("The", " sky", end=rest)
    page = opened.page
    opened.show()
    expect(page.get_by_role("status")).to_contain_text("No entry matches")
    body = {"model": "tinyllama", "messages": [{"role": "user", "content": "Why <b>now</b>?"}]}
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: opened.service.client.post("/api/chat", json=body).read())
        flying = page.get_by_role("list", name="In flight")
        try:
            expect(flying).to_contain_text("tinyllama")
            expect(flying).to_contain_text("Why <b>now</b>?")
            expect(flying).to_contain_text(re.compile("for [0-9.]+ m?s · 2 tokens"))
        finally:
            go_on.set()
        expect(opened.rows).to_have_count(1)
        expect(flying).to_be_hidden()
    expect(opened.rows).to_contain_text("Why <b>now</b>?")


def test_what_is_in_flight_obeys_the_filter(through: Way, opened: Opened) -> None:
    through.ollama.answer = chat("The", end=hang)
    page = opened.page
    body = {"model": "tinyllama", "messages": [{"role": "user", "content": "Why?"}]}
    opened.show()
    with opened.service.client.stream("POST", "/api/chat", json=body) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        flying = page.get_by_role("list", name="In flight")
        expect(flying).to_contain_text("Why?")
        for search in (
            *("model=qwen", "user_agent=curl", "endpoint=generate", "q=Why", "status=ok"),
            *("conversation=c", "to=2026-01-01"),
        ):
            opened.show("#log?model=TINY&endpoint=chat&user_agent=httpx")
            expect(flying).to_contain_text("Why?")
            with page.expect_response("**/log/live"):
                opened.show(f"#log?{search}")
            page.wait_for_timeout(800)  # the stream has begun, and told of it
            expect(flying).to_be_hidden()


@pytest.mark.parametrize(
    ("search", "name"),
    [
        ("", "minivault-all.jsonl"),
        ("endpoint=/api/chat&conversation=c1", "minivault-api-chat-c1.jsonl"),
        ("from=2026-11-01", "minivault-from-2026-11-01.jsonl"),
        ("to=2026-11-02&q=why now", "minivault-until-2026-11-02-why-now.jsonl"),
        ("from=2026-11-01&to=2026-11-02", "minivault-2026-11-01-to-2026-11-02.jsonl"),
    ],
)
def test_a_downloads_name_says_all_of_the_filter(opened: Opened, search: str, name: str) -> None:
    opened.show(f"#log?{search}")
    with opened.page.expect_download() as download:
        opened.page.get_by_text("Download").click()
        opened.page.get_by_role("button", name="JSON lines").click()
    assert download.value.suggested_filename == name


def test_rows_have_no_signs_of_markdown(opened: Opened) -> None:
    table = "| colour | nm |\n|:--|--:|\n| blue | 450 |"
    opened.write(
        entry(
            1, prompt="# A **title**\nand more", response=f"## Why\n\n- `snake_case` *x*\n{table}"
        ),
        entry(2, prompt="What are **kwargs and __init__, # and 2 ** 3 | 4?"),
        entry(3, response="```python\nprint(1)\n```\n> Not so."),
    )
    opened.show()
    answers = opened.rows.locator("td.prompt")
    expect(answers.nth(2)).to_contain_text("A title")
    expect(answers.nth(2)).to_contain_text("Why snake_case *x* colour · nm blue · 450")
    expect(answers.nth(1)).to_contain_text("What are **kwargs and __init__, # and 2 ** 3 | 4?")
    expect(answers.nth(0).locator("p").first).to_have_text("print(1) Not so.")


def test_days_that_cannot_be_are_said_in_plain_words(opened: Opened) -> None:
    opened.write(entry(1))
    opened.show("#log?from=2026-11-03&to=2026-11-02")
    alert = opened.page.get_by_role("alert")
    expect(alert).to_contain_text("“From” is later than “To”")
    expect(opened.page.get_by_role("status")).to_have_text("")
    words = opened.page.evaluate("""async () => {
        const { query } = await import("./page/filter.js");
        try { query({ from: "yesterday" }); } catch (error) { return error.message; }
    }""")
    assert words.startswith("“yesterday” is not a day, as in 20")
    opened.show("#figures?from=2026-11-03&to=2026-11-02")
    expect(alert).to_contain_text("“From” is later than “To”")


def test_the_page_says_what_is_to_be_done(opened: Opened) -> None:
    page = opened.page
    opened.show()
    expect(page.locator(".days a").nth(1)).to_have_text("Today")
    expect(page.locator(".days a").nth(2)).to_have_text("Yesterday")
    expect(page.get_by_role("searchbox")).to_have_attribute("placeholder", re.compile("Enter"))
    page.get_by_role("button", name="? Shortcuts").click()
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()


@pytest.mark.parametrize("width", [390, 768, 1024, 1280, 1920])
def test_times_are_whole_and_tokens_and_model_in_sight_on_every_screen(
    opened: Opened, width: int
) -> None:
    talk = {"conversation": "c1", "prompt_tokens": 5000, "finished_at": "2019-11-20T12:30:00Z"}
    opened.write(entry(1, **talk), entry(2, **talk))
    page = opened.page
    page.set_viewport_size({"width": width, "height": 800})
    opened.show()
    row = opened.rows.first
    expect(row).to_contain_text("2 requests")
    cut = "node => node.scrollWidth > node.clientWidth || node.scrollHeight > node.clientHeight"
    assert not row.locator(".time").evaluate(cut)
    model = row.get_by_text("tinyllama").filter(visible=True)
    assert model.first.evaluate("node => node.offsetWidth") > 0
    tokens = row.get_by_text(re.compile("10,100|10K tokens in all")).filter(visible=True)
    expect(tokens).to_have_count(1)
