"""Asking in a browser: the answer as it comes, what stops it, and what goes wrong."""

import asyncio
import subprocess
from datetime import datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import innocent_page
from tests.conftest import DEADLINE, Serve, Way, eventually
from tests.ollama_stand_in import OllamaStandIn, cut, hang, refuse
from tests.page.conftest import Opened, chat, entry, needs_browser

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


# A conversation


def test_a_follow_up_goes_with_what_was_said_before(through: Way, opened: Opened) -> None:
    page = opened.page
    page.goto(through.url)
    through.ollama.answer = chat("It **scatters**.")
    ask(page)
    expect(page.locator("#answer strong")).to_have_text("scatters")
    through.ollama.answer = chat("Then it is red.")
    ask(page, "And at sunset?")
    expect(page.locator("#answer .response")).to_have_text("Then it is red.")
    expect(page.locator(".said .message > h3")).to_have_text(["user", "assistant", "user"])
    texts = [message.text_content() for message in page.locator(".said .text").all()]
    assert texts == ["Why?", "It scatters.", "And at sunset?"]
    assert through.ollama.requests[-1].body["messages"] == [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "It **scatters**."},
        {"role": "user", "content": "And at sunset?"},
    ]
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#answer")).to_be_hidden()
    ask(page, "What else?")
    expect(page.locator(".facts")).to_contain_text("Done")
    assert [each["content"] for each in through.ollama.requests[-1].body["messages"]] == [
        "What else?"
    ]


def test_a_question_that_failed_can_be_asked_anew(through: Way, opened: Opened) -> None:
    page = opened.page
    page.goto(through.url)
    through.ollama.answer = refuse(500, "out of memory")
    ask(page)
    expect(page.get_by_role("alert")).to_contain_text("out of memory")
    expect(page.get_by_label("Prompt")).to_have_value("Why?")
    through.ollama.answer = chat("Because.")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#answer .response")).to_have_text("Because.")
    assert len(through.ollama.requests[-1].body["messages"]) == 1


