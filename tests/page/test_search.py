"""What a search shows: the place of the match, in the row and in the entry."""

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Opened, ago, entry, needs_browser

pytestmark = needs_browser
LONG = "lorem ipsum dolor sit amet consectetur " * 40


@pytest.mark.parametrize("width", [390, 768, 1024, 1280, 1920])
def test_the_match_is_in_sight_on_every_screen(opened: Opened, width: int) -> None:
    texts = {"prompt": "A question about gardens", "response": f"{LONG}NEEDLE {LONG}"}
    opened.write(
        *(entry(n, finished_at=ago(minutes=9 - n), conversation="c", **texts) for n in (1, 2)),
        entry(3, **texts),
    )
    page = opened.page
    page.set_viewport_size({"width": width, "height": 844})
    opened.show("#log?q=lorem needle")
    marks = page.locator("#log mark", has_text="NEEDLE")
    expect(marks).to_have_count(2)
    for mark in marks.all():
        assert mark.evaluate("""mark => {
            const { right, bottom } = mark.closest("p").getBoundingClientRect();
            const box = mark.getBoundingClientRect();
            return box.width > 0 && box.right <= right && box.bottom <= bottom + 1;
        }""")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_word_is_marked_in_the_row_and_in_the_entry(opened: Opened) -> None:
    asked = [{"role": "user", "content": "Where is Omega?"}]
    opened.write(
        entry(1, response=f"{LONG}the omega of alpha, a-b (c)", request={"messages": asked})
    )
    opened.show('#log?q=ALPHA "the omega" a-b (c)')
    expect(opened.rows.locator("mark")).to_have_text(["the omega", "alpha", "a-b", "(c)"])
    opened.rows.get_by_role("link").click()
    expect(opened.entry.locator(".answered mark")).to_have_text(
        ["the omega", "alpha", "a-b", "(c)"]
    )
    opened.show("#log?q=omega")
    opened.rows.get_by_role("link").click()
    expect(opened.entry.locator(".asked mark")).to_have_text(["Omega"])
    expect(opened.entry.locator(".answered mark")).to_have_text(["omega"])
