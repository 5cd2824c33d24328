"""No request's body holds everybody up or takes many times its size, whatever it is."""

import gzip
import json
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.conftest import DEADLINE, Serve, Service, Way, eventually, read_log
from tests.ollama_stand_in import Conversation, OllamaStandIn, hang, like_ollama, refuse
from tests.processes import SERVE, Process, process
from tests.ways import (
    at_most_more_memory,
    connect,
    http,
    parse,
    peak,
    post,
    read_all,
    send,
    shaped,
)
from web import middleware

MEGABYTE = 2**20
SLACK = 20_000  # kB: what the test itself and a first request take


def filled(piece: bytes, size: int) -> bytes:
    """Return a body of about this size with many values."""
    before, after = b'{"prompt":"x","options":{"a":[', b"1]}}"
    return before + piece * ((size - len(before) - len(after)) // len(piece)) + after


DENSE = {
    "lists": b"[],",
    "objects": b'{"a":1},',
    "numbers": b"1,",
    "strings": b'"a",',
    "levels": b"[" * 190 + b"]" * 190 + b",",
    "broken": b"[[[[,",
}


@pytest.mark.parametrize("piece", DENSE.values(), ids=DENSE.keys())
@pytest.mark.parametrize("path", ["/generate", "/stream"])
def test_prompt_with_too_many_values_is_refused(serve: Serve, path: str, piece: bytes) -> None:
    service = serve()
    body = filled(piece, MEGABYTE - 10)
    with at_most_more_memory(8 * 1024 + SLACK):
        answer = send(service.url, http("POST", path, body))
    assert answer.status == 422 and b"too many values" in answer.body
    assert service.entries == []


def test_long_prompt_with_the_same_characters_is_answered(serve: Serve) -> None:
    """What stands in strings does not count."""
    for text in ("[], ", '{"a": 1}, ', "a,b;c\n"):
        prompt = text * (600_000 // len(text))
        answer = send((service := serve()).url, post("/generate", {"prompt": prompt}))
        assert answer.status == 200
        assert service.entries[-1]["prompt"] == prompt


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, OllamaStandIn]]:
    """A service in a process of its own, whose memory can be watched, and its Ollama."""
    log_dir = tmp_path_factory.mktemp("bodies") / "logs"
    with OllamaStandIn(answer=refuse(400, "no")) as ollama:
        with process(SERVE, log_dir, **ollama.environment) as service:
            send(service.url, http("POST", "/api/chat", b"{}"))
            yield service, ollama


@contextmanager
def at_most_more(service: Process, kilobytes: int) -> Iterator[None]:
    """Fail if the service needs more memory than that at any moment of the block."""
    folder = Path(f"/proc/{service.popen.pid}")
    (folder / "clear_refs").write_text("5")  # the peak begins anew at what is used now
    before = peak(folder / "status")
    yield
    assert peak(folder / "status") - before <= kilobytes


@pytest.mark.parametrize("piece", DENSE.values(), ids=DENSE.keys())
@pytest.mark.parametrize("path", ["/api/generate", "/v1/messages"])
def test_body_with_too_many_values_is_forwarded_and_kept_unread(
    live: tuple[Process, OllamaStandIn], path: str, piece: bytes
) -> None:
    service, ollama = live
    body = filled(piece, 4 * MEGABYTE)
    with at_most_more(service, 8 * 4 * 1024):
        assert send(service.url, http("POST", path, body)).status == 400
    assert ollama.requests[-1].content == body
    kept = read_log(service.log_dir)[-1]["request"]
    assert kept["content_encoding"] == "gzip"
    assert gzip.decompress(b64decode(kept["base64"])) == body


def test_answer_to_what_was_not_read_is_ok_and_says_so(through: Way) -> None:
    content = filled(b"[],", MEGABYTE).replace(b'"prompt"', b'"model":"tinyllama","prompt"')
    assert send(through.url, http("POST", "/api/generate", content)).status == 200
    assert through.service
    entry = through.service.entry()
    assert entry["status"] == "ok" and "cost too much" in entry["error"]
    assert entry["prompt"] is None and entry["response"]


def packed(packer: Any, piece: bytes, times: int) -> bytes:
    """Return a packed body that is many times larger, decompressed."""
    before, after = b'{"model":"tinyllama","prompt":"x","options":{"a":[', b"1]}}"
    return b"".join(
        [packer.compress(before)]
        + [packer.compress(piece * 100_000) for _ in range(times)]
        + [packer.compress(after), packer.flush()]
    )


