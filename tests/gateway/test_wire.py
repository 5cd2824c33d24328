"""What is on the wire through MiniVault is what Ollama sent, byte for byte, however it is cut."""

import json
import random
import socket
import struct
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import app
from logger import JsonlLog
from tests.conftest import Serve, Way, eventually
from tests.ollama_protocols import Body
from tests.ollama_stand_in import (
    Conversation,
    OllamaStandIn,
    begin,
    hang,
    in_two_reads,
    like_ollama,
)
from tests.ollama_wires import EVENTS, JSON, LINES, OTHERS, Wire, answer_to
from tests.test_logger import SlowDisk
from tests.ways import (
    PATHS,
    USAGE,
    ask,
    check_entries,
    connect,
    generations,
    http,
    parse,
    post,
    read_all,
    receive,
    send,
    send_all,
    with_headers,
)

GENERATIONS = list(generations())
RECORDINGS = Path(__file__).parents[3] / "shared" / "ollama-wire"
REFUSED_HERE = ("12-host-forbidden", "40-method", "40-not-found")
FOREIGN, LOCAL = "Origin: https://evil.example", "Origin: http://localhost:3000"
PREFLIGHT = "Access-Control-Request-Method: POST"


def real(path: str, body: Body) -> Wire:
    """Return Ollama's answer to a request for a generation."""
    return answer_to("POST", path, {"host": "localhost"}, json.dumps(body).encode())


@pytest.mark.parametrize("path", PATHS)
def test_every_kind_of_answer_is_unchanged(way: Way, path: str) -> None:
    bodies = [body for kind, body in GENERATIONS if kind == path]
    for number, body in enumerate(bodies, 1):
        answer = send(way.url, post(path, body))
        wire = real(path, body)
        assert (answer.status, answer.body, answer.is_whole) == (wire.status, wire.body, True)
        check_entries(way, number)
        if way.service:
            assert way.service.entries[-1]["id"] == answer.request_id
    direct = [send(way.ollama.url, post(path, body)) for body in bodies]
    assert [send(way.url, post(path, body)) for body in bodies] == direct


GOT = [path for method, path in OTHERS if method == "GET" and path != "/"]
ASIDE = {
    **{f"GET {path}": http("GET", path) for path in GOT},
    **{f"HEAD {path}": http("HEAD", path) for path in GOT},
    **{f"POST {path}": post(path, {}) for method, path in OTHERS if method == "POST"},
    "unknown model": http("GET", "/v1/models/nope"),
    "count tokens": post("/v1/messages/count_tokens", {}),
    "foreign origin": http("GET", "/api/version", b"", FOREIGN),
    "preflight": http("OPTIONS", "/api/chat", b"", LOCAL, PREFLIGHT),
    "preflight of /v1": http("OPTIONS", "/v1/responses", b"", LOCAL, PREFLIGHT),
    "foreign preflight": http("OPTIONS", "/api/chat", b"", FOREIGN, PREFLIGHT),
}


def test_what_is_not_recorded_is_unchanged_too(way: Way) -> None:
    for name, request in ASIDE.items():
        assert send(way.url, request) == send(way.ollama.url, request), name
    if way.service:
        assert way.service.entries == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_root_says_that_ollama_is_running(way: Way, method: str) -> None:
    """The `ollama` program asks for `HEAD /` before anything else."""
    answer, ollamas = send(way.url, http(method, "/")), send(way.ollama.url, http(method, "/"))
    assert (answer.status, answer.body) == (ollamas.status, ollamas.body)
    # a browser gets the page there
    assert set(answer.headers) - {("vary", "Accept")} == set(ollamas.headers)


def test_a_foreign_origin_gets_ollamas_own_refusal(way: Way) -> None:
    answer = send(way.url, post("/api/chat", ask("/api/chat"), FOREIGN))
    assert (answer.status, answer.body) == (403, b"")
    if way.service:  # MiniVault says so itself, before it reads the body
        assert way.service.entries == []


