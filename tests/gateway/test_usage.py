"""Tokens of OpenAI's streams are counted, and the client gets what it would have got without it."""

import json
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.usage import UsageFilter, ask_for_usage
from tests.conftest import Serve, Way
from tests.ollama_protocols import PROMPT_TOKENS, RESPONSE_TOKENS
from tests.ollama_stand_in import Conversation, OllamaStandIn, begin, cut, like_ollama
from tests.ollama_wires import generation
from tests.ways import USAGE, ask, post, send

PATHS = ("/v1/chat/completions", "/v1/completions")
RECORDINGS = Path(__file__).parents[3] / "shared" / "ollama-wire"
EVERY_PATH = pytest.mark.parametrize("path", PATHS)


def wire(path: str, **more: Any) -> bytes:
    """Return the stream that Ollama sends."""
    return generation(path, json.dumps(ask(path, stream=True, **more)).encode()).body


@EVERY_PATH
def test_tokens_are_counted_and_the_client_does_not_see_it(through: Way, path: str) -> None:
    answer = send(through.url, post(path, ask(path, stream=True)))
    assert answer.body == wire(path) and answer.is_whole
    assert through.service
    entry = through.service.entry()
    assert (entry["prompt_tokens"], entry["response_tokens"]) == (PROMPT_TOKENS, RESPONSE_TOKENS)
    assert "stream_options" not in entry["request"]
    (talk,) = through.ollama.requests
    assert talk.body["stream_options"] == {"include_usage": True}
    sent = talk.content.decode()  # what the client sent is there as it was
    assert sent.startswith(json.dumps(ask(path, stream=True))[:-1])


@EVERY_PATH
def test_a_stream_with_a_length_is_whole_without_the_usage(through: Way, path: str) -> None:
    async def answer(talk: Conversation) -> None:
        body = wire(path, **USAGE)
        head = f"Content-Type: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        await talk.raw(b"HTTP/1.1 200 OK\r\n" + head.encode() + body)

    through.ollama.answer = answer
    got = send(through.url, post(path, ask(path, stream=True)))
    assert got.body == wire(path) and got.is_whole
    assert through.service and through.service.entry()["response_tokens"] == RESPONSE_TOKENS


@EVERY_PATH
def test_lines_may_end_with_a_carriage_return_alone(path: str) -> None:
    data = wire(path, **USAGE).replace(b"\n", b"\r")
    usage = UsageFilter()
    first = usage.feed(data[:300])
    assert first, "what is whole goes on"
    assert first + usage.feed(data[300:]) + usage.end() == wire(path).replace(b"\n", b"\r")


def test_a_key_in_another_case_asks_for_a_stream_too() -> None:
    body = {"Stream": True}
    assert b"include_usage" in ask_for_usage(json.dumps(body).encode(), body)


@EVERY_PATH
@pytest.mark.parametrize("options", [{"include_usage": False}, {}, None])
def test_an_explicit_no_is_the_same(through: Way, path: str, options: Any) -> None:
    body = ask(path, stream=True, stream_options=options)
    assert send(through.url, post(path, body)).body == wire(path)
    assert through.service and through.service.entry()["response_tokens"] == RESPONSE_TOKENS
    assert through.service.entry()["request"] == body


@EVERY_PATH
def test_who_asks_for_the_usage_gets_it(through: Way, path: str) -> None:
    body = ask(path, stream=True, **USAGE)
    assert send(through.url, post(path, body)).body == wire(path, **USAGE)
    (talk,) = through.ollama.requests
    assert talk.content == json.dumps(body).encode()


