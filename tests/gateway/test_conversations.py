"""All requests of a conversation have the same `conversation`, whatever a client sends back.

Official clients keep their conversations themselves here: what they received goes into the next
request as it came out of them.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import DEADLINE, Way
from tests.ollama_protocols import TEXT, Body
from tests.sdk_calls import (
    ANTHROPIC_TOOLS,
    OPENAI_TOOLS,
    RESPONSES_TOOLS,
    Clients,
    get_weather,
)
from tests.ways import post, send

MODEL = {"model": "tinyllama"}
TURNS = 10
Loop = Callable[[Clients, str], None]


def ollama(to: Clients, question: str) -> None:
    messages: list[Any] = [{"role": "user", "content": question}]
    for _ in range(TURNS):
        message = to.ollama.chat(**MODEL, messages=messages, tools=[get_weather]).message
        messages.append(message)
        for call in message.tool_calls or ():
            result = {"role": "tool", "tool_name": call.function.name, "content": "warm"}
            messages.append(result)
    messages.append({"role": "user", "content": "Shorter, please."})
    to.ollama.chat(**MODEL, messages=messages, think=True)


def openai_chat(to: Clients, question: str) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": question},
    ]
    for _ in range(TURNS):
        create = to.openai.chat.completions.create
        message = create(**MODEL, messages=messages, **OPENAI_TOOLS).choices[0].message
        messages.append(message)
        for call in message.tool_calls or ():
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "warm"})
    messages.append({"role": "user", "content": "Shorter, please."})
    for _ in create(**MODEL, messages=messages, stream=True):
        pass


def openai_chat_streamed(to: Clients, question: str) -> None:
    messages: list[Any] = [{"role": "user", "content": question}]
    for text in ("Go on.", "Shorter, please."):
        with to.openai.chat.completions.stream(
            **MODEL, messages=messages, reasoning_effort="high"
        ) as stream:
            for _ in stream:
                pass
            messages.append(stream.get_final_completion().choices[0].message)
        messages.append({"role": "user", "content": text})


def openai_responses(to: Clients, question: str) -> None:
    items: list[Any] = [{"role": "user", "content": question}]
    for _ in range(TURNS):
        response = to.openai.responses.create(
            **MODEL, input=items, **RESPONSES_TOOLS, reasoning={"effort": "high"}
        )
        items += response.output
        for item in response.output:
            if item.type == "function_call":
                output = {"call_id": item.call_id, "output": "warm"}
                items.append({"type": "function_call_output", **output})
    items.append({"role": "user", "content": "Shorter, please."})
    to.openai.responses.create(**MODEL, input=items)


def openai_responses_streamed(to: Clients, question: str) -> None:
    items: Any = question
    for text in ("Go on.", "Shorter, please."):
        with to.openai.responses.stream(**MODEL, input=items) as stream:
            for _ in stream:
                pass
            output = stream.get_final_response().output
        before = [{"role": "user", "content": items}] if isinstance(items, str) else items
        items = [*before, *output, {"role": "user", "content": text}]


def anthropic(to: Clients, question: str) -> None:
    messages: list[Any] = [{"role": "user", "content": question}]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    more: Any = {"max_tokens": 99, "thinking": thinking, **ANTHROPIC_TOOLS, **MODEL}
    for _ in range(TURNS):
        with to.anthropic.messages.stream(messages=messages, **more) as stream:
            content = stream.get_final_message().content
        messages.append({"role": "assistant", "content": content})
        uses = [part for part in content if part.type == "tool_use"]
        results = [
            {"type": "tool_result", "tool_use_id": use.id, "content": "warm"} for use in uses
        ]
        messages.append({"role": "user", "content": results})
    messages[-1]["content"].append({"type": "text", "text": "Shorter, please."})
    to.anthropic.messages.create(messages=messages, max_tokens=99, **MODEL)


def langchain(model: Callable[[Clients], Any]) -> Loop:
    """Return a loop over LangChain's own messages."""

    def loop(to: Clients, question: str) -> None:
        from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage

        chat = model(to)
        with_tools = chat.bind_tools([get_weather])
        messages: list[Any] = [SystemMessage("Be brief."), HumanMessage(question)]
        for _ in range(TURNS):
            message = with_tools.invoke(messages)
            messages.append(message)
            messages += [ToolMessage("warm", tool_call_id=c["id"]) for c in message.tool_calls]
        messages.append(HumanMessage("Shorter, please."))
        for _ in chat.stream(messages):
            pass

    return loop


def langchain_ollama(to: Clients) -> Any:
    from langchain_ollama import ChatOllama

    chat = ChatOllama(**MODEL, base_url=to.url)
    to.callback(chat._client._client.close)
    to.callback(asyncio.run, chat._async_client._client.aclose())
    return chat


