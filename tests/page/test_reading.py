"""Reading in a browser: an entry as a conversation, Markdown, facts, keys, two side by side."""

import re
from datetime import datetime
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, ViewportSize, expect

from tests.conftest import DEADLINE, Way, eventually
from tests.page.conftest import Opened, ago, chat, entry, needs_browser

pytestmark = needs_browser
PIXEL = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"  # a GIF
WIDE: ViewportSize = {"width": 1280, "height": 800}
NARROW: ViewportSize = {"width": 390, "height": 844}


def talk(turns: int, **fields: Any) -> dict[str, Any]:
    """Return an entry whose request has so many questions, all but the last one answered."""
    messages = []
    for turn in range(1, turns + 1):
        messages += [
            {"role": "user", "content": f"Question {turn}. " + "It is a long one. " * 20},
            {"role": "assistant", "content": f"Answer {turn}. " + "It is a long one. " * 20},
        ]
    request = {"model": "tinyllama", "messages": messages[:-1]}
    given = {"prompt": messages[-2]["content"], "response": "The last answer.", "request": request}
    return entry(1, endpoint="/api/chat", **(given | fields))


def read(opened: Opened, *entries: dict[str, Any]) -> None:
    """Open the last of these entries."""
    opened.write(*entries)
    opened.show(f"#log?entry={entries[-1]['id']}")
    expect(opened.entry.locator(".answered .message")).to_be_visible()


def top(page: Page, text: str) -> float:
    """Return how far from the top of the screen a text stands."""
    box = page.get_by_role("dialog").get_by_text(text).first.bounding_box()
    assert box
    return box["y"]


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_conversation_reads_downwards_and_opens_at_its_last_question(
    opened: Opened, size: ViewportSize
) -> None:
    page = opened.page
    page.set_viewport_size(size)
    read(opened, talk(8))
    expect(opened.entry.get_by_text("14 earlier messages")).to_have_count(1)
    assert opened.entry.get_by_text("Question 3.").count() == 0
    question, answer = top(page, "Question 8."), top(page, "The last answer.")
    assert 0 < question < 200 < answer < size["height"]
    page.get_by_text("14 earlier messages").evaluate("summary => summary.click()")
    expect(opened.entry.get_by_text("Question 3.")).to_have_count(1)
    assert top(page, "Question 7.") < top(page, "Answer 7.") < top(page, "Question 8.")


def test_facts_stand_beside_on_a_wide_screen_and_are_folded_below_on_a_narrow_one(
    opened: Opened,
) -> None:
    page = opened.page
    more = {
        "user_agent": "claude-cli/2.0.1",
        "client": "127.0.0.1",
        "tools": ["bash", "read_file"],
        "options": {"temperature": 0.5},
        "load_ms": 1500.0,
        "prompt_ms": 90.0,
        "response_ms": 600.0,
        "streamed": True,
        "client_request_id": "mine-1",
    }
    page.set_viewport_size(WIDE)
    read(opened, talk(1, **more))
    facts = opened.entry.locator("dl")
    for said in (
        *("tinyllama", "temperature: 0.5", "bash, read_file", "7 in, 30 out", "50 tokens/s"),
        *("claude-cli/2.0.1", "127.0.0.1", "mine-1", "1.50 s", "90 ms", "500 ms", "2.00 s"),
    ):
        expect(facts).to_contain_text(said)
    box, answer = facts.bounding_box(), opened.entry.locator(".answered").bounding_box()
    assert box and answer and box["x"] >= answer["x"] + answer["width"]
    page.set_viewport_size(NARROW)
    page.reload()
    expect(opened.entry.locator(".answered .message")).to_be_visible()
    expect(facts).to_be_hidden()
    opened.entry.locator("summary", has_text="Facts").click()
    expect(facts).to_be_visible()
    assert top(page, "Facts") > top(page, "The last answer.")


