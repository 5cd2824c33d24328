"""Conversations in the log: what a closed row says, what an open one shows, and going on in it."""

from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Locator, expect

from tests.page.conftest import Opened, ago, entry, needs_browser

pytestmark = needs_browser


def session(
    calls: int, minutes: int = 0, other_model: str = "tinyllama"
) -> Iterator[dict[str, Any]]:
    """Yield the calls of a coding agent's conversation, which ended so many minutes ago; each tenth
    is of another model."""
    for number in range(1, calls + 1):
        call = {"id": f"t{number}", "name": "bash", "arguments": {"step": number}}
        yield entry(
            number,
            finished_at=ago(minutes=minutes, seconds=10 * (calls + 1 - number)),
            conversation="c1",
            prompt=f"Fix the test, {number}",
            response=f"Done {number}",
            tool_calls=[call],
            prompt_tokens=90,
            response_tokens=10,
            model="tinyllama" if number % 10 else other_model,
        )


def others(number: int, minutes: int) -> Iterator[dict[str, Any]]:
    """Yield entries of no conversation."""
    for each in range(number):
        yield entry(5000 + each + 1000 * minutes, finished_at=ago(minutes=minutes))


def group(opened: Opened) -> Locator:
    """Return the row of the only conversation."""
    row = opened.page.locator("#log tr.group")
    expect(row).to_have_count(1)
    return row


def test_a_row_says_that_there_may_be_more_and_shows_the_whole_once_it_is_open(
    opened: Opened,
) -> None:
    opened.page.set_viewport_size({"width": 1280, "height": 400})
    opened.write(*others(100, 99), *session(60, minutes=10), *others(30, 1))
    opened.show()
    row = group(opened)
    expect(row).to_contain_text("20 requests or more")
    expect(row.locator(".tokens")).to_have_text("2,000+")
    expect(opened.page.get_by_role("status")).to_contain_text("1 conversation or more")
    row.get_by_role("button").click()
    expect(row.locator(".badge")).to_have_text("60 requests")
    expect(row.locator(".tokens")).to_have_text("6,000")
    expect(row.get_by_role("button")).to_have_text("Fix the test, 1")
    members = opened.page.locator("#log tr.member")
    expect(members).to_have_count(60)
    expect(members.nth(2)).to_contain_text('called bash {"step":3}')
    expect(members.nth(2).locator("[data-number]")).to_have_attribute("data-number", "3")
    row.get_by_role("button").click()
    expect(members).to_have_count(0)
    expect(row.locator(".badge")).to_have_text("60 requests")


def test_in_a_search_a_row_counts_what_matches_and_marks_it_among_the_whole(
    opened: Opened,
) -> None:
    opened.write(*session(30, minutes=10, other_model="qwen3:8b"))
    opened.show('#log?q="Done 2"')  # and of 20 to 29
    row = group(opened)
    expect(row.locator(".badge")).to_have_text("11 matching requests")
    row.get_by_role("button").click()
    expect(row.locator(".badge")).to_have_text("30 requests, 11 matching")
    expect(row.locator(".tokens")).to_have_text("3,000")
    members = opened.page.locator("#log tr.member")
    expect(members).to_have_count(30)
    expect(members.locator("mark")).to_have_count(11)
    expect(members.nth(1).locator("mark")).to_have_text("Done 2")
    expect(members.nth(2).locator("mark")).to_have_count(0)
    opened.show("#log?model=qwen")
    row.get_by_role("button").click()
    expect(row.locator(".badge")).to_have_text("30 requests, 3 matching")
    expect(members).to_have_count(30)
    expect(members.locator(".badge")).to_have_text(["matches"] * 3)
    expect(members.nth(9).locator(".badge")).to_have_count(1)
    opened.show("#log?conversation=c1")
    expect(group(opened).locator(".badge")).to_have_text("30 requests")


def test_beyond_the_rows_that_are_kept_no_conversation_starts_again_with_wrong_numbers(
    opened: Opened,
) -> None:
    opened.write(*session(1020, minutes=5))
    opened.show()
    row = group(opened)
    expect(row.locator(".badge")).to_have_text("1,000 requests or more")  # one row, so all load
    opened.page.get_by_role("button", name="Load older entries").click()
    expect(row.locator(".badge")).to_have_text("20 requests or more")
    row.get_by_role("button").click()
    expect(row.locator(".badge")).to_have_text("1,020 requests")
    last = opened.page.locator("#log tr.member").last
    expect(last.locator("[data-number]")).to_have_attribute("data-number", "1020")


def test_next_and_previous_follow_what_is_seen_and_say_where_they_lead(opened: Opened) -> None:
    opened.write(entry(900, finished_at=ago(minutes=90)), *session(3, minutes=10), entry(901))
    opened.show()
    page = opened.page
    page.get_by_role("link", name="Question 901").click()
    buttons = opened.entry.locator("[name=newer], [name=older]")
    answer = opened.entry.locator(".answered")
    expect(answer).to_contain_text("Answer 901")
    expect(buttons).to_have_text(["Newer", "Older"])
    expect(buttons.first).to_be_disabled()
    for text, labels in (
        ("Done 1", ["Newer", "Next request"]),
        ("Done 2", ["Previous request", "Next request"]),
        ("Done 3", ["Previous request", "Older"]),
        ("Answer 900", ["Newer", "Older"]),
    ):
        page.keyboard.press("j")
        expect(answer).to_contain_text(text)
        expect(buttons).to_have_text(labels)
    expect(buttons.last).to_be_disabled()
    page.keyboard.press("k")
    expect(answer).to_contain_text("Done 3")


def test_fast_presses_are_all_counted(opened: Opened) -> None:
    opened.write(*(entry(number, finished_at=ago(minutes=99 - number)) for number in range(40)))
    opened.show()
    opened.page.get_by_role("link", name="Question 39").click()
    expect(opened.entry.locator(".answered")).to_contain_text("Answer 39")
    opened.page.evaluate("""() => {
        const key = new KeyboardEvent("keydown", { key: "j", bubbles: true });
        for (let i = 0; i < 9; i += 1) document.body.dispatchEvent(key);
    }""")
    expect(opened.entry.locator(".answered")).to_contain_text("Answer 30")


def test_the_focus_is_in_the_list_after_an_entry_of_a_closed_conversation(opened: Opened) -> None:
    opened.write(*session(3), entry(900))
    opened.show(f"#log?entry={entry(2)['id']}")
    expect(opened.entry.locator(".answered")).to_contain_text("Done 2")
    opened.page.keyboard.press("Escape")
    expect(opened.page.locator(f"[data-id='{entry(2)['id']}'] a")).to_be_focused()


def test_a_new_request_joins_a_conversation_that_is_open(opened: Opened) -> None:
    opened.page.clock.install()
    opened.write(*session(4))
    opened.show()
    row = group(opened)
    row.get_by_role("button").click()
    members = opened.page.locator("#log tr.member")
    expect(members).to_have_count(4)
    opened.write(entry(77, conversation="c1", response="The fifth"))
    opened.page.clock.run_for(3_000)
    expect(members).to_have_count(5)
    expect(members.nth(4)).to_contain_text("The fifth")
    expect(row.locator(".badge")).to_have_text("5 requests")
