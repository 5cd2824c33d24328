"""The record says what real clients asked and what they were answered, however odd that was."""

import json
from typing import Any

import pytest

from tests.conftest import Way
from tests.ollama_protocols import Body
from tests.ollama_stand_in import Conversation
from tests.ollama_wires import EVENTS, JSON, LINES, Wire
from tests.ways import ask, http, post, send

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"


def asked(through: Way, path: str, content: bytes) -> dict[str, Any]:
    """Return the entry of a request with this body, which has reached Ollama as it is."""

    async def done(talk: Conversation) -> None:
        await talk.start()
        await talk.done()

    through.ollama.answer = done
    assert send(through.url, http("POST", path, content)).status == 200
    assert through.ollama.requests[-1].content == content and through.service
    return through.service.entries[-1]


def answered(
    through: Way, path: str, pieces: list[bytes], kind: str | None = None, **body: Any
) -> dict[str, Any]:
    """Return the entry of an answer that came in these pieces, and left as it came."""
    kinds = {"/api/generate": LINES, "/api/chat": LINES}
    wire = Wire(200, kind or kinds.get(path, EVENTS), tuple(pieces), is_chunked=True)

    async def answer(talk: Conversation) -> None:
        for data in wire.encode():
            await talk.raw(data)

    through.ollama.answer = answer
    response = send(through.url, post(path, ask(path, **body)))
    assert response.is_whole and response.body == wire.body and through.service
    return through.service.entries[-1]


def events(*objects: Any, last: bytes = b"[DONE]") -> list[bytes]:
    """Return server-sent events."""
    return [b"data: %b\n\n" % json.dumps(each).encode() for each in objects] + [
        b"data: %b\n\n" % last
    ]


def lines(*objects: Any) -> list[bytes]:
    """Return JSON lines."""
    return [json.dumps(each).encode() + b"\n" for each in objects]


def delta(**fields: Any) -> Body:
    """Return an event of chat completions."""
    return {"choices": [{"index": 0, "delta": fields}]}


def call(index: int | None, id: str | None, name: str | None, arguments: str) -> Body:
    """Return a piece of a tool call in OpenAI's form, with what is not None."""
    function = {"name": name, "arguments": arguments}
    known = {"index": index, "id": id, "function": function}
    return {key: value for key, value in known.items() if value is not None}


# requests that Go's decoder takes

GO_TAKES = {
    "a lone surrogate": b'{"model":"m","system":"S","prompt":"Why \\ud83d?","options":{"seed":1}}',
    "latin-1": b'{"model":"m","system":"S","prompt":"Why \xfc?","options":{"seed":1}}',
    "half a character": b'{"model":"m","system":"S","prompt":"Why \xe2?","options":{"seed":1}}',
    "keys in another case": b'{"Model":"m","SYSTEM":"S","Prompt":"Why \xef\xbf\xbd?",'
    b'"oPTIONs":{"seed":1}}',
    "letters that fold": "{“model”:“m”,“ſystem”:“S”,“prompt”:“Why \ufffd?”,"
    "“options”:{“seed”:1}}".replace("“", '"').replace("”", '"').encode(),
    "something behind it": b'{"model":"m","system":"S","prompt":"Why \xef\xbf\xbd?",'
    b'"options":{"seed":1}}\n}\n',
    "deeper than most parsers go": b'{"model":"m","system":"S","prompt":"Why \xef\xbf\xbd?",'
    b'"options":{"seed":1},"x":' + b"[" * 300 + b"]" * 300 + b"}",
}


@pytest.mark.parametrize("content", GO_TAKES.values(), ids=GO_TAKES.keys())
def test_what_ollama_reads_is_read(through: Way, content: bytes) -> None:
    entry = asked(through, "/api/generate", content)
    assert entry["prompt"] == "Why \ufffd?" and entry["system"] == "S"
    assert entry["options"] == {"seed": 1} and entry["status"] == "ok"
    kept = entry["request"]
    assert kept == content.decode(errors="replace") or "m" in kept.values()