def test_what_an_agent_did_between_question_and_answer_is_folded(opened: Opened) -> None:
    reminder = {"type": "text", "text": "<system-reminder>Be careful.</system-reminder>"}
    asked = [reminder, {"type": "text", "text": "Fix the test."}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": asked}]
    for number in range(10):
        call = {"type": "tool_use", "id": f"t{number}", "name": "bash", "input": {"n": number}}
        result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": f"out {number}"}
        messages.append({"role": "assistant", "content": [call]})
        messages.append({"role": "user", "content": [result]})
    read(opened, entry(1, endpoint="/v1/messages", request={"messages": messages}))
    shown = opened.entry.locator(".asked")
    expect(shown.locator(".message > h3")).to_have_text(["user", "assistant", "tool"])
    expect(shown).to_contain_text("Fix the test.")
    expect(shown.get_by_text("Be careful.")).to_have_count(0)
    expect(shown).to_contain_text("out 9")
    shown.get_by_text("18 messages in between").click()
    expect(shown).to_contain_text("out 3")


MARKDOWN = """## What happens

It is *scattered* and **seen**, by `1/λ⁴`.

1. First
   - Inner
2. Second

| colour | length |
|:--|--:|
| blue | 450 nm |

> Not the sea.

```python
def scatter(): return "a line that is far too long to fit" + "into any box without scrolling in it"
```

[good](https://example.org/a) [bad](javascript:self.ran=true) [data](data:text/html,x)
![a picture](https://example.org/x.png) <b onclick="self.ran=true">raw</b> a&lt;b
"""


def test_markdown_is_read_as_it_is_meant_and_a_switch_shows_it_as_it_was(opened: Opened) -> None:
    page = opened.page
    page.set_viewport_size({"width": 700, "height": 800})
    read(opened, entry(1, response=MARKDOWN))
    answer = opened.entry.locator(".answered")
    expect(answer.get_by_role("heading", name="What happens")).to_be_visible()
    expect(answer.locator("em")).to_have_text("scattered")
    expect(answer.locator("strong")).to_have_text("seen")
    expect(answer.locator("ol > li > ul > li")).to_have_text("Inner")
    expect(answer.get_by_role("cell", name="450 nm")).to_have_css("text-align", "right")
    expect(answer.locator("blockquote")).to_have_text("Not the sea.")
    code = answer.locator("pre")
    assert "mono" in code.locator("code").evaluate("node => getComputedStyle(node).fontFamily")
    assert code.evaluate("node => node.scrollWidth > node.clientWidth")
    assert opened.entry.evaluate("node => node.scrollWidth <= node.clientWidth")
    links = answer.get_by_role("link")
    expect(links).to_have_text(["good"])
    expect(links).to_have_attribute("rel", "noopener noreferrer")
    expect(answer).to_contain_text("[bad](javascript:self.ran=true)")
    expect(answer).to_contain_text("Picture: a picture · https://example.org/x.png")
    expect(answer).to_contain_text('<b onclick="self.ran=true">raw</b> a<b')
    assert answer.locator("img, b").count() == 0
    page.get_by_label("As written").check()
    expect(answer).to_contain_text("## What happens")
    expect(answer).to_contain_text("a&lt;b")
    assert answer.locator("em, table, pre").count() == 0
    page.get_by_label("As written").uncheck()
    expect(answer.locator("em")).to_be_visible()


def test_a_block_of_code_is_copied_as_it_is(opened: Opened) -> None:
    page = opened.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    read(opened, entry(1, response="```sh\necho 'a'\t\u200b\n```"))
    opened.entry.locator(".block").get_by_role("button", name="Copy").click()
    expect(opened.entry.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "echo 'a'\t\u200b"


HEAVY = [
    *("[", "![", "*", "_", "__a_ ", "<", "<!--", "`", "> ", ">", "- ", "1. ", "* ", "> - > ", "|a"),
    *(
        "<b>*a</b>",
        "***a",
        "~~a ",
        "\\",
        "&",
        "[a](",
        "[[a](b)",
        "[a]: <",
        "a@b.c_",
        "http://a",
        "#",
    ),
    *("- a\nb\n", "- a\n  > b\n", "a|b\n-|-\n", "```\n", "<div>\n", " \n", "=\n", "\u00a0*"),
]


def test_no_text_makes_the_reader_wait_or_the_page_fail(opened: Opened) -> None:
    """Each is as long as a text may be that is taken for Markdown."""
    nested = "*a " * 3300 + "b* " * 3300
    for number, text in enumerate([*((each * 20_000)[:20_000] for each in HEAVY), nested]):
        opened.write(entry(number, response=text, prompt=f"Heavy {number}"))
    opened.show()
    slow = opened.page.evaluate(
        """async (count) => {
        const { passage } = await import("./page/passage.js");
        const key = sessionStorage.getItem("log-key");
        const headers = { Authorization: `Bearer ${key}` };
        const { entries } = await (await fetch(`log?limit=${count}`, { headers })).json();
        return entries.map(({ response, prompt }) => {
            const started = performance.now();
            const node = passage(response);
            document.querySelector("#answer .response").append(node);
            node.getBoundingClientRect();
            const took = performance.now() - started;
            node.remove();
            return [Math.round(took), prompt, node.textContent.length];
        }).sort(([a], [b]) => b - a);
    }""",
        len(HEAVY) + 1,
    )
    assert len(slow) == len(HEAVY) + 1
    assert slow[0][0] < 3000, slow[:5]


def test_what_has_no_width_is_shown_and_emoji_stay_whole(opened: Opened) -> None:
    hidden = "\U000e0100a\u034f\u115f\u17b4\u180b\u3164\uffa0\u2800\ufe0f"
    kept = "❤\ufe0f 1\ufe0f\u20e3"
    opened.write(entry(2, response=f"{hidden} {kept}\ufe0f"))
    opened.show(f"#log?entry={entry(2)['id']}")
    names = "034F 115F 17B4 180B 3164 FFA0 2800 FE0F".split()
    shown = f"[U+E0100]a{''.join(f'[U+{name}]' for name in names)} {kept}[U+FE0F]"
    expect(opened.entry.locator(".answered .text")).to_have_text(shown)
    hidden = "a\u200bb\u2060c\ufeffd\u200de\u00adf\U000e0041"
    read(opened, entry(1, response=f"{hidden} 👩\u200d💻 می\u200cخواهم"))
    answer = opened.entry.locator(".answered")
    shown = "a[U+200B]b[U+2060]c[U+FEFF]d[U+200D]e[U+00AD]f[U+E0041] 👩\u200d💻 می\u200cخواهم"
    expect(answer).to_contain_text(shown)


def test_generated_pictures_are_shown(opened: Opened) -> None:
    read(opened, entry(1, response="", images=[PIXEL]))
    picture = opened.entry.get_by_role("img", name="A generated picture")
    eventually(lambda: picture.evaluate("image => image.naturalWidth") == 1)
    read(opened, entry(2, response="", images=[1234]))
    expect(opened.entry).to_contain_text("a picture of 1,234 characters, which was not kept")


def test_times_are_local_with_utc_in_the_title(opened: Opened) -> None:
    at = "2026-11-20T23:30:00.000000Z"
    opened.write(entry(1, finished_at=at))
    opened.show()
    time = opened.rows.locator("time")
    expect(time).to_have_attribute("title", "2026-11-20 23:30:00 UTC")
    local = opened.page.evaluate(f"new Date('{at}').toLocaleTimeString('en-GB')")
    expect(time).to_contain_text(local)


def test_next_and_previous_by_keys_and_a_list_of_the_keys(opened: Opened) -> None:
    page = opened.page
    opened.write(*(entry(number, finished_at=ago(minutes=99 - number)) for number in range(1, 70)))
    opened.show()
    page.get_by_role("link", name="Question 69").click()
    for key, number in (
        *(("j", 68), ("ArrowRight", 67), ("k", 68), ("ArrowLeft", 69), ("k", 69), ("j", 68)),
    ):
        page.keyboard.press(key)
        expect(opened.entry.locator(".answered")).to_contain_text(f"Answer {number}")
    page.get_by_role("button", name="Older", exact=True).click()
    expect(opened.entry.locator(".answered")).to_contain_text("Answer 67")
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keys")
    expect(keys).to_contain_text("the entry below")
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
    page.keyboard.press("Escape")
    expect(opened.entry).to_be_hidden()
    expect(page).to_have_url(re.compile("#log$"))


def test_next_goes_on_where_the_list_ends(opened: Opened) -> None:
    page = opened.page
    page.set_viewport_size({"width": 1280, "height": 400})
    opened.write(*(entry(number, finished_at=ago(minutes=99 - number)) for number in range(1, 61)))
    opened.show()
    page.get_by_role("link", name="Question 60").wait_for()
    page.evaluate(f"location.hash = '#log?entry={entry(11)['id']}'")
    expect(opened.entry.locator(".answered")).to_contain_text("Answer 11")
    page.keyboard.press("j")
    expect(opened.entry.locator(".answered")).to_contain_text("Answer 10")


def test_two_entries_stand_side_by_side_with_what_differs_marked(opened: Opened) -> None:
    page = opened.page
    page.set_viewport_size(WIDE)
    same = {"prompt": "Why is the sky blue?"}
    opened.write(
        entry(1, response="Blue light scatters most.", model="qwen3:8b", **same),
        entry(2, response="Blue light scatters best.", response_tokens=31, **same),
        entry(3, prompt="Another one"),
    )
    opened.show(f"#log?entry={entry(1)['id']}")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("Choose the entry to put beside")).to_contain_text("sky blue")
    page.locator(f"[data-id='{entry(2)['id']}'] a").click()
    answers = opened.entry.locator(".columns section")
    expect(answers.locator("mark")).to_have_text(["most", "best"])
    left, right = answers.nth(0).bounding_box(), answers.nth(1).bounding_box()
    assert left and right and left["y"] == right["y"] and left["x"] < right["x"]
    row = opened.entry.get_by_role("row", name="Model")
    expect(row.locator("mark")).to_have_text(["qwen3:8b", "tinyllama"])
    expect(opened.entry.get_by_role("row", name="Tokens 7 in").locator("mark")).to_have_count(2)
    expect(opened.entry.get_by_role("row", name="Status").locator("mark")).to_have_count(0)
    page.reload()
    expect(answers.locator("mark")).to_have_text(["most", "best"])
    page.keyboard.press("Escape")
    expect(opened.entry).to_be_hidden()
    page.get_by_role("link", name="Another one").click()
    expect(opened.entry.locator(".answered")).to_contain_text("Answer 3", timeout=DEADLINE * 1000)


def test_very_long_answers_are_compared_at_once(opened: Opened) -> None:
    words = [f"word{number}" for number in range(60_000)]
    other = [*words[:30_000], *("another" for _ in range(5000)), *words[35_000:]]
    opened.write(entry(1, response=" ".join(words)), entry(2, response=" ".join(other)))
    opened.show(f"#log?entry={entry(1)['id']}&with={entry(2)['id']}")
    expect(opened.entry.locator(".columns mark").first).to_contain_text("another another")


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_what_an_agent_called_is_in_sight(opened: Opened, size: ViewportSize) -> None:
    page = opened.page
    page.set_viewport_size(size)
    call = {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "make test"}}
    output = {"type": "tool_result", "tool_use_id": "t1", "content": "a line\n" * 200}
    messages = [{"role": "user", "content": "Fix it. " * 30}] + [
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [output | {"content": "a line\n" * 80}]},
    ] * 3
    called = {"function": {"name": "bash", "arguments": {"command": "make it"}}}
    read(
        opened,
        entry(1, endpoint="/v1/messages", request={"messages": messages}, tool_calls=[called]),
    )
    expect(opened.entry.locator(".answered .call")).to_be_in_viewport(ratio=0.9)