PACKERS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.compressobj(9, zlib.DEFLATED, 31),
    "zstd": lambda: zstandard.ZstdCompressor(level=19).compressobj(),
}


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.parametrize(("times", "why"), [(60, "cost too much"), (400, "more than 20971520")])
def test_packed_body_with_too_much_in_it_is_kept_packed(
    through: Way, encoding: str, times: int, why: str
) -> None:
    through.ollama.answer = refuse(400, "no")
    body = packed(PACKERS[encoding](), b"[],", times)
    assert len(body) < 200_000
    request = http("POST", "/v1/responses", body, f"Content-Encoding: {encoding}")
    with at_most_more_memory(100_000):
        assert send(through.url, request).status == 400
    assert through.ollama.requests[-1].content == body and through.service
    kept = through.service.entry()["request"]
    assert kept["content_encoding"] == encoding and b64decode(kept["base64"]) == body
    through.ollama.answer = lambda talk: talk.json(200, {"status": "completed", "output": []})
    assert send(through.url, request).status == 200
    assert why in through.service.entries[-1]["error"]


EMPTY = {
    "gzip": gzip.compress(b""),
    "zstd": zstandard.ZstdCompressor().compress(b""),
}


@pytest.mark.parametrize("encoding", EMPTY)
def test_body_of_empty_frames_takes_its_time_and_no_more(through: Way, encoding: str) -> None:
    body = EMPTY[encoding] * (16 * MEGABYTE // len(EMPTY[encoding]))
    through.ollama.answer = lambda talk: talk.json(200, {"status": "completed", "output": []})
    request = http("POST", "/v1/responses", body, f"Content-Encoding: {encoding}")
    assert send(through.url, request).status == 200
    assert through.service
    entry = through.service.entry()
    assert "takes more than" in entry["error"] and entry["request"]["content_encoding"] == encoding


def test_packed_body_in_several_parts_is_read(through: Way) -> None:
    content = json.dumps({"model": "tinyllama", "prompt": "Why?"}).encode()
    for pack in (gzip.compress, zstandard.ZstdCompressor().compress):
        encoding = "gzip" if pack is gzip.compress else "zstd"
        body = pack(content[:10]) + pack(b"") + pack(content[10:])
        send(through.url, http("POST", "/api/generate", body, f"Content-Encoding: {encoding}"))
        assert through.service
        entry = through.service.entries[-1]
        assert entry["prompt"] == "Why?" and entry["request"] == json.loads(content)


# all bodies together


@pytest.fixture
def small(serve: Serve) -> Iterator[Service]:
    """A service that holds a megabyte of bodies."""
    yield serve(max_buffered_bytes=MEGABYTE)


def buffered(service: Service) -> int:
    """Return how many bytes of bodies the service holds."""
    app = service.app.middleware_stack
    while app and not hasattr(app, "buffered_bytes"):
        app = app.app  # type: ignore[attr-defined]
    return app.buffered_bytes  # type: ignore[union-attr]


@pytest.mark.parametrize("path", ["/generate", "/api/chat", "/api/show"])
def test_bodies_that_are_never_finished_leave_room_for_the_others(
    serve: Serve, through: Way, path: str
) -> None:
    service = serve(
        max_buffered_bytes=MEGABYTE, llm_service="ollama", ollama_base_url=through.ollama.url
    )
    begun = http("POST", path, b"x" * 300_000)[:-1]
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(service.url)).sendall(begun)
        eventually(lambda: buffered(service) > 800_000)
        fourth = stack.enter_context(connect(service.url))
        fourth.sendall(begun)
        answer = parse("POST", read_all(fourth))
        assert answer.status == 503 and dict(answer.headers)["retry-after"]
        assert b"MINIVAULT_MAX_BUFFERED_BYTES" in answer.body
        assert path == "/generate" or shaped(path, answer.body)
        assert send(service.url, post("/generate", {"prompt": "Why?"})).status == 200
    eventually(lambda: buffered(service) == 0)


def test_bodies_count_until_their_requests_have_ended(small: Service) -> None:
    prompt = {"prompt": "x" * 700_000}
    for _ in range(3):
        assert small.client.post("/generate", json=prompt, timeout=DEADLINE).status_code == 200
    assert buffered(small) == 0


def test_body_that_stalls_is_given_up_and_its_room_is_free_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.5)
    service = serve(max_buffered_bytes=300_000)
    head = http("POST", "/generate", b"").replace(b"Length: 0", b"Length: 500000")
    with connect(service.url) as stalled:
        stalled.sendall(head + b"x" * 290_000)
        answer = read_all(stalled)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"connection: close" in answer.lower()
    assert b"nothing of the request's body arrived for 0.5 s" in answer
    large = {"prompt": "x" * 250_000}
    assert service.client.post("/generate", json=large).status_code == 200