def test_keys_of_messages_have_any_case_and_those_of_options_their_own(through: Way) -> None:
    body = {"Messages": [{"Role": "user", "Content": "Why?"}], "Options": {"Seed": 1}}
    entry = asked(through, "/api/chat", json.dumps(body).encode())
    assert entry["prompt"] == "Why?" and entry["options"] == {"Seed": 1}


def test_roles_and_the_keys_of_parts_have_any_case(through: Way) -> None:
    body = {"messages": [{"role": "System", "content": "S"}, {"role": "USER", "content": "Why?"}]}
    entry = asked(through, "/api/chat", json.dumps(body).encode())
    assert (entry["prompt"], entry["system"]) == ("Why?", "S")
    parts = {"messages": [{"role": "user", "content": [{"Type": "text", "Text": "Why?"}]}]}
    entry = asked(through, MESSAGES, json.dumps(parts).encode())
    assert entry["prompt"] == "Why?"


ODD_TEXTS = {
    "half a pair": (b"\\ud83d", "\ufffd"),
    "two halves": (b"\\uDE00\\uD83D", "\ufffd\ufffd"),
    "half a pair beside a pair": (b"\\ud83d\\ud83d\\ude00", "\ufffd😀"),
    "half a pair behind a backslash": (b"\\\\\\ude00", "\\\ufffd"),
    "a backslash and no half": (b"\\\\ud83d\xff", "\\ud83d\ufffd"),
    "latin-1": (b"\xfc", "\ufffd"),
}


@pytest.mark.parametrize("size", [0, 6_000_000])
@pytest.mark.parametrize("odd", ODD_TEXTS)
def test_odd_text_is_read_in_bodies_of_any_size(through: Way, size: int, odd: str) -> None:
    sent, read = ODD_TEXTS[odd]
    body = b'{"prompt":"Why%b?","stream":false,"images":["%b"]}' % (sent, b"A" * size)
    entry = asked(through, "/api/generate", body)
    assert (entry["prompt"], entry["streamed"]) == (f"Why{read}?", False)
    assert entry["error"] is None and entry["request"] == body.decode(errors="replace")


@pytest.mark.parametrize("size", [0, 3_000_000])
def test_a_long_number_hides_no_prompt(through: Way, size: int) -> None:
    body = b'{"prompt":"Why?","stream":false,"x":%b,"images":["%b"]}'
    entry = asked(through, "/api/generate", body % (b"1" * 5000, b"A" * size))
    assert (entry["prompt"], entry["streamed"]) == ("Why?", False)


@pytest.mark.parametrize("text", ["a", "ä", "€", "😀", "a\u2028"])
def test_a_large_prompt_is_kept_whole(through: Way, text: str) -> None:
    prompt = "Why? " + text * 70_000
    entry = asked(through, "/api/generate", json.dumps({"prompt": prompt}).encode())
    assert entry["prompt"] == prompt and entry["prompt_chars"] == len(prompt)


def test_an_agents_many_short_turns_are_read(through: Way) -> None:
    tool = {"type": "function", "function": {"name": "read", "arguments": '{"path": "a"}'}}
    turn = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", **tool}]},
        {"role": "tool", "tool_call_id": "c", "content": "ok"},
    ]
    body = {"messages": [{"role": "user", "content": "Why?"}, *turn * 1200]}
    entry = asked(through, CHAT, json.dumps(body).encode())
    assert entry["prompt"] == "Why?" and entry["request"] == body


# tool calls

A, B = '{"path":"a"}', '{"path":"b"}'
TWO = [
    {"id": "1", "name": "write", "arguments": {"path": "a"}},
    {"id": "2", "name": "write", "arguments": {"path": "b"}},
]
WAYS_OF_TWO: dict[str, list[list[Body]]] = {
    "index 0, in two events": [[call(0, "1", "write", A)], [call(0, "2", "write", B)]],
    "no index, in two events": [[call(None, "1", "write", A)], [call(None, "2", "write", B)]],
    "index 0, in one event": [[call(0, "1", "write", A), call(0, "2", "write", B)]],
    "no index, in one event": [[call(None, "1", "write", A), call(None, "2", "write", B)]],
    "as they should be, in pieces": [
        [call(0, "1", "write", A[:5])],
        [call(0, None, None, A[5:])],
        [call(1, "2", "write", B[:5]), call(1, None, None, B[5:])],
    ],
    "index 0, in pieces": [
        [call(0, "1", "write", A[:5])],
        [call(0, None, None, A[5:])],
        [call(0, "2", "write", "")],
        [call(0, None, None, B)],
    ],
    "the id in every piece": [
        [call(0, "1", "write", A[:5])],
        [call(0, "1", "write", A[5:])],
        [call(0, "2", "write", B[:5])],
        [call(0, "2", None, B[5:])],
    ],
    "pieces of two in turn": [
        [call(0, "1", "write", A[:5]), call(1, "2", "write", B[:5])],
        [call(1, None, None, B[5:]), call(0, None, None, A[5:])],
    ],
}


