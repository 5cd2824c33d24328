"""What goes wrong on the gateway: each protocol's own words, one entry each, half never whole."""

import asyncio
import json
import threading
from functools import partial
from itertools import product
from typing import Any

import pytest

import app
from logger import JsonlLog
from tests.conftest import DEADLINE, Serve, Way, eventually
from tests.faulty_system import FaultySystem
from tests.ollama_protocols import TEXT
from tests.ollama_stand_in import (
    Behaviour,
    Conversation,
    OllamaStandIn,
    begin,
    cut,
    hang,
    hang_up,
    killed,
    like_ollama,
)
from tests.ollama_wires import EVENTS, LINES, Wire, dying, generation
from tests.processes import free_port
from tests.ways import (
    PATHS,
    Answer,
    ask,
    at_most_more_memory,
    connect,
    http,
    parse,
    post,
    read_all,
    receive,
    send,
    send_all,
    shaped,
)

EVERY_PATH = pytest.mark.parametrize("path", PATHS)
BEGUN = 7  # pieces: some text of every protocol is among them
KEY = "s3cret"


def begun(path: str) -> bytes:
    """Return the bytes of the pieces that `begin` sends."""
    body = json.dumps(ask(path, stream=True)).encode()
    return b"".join(generation(path, body).pieces[:BEGUN])


@EVERY_PATH
@pytest.mark.parametrize("stream", [True, False])
def test_half_an_answer_of_a_model_that_died_is_passed_on_and_logged_as_error(
    way: Way, path: str, stream: bool
) -> None:
    way.ollama.answer = killed
    body = ask(path, stream=stream)
    answer = send(way.url, post(path, body))
    wire = dying(path, json.dumps(body).encode())
    assert (answer.status, answer.body, answer.is_whole) == (wire.status, wire.body, True)
    if way.service:
        entry = way.service.entry()
        assert entry["status"] == "error" and entry["error"]
        assert "".join(TEXT).startswith(entry["response"] or "")
        assert not stream or entry["response"]
    assert answer == send(way.ollama.url, post(path, body))


@EVERY_PATH
@pytest.mark.parametrize("end", [hang_up, cut])
def test_a_cut_in_mid_stream_is_a_cut_for_the_client(way: Way, path: str, end: Any) -> None:
    way.ollama.answer = begin(BEGUN, end=end)
    answer = send(way.url, post(path, ask(path, stream=True)))
    assert not answer.is_whole
    if end is hang_up:
        assert answer.body.startswith(begun(path))
    if way.service:
        entry = way.service.entry()
        assert entry["status"] == "error" and "".join(TEXT).startswith(entry["response"])
        assert entry["response"] or end is cut


async def not_http(talk: Conversation) -> None:
    """Answer with something that is not HTTP."""
    await talk.raw(b"220 mail.example ESMTP\r\n\r\n")
    talk.writer.close()


@EVERY_PATH
@pytest.mark.parametrize("behaviour", [cut, hang_up, not_http])
def test_no_answer_is_502_in_the_protocols_shape(through: Way, path: str, behaviour: Any) -> None:
    through.ollama.answer = behaviour
    answer = send(through.url, post(path, ask(path)))
    assert answer.status == 502 and shaped(path, answer.body)
    assert through.service
    entry = through.service.entry()
    assert entry["status"] == "error" and entry["id"] == answer.request_id


def test_an_answer_that_does_not_begin_in_time_is_504(serve: Serve, ollama: OllamaStandIn) -> None:
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, first_token_timeout=0.5)
    ollama.answer = hang
    requests = [post(path, ask(path, stream=True)) for path in PATHS]
    for path, answer in zip(PATHS, send_all(service.url, requests), strict=True):
        assert answer.status == 504
        assert "MINIVAULT_FIRST_TOKEN_TIMEOUT" in shaped(path, answer.body)
    assert [entry["status"] for entry in service.entries] == ["error"] * len(PATHS)
    for _ in ollama.requests:  # on a slow machine one may not have come so far in time
        assert ollama.left.acquire(timeout=DEADLINE), "the request to Ollama stayed open"


def test_whole_answers_and_what_is_not_recorded_may_take_any_time(
    serve: Serve, ollama: OllamaStandIn
) -> None:
    """Ollama has no such limits: what it would have answered arrives."""
    limits = {"first_token_timeout": 0.2, "idle_timeout": 0.2}
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, **limits)

    async def slowly(talk: Conversation) -> None:
        head, *pieces = talk.wire.encode()
        for data in (head[:20], head[20:], *pieces):
            await asyncio.sleep(0.4)
            await talk.raw(data)

    ollama.answer = slowly
    requests = [post(path, ask(path, stream=False)) for path in PATHS]
    requests += [post("/api/show", {}), http("GET", "/api/version")]
    assert {answer.status for answer in send_all(service.url, requests)} == {200}
    assert [entry["status"] for entry in service.entries] == ["ok"] * len(PATHS)


def test_without_limits_a_stream_may_be_silent(serve: Serve, ollama: OllamaStandIn) -> None:
    limits = {"first_token_timeout": 0, "idle_timeout": 0}
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, **limits)

    async def slowly(talk: Conversation) -> None:
        for data in talk.wire.encode():
            await asyncio.sleep(0.1)
            await talk.raw(data)

    ollama.answer = slowly
    for path in ("/api/chat", "/v1/messages"):
        assert send(service.url, post(path, ask(path, stream=True))).is_whole
    assert [entry["status"] for entry in service.entries] == ["ok", "ok"]