def test_a_long_answer_is_read_piece_by_piece_as_markdown(opened: Opened) -> None:
    code = "```py\n" + "print(1)\n" * 3000 + "```\n\n"
    part = "## A part\n\n" + "Some *text* of it. " * 50 + "\n\n"
    read(opened, entry(1, response=part * 30 + code + part + "The **end**."))
    answer = opened.entry.locator(".answered")
    expect(answer.locator("em").first).to_be_visible()
    seen = answer.get_by_role("heading", name="A part").count()
    assert 10 < seen < 30
    for _ in range(9):
        if answer.get_by_text("The end.").count():
            break
        answer.get_by_role("button", name="Show more of 5").click()
    expect(answer.get_by_role("heading", name="A part")).to_have_count(31)
    expect(answer.locator("strong")).to_have_text("end")
    expect(answer).not_to_contain_text("```")
    assert sum(text.count("print(1)") for text in answer.locator("pre").all_inner_texts()) == 3000
    expect(answer.get_by_role("button", name="Show more")).to_be_hidden()


def test_as_written_is_for_entries_alone(through: Way, opened: Opened) -> None:
    page = opened.page
    through.ollama.answer = chat("It **is**.")
    read(opened, entry(1, response="It **was**."))
    page.get_by_label("As written").check()
    expect(opened.entry.locator(".answered")).to_contain_text("It **was**.")
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator("#before strong")).to_have_text("was")
    page.keyboard.press("Enter")
    expect(page.locator("#answer strong")).to_have_text("is")
    opened.show(f"#log?entry={entry(1)['id']}")