@pytest.mark.parametrize("deltas", WAYS_OF_TWO.values(), ids=WAYS_OF_TWO.keys())
def test_two_calls_are_two(through: Way, deltas: list[list[Body]]) -> None:
    streamed = events(*(delta(tool_calls=each) for each in deltas))
    assert answered(through, CHAT, streamed)["tool_calls"] == TWO


SAME_ID = [
    {"id": "1", "name": "write", "arguments": {"path": "a"}},
    {"id": "1", "name": "read", "arguments": {"path": "b"}},
]


def test_two_calls_with_one_id_are_two(through: Way) -> None:
    first, second = call(0, "1", "write", A), call(1, "1", "read", B)
    for deltas in ([[first, second]], [[first], [second]], [[first], [{**second, "index": 0}]]):
        entry = answered(through, CHAT, events(*(delta(tool_calls=each) for each in deltas)))
        assert entry["tool_calls"] == SAME_ID
    native = [{"id": each["id"], "function": {**each}} for each in SAME_ID]
    entry = answered(
        through, "/api/chat", lines({"message": {"tool_calls": native}}, {"done": True})
    )
    assert entry["tool_calls"] == SAME_ID
    for index in (0, 1):
        blocks = []
        for number, each in enumerate(SAME_ID):
            place = {"index": number * index}
            use = {"type": "tool_use", "id": "1", "name": each["name"], "input": {}}
            piece = {"type": "input_json_delta", "partial_json": json.dumps(each["arguments"])}
            blocks.append({"type": "content_block_start", **place, "content_block": use})
            blocks.append({"type": "content_block_delta", **place, "delta": piece})
        entry = answered(through, MESSAGES, events(*blocks, {"type": "message_stop"})[:-1])
        assert entry["tool_calls"] == SAME_ID
    items = [
        {
            "type": "function_call",
            "call_id": "1",
            **each,
            "arguments": json.dumps(each["arguments"]),
        }
        for each in SAME_ID
    ]
    whole = json.dumps({"status": "completed", "output": items}).encode()
    entry = answered(through, RESPONSES, [whole], JSON, stream=False)
    assert entry["tool_calls"] == SAME_ID


def test_calls_of_one_name_in_pieces_are_two_where_the_arguments_are_whole(through: Way) -> None:
    pieces = [("f", A[:4]), (None, A[4:]), ("f", B[:4]), (None, B[4:])]
    said = (delta(tool_calls=[call(0, None, *each)]) for each in pieces)
    entry = answered(through, CHAT, events(*said))
    assert [each["arguments"] for each in entry["tool_calls"]] == [{"path": "a"}, {"path": "b"}]


def test_two_calls_without_ids_are_two_by_their_names_or_as_wholes(through: Way) -> None:
    for second in ("write", "read"):
        calls = [call(0, None, "write", A), call(0, None, second, B)]
        entry = answered(through, CHAT, events(*(delta(tool_calls=[each]) for each in calls)))
        assert [each["name"] for each in entry["tool_calls"]] == ["write", second]
        assert [each["arguments"] for each in entry["tool_calls"]] == [{"path": "a"}, {"path": "b"}]


def test_two_calls_of_a_whole_answer_are_two(through: Way) -> None:
    calls = [call(0, "1", "write", A), call(0, "2", "write", B)]
    whole = {"choices": [{"index": 0, "message": {"content": "", "tool_calls": calls}}]}
    entry = answered(through, CHAT, [json.dumps(whole).encode()], JSON, stream=False)
    assert entry["tool_calls"] == TWO