def langchain_openai(to: Clients) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(**MODEL, base_url=f"{to.url}/v1", api_key="k", timeout=DEADLINE)


def langchain_anthropic(to: Clients) -> Any:
    from langchain_anthropic import ChatAnthropic

    return ChatAnthropic(model_name="tinyllama", base_url=to.url, api_key="k", max_tokens=99)


LOOPS: dict[str, Loop] = {
    "ollama": ollama,
    "openai, chat": openai_chat,
    "openai, chat streamed": openai_chat_streamed,
    "openai, responses": openai_responses,
    "openai, responses streamed": openai_responses_streamed,
    "anthropic": anthropic,
    "LangChain, Ollama": langchain(langchain_ollama),
    "LangChain, OpenAI": langchain(langchain_openai),
    "LangChain, Anthropic": langchain(langchain_anthropic),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_clients_whole_conversation_has_one_id(through: Way, name: str) -> None:
    with Clients(through.url) as to:
        LOOPS[name](to, "Why is the sky blue?")
        assert through.service
        first = [entry["conversation"] for entry in through.service.entries]
        LOOPS[name](to, "Why is the sea blue?")
    second = [entry["conversation"] for entry in through.service.entries[len(first) :]]
    assert len(first) == len(second) >= 2
    assert {*first} == {first[0]} and {*second} == {second[0]} and first[0] != second[0]
    assert len(first[0]) == 16 and set(first[0]) <= set("0123456789abcdef")
    assert through.service.entries[-1]["prompt"] in ("Go on.", "Shorter, please.")


# what a client may make of a message before it sends it back

QUESTION = "Why is\nthe sky  blue?"
ANSWER = "".join(TEXT)
OPENAI, ANTHROPIC, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"


def user(content: Any) -> Body:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> Body:
    return {"role": "assistant", "content": content, **more}


def text(content: str, kind: str = "text") -> list[Body]:
    return [{"type": kind, "text": content}]


CHANGED: dict[str, tuple[str, list[Body]]] = {
    "space around": (OPENAI, [user(QUESTION + "\n"), assistant(f"\n{ANSWER}  ")]),
    "space within": (OPENAI, [user(QUESTION), assistant(ANSWER.replace(" ", "\r\n"))]),
    "thinking before it": (OPENAI, [user(QUESTION), assistant(f"<think>\nhm\n</think>\n{ANSWER}")]),
    "thinking beside it": ("/api/chat", [user(QUESTION), assistant(ANSWER, thinking="hm")]),
    "parts": (OPENAI, [user(text(QUESTION)), assistant(text(ANSWER))]),
    "several parts": (OPENAI, [user(QUESTION), assistant(text(ANSWER[:9]) + text(ANSWER[9:]))]),
    "two messages": (OPENAI, [user(QUESTION), assistant(ANSWER[:9]), assistant(ANSWER[9:])]),
    "another system message": (
        OPENAI,
        [{"role": "system", "content": "It is five o'clock."}, user(QUESTION), assistant(ANSWER)],
    ),
    "an agent's reminder": (
        ANTHROPIC,
        [
            user(text("<system-reminder>It is five.</system-reminder>") + text(QUESTION)),
            assistant(text(ANSWER)),
        ],
    ),
    "thinking as a part": (
        ANTHROPIC,
        [user(QUESTION), assistant([{"type": "thinking", "thinking": "hm"}, *text(ANSWER)])],
    ),
    "items": (
        RESPONSES,
        [
            {"type": "message", **user(text(QUESTION, "input_text"))},
            {"type": "reasoning", "summary": []},
            {"type": "message", **assistant(text(ANSWER, "output_text"))},
        ],
    ),
    "keys in another case": (
        "/api/chat",
        [{"Role": "user", "Content": QUESTION}, {"ROLE": "assistant", "content": ANSWER}],
    ),
    "a greeting put before it": (
        OPENAI,
        [assistant("How can I help?"), user(QUESTION), assistant(ANSWER)],
    ),
    "a system message behind it": (
        OPENAI,
        [user(QUESTION), assistant(ANSWER), {"role": "system", "content": "Be brief."}],
    ),
    "a picture taken out": (
        "/api/chat",
        [{**user(QUESTION), "images": ["AAAA"]}, assistant(ANSWER)],
    ),
}


def conversation_of(through: Way, path: str, said: list[Body], **more: Any) -> str | None:
    """Return the id that the entry of a request gets, in any protocol."""
    key = "input" if path == RESPONSES else "messages"
    body = {**MODEL, key: said, "max_tokens": 99, "stream": False, **more}
    assert send(through.url, post(path, body)).status == 200 and through.service
    found: str | None = through.service.entries[-1]["conversation"]
    return found


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_answer_belongs_to_its_conversation(through: Way, name: str) -> None:
    path, said = CHANGED[name]
    first = conversation_of(through, OPENAI, [user(QUESTION)])
    assert first and conversation_of(through, path, [*said, user("Shorter.")]) == first
    assert conversation_of(through, path, [*said, user("Shorter."), assistant("x")]) == first


CALLS: list[Body] = [
    {"name": "get_weather", "arguments": {"city": "Köln"}},
    {"name": "get_time", "arguments": {"seconds": True, "zone": "UTC"}},
]
AS_TEXT = [{**call, "arguments": json.dumps(call["arguments"], indent=1)} for call in CALLS]
TOOL_RESULT = {"role": "tool", "content": "warm"}
CALLED: dict[str, tuple[str, list[Body]]] = {
    "null beside the calls": (
        OPENAI,
        [
            assistant(None, tool_calls=[{"id": "new", "function": call} for call in AS_TEXT]),
            TOOL_RESULT,
        ],
    ),
    "a text beside them": (
        OPENAI,
        [
            assistant("Let me see.", tool_calls=[{"id": "new", "function": c} for c in AS_TEXT]),
            TOOL_RESULT,
        ],
    ),
    "Ollama's form": (
        "/api/chat",
        [assistant("", tool_calls=[{"function": call} for call in CALLS]), TOOL_RESULT],
    ),
    "Anthropic's form": (
        ANTHROPIC,
        [
            assistant(
                [
                    {"type": "tool_use", "id": "x", "name": c["name"], "input": c["arguments"]}
                    for c in CALLS
                ]
            ),
            user([{"type": "tool_result", "tool_use_id": "x", "content": "warm"}]),
        ],
    ),
    "items": (
        RESPONSES,
        [
            *({"type": "function_call", "call_id": "y", **call} for call in AS_TEXT),
            {"type": "function_call_output", "call_id": "y", "output": "warm"},
        ],
    ),
}


@pytest.mark.parametrize("name", CALLED)
def test_tool_calls_are_known_by_their_names_and_arguments(through: Way, name: str) -> None:
    tools = {"tools": [{"type": "function", "function": {"name": "get_weather"}}]}
    first = conversation_of(through, OPENAI, [user(QUESTION)], **tools)
    path, said = CALLED[name]
    assert first and conversation_of(through, path, [user(QUESTION), *said]) == first


def test_numbers_that_javascript_sends_back_are_the_same(through: Way) -> None:
    def said(arguments: str) -> list[Body]:
        call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
        return [user(QUESTION), assistant(None, tool_calls=[call]), user("Go on.")]

    first = conversation_of(through, OPENAI, said('{"a": 1.0, "b": [2e0]}'))
    assert first == conversation_of(through, OPENAI, said('{"b":[2],"a":1}'))
    assert first != conversation_of(through, OPENAI, said('{"b":[2],"a":1.5}'))


def test_an_answer_that_was_begun_for_the_model_counts_whole(through: Way) -> None:
    begun = [user(QUESTION), assistant("Well: ")]
    first = conversation_of(through, ANTHROPIC, begun)
    whole = [user(QUESTION), assistant(f"Well: {ANSWER}"), user("Shorter.")]
    assert first and conversation_of(through, ANTHROPIC, whole) == first


PICTURES = {
    "a picture": [user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}])],
    "another": [user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,BB"}}])],
    "instructions": [{"role": "system", "content": "Say hello."}],
}