def test_enter_sends_and_shift_enter_makes_a_line(through: Way, opened: Opened) -> None:
    page = opened.page
    page.goto(through.url)
    expect(page.locator("#ask form")).to_contain_text("Enter sends, Shift+Enter makes a line")
    page.get_by_label("Prompt").fill("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert through.ollama.requests == []
    page.keyboard.press("Enter")
    expect(page.locator(".facts")).to_contain_text("Done")
    assert through.ollama.requests[0].body["messages"][0]["content"] == "One\ntwo"
    expect(page.get_by_label("Prompt")).to_have_value("")


def test_the_answer_is_copied_as_it_is(through: Way, opened: Opened) -> None:
    page = opened.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    through.ollama.answer = chat("It **scatters**.")
    page.goto(through.url)
    ask(page)
    expect(page.locator(".facts")).to_contain_text("Done")
    page.locator("#answer").get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "It **scatters**."


def test_the_stub_answers_each_question_by_itself(serve: Serve, page: Page) -> None:
    service = serve()
    page.goto(service.url)
    for question in ("Why?", "And then?"):
        ask(page, question)
        expect(page.locator(".said .text")).to_have_text([question])
        expect(page.locator(".facts")).to_contain_text("Done")
    assert [each["endpoint"] for each in service.entries] == ["/stream", "/stream"]
    expect(page.locator("#ask select[name=model]")).to_be_hidden()


def test_a_conversation_outlives_an_ollama_that_was_away(serve: Serve, page: Page) -> None:
    with OllamaStandIn() as gone:
        pass
    service = serve(llm_service="ollama", ollama_base_url=gone.url)
    page.goto(f"{service.url}/#ask")
    ask(page, "Are you there?")
    expect(page.get_by_role("alert")).to_contain_text("Ollama is unreachable")
    expect(page.get_by_label("Prompt")).to_have_value("Are you there?")
    asked: list[Any] = []
    page.on("request", lambda it: asked.append(it.post_data_json) if it.post_data else None)
    with OllamaStandIn(answer=chat("Blue."), port=gone.port):
        for question in ("My name is Anna.", "What is my name?"):
            ask(page, question)
            expect(page.locator(".said .text").last).to_have_text(question)
            expect(page.locator(".facts")).to_contain_text("Done")
    assert [each["content"] for each in asked[-1]["messages"]] == [
        *("My name is Anna.", "Blue.", "What is my name?")
    ]


def test_what_is_drawn_of_a_coming_answer_stays(through: Way, opened: Opened) -> None:
    """It can be selected, and its code copied."""
    go_on: list[bool] = []
    long = "A paragraph of *some* length. " * 40 + "\n\n"

    async def rest(talk: Any) -> None:
        for _ in range(100):
            await talk.line(message={"role": "assistant", "content": "more "}, done=False)
            await asyncio.sleep(0.01)
        while not go_on:
            await asyncio.sleep(0.01)
        await talk.line(
            message={"role": "assistant", "content": f"\n\n{long * 20}# End"}, done=False
        )
        await talk.done()

    through.ollama.answer = chat("First.\r", "\n\n```sh\necho\n```\n\nThen *", "it* ", end=rest)
    page = opened.page
    page.goto(through.url)
    ask(page)
    answer = page.locator("#answer .response")
    expect(answer).to_contain_text("more more")
    first = answer.locator("p, pre")
    first.evaluate_all("nodes => nodes.forEach((node) => { node.isOld = true; })")
    getSelection = "getSelection().selectAllChildren(document.querySelector('#answer pre'))"
    page.evaluate(getSelection)
    expect(answer.get_by_text("more " * 100)).to_be_visible()
    go_on.append(True)
    expect(page.locator(".facts")).to_contain_text("Done")
    expect(answer.get_by_role("heading")).to_have_text("End")
    assert answer.locator("p").count() == 23
    assert first.evaluate_all("nodes => nodes.slice(0, 2).every((node) => node.isOld)")
    assert page.evaluate("String(getSelection())").strip() == "echo"
    expect(answer.locator("em").first).to_have_text("it")
    expect(answer).not_to_contain_text("*")


def test_the_last_model_is_chosen_again_and_none_that_only_embeds(
    through: Way, opened: Opened
) -> None:
    through.ollama.models = ["nomic-embed-text:latest", "tinyllama:latest", "qwen3:8b"]
    page = opened.page
    page.goto(through.url)
    model = page.get_by_role("combobox", name="Model")
    expect(model).to_have_value("tinyllama:latest")
    model.select_option("qwen3:8b")
    ask(page)
    expect(page.locator(".facts")).to_contain_text("Done")
    page.reload()
    expect(model).to_have_value("qwen3:8b")
    through.ollama.models = ["all-minilm:latest"]
    page.reload()
    expect(model).to_have_value("all-minilm:latest")
    through.ollama.models = []
    page.reload()
    expect(page.get_by_text("Ollama has no models yet")).to_be_visible()
    expect(model).to_be_hidden()


def test_an_answer_that_broke_off_is_said_in_plain_words_and_nothing_can_be_copied(
    through: Way, opened: Opened
) -> None:
    page = opened.page
    page.goto(through.url)
    through.ollama.answer = chat(end=cut)
    ask(page)
    expect(page.locator(".facts")).to_contain_text("Failed")
    expect(page.get_by_role("alert")).to_contain_text("Ollama")
    expect(page.get_by_role("alert")).not_to_contain_text("network error")
    expect(page.locator("#answer [name=copy]")).to_be_hidden()
    page.route("**/api/chat", lambda route: route.abort())
    ask(page)
    expect(page.get_by_role("alert")).to_contain_text("MiniVault cannot be reached")
    expect(page.get_by_role("alert")).not_to_contain_text("Failed to fetch")


def test_who_comes_to_ask_can_type_at_once(opened: Opened) -> None:
    opened.page.goto(f"{opened.service.url}/#ask")
    opened.page.wait_for_load_state("networkidle")
    opened.page.keyboard.type("why?")
    expect(opened.page.get_by_label("Prompt")).to_have_value("why?")
    expect(opened.page.get_by_role("dialog")).to_have_count(0)


# Asking again


def test_a_request_of_odd_tools_is_asked_again(through: Way, opened: Opened) -> None:
    asked = {"messages": [{"role": "user", "content": "Why?"}], "tools": {"a": 1}}
    opened.write(entry(1, endpoint="/api/chat", request=asked, prompt="Why?"))
    opened.show(f"#log?entry={entry(1)['id']}")
    opened.page.get_by_role("button", name="Ask again").click()
    expect(opened.page.get_by_label("Prompt")).to_have_value("Why?")


PICTURE = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
ASKED: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    (
        "/api/chat",
        {
            "messages": [
                {"role": "user", "content": "Who?"},
                {"role": "assistant", "content": "I."},
                {"role": "user", "content": "Why?", "images": [PICTURE]},
            ]
        },
        [
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "I."},
            {"role": "user", "content": "Why?", "images": [PICTURE]},
        ],
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Rain?"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "t1", "function": {"name": "weather", "arguments": '{"at": 1}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "t1", "content": "no"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Why?"},
                        {
                            "type": "image_url",
                            "image_url": {"url": f"data:image/gif;base64,{PICTURE}"},
                        },
                    ],
                },
            ],
            "tools": [{"type": "function", "function": {"name": "weather"}}],
        },
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Rain?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "t1", "function": {"name": "weather", "arguments": {"at": 1}}}
                ],
            },
            {"role": "tool", "content": "no", "tool_call_id": "t1"},
            {"role": "user", "content": "Why?", "images": [PICTURE]},
        ],
    ),
    (
        "/v1/messages",
        {
            "messages": [
                {"role": "user", "content": "Rain?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"at": 1}}
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "t1",
                            "content": [{"type": "text", "text": "no"}],
                        },
                        {"type": "text", "text": "Why?"},
                    ],
                },
            ],
            "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
        },
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Rain?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "t1", "function": {"name": "weather", "arguments": {"at": 1}}}
                ],
            },
            {"role": "tool", "content": "no", "tool_call_id": "t1"},
            {"role": "user", "content": "Why?"},
        ],
    ),
    (
        "/v1/responses",
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Rain?"}]},
                {"type": "reasoning", "summary": []},
                {
                    "type": "function_call",
                    "call_id": "t1",
                    "name": "weather",
                    "arguments": '{"at": 1}',
                },
                {"type": "function_call_output", "call_id": "t1", "output": "no"},
                {"role": "user", "content": "Why?"},
            ]
        },
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Rain?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "t1", "function": {"name": "weather", "arguments": {"at": 1}}}
                ],
            },
            {"role": "tool", "content": "no", "tool_call_id": "t1"},
            {"role": "user", "content": "Why?"},
        ],
    ),
]