def test_two_blocks_under_one_index_are_two(through: Way) -> None:
    def block(id: str, arguments: str) -> list[Body]:
        use = {"type": "tool_use", "id": id, "name": "write", "input": {}}
        piece = {"type": "input_json_delta", "partial_json": arguments}
        return [
            {"type": "content_block_start", "index": 0, "content_block": use},
            {"type": "content_block_delta", "index": 0, "delta": piece},
        ]

    said = [*block("1", A), *block("2", B), {"type": "message_stop"}]
    entry = answered(through, MESSAGES, events(*said)[:-1])
    assert entry["tool_calls"] == TWO


def test_a_call_without_arguments_has_an_empty_object(through: Way) -> None:
    nothing = [{"id": "1", "name": "now", "arguments": {}}]
    use = {"type": "tool_use", "id": "1", "name": "now", "input": {}}
    started = {"type": "content_block_start", "index": 0, "content_block": use}
    streamed = events(started, {"type": "message_stop"})[:-1]
    assert answered(through, MESSAGES, streamed)["tool_calls"] == nothing
    whole = json.dumps({"type": "message", "content": [use]}).encode()
    assert answered(through, MESSAGES, [whole], JSON, stream=False)["tool_calls"] == nothing
    streamed = events(delta(tool_calls=[call(0, "1", "now", "")]))
    assert answered(through, CHAT, streamed)["tool_calls"] == nothing
    item = {"type": "function_call", "call_id": "1", "name": "now", "arguments": ""}
    end = {"type": "response.completed", "response": {"status": "completed"}}
    streamed = events({"type": "response.output_item.done", "item": item}, end)[:-1]
    assert answered(through, RESPONSES, streamed)["tool_calls"] == nothing
    function = {"function": {"name": "now"}}
    streamed = lines({"message": {"tool_calls": [{"id": "1", **function}]}}, {"done": True})
    assert answered(through, "/api/chat", streamed)["tool_calls"] == nothing


ODD_ARGUMENTS = [
    '{"a":1e400}',
    '{"a":12345678901234567890.123}',
    '{"a":1,"a":2}',
    '{"a": tru',
    '{"a":NaN}',
]


@pytest.mark.parametrize("arguments", ODD_ARGUMENTS)
def test_arguments_that_an_object_cannot_say_stay_text(through: Way, arguments: str) -> None:
    streamed = events(delta(tool_calls=[call(0, "1", "f", arguments)]))
    (entry,) = answered(through, CHAT, streamed)["tool_calls"]
    assert entry["arguments"] == arguments


THREE_CALLS = {
    "/api/chat": (
        '{"message":{"tool_calls":[{"function":{"name":"g","arguments":{"input":{"x":1}}}},'
        '{"function":{"name":"h","arguments":{}}},{"function":{"name":"f","arguments":%s}}]}}\n'
        '{"done":true}\n'
    ),
    MESSAGES: (
        'data: {"type":"message","content":['
        '{"type":"tool_use","name":"g","input":{"input":{"x":1}}},'
        '{"type":"tool_use","name":"h","input":{}},{"type":"tool_use","name":"f","input":%s}]}\n\n'
    ),
}


@pytest.mark.parametrize(
    "given", ['{"a":1e400,"b":0.5}', '{"p" : "/a", "p":"/b"}', ODD_ARGUMENTS[1]]
)
@pytest.mark.parametrize("path", THREE_CALLS)
def test_objects_that_cannot_say_all_stay_text_too(through: Way, path: str, given: str) -> None:
    entry = answered(through, path, [(THREE_CALLS[path] % given).encode()])
    arguments = [call["arguments"] for call in entry["tool_calls"]]
    assert arguments == [{"input": {"x": 1}}, {}, given]