def last_error(path: str, body: bytes) -> str:
    """Return the words of the error line or event at the end of a stream."""
    if path.startswith("/api/"):
        return shaped(path, body.splitlines()[-1])
    event, data = body.rstrip(b"\n").rsplit(b"data: ", 1)
    assert body.endswith(b"\n\n")
    assert path != "/v1/messages" or event.endswith(b"\n\nevent: error\n")
    if path != "/v1/responses":
        return shaped(path, data)
    return str(json.loads(data))  # OpenAI's `error` event of /v1/responses is flat


def test_a_stream_that_hangs_ends_with_an_error_and_unfinished(
    serve: Serve, ollama: OllamaStandIn
) -> None:
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, idle_timeout=1)
    ollama.answer = begin(BEGUN, end=hang)
    requests = [post(path, ask(path, stream=True)) for path in PATHS]
    for path, answer in zip(PATHS, send_all(service.url, requests), strict=True):
        assert answer.body.startswith(begun(path)) and not answer.is_whole
        assert "MINIVAULT_IDLE_TIMEOUT" in last_error(path, answer.body)
        assert ollama.left.acquire(timeout=DEADLINE), "the request to Ollama stayed open"
    assert [entry["status"] for entry in service.entries] == ["error"] * len(PATHS)
    assert all("MINIVAULT_IDLE_TIMEOUT" in entry["error"] for entry in service.entries)


@pytest.mark.parametrize(("path", "kind"), [("/api/chat", LINES), ("/v1/messages", EVENTS)])
def test_an_endless_line_is_passed_on_and_never_kept_whole(
    through: Way, path: str, kind: str
) -> None:
    head, piece, end = Wire(200, kind, (b"~" * 1_000_000,), is_chunked=True).encode()
    count = 256

    async def answer(talk: Conversation) -> None:
        await talk.raw(head)
        for _ in range(count):
            await talk.raw(piece)
        await talk.raw(end)

    through.ollama.answer = answer
    got = 0
    with at_most_more_memory(160_000), connect(through.url) as connection:
        connection.sendall(post(path, ask(path, stream=True)))
        while data := connection.recv(2**20):
            got += data.count(b"~")
    assert got == 1_000_000 * count
    assert through.service and through.service.entry()["status"] == "error"


def test_a_disk_that_fills_up_in_mid_answer_lets_no_answer_look_whole(
    serve: Serve, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FaultySystem()
    monkeypatch.setattr(app, "JsonlLog", partial(JsonlLog, system=disk))
    service = serve(llm_service="ollama", ollama_base_url=ollama.url)

    def filling(begun: threading.Event) -> Behaviour:
        async def answer(talk: Conversation) -> None:
            pieces = talk.wire.encode()
            split = BEGUN + 1 if talk.wire.is_chunked else 1
            await talk.raw(b"".join(pieces[:split]))
            await asyncio.to_thread(begun.wait, DEADLINE)
            disk.is_full = True
            await talk.raw(b"".join(pieces[split:]))

        return answer

    for path, stream in [*product(PATHS, [True]), ("/v1/messages", False)]:
        started = threading.Event()
        ollama.answer = filling(started)
        before, asked = len(service.entries), len(ollama.requests)
        with connect(service.url) as connection:
            connection.sendall(post(path, ask(path, stream=stream)))
            data = receive(connection, begun(path)[-20:]) if stream else b""
            started.set()
            answer = parse("POST", data + read_all(connection))
        if stream:
            assert not answer.is_whole and answer.body.startswith(begun(path))
            assert "No space left" in last_error(path, answer.body)
        else:
            assert answer.status == 503 and "No space left" in shaped(path, answer.body)
        refused = send(service.url, post(path, ask(path)))
        assert refused.status == 503 and "No space left" in shaped(path, refused.body)
        assert len(ollama.requests) == asked + 1, "Ollama worked for what could not be kept"
        ollama.answer = like_ollama
        disk.is_full = False
        eventually(lambda: send(service.url, post(path, ask(path))).status == 200)
        entries = service.entries[before:]
        assert [entry["status"] for entry in entries] == ["error", "ok"]
        assert entries[0]["response"] == "".join(TEXT)


def test_what_minivault_refuses_has_the_protocols_shape(
    serve: Serve, ollama: OllamaStandIn
) -> None:
    ollama.answer = begin(BEGUN, end=hang)
    to_ollama: dict[str, Any] = {"llm_service": "ollama", "ollama_base_url": ollama.url}
    small = serve(**to_ollama, max_body_bytes=1000, max_concurrency=1)
    nowhere = serve(llm_service="ollama", ollama_base_url=f"http://127.0.0.1:{free_port()}")
    stub, locked = serve(), serve(**to_ollama, api_key=KEY)
    with connect(small.url) as connection:
        connection.sendall(post("/api/chat", ask("/api/chat")))
        assert connection.recv(4096)
        for path in PATHS:
            request = post(path, ask(path, stream=True))
            refused = [
                (small, request, 503, "MINIVAULT_MAX_CONCURRENCY"),
                (small, http("POST", path, b" " * 1001), 413, "MINIVAULT_MAX_BODY_BYTES"),
                (nowhere, request, 503, "ollama serve"),
                (stub, request, 503, "MINIVAULT_LLM_SERVICE"),
                (locked, request, 401, "MINIVAULT_API_KEY"),
            ]
            for service, sent, status, words in refused:
                answer = send(service.url, sent)
                assert answer.status == status and words in shaped(path, answer.body)
                assert answer.request_id
                assert service not in (nowhere, small) or status != 503 or retry_after(answer)
    assert len(ollama.requests) == 1
    # they share a log: what was on its way to Ollama has an entry, what was refused has none
    eventually(lambda: len(small.entries) == len(PATHS) + 1)
    assert [entry["status"] for entry in small.entries] == ["error"] * len(PATHS) + ["cancelled"]


def retry_after(answer: Answer) -> bool:
    """Return whether the answer says when to try again."""
    return "retry-after" in dict(answer.headers)