UNCHANGED = [
    ("/v1/chat/completions", json.dumps(ask("/v1/chat/completions")).encode()),
    ("/v1/chat/completions", json.dumps(ask("/v1/chat/completions", stream=False)).encode()),
    ("/v1/chat/completions", b'{"model": "tinyllama", "stream": true, "messages": [}'),
    ("/v1/chat/completions", b'{"model": "tinyllama", "stream": true, "messages": []} and more'),
    (
        "/v1/chat/completions",
        b'{"model":"x","STREAM_options":{"include_usage":true},"stream":true}',
    ),
    (
        "/v1/completions",
        json.dumps(ask("/v1/completions", stream=True, suffix=2**16 * "x")).encode(),
    ),
    ("/v1/messages", json.dumps(ask("/v1/messages", stream=True)).encode()),
    ("/v1/responses", json.dumps(ask("/v1/responses", stream=True)).encode()),
    ("/api/chat", json.dumps(ask("/api/chat", stream=True)).encode()),
]


@pytest.mark.parametrize("path, body", UNCHANGED)
def test_any_other_body_goes_on_as_it_is(through: Way, path: str, body: bytes) -> None:
    request = post(path, {})[: -len(b"{}")].replace(
        b"Content-Length: 2", b"Content-Length: %d" % len(body)
    )
    send(through.url, request + body)
    (talk,) = through.ollama.requests
    assert talk.content == body


@EVERY_PATH
def test_the_setting_turns_it_off(serve: Serve, ollama: OllamaStandIn, path: str) -> None:
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, count_tokens=False)
    ollama.answer = like_ollama
    body = ask(path, stream=True)
    assert send(service.url, post(path, body)).body == wire(path)
    (talk,) = ollama.requests
    assert talk.content == json.dumps(body).encode()
    assert service.entry()["response_tokens"] is None


@EVERY_PATH
def test_of_a_stream_that_is_cut_the_client_gets_all_that_came(through: Way, path: str) -> None:
    async def half_a_line(talk: Any) -> None:
        await talk.chunk(b'data: {"id":"half')
        await cut(talk)

    through.ollama.answer = begin(2, end=half_a_line)
    answer = send(through.url, post(path, ask(path, stream=True)))
    pieces = generation(path, json.dumps(ask(path, stream=True)).encode()).pieces
    # the last byte is held back until it is known to be no answer's last
    assert answer.body == b"".join(pieces[:2]) + b'data: {"id":"hal' and not answer.is_whole


@EVERY_PATH
@given(places=st.lists(st.integers(0, 5000), max_size=20))
def test_it_is_the_same_however_the_stream_is_cut(path: str, places: list[int]) -> None:
    usage = UsageFilter()
    data = wire(path, **USAGE)
    ends = [0, *sorted(place for place in places if place < len(data)), len(data)]
    got = [usage.feed(data[start:end]) for start, end in pairwise(ends)]
    assert b"".join(got) + usage.end() == wire(path)
    for passed, end in zip(accumulate(map(len, got)), ends[1:], strict=True):
        whole_lines = data[: data.rfind(b"\n", 0, end) + 1]  # no more than a line is held back
        assert passed >= len(UsageFilter().feed(whole_lines))


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"\n", b"data: {", b'"usage":', b"}"])))
def test_what_is_no_usage_passes(pieces: list[bytes]) -> None:
    usage = UsageFilter()
    passed = b"".join(map(usage.feed, pieces)) + usage.end()
    assert passed == b"".join(pieces)


def test_a_text_that_looks_like_a_usage_passes() -> None:
    text = json.dumps({"choices": [{"delta": {"content": '"choices":[],"usage":{"a":1}}'}}]})
    data = f"data: {text}\n\n".encode()
    assert UsageFilter().feed(data) == data


@pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings are not beside the checkout")
def test_recorded_streams_differ_in_nothing_else() -> None:
    raw = (RECORDINGS / "30-completions-chat-stream-usage.raw").read_bytes()
    events = [line for line in raw.splitlines(keepends=True) if line.startswith(b"data:")]
    data = b"\n".join(events) + b"\n"
    usage = UsageFilter()
    passed = usage.feed(data) + usage.end()
    assert passed == b"\n".join(event for event in events if b'"usage"' not in event) + b"\n"
    assert len(passed) < len(data)


def test_a_body_that_asks_already_is_the_same_object() -> None:
    asked = b'{"stream": true, "stream_options": {"include_usage": true}}'
    assert ask_for_usage(asked, json.loads(asked)) is asked