def test_a_small_body_always_has_room(serve: Serve, ollama: OllamaStandIn) -> None:
    async def hang_at_large_ones(talk: Conversation) -> None:
        await (hang if len(talk.content) > 100_000 else like_ollama)(talk)

    ollama.answer = hang_at_large_ones
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, max_buffered_bytes=300_000)
    with connect(service.url) as held:
        held.sendall(post("/api/generate", {"model": "tinyllama", "prompt": "x" * 290_000}))
        eventually(lambda: ollama.requests)
        answers = {
            size: send(
                service.url, post("/api/generate", {"model": "tinyllama", "prompt": "x" * size})
            )
            for size in (20_000, 80_000)
        }
    assert (answers[20_000].status, answers[80_000].status) == (200, 503)
    assert "MINIVAULT_MAX_BUFFERED_BYTES" in shaped("/api/generate", answers[80_000].body)


def test_what_is_decompressed_for_the_record_counts_too(
    serve: Serve, ollama: OllamaStandIn
) -> None:
    ollama.answer = like_ollama
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, max_buffered_bytes=2_000_000)
    text = "x" * 1_500_000
    plain = json.dumps({"model": "tinyllama", "input": text}).encode()
    body = zstandard.ZstdCompressor().compress(plain)
    headers = {"Content-Encoding": "zstd"}
    service.client.post("/v1/responses", content=body, headers=headers)
    entry = service.entry()
    assert entry["prompt"] is None and entry["request"]["content_encoding"] == "zstd"
    assert b64decode(entry["request"]["base64"]) == body
    assert entry["status"] == "ok" and "too many bytes" in entry["error"]


SEPARATORS = "a\u2028" * 300_000
COSTLY: dict[str, bytes] = {
    "long numbers": b"[%b1]" % ((b"9" * 4000 + b",") * 400),
    "a long text with a rare character": json.dumps(f"😀{'a' * 5_000_000}").encode(),
    "the same, not escaped": json.dumps(f"{'a' * 5_000_000}“", ensure_ascii=False).encode(),
    "many short texts with rare characters": b",".join(["é".encode().join([b'"', b'"'])] * 90_000)
    + b',"%b"' % (b"a" * 5_000_000),
    "many texts with rare characters": b",".join([b'"%b"' % ("é" * 20_000).encode()] * 150),
    "characters that the log writes with six": json.dumps(SEPARATORS, ensure_ascii=False).encode(),
}


GROWING: dict[str, bytes] = {
    "no text": b'{"prompt":"Why?","x":"%b"}' % (b"\xff" * 500_000),
    "control characters": b'{"prompt":"Why?","x":"%b"}' % (b"\x01" * 500_000),
    "control characters behind it": b'{"prompt":"Why?"}' + b"\x01" * 500_000,
    "halves of pairs": b'{"prompt":"Why?","x":"%b"}' % (b"\\ud800" * 200_000),
}


@pytest.mark.parametrize("name", GROWING)
def test_what_grows_as_text_is_kept_as_it_is(through: Way, name: str) -> None:
    async def done(talk: Conversation) -> None:
        await talk.start()
        await talk.done()

    through.ollama.answer = done
    assert send(through.url, http("POST", "/api/generate", GROWING[name])).status == 200
    assert through.service
    entry = through.service.entry()
    assert entry["status"] == "ok" and len(json.dumps(entry)) < 2 * len(GROWING[name])
    if isinstance(entry["request"], dict):
        assert gzip.decompress(b64decode(entry["request"]["base64"])) == GROWING[name]
    else:
        assert entry["request"] == GROWING[name].decode()


@pytest.mark.parametrize("name", COSTLY)
def test_what_costs_much_for_other_reasons_is_kept_as_it_is(through: Way, name: str) -> None:
    body = b'{"model":"tinyllama","prompt":"Why?","x":[%b]}' % COSTLY[name]
    assert send(through.url, http("POST", "/api/generate", body)).status == 200
    assert through.service
    entry = through.service.entry()
    assert "cost too much" in entry["error"] and entry["status"] == "ok"
    assert gzip.decompress(b64decode(entry["request"]["base64"])) == body


def test_long_digits_in_a_text_are_no_numbers(through: Way) -> None:
    digits = "31415926" * 40_000
    assert (
        send(through.url, post("/api/generate", {"model": "tinyllama", "prompt": digits})).status
        == 200
    )
    assert through.service and through.service.entry()["prompt"] == digits
