"""The keys in a browser: how the page comes by them, where it keeps them, how it asks for them."""

import json
from urllib.parse import quote

from playwright.sync_api import Browser, Page, expect

from tests.browser import innocent_page
from tests.conftest import DEADLINE, Serve
from tests.page.conftest import Opened, entry, needs_browser

pytestmark = needs_browser


def test_the_key_leaves_the_address_at_once_and_lives_in_the_tab_alone(
    opened: Opened, browser: Browser
) -> None:
    opened.write(entry())
    opened.page.goto(f"{opened.service.url}/#key={opened.key}")
    expect(opened.rows).to_have_count(1)
    expect(opened.page).to_have_url(f"{opened.service.url}/#log")
    state = opened.page.context.storage_state()
    assert opened.key not in json.dumps(state)  # which has cookies and local storage
    opened.page.reload()
    expect(opened.rows).to_have_count(1)
    with innocent_page(browser, DEADLINE) as other:
        other.goto(f"{opened.service.url}/#log")
        expect(other.get_by_role("dialog")).to_contain_text("The log's key")


def test_who_comes_without_the_key_is_asked_and_told_where_it_is(opened: Opened) -> None:
    opened.write(entry())
    page = opened.page
    page.goto(f"{opened.service.url}/#log")
    expect(page.get_by_role("dialog")).to_contain_text(".key")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.reload()
    for key in ("wrong", opened.key):
        page.get_by_role("textbox", name="Key").fill(key)
        page.keyboard.press("Enter")
    expect(opened.rows).to_have_count(1)


def test_a_key_of_any_letters_opens_the_log(serve: Serve, page: Page) -> None:
    key = "a+b/c=d%&e#f?ghi"
    page.goto(f"{serve(log_key=key).url}/#key={quote(key, safe='+/=#?')}")
    expect(page.get_by_role("status")).to_contain_text("No entry matches")


def test_two_keys_are_asked_for_one_after_the_other(serve: Serve, page: Page) -> None:
    """The log's is asked for while the answer to a question without the API's is on its way."""
    service = serve(log_key="the-log's-own-key", api_key="the-API's-own-key")
    page.goto(f"{service.url}/#log")
    expect(page.get_by_role("dialog")).to_contain_text("The log's key")
    page.evaluate("location.hash = '#ask'")
    page.get_by_role("main", name="Ask").wait_for()
    page.evaluate("document.querySelector('[name=prompt]').value = 'Why?'")
    with page.expect_response("**/api/tags"):
        page.evaluate("document.querySelector('#ask form').requestSubmit()")
    for whose in ("log", "API"):
        expect(page.get_by_role("dialog").get_by_role("paragraph")).to_have_count(1)
        expect(page.get_by_role("dialog")).to_contain_text(f"The {whose}'s key")
        page.get_by_role("textbox", name="Key").fill(f"the-{whose}'s-own-key")
        page.get_by_role("button", name="Continue").click()
    expect(page.locator(".facts")).to_contain_text("Done")
    page.get_by_role("link", name="Log", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("1 entry")


def test_the_key_can_be_remembered_in_the_browser_and_forgotten(opened: Opened) -> None:
    opened.write(entry())
    opened.show()
    page = opened.page
    expect(opened.rows).to_have_count(1)
    page.get_by_role("button", name="Key").click()
    dialog = page.get_by_role("dialog")
    remember = dialog.get_by_label("Remember in this browser")
    expect(remember).not_to_be_checked()
    remember.check()
    dialog.get_by_role("button", name="Continue").click()
    expect(opened.rows).to_have_count(1)
    another = page.context.new_page()  # a second tab, a bookmark, tomorrow
    another.goto(f"{opened.service.url}/#log")
    expect(another.locator("#log tbody tr")).to_have_count(1)
    another.close()
    page.get_by_role("button", name="Key").click()
    expect(remember).to_be_checked()
    dialog.get_by_role("button", name="Forget the keys").click()
    expect(page.get_by_role("dialog")).to_contain_text("The log's key")
    assert opened.key not in json.dumps(page.context.storage_state())


def test_both_keys_are_forgotten_in_all_tabs(serve: Serve, page: Page) -> None:
    opened = Opened(serve(api_key="the-API's-own-key"), page)
    opened.write(entry())
    opened.show()
    expect(opened.rows).to_have_count(1)
    page.evaluate("for (const it of ['log', 'api']) localStorage.setItem(`${it}-key`, 'a key')")
    other = page.context.new_page()
    other.goto(f"{opened.service.url}/#log")
    other.evaluate("key => sessionStorage.setItem('log-key', key)", opened.key)
    other.reload()
    expect(other.locator("#log tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Key").click()
    page.get_by_role("button", name="Forget the keys").click()
    for each in (page, other):
        expect(each.get_by_role("dialog")).to_contain_text("The log's key")
        assert each.evaluate("[...Object.keys(localStorage), ...Object.keys(sessionStorage)]") == []


def test_who_gives_no_key_or_a_wrong_one_is_told_so(opened: Opened) -> None:
    page = opened.page
    page.goto(f"{opened.service.url}/#log")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("")
    page.evaluate("sessionStorage.setItem('log-key', 'wrong')")
    page.reload()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_have_text("The key was not accepted.")


def test_a_password_manager_finds_the_field_and_whose_it_is(opened: Opened) -> None:
    page = opened.page
    page.goto(f"{opened.service.url}/#log")
    field = page.get_by_role("textbox", name="Key")
    expect(field).to_have_attribute("type", "password")
    expect(field).to_have_attribute("autocomplete", "current-password")
    name = page.locator("#key [autocomplete=username]")
    expect(name).to_have_value("MiniVault log")
    field.fill(opened.key)
    page.get_by_label("Remember in this browser").check()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("No entry matches")
    assert opened.key in json.dumps(page.context.storage_state())