def cuts(size: int) -> list[int]:
    """Return where to cut so many bytes in two: everywhere where they are few."""
    if size < 260:
        return list(range(1, size))
    return sorted({*range(1, size, size // 12), *range(size - 16, size)})


@pytest.mark.parametrize("path", PATHS)
def test_a_cut_anywhere_changes_neither_the_answer_nor_the_entry(through: Way, path: str) -> None:
    async def answer(talk: Conversation) -> None:
        data = b"".join(talk.wire.encode())
        await in_two_reads(talk, data, int(talk.headers["x-cut"]))

    for body in [body for kind, body in GENERATIONS if kind == path]:
        through.reset()
        through.ollama.answer = answer
        wire = real(path, body)
        places = cuts(len(b"".join(wire.encode())))
        requests = [with_headers(post(path, body), f"X-Cut: {cut}") for cut in places]
        for got in send_all(through.url, requests):
            assert (got.status, got.body, got.is_whole) == (wire.status, wire.body, True)
        check_entries(through, len(places))


ENDS = (b'"done":true', b"data: [DONE]", b"event: response.completed", b"event: message_stop")


def expected_status(raw: bytes) -> str:
    """Return what the entry of a recording has to say."""
    is_stream = b"application/x-ndjson" in raw or b"text/event-stream" in raw
    is_whole = not is_stream or any(end in raw for end in ENDS)
    return "ok" if raw.startswith(b"HTTP/1.1 200") and is_whole else "error"


def recorded_request(name: str) -> bytes:
    """Return the bytes that were sent; some are kept with plain line ends in their heads."""
    request = (RECORDINGS / f"{name}.request").read_bytes()
    if b"\r\n" in request:
        return request
    head, body = request.split(b"\n\n", 1)
    return head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body


@pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings are not beside the checkout")
def test_recordings_of_a_real_ollama_pass_unchanged(through: Way) -> None:
    raw = {path.stem: path.read_bytes() for path in RECORDINGS.glob("*.raw")}

    async def answer(talk: Conversation) -> None:
        await in_two_reads(talk, raw[talk.headers["x-case"]], int(talk.headers["x-cut"]))

    through.ollama.answer = answer
    through.ollama.models = []
    for name in sorted(raw.keys() - set(REFUSED_HERE)):
        request = recorded_request(name)
        if "tags" in name or "root" in name:
            continue  # the stand-in, or MiniVault, may answer these itself
        close = [] if b"Connection: close" in request else ["Connection: close"]
        places = random.Random(name).sample(range(1, len(raw[name])), 5)
        requests = [
            with_headers(request, f"X-Case: {name}", f"X-Cut: {cut}", *close) for cut in places
        ]
        method, path = request.decode().split(" ")[:2]
        direct = parse(method, raw[name])
        before = len(through.service.entries) if through.service else 0
        assert send_all(through.url, requests) == [direct] * 5, name
        is_foreign = b"Origin: https://evil" in request  # refused here, in Ollama's own way
        if through.service and method == "POST" and path in PATHS and not is_foreign:
            service = through.service
            entries = eventually(lambda: service.entries[before:])
            assert len(entries) == 5
            assert {entry["status"] for entry in entries} == {expected_status(raw[name])}


REAL = [piece for path, body in GENERATIONS for piece in real(path, body).pieces]
NUMBER = st.integers(0, len(REAL) - 1)
PIECES = st.lists(st.binary(min_size=1, max_size=300) | NUMBER, max_size=8)


@settings(max_examples=100)
@given(
    path=st.sampled_from(PATHS),
    pieces=PIECES,
    kind=st.sampled_from([LINES, EVENTS, JSON, "text/plain", None]),
    is_chunked=st.booleans(),
    status=st.sampled_from([200, 200, 200, 404, 500]),
)
def test_any_bytes_come_out_unchanged_and_in_order(
    through: Way,
    path: str,
    pieces: list[bytes | int],
    kind: str | None,
    is_chunked: bool,
    status: int,
) -> None:
    """Whatever they are: parts of real answers and bytes without any meaning, mixed."""
    known = tuple(REAL[piece] if isinstance(piece, int) else piece for piece in pieces)
    wire = Wire(status, kind, known, is_chunked=is_chunked)

    async def answer(talk: Conversation) -> None:
        for data in wire.encode():
            await talk.raw(data)

    through.reset()
    through.ollama.answer = answer
    request = post(path, ask(path, stream=True, **USAGE))
    assert send(through.url, request) == parse("POST", b"".join(wire.encode()))
    assert through.service and len(through.service.entries) == 1


@pytest.mark.parametrize("path", PATHS)
def test_each_piece_leaves_as_soon_as_it_is_there(way: Way, path: str) -> None:
    body = ask(path, stream=True)
    way.ollama.answer = begin(2, end=hang)
    with connect(way.url) as connection:
        connection.sendall(post(path, body))
        receive(connection, real(path, body).pieces[1])
    if way.service:
        assert way.service.entry()["status"] == "cancelled"


def last_piece(path: str, body: Body) -> bytes:
    """Return the bytes that complete the answer."""
    return real(path, body).body[-30:]


def test_the_piece_that_completes_an_answer_leaves_when_the_log_has_it(
    serve: Serve, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "JsonlLog", partial(JsonlLog, system=SlowDisk(0.2)))
    service = serve(llm_service="ollama", ollama_base_url=ollama.url)
    ollama.answer = like_ollama
    for path in PATHS:
        for stream in (True, False):
            body = ask(path, stream=stream)
            with connect(service.url) as connection:
                connection.sendall(post(path, body))
                data = receive(connection, last_piece(path, body))
                entries = service.entries
                assert entries and entries[-1]["status"] == "ok", (path, stream)
                answer = parse("POST", data + read_all(connection))
                assert entries[-1]["id"] == answer.request_id


@pytest.mark.parametrize("path", PATHS)
def test_leaving_with_the_last_piece_in_hand_is_no_departure(through: Way, path: str) -> None:
    """OpenAI's SDK closes at `[DONE]`: it does not wait for the end of the body."""
    body = ask(path, stream=True)
    wire = real(path, body)
    through.ollama.answer = begin(len(wire.pieces), end=hang)  # all but the end of the body
    with connect(through.url) as connection:
        connection.sendall(post(path, body))
        receive(connection, last_piece(path, body))
        reset = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    assert through.ollama.left.acquire(timeout=60), "the request to Ollama stayed open"
    check_entries(through, 1)
    through.ollama.answer = like_ollama
    send(through.url, post(path, body))
    check_entries(through, 2)
