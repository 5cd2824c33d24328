"""Asking in a browser: the answer as it comes, what stops it, and what goes wrong."""

import asyncio
import subprocess
from datetime import datetime, timedelta
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.browser import innocent_page
from tests.conftest import DEADLINE, Serve, Way, eventually
from tests.ollama_stand_in import hang, refuse
from tests.page.conftest import Opened, chat, needs_browser

pytestmark = needs_browser


def ask(page: Page, prompt: str = "Why?") -> None:
    """Fill the prompt in, and press the button."""
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Ask", exact=True).click()


def test_the_answer_appears_as_it_comes_and_is_in_the_log(through: Way, opened: Opened) -> None:
    go_on: list[bool] = []

    async def rest(talk: Any) -> None:
        while not go_on:
            await asyncio.sleep(0.01)
        await talk.line(message={"role": "assistant", "content": " is blue."}, done=False)
        await talk.done()

    through.ollama.answer = chat("The sky", end=rest)
    opened.show()
    page = opened.page
    page.get_by_role("link", name="Ask").click()
    page.get_by_label("Prompt").fill("Why?")
    page.keyboard.press("Enter")
    answer = page.get_by_role("region", name="The answer's text")
    expect(answer).to_have_text("The sky")
    expect(page.locator(".facts")).to_contain_text("Answering · first token")
    go_on.append(True)
    expect(answer).to_have_text("The sky is blue.")
    expect(page.locator(".facts")).to_contain_text("Done · tinyllama")
    expect(page.locator(".facts")).to_contain_text("12 tokens")
    page.get_by_role("link", name="In the log").click()
    expect(opened.entry).to_contain_text("The sky is blue.")


def test_all_fields_are_sent_and_thinking_is_kept_apart(through: Way, opened: Opened) -> None:
    through.ollama.answer = chat("Because.", thinking=("Let me", " see."))
    through.ollama.models = ["tinyllama:latest", "qwen3:8b"]
    page = opened.page
    page.goto(through.url)
    page.get_by_role("combobox", name="Model").select_option("qwen3:8b")
    page.get_by_text("System message and options").click()
    page.get_by_label("System message").fill("Be brief.")
    page.get_by_label("Options, as JSON").fill('{"temperature": 0}')
    page.get_by_label("Think").select_option("yes")
    ask(page)
    expect(page.locator("#answer .response")).to_have_text("Because.")
    expect(page.locator("#answer .thinking .text")).to_be_hidden()
    page.locator("#answer summary").click()
    expect(page.locator("#answer .thinking .text")).to_have_text("Let me see.")
    asked = opened.service.entry()
    assert asked["endpoint"] == "/api/chat"
    assert (asked["model"], asked["system"]) == ("qwen3:8b", "Be brief.")
    assert (asked["options"], asked["think"]) == ({"temperature": 0}, True)


def test_bad_json_is_said_at_its_field_and_nothing_is_sent(opened: Opened) -> None:
    page = opened.page
    page.goto(opened.service.url)
    page.get_by_text("System message and options").click()
    options = page.get_by_label("Options, as JSON")
    options.fill("{temperature: 0}")
    ask(page)
    eventually(lambda: "JSON" in options.evaluate("field => field.validationMessage"))
    options.fill("")
    ask(page)
    expect(page.locator(".facts")).to_contain_text("Done")
    assert len(opened.service.entries) == 1


def test_stop_ends_the_answer_and_its_entry_says_cancelled(through: Way, opened: Opened) -> None:
    through.ollama.answer = chat("The sky", end=hang)
    page = opened.page
    page.goto(through.url)
    ask(page)
    expect(page.locator("#answer .response")).to_have_text("The sky")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".facts")).to_contain_text("Stopped")
    assert opened.service.entry()["status"] == "cancelled"


def test_errors_are_shown_in_the_services_words(through: Way, page: Page) -> None:
    through.ollama.answer = refuse(404, "model 'tinyllama' not found")
    page.goto(through.url)
    ask(page)
    expect(page.get_by_role("alert")).to_contain_text("model 'tinyllama' not found")
    through.ollama.answer = chat("The sky", end=hang)
    ask(page)
    expect(page.locator("#answer .response")).to_have_text("The sky")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_where_the_api_has_a_key_the_page_asks_for_it(serve: Serve, page: Page) -> None:
    service = serve(api_key="s3cret-key")
    page.goto(service.url)
    ask(page)
    for key, said in (("wrong", "MINIVAULT_API_KEY"), ("s3cret-key", "This key was not accepted.")):
        expect(page.get_by_role("dialog")).to_contain_text(said)
        page.get_by_role("textbox", name="Key").fill(key)
        page.get_by_role("button", name="Continue").click()
    expect(page.locator(".facts")).to_contain_text("Done")


def test_as_curl_is_the_same_request_whatever_the_prompt_holds(
    serve: Serve, browser: Browser
) -> None:
    service = serve()
    prompt = 'it\'s "$HOME" `id` \\ \u202e\x85\u2028 !! Größe\n👍🏽'
    with innocent_page(
        browser, DEADLINE, permissions=["clipboard-read", "clipboard-write"]
    ) as page:
        page.clock.install()
        page.goto(service.url)
        page.clock.pause_at(datetime.now() + timedelta(hours=1))  # "Copied" stays
        page.get_by_label("Prompt").fill(prompt)
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        command = page.evaluate("navigator.clipboard.readText()")
    assert "\u202e" not in command
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    assert service.entry()["prompt"] == prompt