def test_ollamas_own_search_is_a_tool_call_with_what_it_found(through: Way) -> None:
    found = [{"type": "web_search_result", "title": "Rayleigh", "url": "https://example.org"}]
    use = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "sky"}}
    result = {"type": "web_search_tool_result", "tool_use_id": "s", "content": found}
    text = {"type": "text", "text": "It scatters."}
    blocks = [
        {"type": "content_block_start", "index": index, "content_block": block}
        for index, block in enumerate((use, result, text))
    ]
    searched = [{"id": "s", "name": "web_search", "arguments": {"query": "sky"}, "result": found}]
    entry = answered(through, MESSAGES, events(*blocks, {"type": "message_stop"})[:-1])
    assert entry["tool_calls"] == searched and entry["response"] == "It scatters."
    whole = json.dumps({"type": "message", "content": [use, result, text]}).encode()
    assert answered(through, MESSAGES, [whole], JSON, stream=False)["tool_calls"] == searched
    item = {"type": "web_search_call", "id": "s", "action": {"type": "search", "query": "sky"}}
    end = {"type": "response.completed", "response": {"status": "completed"}}
    streamed = events({"type": "response.output_item.done", "item": item}, end)[:-1]
    searched[0].pop("result")
    assert answered(through, RESPONSES, streamed)["tool_calls"] == searched


# other answers


def test_rendered_prompt_is_a_complete_answer(through: Way) -> None:
    said = {"response": "", "done": False, "_debug_info": {"rendered_template": "<s>hi"}}
    whole = [json.dumps(said).encode()]
    for kind, content in ((JSON, whole), (LINES, lines(said))):
        entry = answered(through, "/api/generate", content, kind, _debug_render_only=True)
        assert (entry["status"], entry["response"], entry["error"]) == ("ok", "<s>hi", None)


def test_generated_image_is_an_answer(through: Way) -> None:
    progress = [{"completed": step, "total": 3, "done": False} for step in range(3)]
    picture = {"image": "aW1hZ2U=", "done": True, "done_reason": "stop"}
    entry = answered(through, "/api/generate", lines(*progress, picture))
    assert (entry["status"], entry["images"]) == ("ok", ["aW1hZ2U="])
    assert entry["ttft_ms"] is not None


def test_parts_of_a_whole_answer_are_one_text(through: Way) -> None:
    parts = [{"type": "output_text", "text": "A"}, {"type": "output_text", "text": "B"}]
    whole = {"status": "completed", "output": [{"type": "message", "content": parts}]}
    entry = answered(through, RESPONSES, [json.dumps(whole).encode()], JSON, stream=False)
    assert entry["response"] == "AB"


def test_refusal_is_what_was_answered(through: Way) -> None:
    assert answered(through, CHAT, events(delta(refusal="No."), delta(content="")))["response"] == (
        "No."
    )
    end = {"type": "response.completed", "response": {"status": "completed"}}
    streamed = events({"type": "response.refusal.delta", "delta": "No."}, end)[:-1]
    assert answered(through, RESPONSES, streamed)["response"] == "No."
    parts = [{"type": "refusal", "refusal": "No."}]
    whole = {"status": "completed", "output": [{"type": "message", "content": parts}]}
    content = [json.dumps(whole).encode()]
    assert answered(through, RESPONSES, content, JSON, stream=False)["response"] == "No."


def test_older_function_call_is_a_tool_call(through: Way) -> None:
    pieces = [{"name": "f", "arguments": '{"a"'}, {"arguments": ":1}"}]
    entry = answered(through, CHAT, events(*(delta(function_call=each) for each in pieces)))
    assert entry["tool_calls"] == [{"id": None, "name": "f", "arguments": {"a": 1}}]


def test_several_choices_are_not_mixed(through: Way) -> None:
    said = [(0, "A"), (1, "X"), (0, "B"), (1, "Y")]
    streamed = [{"choices": [{"index": at, "delta": {"content": text}}]} for at, text in said]
    assert answered(through, CHAT, events(*streamed), n=2)["response"] == "AB\n\nXY"


def test_counts_of_a_cut_answer_are_unknown(through: Way) -> None:
    usage = {"input_tokens": 8, "output_tokens": 0}
    start = {"type": "message_start", "message": {"model": "m", "usage": usage}}
    text = {"type": "content_block_start", "index": 0, "content_block": {"text": "Bl"}}
    entry = answered(through, MESSAGES, events(start, text)[:-1])
    assert entry["status"] == "error" and entry["response"] == "Bl"
    assert entry["response_tokens"] is None and entry["prompt_tokens"] is None


