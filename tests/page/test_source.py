"""A log that is read alone, and what the service warns of."""

import json

from playwright.sync_api import Error, Page, Route, expect

from tests.conftest import Serve
from tests.page.conftest import Opened, entry, needs_browser

pytestmark = needs_browser
WARNINGS = ["the last <b>minute</b> may not have arrived yet", "2026-11-24.jsonl: unreadable"]


def warn(route: Route) -> None:
    """Answer as the service does, with warnings in the last line."""
    try:
        answer = route.fetch()
    except Error:
        return  # the test is over
    *lines, last = answer.text().splitlines()
    last = json.dumps(json.loads(last) | {"warnings": WARNINGS})
    route.fulfill(response=answer, body="\n".join([*lines, last, ""]))


def test_what_the_service_warns_of_is_said_above_the_log_and_the_figures(opened: Opened) -> None:
    page = opened.page
    opened.write(entry())
    opened.show()
    expect(opened.rows).to_have_count(1)
    expect(page.get_by_role("note").filter(visible=True)).to_have_count(0)
    for path in ("**/log?*", "**/log/figures?*"):
        page.route(path, warn)
    opened.show("#log?q=question")
    note = page.get_by_role("note").filter(visible=True)
    expect(note.get_by_role("paragraph")).to_have_text(WARNINGS)
    opened.show("#figures")
    expect(page.get_by_role("status")).to_have_text("1 entry")
    expect(note.get_by_role("paragraph")).to_have_text(WARNINGS)


def test_what_only_the_count_warns_of_is_said_too(opened: Opened) -> None:
    opened.write(*(entry(number) for number in range(60)))
    opened.page.route("**/log/count?*", warn)
    opened.show()
    expect(opened.page.get_by_role("note").get_by_role("paragraph")).to_have_text(WARNINGS)


def test_where_nothing_answers_the_page_is_the_log_and_its_figures(
    serve: Serve, page: Page
) -> None:
    opened = Opened(serve(llm_service="none"), page)
    opened.write(entry())
    opened.show("#figures")
    expect(page.get_by_role("navigation", name="Views").get_by_role("link")).to_have_text(
        ["Log", "Figures"]
    )
    for address in ("", "#ask"):
        page.goto("about:blank")
        page.goto(f"{opened.service.url}/{address}")
        page.evaluate("key => sessionStorage.setItem('log-key', key)", opened.key)
        page.reload()
        expect(opened.rows).to_have_count(1)
        expect(page.get_by_role("main", name="Ask")).to_be_hidden()
