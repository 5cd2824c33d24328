"""Ends of an answer that Ollama 0.33 was not seen to send, and that its protocols have."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from messages import Chunk, ToolCallDelta
from protocols.registry import endpoints
from recorder import ToolCalls
from tests.conftest import Serve
from tests.ollama_stand_in import OllamaStandIn, like_ollama
from upstream import reader as upstream_reader
from upstream.reader import AnswerReader, Framing

PROTOCOLS = {endpoint.path: protocol for endpoint, protocol in endpoints()}


def reader_of(path: str, framing: Framing, *, strict: bool = False) -> AnswerReader:
    """Return a reader of the answers on a path."""
    return AnswerReader(PROTOCOLS[path], framing, strict=strict)


def read(path: str, framing: Framing, *pieces: bytes) -> Chunk:
    """Return what an answer means, read in these pieces and to its end."""
    reader = reader_of(path, framing)
    chunk = Chunk()
    for piece in pieces:
        chunk.extend(reader.feed(piece))
    chunk.extend(reader.end())
    assert chunk.wire == b"".join(pieces)
    return chunk


def response(status: str, **fields: Any) -> dict[str, Any]:
    """Return a response of `/v1/responses` that has ended."""
    usage = {"input_tokens": 3, "output_tokens": 2}
    return {"status": status, "model": "tinyllama", "output": [], "usage": usage, **fields}


ENDS = {
    "cut off by a limit": (
        response("incomplete", incomplete_details={"reason": "max_output_tokens"}),
        ("max_output_tokens", None),
    ),
    "filtered": (
        response("incomplete", incomplete_details={"reason": "content_filter"}),
        ("content_filter", None),
    ),
    "failed": (
        response("failed", error={"code": "server_error", "message": "no memory"}),
        ("failed", "Ollama failed: no memory"),
    ),
    "failed without words": (response("failed"), ("failed", "Ollama failed: the response failed")),
}


@pytest.mark.parametrize(("ended", "expected"), ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("framing", [Framing.EVENTS, Framing.DOCUMENT])
def test_a_response_that_ended_in_another_way_is_read_as_such(
    ended: dict[str, Any], expected: tuple[str, str | None], framing: Framing
) -> None:
    if framing is Framing.DOCUMENT:
        data = json.dumps(ended).encode()
    else:
        event = {"type": f"response.{ended['status']}", "response": ended}
        data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    last = read("/v1/responses", framing, data)
    assert (last.finish_reason, last.error) == expected
    assert (last.model, last.response_tokens) == ("tinyllama", 2)
    assert last.done == (last.error is None)


@pytest.mark.parametrize("framing", Framing)
def test_answer_is_whole_with_its_last_brace_in_however_many_pieces(framing: Framing) -> None:
    """With it a client may have all that it waits for: it is sent on by what says `done`."""
    path = "/v1/messages" if framing is Framing.EVENTS else "/api/chat"
    last = {"type": "message_stop", "message": {"content": "x]" * 2000}, "done": True}
    data = b"data: " * (framing is Framing.EVENTS) + json.dumps(last).encode()
    for size in (1, 2, 7, 1400, len(data)):
        reader, sent = reader_of(path, framing), b""
        for start in range(0, len(data), size):
            chunk = reader.feed(data[start : start + size])
            assert not chunk.done
            sent += chunk.wire
        assert sent == data[:-1]
        if framing is Framing.DOCUMENT:
            chunk = reader.end()
        else:
            chunk = reader.feed(b"\n")
        assert chunk.done and (sent + chunk.wire).rstrip() == data


CALL = {"function": {"name": "look", "arguments": {}}}
LARGE: dict[str, Callable[[int], bytes]] = {
    "tool calls": lambda n: json.dumps({"message": {"tool_calls": [CALL] * n}}).encode() + b"\n",
    "tokens behind a long text": lambda n: (
        b'{"response":"%s"}\n' % (b"x" * 20 * n) + b'{"response":"y"}\n' * n
    ),
}


@pytest.mark.parametrize("content", LARGE)
def test_what_comes_in_one_read_costs_as_much_as_it_is_long(content: str) -> None:
    """Once it cost its square, and held up everybody for seconds."""

    def seconds(n: int) -> float:
        data = LARGE[content](n)
        begun = time.process_time()
        chunk = reader_of("/api/chat", Framing.LINES).feed(data)
        taken = time.process_time() - begun
        assert len(chunk.tool_calls or chunk.response) >= n
        return taken

    seconds(1000)  # warm
    assert seconds(64_000) < 128 * min(seconds(4000) for _ in range(3))


def test_calls_of_two_lines_are_two_also_where_one_takes_the_others_place_in_memory() -> None:
    event, keys = {"message": {"tool_calls": [CALL]}}, set()
    for _ in range(2):
        chunk = Chunk()
        PROTOCOLS["/api/chat"].read_event(event, chunk, streamed=True)
        keys |= {piece.key for piece in chunk.tool_calls}
        del chunk
    assert len(keys) == 2


def test_calls_without_an_id_are_apart() -> None:
    calls = [{"type": "function_call", "name": name, "arguments": "{}"} for name in ("a", "b")]
    data = json.dumps(response("completed", output=calls)).encode()
    chunk = read("/v1/responses", Framing.DOCUMENT, data)
    assert len({piece.key for piece in chunk.tool_calls}) == 2


@pytest.mark.parametrize(
    "said",
    ["{", "NaN", '{"a":-Infinity}', '{"a":1e400}', '{"a":1,"a":2}', '{"a":1.23456789012345678}'],
)
def test_arguments_that_are_no_json_stay_as_they_were_said(said: str) -> None:
    calls = ToolCalls()
    for letter in said:
        calls.add(ToolCallDelta(0, arguments=letter))
    calls.add(ToolCallDelta(0, id="1"))
    assert calls.collect() == [{"id": "1", "name": None, "arguments": said}]


def test_behind_an_event_that_is_too_long_nothing_is_read_or_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream_reader, "MAX_EVENT_BYTES", 10**6)
    reader = reader_of("/api/generate", Framing.LINES)
    assert "more than 1000000 bytes" in (reader.feed(b"x" * (10**6 + 1)).error or "")
    rest = b"\n" * 1000
    assert reader.feed(rest).wire == rest


@pytest.mark.parametrize("count", [True, -1, 2.5, "3", 10**400, None])
def test_what_is_no_number_of_tokens_is_as_absent(count: object) -> None:
    line = {"model": "m", "response": "", "done": True, "eval_count": count}
    data = json.dumps(line).encode() + b"\n"
    chunk = read("/api/generate", Framing.LINES, data)
    assert (chunk.done, chunk.error, chunk.response_tokens) == (True, None, None)


WRONG = (5, True, [""], {"text": "x"}, None)


@pytest.mark.parametrize("wrong", WRONG)
def test_what_has_another_type_hides_nothing(wrong: object) -> None:
    calls = [0, {"function": {"name": "look", "arguments": {}}}]
    message = {"response": wrong, "content": "Blue", "tool_calls": calls}
    for event in ({"message": message}, {**message, "message": {}}):
        chunk = read("/api/chat", Framing.LINES, json.dumps(event).encode() + b"\n")
        assert chunk.response == ["Blue"] and chunk.tool_calls
        assert [piece.name for piece in chunk.tool_calls] == ["look"]
    choice = {"text": "Blue", "delta": {"content": wrong, "tool_calls": calls}}
    data = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
    chunk = read("/v1/chat/completions", Framing.EVENTS, data)
    assert chunk.response == ["Blue"] and chunk.tool_calls
    assert [piece.name for piece in chunk.tool_calls] == ["look"]


@pytest.mark.parametrize("key", ["response", "thinking", "done", "error"])
def test_what_has_another_type_is_a_fault_where_the_protocol_is_ours_to_keep(key: str) -> None:
    for value in (0, 5, [], {}, "" if key == "done" else False):
        reader = reader_of("/api/generate", Framing.LINES, strict=True)
        line = {"response": "Blue", "done": False, key: value}
        assert "does not follow its protocol" in (
            reader.feed(json.dumps(line).encode() + b"\n").error or ""
        )


@pytest.mark.parametrize("path", ["/api/chat", "/api/version", "/v1/models"])
def test_without_the_gateway_its_paths_are_not_there(
    serve: Serve, ollama: OllamaStandIn, path: str
) -> None:
    ollama.answer = like_ollama
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, gateway=False)
    method = "POST" if path == "/api/chat" else "GET"
    assert service.client.request(method, path, json={}).status_code == 404
    assert service.client.post("/generate", json={"prompt": "Why?"}).status_code == 200
    assert [talk.path for talk in ollama.requests] == ["/api/generate"]


CHAT, LINE = "/v1/chat/completions", b'{"response":"hello","done":true}'
SAID = b'{"choices":[{"message":{"content":"hello"}}]}'
DELTA = b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n'
STREAM = DELTA + b"data: [DONE]\n\n"
WHOLE: dict[str, tuple[str, Framing | None, bool, bytes]] = {
    "a document and a line end": ("/api/generate", Framing.DOCUMENT, False, LINE + b"\n"),
    "a document and spaces": (CHAT, Framing.DOCUMENT, False, SAID + b"    \r\n \n"),
    "a line and CR LF": ("/api/generate", Framing.LINES, True, LINE + b" \t\r\n"),
    "a line and spaces": ("/api/generate", Framing.LINES, True, LINE + b"   "),
    "[DONE] and spaces": (CHAT, Framing.EVENTS, True, DELTA + b"data: [DONE]   "),
    "a byte order mark": (CHAT, Framing.EVENTS, True, b"\xef\xbb\xbf" + STREAM),
    "lines as a document": ("/api/generate", Framing.DOCUMENT, True, b'{"response":""}\n' + LINE),
    "lines as events": ("/api/generate", Framing.EVENTS, True, b'{"response":""}\n' + LINE + b"\n"),
    "lines as text": ("/api/generate", None, True, b'{"response":""}\n' + LINE + b"\n"),
    "events as a document": (CHAT, Framing.DOCUMENT, True, STREAM),
    "events as lines": (CHAT, Framing.LINES, True, STREAM),
    "events as text": (CHAT, None, True, b"\r\n" + STREAM),
    "events with names": ("/v1/messages", None, True, b"event: a\n" + b"data: %b\n\n" * 2),
    "an id first": (CHAT, None, True, b"id: 1\n" + STREAM),
    "a document as events": (CHAT, Framing.EVENTS, False, SAID),
    "a document of many lines": (CHAT, Framing.DOCUMENT, True, SAID.replace(b":", b":\n ")),
    "a whole answer to a stream": (CHAT, Framing.DOCUMENT, True, SAID + b"\n"),
    "an event of several lines": (
        CHAT,
        Framing.EVENTS,
        True,
        b'data: {"choices":[\ndata: {"delta":{"content":"hello"}}\ndata: ]}\n\ndata: [DONE]\n\n',
    ),
    "an empty event": (
        CHAT,
        Framing.EVENTS,
        True,
        b"data:\n\n" + DELTA + b"data: \n\ndata: [DONE]\n\n",
    ),
}
MESSAGE_EVENTS = (
    b'{"type":"content_block_delta","delta":{"text":"hello"}}',
    b'{"type":"message_stop"}',
)


@pytest.mark.parametrize("name", WHOLE)
def test_no_whole_answer_leaves_before_it_is_known_to_be_one(name: str) -> None:
    """In whatever pieces it comes, under whatever content type, with white space behind it."""
    path, framing, streamed, data = WHOLE[name]
    if b"%b" in data:
        data %= MESSAGE_EVENTS
    for size in (1, 2, 3, 5, 16, len(data)):
        reader = AnswerReader(PROTOCOLS[path], framing, streamed=streamed)
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        chunks = [*map(reader.feed, pieces), reader.end()]
        done = next(number for number, chunk in enumerate(chunks) if chunk.done)
        before = b"".join(chunk.wire for chunk in chunks[:done])
        assert not before.rstrip().endswith((b'"done":true}', b"[DONE]", SAID, b'_stop"}'))
        assert len(before) < len(data.rstrip())
        assert b"".join(chunk.wire for chunk in chunks) == data
        said = "".join(text for chunk in chunks for text in chunk.response)
        assert (said, sum(chunk.unreadable for chunk in chunks)) == ("hello", 0), size


def test_white_space_without_an_end_costs_as_much_as_it_is_long() -> None:
    reader = reader_of("/api/chat", Framing.DOCUMENT)
    reader.feed(b'{"done":true}')
    began = time.process_time()
    errors = {reader.feed(b" " * 2**16).error for _ in range(1200)}
    assert time.process_time() - began < 5, "its square takes a minute"
    assert any(error and "more than 67108864 bytes" in error for error in errors)


def test_event_of_very_many_lines_is_bounded() -> None:
    data = b'data: {"a"\n' * 10_000 + b"\n" + STREAM
    chunk = read(CHAT, Framing.EVENTS, data)
    assert chunk.done and chunk.unreadable > 1 and chunk.response[-1] == "hello"
