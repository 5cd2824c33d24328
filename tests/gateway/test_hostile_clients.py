"""What a strange peer on either side of the gateway must not do: crash it, or spoil the log."""

import json
from collections.abc import Iterator

import pytest

from tests.conftest import begin_anew, read_log
from tests.ollama_stand_in import Conversation, OllamaStandIn, hang, like_ollama
from tests.processes import SERVE, Process, process
from tests.ways import PATHS, Answer, ask, http, post, send

TEXT = b'{"model":"tinyllama","message":{"content":"Hi"},"done":true}'
SIZED = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
DOCUMENT = SIZED % (len(TEXT), TEXT)
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: %s\n\ndata: %s\n\n"


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStandIn]:
    """The stand-in behind the service; all tests share it."""
    with OllamaStandIn() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def shared(ollama: OllamaStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A service in a process of its own; all tests share it."""
    log_dir = tmp_path_factory.mktemp("hostile") / "logs"
    with process(SERVE, log_dir, **ollama.environment) as service:
        yield service


@pytest.fixture
def live(shared: Process, ollama: OllamaStandIn) -> Iterator[Process]:
    """The service, which was asked nothing yet, and whose output shows what it says of a fault."""
    begin_anew(ollama, shared.log_dir)
    ollama.answer = like_ollama
    yield shared
    assert "Traceback" not in shared.output, shared.output


def answers(live: Process, ollama: OllamaStandIn, path: str, data: bytes) -> Answer:
    """Return what a client gets where Ollama answers with these bytes and hangs up."""

    async def answer(talk: Conversation) -> None:
        await talk.raw(data)
        talk.writer.close()

    ollama.answer = answer
    return send(live.url, post(path, ask(path) if path in PATHS else {}))


def test_strange_headers_of_a_client_reach_ollama_as_text(
    live: Process, ollama: OllamaStandIn
) -> None:
    sent = ("caf\xe9".encode("latin-1"), b"a\x01b\x7fc", "☃".encode())
    got = ("café", "a b c", "☃")
    for path in ("/api/chat", "/api/show"):
        for value, text in zip(sent, got, strict=True):
            request = http("POST", path, json.dumps(ask("/api/chat")).encode(), "X-Own: ~")
            assert send(live.url, request.replace(b"~", value)).status == 200
            assert f"x-own: {text}\r\n".encode() in ollama.requests[-1].head.lower()


def test_endless_target_is_refused(live: Process, ollama: OllamaStandIn) -> None:
    for request in (http("GET", "/api/version?~"), post("/v1/messages?~", ask("/v1/messages"))):
        assert send(live.url, request.replace(b"~", b"x" * 66_000)).status == 400
    assert ollama.requests == []


NO_HTTP = {
    "a status beyond all": b"HTTP/1.1 600 X\r\n" + DOCUMENT,
    "a status below all": b"HTTP/1.1 099 X\r\n" + DOCUMENT,
    "an upgrade": b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "a vertical tab": b"HTTP/1.1 200 OK\r\nX-Own: a\x0bb\r\n" + DOCUMENT,
    "a form feed": b"HTTP/1.1 200 OK\r\nX-Own: \x0c\r\n" + DOCUMENT,
}


def test_head_that_cannot_be_passed_on_is_502(live: Process, ollama: OllamaStandIn) -> None:
    for number, (name, data) in enumerate(NO_HTTP.items(), 1):
        assert answers(live, ollama, "/api/chat", data).status == 502, name
        assert answers(live, ollama, "/api/show", data).status == 502, name
        entries = read_log(live.log_dir)
        assert len(entries) == number and entries[-1]["status"] == "error", name


def test_ollamas_own_413_is_passed_on(live: Process, ollama: OllamaStandIn) -> None:
    said = b'{"error":"too large unpacked"}'
    for path in ("/api/chat", "/api/embed"):
        answer = answers(live, ollama, path, b"HTTP/1.1 413 X\r\n" + SIZED % (len(said), said))
        assert (answer.status, answer.body) == (413, said)


def test_length_that_is_not_reached_leaves_the_body_unfinished(
    live: Process, ollama: OllamaStandIn
) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + SIZED % (len(TEXT) + 1, TEXT)
    answer = answers(live, ollama, "/api/chat", data)
    assert answer.body == TEXT[:-1] and not answer.is_whole
    assert [entry["response"] for entry in read_log(live.log_dir)] == ["Hi"]


def test_length_that_is_not_reached_in_time_is_not_filled_up_with_words_of_ours(
    live: Process, ollama: OllamaStandIn
) -> None:
    line = b'{"message":{"content":"Hi"},"done":true}\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"

    async def answer(talk: Conversation) -> None:
        await talk.raw(head + b"Content-Length: %d\r\n\r\n%s" % (len(line) + 10, line))
        await hang(talk)

    ollama.answer = answer
    got = send(live.url, post("/api/chat", ask("/api/chat")))
    assert got.body == line and not got.is_whole


INDICES = ("[0]", "{}", "null", '"0"', "-1", "0.5", "true")


def test_call_with_an_index_that_is_none_is_kept(live: Process, ollama: OllamaStandIn) -> None:
    for index in INDICES:
        call = f'{{"index": {index}, "id": "1", "function": {{"name": "f", "arguments": "{{}}"}}}}'
        delta = f'{{"choices": [{{"delta": {{"tool_calls": [{call}]}}}}]}}'
        block = '{"type": "tool_use", "id": "1", "name": "f", "input": {}}'
        start = f'{{"type": "content_block_start", "index": {index}, "content_block": {block}}}'
        for path, event, end in (
            ("/v1/chat/completions", delta, "[DONE]"),
            ("/v1/messages", start, '{"type": "message_stop"}'),
        ):
            data = STREAM % (event.encode(), end.encode())
            answer = answers(live, ollama, path, data)
            assert answer.status == 200 and data.endswith(answer.body)
            entry = read_log(live.log_dir)[-1]
            assert entry["status"] == "ok"
            assert [(call["id"], call["name"]) for call in entry["tool_calls"]] == [("1", "f")]


def reject(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_line_is_json_and_one_line_whatever_was_sent(live: Process, ollama: OllamaStandIn) -> None:
    """Python's text files end a line at a carriage return too, as Windows' editors put them."""
    body = b'{\r\n "model": "tinyllama",\r "prompt": "x", "options": {"seed": -1e999}\r\n}'
    assert send(live.url, http("POST", "/api/generate", body)).status == 200
    call = b'{"function": {"name": "f", "arguments": {"a": 1e999, "b": NaN}}}'
    called = TEXT.replace(b'"Hi"', b'"Hi", "tool_calls": [%s]' % call)
    answers(live, ollama, "/api/chat", b"HTTP/1.1 200 OK\r\n" + SIZED % (len(called), called))
    (path,) = live.log_dir.glob("*.jsonl")
    with path.open(encoding="utf-8") as lines:
        first, second = (json.loads(line, parse_constant=reject) for line in lines)
    assert first["request"]["prompt"] == "x" and first["options"] == {"seed": None}
    assert second["tool_calls"][0]["arguments"] == {"a": None, "b": None}