def test_entities_are_decoded_by_their_names_and_numbers(opened: Opened) -> None:
    text = "&alpha;&ndash;&Eacute;&hellip;&apos;&#8364;&#x1F44D;&unknown;&#x202e;"
    read(opened, entry(1, response=text))
    shown = opened.entry.locator(".answered .text")
    expect(shown).to_have_text("α–É…'€👍&unknown;[U+202E]")


def test_times_of_other_years_have_the_year_and_seconds_end_at_sixty(opened: Opened) -> None:
    opened.write(entry(1, finished_at="2019-11-20T12:30:00.000000Z"), entry(2))
    opened.show()
    times = opened.rows.locator("time")
    expect(times.last).to_contain_text("2019")
    expect(times.first).not_to_contain_text(str(datetime.now().year))
    durations = opened.page.evaluate("""async () => {
        const { duration } = await import("./page/measure.js");
        return [119_600, 119_400, 3_599_600, 7_199_999].map(duration);
    }""")
    assert durations == ["2 min 0 s", "1 min 59 s", "1 h", "2 h"]


def test_axe_finds_nothing_where_entries_of_a_conversation_are_compared(opened: Opened) -> None:
    page = opened.page
    page.set_viewport_size(WIDE)
    long = {"conversation": "c", "response": "A line.\n\n" * 99}
    opened.write(entry(1, **long), entry(2, **long, model="qwen3:8b"))
    opened.show(f"#log?entry={entry(1)['id']}&with={entry(2)['id']}")
    expect(opened.entry.locator("table mark")).not_to_have_count(0)
    expect(opened.entry.get_by_role("heading", name="Answered")).to_have_count(2)
    assert Axe().run(page).response["violations"] == []
    opened.entry.get_by_role("link", name="All its requests").first.click()
    expect(opened.entry).to_be_hidden()
    expect(opened.rows.locator(".badge")).to_have_text("2 requests")