@pytest.mark.parametrize(
    ("endpoint", "request_body", "messages"), ASKED, ids=lambda it: str(it)[:9]
)
def test_a_whole_conversation_is_asked_again_beside_its_answer(
    through: Way,
    opened: Opened,
    endpoint: str,
    request_body: dict[str, Any],
    messages: list[dict[str, Any]],
) -> None:
    through.ollama.models = ["tinyllama:latest", "qwen3:8b"]
    through.ollama.answer = chat("Because it **is**.")
    system = None if endpoint == "/api/chat" else "Be brief."
    options = {"temperature": 0.5} if endpoint == "/api/chat" else {"max_tokens": 9, "n": 1}
    more = {"system": system, "options": options, "prompt": "Why?", "response": "It was so."}
    opened.write(entry(1, endpoint=endpoint, request=request_body, **more))
    page = opened.page
    page.set_viewport_size({"width": 1280, "height": 800})
    opened.show(f"#log?entry={entry(1)['id']}")
    page.get_by_role("button", name="Ask again").click()
    expect(page.get_by_label("Prompt")).to_have_value("Why?")
    page.get_by_role("combobox", name="Model").select_option("qwen3:8b")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".facts")).to_contain_text("Done")
    before, after = page.locator("#before"), page.locator("#answer")
    expect(before).to_contain_text("It was so.")
    expect(after.locator("strong")).to_have_text("is")
    left, right = before.bounding_box(), after.bounding_box()
    assert left and right and left["y"] == right["y"] and left["x"] < right["x"]
    sent = through.ollama.requests[-1].body
    assert (sent["model"], sent["messages"]) == ("qwen3:8b", messages)
    assert sent["options"] == (options if endpoint == "/api/chat" else {"num_predict": 9})
    if "tools" in request_body:
        assert [tool["function"]["name"] for tool in sent["tools"]] == ["weather"]
    page.get_by_role("link", name="In the log").click()
    expect(opened.entry.locator(".columns mark")).not_to_have_count(0)
