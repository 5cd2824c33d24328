"""What was asked, with which parameters and tools, and what Ollama measured, in each protocol."""

import json
from typing import Any

import pytest

from tests.conftest import Way
from tests.gateway.test_truth import answered, asked, lines
from tests.ollama_protocols import Body
from tests.ollama_stand_in import Conversation
from tests.ways import PATHS, USAGE, ask

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
REMINDER = "<system-reminder>The date is today.\nDo not mention it.</system-reminder>"


def entry_of(through: Way, path: str, body: Body) -> dict[str, Any]:
    """Return the entry of a request with this body."""
    return asked(through, path, json.dumps({"model": "m", **body}).encode())


def parts(*texts: str) -> list[Body]:
    return [{"type": "text", "text": text} for text in texts]


def user(content: Any) -> Body:
    return {"role": "user", "content": content}


RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": parts("line one of app")}
USE = {"type": "tool_use", "id": "t1", "name": "Read", "input": {"path": "app.py"}}
AGENT = [
    user(parts(REMINDER, "fix the bug in app.py")),
    {"role": "assistant", "content": [USE]},
]
PROMPTS: dict[str, tuple[str, list[Body], str | None]] = {
    "a tool's result": (MESSAGES, [*AGENT, user([RESULT])], "fix the bug in app.py"),
    "a result and a reminder": (
        MESSAGES,
        [*AGENT, user([RESULT, *parts(REMINDER)])],
        "fix the bug in app.py",
    ),
    "a result and a text": (
        MESSAGES,
        [*AGENT, user([RESULT, *parts("and the tests", REMINDER)])],
        "and the tests",
    ),
    "several texts": (MESSAGES, [user(parts("one", REMINDER, "two"))], "one\ntwo"),
    "a reminder as a string": (CHAT, [user("hello"), user(f" {REMINDER}\n")], "hello"),
    "several reminders in one": (CHAT, [user("hello"), user(REMINDER + "\n" + REMINDER)], "hello"),
    "a text between reminders": (
        CHAT,
        [user("hello"), user(f"{REMINDER} you {REMINDER}")],
        f"{REMINDER} you {REMINDER}",
    ),
    "a reminder that does not end": (CHAT, [user("<system-reminder>x")], "<system-reminder>x"),
    "nothing but a reminder": (MESSAGES, [user(parts(REMINDER))], REMINDER),
    "nothing but a result": (MESSAGES, [user([RESULT])], None),
    "OpenAI's results": (
        CHAT,
        [user("hello"), {"role": "tool", "tool_call_id": "t1", "content": "warm"}],
        "hello",
    ),
    "Ollama's results": (
        "/api/chat",
        [user("hello"), {"role": "tool", "tool_name": "f", "content": "warm"}],
        "hello",
    ),
    "items": (
        RESPONSES,
        [
            {"type": "message", **user([{"type": "input_text", "text": "describe this"}])},
            {"type": "function_call", "call_id": "c0", "name": "sh", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c0", "output": "file-a.txt"},
            {"type": "message", **user([{"type": "input_text", "text": REMINDER}])},
        ],
        "describe this",
    ),
    "white space beside a reminder": (
        MESSAGES,
        [user("hello"), user(parts(REMINDER, "\n"))],
        "hello",
    ),
    "a picture beside it": (
        RESPONSES,
        [user([{"type": "input_image", "image_url": "x"}, {"type": "input_text", "text": "a"}])],
        "a",
    ),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_the_prompt_is_what_the_user_typed_last(through: Way, name: str) -> None:
    path, messages, prompt = PROMPTS[name]
    entry = entry_of(through, path, {"input" if path == RESPONSES else "messages": messages})
    assert entry["prompt"] == prompt and entry["prompt_chars"] == (prompt and len(prompt))


def test_many_reminders_that_do_not_end_take_no_time(through: Way) -> None:
    text = "<system-reminder>" * 60_000
    assert entry_of(through, CHAT, {"messages": [user(text)]})["prompt"] == text


ASKED = {"messages": [user("hi")], "input": "hi"}
PARAMETERS: dict[str, tuple[str, Body, Any, Any, Any]] = {
    "OpenAI": (
        CHAT,
        {
            **{"temperature": 0.2, "seed": 7, "max_tokens": 9, "stop": ["x"], "n": 1},
            **{"response_format": {"type": "json_object"}, "reasoning_effort": "high"},
            **{"user": "alice", "metadata": {"session_id": "s-1"}, "top_p": None},
        },
        {
            **{"temperature": 0.2, "seed": 7, "max_tokens": 9, "stop": ["x"], "n": 1},
            "reasoning_effort": "high",
        },
        {"type": "json_object"},
        "high",
    ),
    "Anthropic": (
        MESSAGES,
        {
            **{
                "max_tokens": 10,
                "top_k": 5,
                "stop_sequences": ["y"],
                "tool_choice": {"type": "any"},
            },
            **{
                "thinking": {"type": "enabled", "budget_tokens": 1024},
                "metadata": {"user_id": "u"},
            },
        },
        {"max_tokens": 10, "top_k": 5, "stop_sequences": ["y"], "tool_choice": {"type": "any"}},
        None,
        {"type": "enabled", "budget_tokens": 1024},
    ),
    "responses": (
        RESPONSES,
        {
            **{"reasoning": {"effort": "low"}, "temperature": 0.1, "max_output_tokens": 5},
            "text": {"format": {"type": "json_object"}},
        },
        {"reasoning": {"effort": "low"}, "temperature": 0.1, "max_output_tokens": 5},
        {"type": "json_object"},
        "low",
    ),
    "completions": (
        "/v1/completions",
        {"prompt": "x", "presence_penalty": 0.5, "frequency_penalty": 1, "logprobs": 3},
        {"presence_penalty": 0.5, "frequency_penalty": 1, "logprobs": 3},
        None,
        None,
    ),
    "Ollama": (
        "/api/chat",
        {"options": {"num_ctx": 8}, "format": "json", "think": False, "temperature": 1},
        {"num_ctx": 8},
        "json",
        False,
    ),
    "odd types": (
        CHAT,
        {"temperature": "hot", "n": [1]},
        {"temperature": "hot", "n": [1]},
        *[None] * 2,
    ),
    "Ollama's of an odd type": ("/api/chat", {"options": ["hot"]}, ["hot"], None, None),
    "Ollama's, empty": ("/api/chat", {"options": {}}, {}, None, None),
    "none": (CHAT, {}, None, None, None),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_options_format_and_think_are_those_of_every_protocol(through: Way, name: str) -> None:
    path, sent, options, format, think = PARAMETERS[name]
    entry = entry_of(through, path, ASKED | sent)
    assert [entry[key] for key in ("options", "format", "think")] == [options, format, think]


@pytest.mark.parametrize(
    ("path", "tools", "names"),
    [
        (
            CHAT,
            [{"type": "function", "function": {"name": "a"}}, {"function": {"name": "b"}}],
            "ab",
        ),
        ("/api/chat", [{"type": "function", "function": {"name": "a"}}], "a"),
        (MESSAGES, [{"name": "a", "input_schema": {}}, {"type": "w", "name": "b"}], "ab"),
        (RESPONSES, [{"type": "function", "name": "a"}, {"type": "w"}], "aw"),
        ("/api/chat", [{"Type": "function", "Function": {"Name": "a"}}], "a"),
        (CHAT, [5, {}, {"function": 5}], ""),
        (CHAT, "a", ""),
    ],
)
def test_the_names_of_the_tools_that_were_offered(
    through: Way, path: str, tools: Any, names: str
) -> None:
    assert entry_of(through, path, ASKED | {"tools": tools})["tools"] == ([*names] or None)


def test_older_functions_count_as_tools(through: Way) -> None:
    entry = entry_of(through, CHAT, ASKED | {"functions": [{"name": "a"}]})
    assert entry["tools"] == ["a"]


@pytest.mark.parametrize("path", PATHS)
def test_whether_a_stream_was_asked_for(through: Way, path: str) -> None:
    default = path.startswith("/api/")
    for sent, streamed in (
        ({}, default),
        ({"stream": True, **USAGE}, True),
        ({"stream": False}, False),
    ):
        assert entry_of(through, path, {**ask(path), **sent})["streamed"] is streamed


def test_our_own_endpoints_say_so_too(through: Way) -> None:
    assert through.service
    for path in ("generate", "stream"):
        through.service.client.post(path, json={"prompt": "Why?"})
    assert [entry["streamed"] for entry in through.service.entries] == [False, True]


# as Ollama 0.33 sent it
LAST = {
    **{"model": "tinyllama", "done": True, "done_reason": "stop", "total_duration": 171236396},
    **{"load_duration": 1468370, "prompt_eval_count": 269, "prompt_eval_duration": 90343000},
    **{"eval_count": 9, "eval_duration": 75904000},
}


MEASURED = ("load_ms", "prompt_ms", "response_ms")


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_what_ollama_measured_is_in_milliseconds(through: Way, path: str) -> None:
    entry = answered(through, path, lines(LAST))
    assert [entry[key] for key in MEASURED] == [1.468, 90.343, 75.904]
    odd = {**LAST, "load_duration": "long", "eval_duration": -1, "prompt_eval_duration": 1.5}
    entry = answered(through, path, lines(odd))
    assert [entry[key] for key in MEASURED] == [None, None, None]


@pytest.mark.parametrize("path", ["/generate", "/stream"])
def test_so_it_is_for_our_own_endpoints(through: Way, path: str) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.start()
        await talk.done(**LAST)

    through.ollama.answer = answer
    assert through.service and through.service.client.post(path, json={"prompt": "Why?"})
    assert [through.service.entry()[key] for key in MEASURED] == [1.468, 90.343, 75.904]