def test_what_is_asked_without_a_text_is_told_apart(through: Way) -> None:
    ids = []
    for said in PICTURES.values():
        first = conversation_of(through, OPENAI, said)
        assert first == conversation_of(through, OPENAI, [*said, assistant(ANSWER), user("And?")])
        ids.append(first)
    assert None not in ids and len({*ids}) == len(ids)


def test_without_an_answer_or_messages_there_is_none(through: Way) -> None:
    assert through.service
    assert send(through.url, post("/v1/completions", {**MODEL, "prompt": "x"})).status == 200
    assert send(through.url, post("/api/generate", {**MODEL, "prompt": "x"})).status == 200
    assert send(through.url, post("/stream", {"prompt": "x"})).status == 200
    refused = {"model": "nope", "messages": [user("x")]}
    assert send(through.url, post("/api/chat", refused)).status == 404
    loads = {**MODEL, "messages": []}
    assert send(through.url, post("/api/chat", loads)).status == 200
    assert [entry["conversation"] for entry in through.service.entries] == [None] * 5


def test_texts_of_any_size_are_compared_in_little_time(through: Way) -> None:
    long = "words and words " * 60_000
    first = conversation_of(through, OPENAI, [user(long)])
    said = [user(f" {long}"), assistant(ANSWER), user("Shorter.")]
    assert first and conversation_of(through, OPENAI, said) == first
