"""The log in a browser: its filter, new and older entries, and an entry that is opened."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import innocent_page
from tests.conftest import DEADLINE, Serve, eventually
from tests.page.conftest import Opened, ago, entry, needs_browser

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


def test_what_the_filter_shows_is_downloaded_as_json_lines(opened: Opened) -> None:
    entries = [entry(number, status="error" if number % 2 else "ok") for number in range(120)]
    opened.write(*entries)
    opened.show("#log?status=error")
    with opened.page.expect_download() as download:
        opened.page.get_by_text("Download").click()
        opened.page.get_by_role("button", name="JSON lines").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert [json.loads(line) for line in lines] == entries[:0:-2]
