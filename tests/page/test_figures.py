"""The figures in a browser: what is found by them, how they are drawn, and when they stop."""

import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import innocent_page
from tests.conftest import DEADLINE, Way, eventually
from tests.page.conftest import Opened, ago, entry, needs_browser

pytestmark = needs_browser


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
    expect(opened.entry).to_contain_text("It took so long.")


def test_an_entry_of_the_figures_is_compared_with_one_of_the_log(opened: Opened) -> None:
    page = opened.page
    opened.write(entry(1, response="One"), entry(2, response="Two", duration_ms=9000.0))
    opened.show("#figures")
    page.get_by_role("region", name="The slowest").get_by_role("link").first.click()
    expect(opened.entry.locator(".answered")).to_contain_text("Two")
    for name in ("Newer", "Older"):
        expect(opened.entry.get_by_role("button", name=name)).to_be_disabled()
    opened.entry.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("Choose the entry to put beside")).to_be_visible()
    opened.rows.filter(has_text="One").get_by_role("link").click()
    expect(opened.entry.locator(".columns mark")).to_have_text(["Two", "One"])


def test_figures_are_drawn_and_said_as_numbers(opened: Opened) -> None:
    opened.write(
        entry(1, finished_at=ago(hours=5), status="error", ttft_ms=None),
        *(entry(n, finished_at=ago(hours=1), ttft_ms=100.0 * n) for n in range(2, 9)),
    )
    opened.show("#figures")
    page = opened.page
    expect(page.get_by_role("img")).to_have_count(4)
    assert page.locator("svg .bar[height='0']").count() < page.locator("svg .bar").count()
    expect(page.get_by_role("region", name="Tokens per second")).to_contain_text("tinyllama")
    page.get_by_text("All figures as a table").click()
    row = page.get_by_role("region", name="Requests and times").get_by_role("row").last
    expect(row).to_contain_text("500 ms")
    assert page.locator("svg").first.evaluate("svg => svg.innerHTML.includes('NaN')") is False


def test_long_figures_say_how_far_they_are(opened: Opened) -> None:
    """A server of the test's own answers as the service does, and stops half-way."""
    page = opened.page
    go_on = threading.Event()
    figures = dict.fromkeys(("buckets", "models", "slowest"), []) | {"entries": 0}

    def answer(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            client.recv(1 << 16)
            client.sendall(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"progress":0.500}\n')
            go_on.wait(DEADLINE)
            client.sendall(json.dumps(figures).encode() + b"\n")

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(answer, server)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        page.route("**/log/figures?*", lambda route: route.continue_(url=url))
        opened.show("#figures")
        bar = page.get_by_role("progressbar", name="How much of the log is read")
        expect(bar).to_have_js_property("value", 0.5)
        expect(page.get_by_role("status")).to_have_text("Reading the log")
        go_on.set()
        expect(page.get_by_role("status")).to_have_text("No entry matches")
        expect(bar).to_be_hidden()


def test_a_page_that_leaves_the_figures_stops_them(opened: Opened) -> None:
    page = opened.page
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.route("**/log/figures?*", lambda route: None)  # never answered
    opened.show("#figures")
    expect(page.get_by_role("main", name="Figures")).to_contain_text("Reading the log")
    page.get_by_role("link", name="Ask").click()
    eventually(lambda: page.evaluate("1") and any("figures" in url for url in failed))


def test_tokens_are_told_by_model_by_day_and_by_client(opened: Opened) -> None:
    agent = {"user_agent": "claude-cli/2.0.1 (external)", "model": "qwen3:8b"}
    opened.write(
        entry(1, finished_at=ago(days=2), prompt_tokens=1000, response_tokens=200, load_ms=1500.0),
        entry(2, prompt_tokens=20_000, response_tokens=300, **agent),
        entry(3, prompt_tokens=30_000, response_tokens=400, **agent),
    )
    opened.show("#figures")
    page = opened.page
    model = page.get_by_role("region", name="tokens per second by model").get_by_role("row")
    expect(model.filter(has_text="qwen3:8b")).to_contain_text("50,000")
    expect(model.filter(has_text="tinyllama")).to_contain_text("1.50 s")
    days = page.get_by_role("region", name="Tokens by day and model").get_by_role("row")
    expect(days.nth(1)).to_contain_text("qwen3:8b")
    expect(days.nth(1)).to_contain_text("700")
    expect(days.nth(2)).to_contain_text("1,000")
    clients = page.get_by_role("region", name="Tokens by client")
    expect(clients.get_by_role("row").nth(1)).to_contain_text("50,000")
    clients.get_by_role("link", name="claude-cli").click()
    expect(opened.rows).to_have_count(2)


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Asia/Kolkata"])
def test_days_are_the_readers_and_ticks_stand_at_their_beginnings(
    through: Way, browser: Browser, zone: str
) -> None:
    def evening(day: int) -> dict[str, Any]:
        """Return an entry of an evening in that zone, which is another day in UTC or not."""
        at = datetime(2026, 11, day, 22, 30, tzinfo=ZoneInfo(zone)).astimezone(UTC)
        stamp = at.isoformat().replace("+00:00", ".000000Z")
        return entry(day, finished_at=stamp, response_tokens=day)

    assert through.service
    with innocent_page(browser, DEADLINE, timezone_id=zone) as page:
        opened = Opened(through.service, page)
        opened.write(*sorted(map(evening, range(3, 24)), key=lambda it: str(it["finished_at"])))
        opened.show("#figures")
        days = page.get_by_role("region", name="Tokens by day and model").get_by_role("row")
        for number, day in ((1, 23), (21, 3)):
            expect(days.nth(number)).to_contain_text(f"2026-11-{day:02}")
            expect(days.nth(number).get_by_role("cell").last).to_have_text(str(day))
        texts = page.locator(".requests svg > text").all_text_contents()
        ticks = [text for text in texts if not text.isdigit()]
        assert ticks and all(re.fullmatch(r"\d+ Nov", text) for text in ticks), texts
        page.get_by_text("All figures as a table").click()
        rows = page.get_by_role("region", name="Requests and times").get_by_role("rowheader")
        assert all(re.search("(00|06|12|18):00$", text) for text in rows.all_text_contents())