# events as lenient clients read them

SAID = delta(content="Blue")
LEGAL: dict[str, list[bytes]] = {
    "two lines of data": [b'data: {"choices":\ndata: [{"delta":{"content":"Blue"}}]}\n\n'],
    "a byte order mark": [b"\xef\xbb\xbfdata: " + json.dumps(SAID).encode() + b"\n\n"],
    "carriage returns": [b"data: " + json.dumps(SAID).encode() + b"\r\rdata: [DONE]\r\r"],
    "both": [b"data: " + json.dumps(SAID).encode() + b"\r", b"\n\r", b"\n"],
    "comments and fields": [
        b": hi\n\nid: 1\nretry: 5\nevent: x\ndata:" + json.dumps(SAID).encode() + b"\n\n"
    ],
    "a lone surrogate": [b'data: {"choices":[{"delta":{"content":"Blue","x":"\\ud800"}}]}\n\n'],
    "what is no UTF-8": [b'data: {"choices":[{"delta":{"content":"Blue","x":"\xff"}}]}\n\n'],
    "depth": [
        b'data: {"choices":[{"delta":{"content":"Blue"}}],"x":' + b"[" * 300 + b"]" * 300 + b"}\n\n"
    ],
    "one byte at a time": [
        bytes([byte]) for byte in b"data: " + json.dumps(SAID).encode() + b"\n\n"
    ],
}


@pytest.mark.parametrize("pieces", LEGAL.values(), ids=LEGAL.keys())
@pytest.mark.parametrize("kind", [EVENTS, "text/plain", "application/octet-stream"])
def test_events_are_read_as_clients_read_them(through: Way, pieces: list[bytes], kind: str) -> None:
    entry = answered(through, CHAT, [*pieces, b"data: [DONE]\n\n"], kind)
    assert (entry["status"], entry["response"], entry["error"]) == ("ok", "Blue", None)


@pytest.mark.parametrize("kind", [LINES, "text/plain"])
def test_lines_are_read_whatever_their_type(through: Way, kind: str) -> None:
    streamed = lines({"message": {"content": "Blue"}}, {"done": True})
    entry = answered(through, "/api/chat", streamed, kind)
    assert (entry["status"], entry["response"]) == ("ok", "Blue")


UNREADABLE = {
    "an event": (CHAT, [b"data: {nothing}\n\n", b"data: [DONE]\n\n"], "{nothing}"),
    "an event of two lines": (
        CHAT,
        [b"data: {no\ndata: thing}\n\ndata: [DONE]\n\n"],
        "{no\n thing}",
    ),
    "a line": ("/api/chat", [b"{nothing}\n", *lines({"done": True})], "{nothing}"),
    "a line behind the end": ("/api/chat", [*lines({"done": True}), b"more\n"], "more"),
    "a token behind the end": (
        "/api/chat",
        [*lines({"done": True}), *lines({"message": {"content": "more"}})],
        "more",
    ),
}


@pytest.mark.parametrize(("path", "pieces", "text"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_kept_and_said(
    through: Way, path: str, pieces: list[bytes], text: str
) -> None:
    """The status says whether the protocol's last event came; the error, that something is odd."""
    entry = answered(through, path, pieces)
    assert entry["status"] == "ok" and entry["response"].strip() == text
    assert (entry["error"] is None) == (text == "more" and pieces[-1] != b"more\n")


def test_document_that_is_no_json_is_kept(through: Way) -> None:
    entry = answered(through, "/api/chat", [b"<html>it", b" works</html>"], JSON, stream=False)
    assert entry["status"] == "error" and entry["response"] == "<html>it works</html>"


def test_half_a_document_keeps_what_it_says(through: Way) -> None:
    pieces = [b'{"message":{"role":"assistant","content":"Blue li']
    entry = answered(through, "/api/chat", pieces, JSON, stream=False)
    assert entry["status"] == "error" and entry["response"] == "Blue li"
