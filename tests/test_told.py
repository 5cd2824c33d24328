"""The entry says what its client was told, also where either ends while the entry waits."""

import fcntl
import json
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import DEADLINE, Serve, Service, eventually, read_log
from tests.ollama_stand_in import Conversation, OllamaStandIn, hang, like_ollama
from tests.processes import GRACE, SERVE, process
from tests.ways import PATHS, ask, connect, post, read_all, receive

ENDPOINTS = ["/generate", "/stream", *PATHS]
RESET = struct.pack("ii", 1, 0)


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold the lock of the newest file of the log, so that its next entry waits."""
    newest = max(directory.glob("*.jsonl"))
    with newest.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def connected(url: str, count: int) -> Iterator[list[socket.socket]]:
    """Open so many connections for the length of the block."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(url)) for _ in range(count)]


def request(endpoint: str) -> bytes:
    """Return a request whose answer ends."""
    if endpoint in PATHS:
        return post(endpoint, ask(endpoint, stream=True))
    return post(endpoint, {"prompt": "Why?"})


@pytest.fixture
def service(serve: Serve, ollama: OllamaStandIn) -> Service:
    """A service that gives its log all the time that it wants."""
    ollama.answer = like_ollama
    return serve(llm_service="ollama", ollama_base_url=ollama.url, log_timeout=60)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("reset", [True, False])
def test_client_that_leaves_while_its_entry_waits_is_said_to_have_left(
    service: Service, ollama: OllamaStandIn, endpoint: str, reset: bool
) -> None:
    with held(service.log_dir):
        with connect(service.url) as connection:
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.sendall(request(endpoint))
            eventually(lambda: service.server.lifespan.state["log"]._queue.qsize() == 0)
            eventually(lambda: len(ollama.requests) == 1)
            time.sleep(0.2)  # the answer is complete, and its entry on its way
        eventually(lambda: service.server.lifespan.state["recorder"].in_flight == 0)
    entry = service.entry()
    assert (entry["status"], entry["error"]) == ("cancelled", "the client left")
    assert entry["response"]


@pytest.mark.parametrize("signals", [1, 2])
def test_stop_while_entries_wait_is_said_in_them(
    ollama: OllamaStandIn, tmp_path: Path, signals: int
) -> None:
    ollama.answer = like_ollama
    environment = {**ollama.environment, "MINIVAULT_LOG_TIMEOUT": "60"}
    with process([*SERVE, *GRACE], tmp_path / "logs", **environment) as vault:
        with connected(vault.url, len(ENDPOINTS)) as connections:
            with held(vault.log_dir):
                for connection, endpoint in zip(connections, ENDPOINTS, strict=True):
                    connection.sendall(request(endpoint))
                eventually(lambda: len(ollama.requests) == len(ENDPOINTS))
                time.sleep(0.5)
                for _ in range(signals):
                    vault.popen.send_signal(signal.SIGINT)
                    time.sleep(0.1)
                eventually(lambda: "Cancel" in vault.output or signals == 2)
                time.sleep(0.2)
            assert vault.popen.wait(DEADLINE) in (0, -signal.SIGINT)
            answers = [read_all(connection) for connection in connections]
    entries = {entry["endpoint"]: entry for entry in read_log(vault.log_dir)}
    assert len(entries) == len(ENDPOINTS)
    for endpoint, answer in zip(ENDPOINTS, answers, strict=True):
        told = b"0\r\n\r\n" in answer or b'"response":"' in answer and endpoint == "/generate"
        assert (entries[endpoint]["status"] == "ok") == told, (endpoint, answer[-200:])
        if not told:
            assert entries[endpoint]["error"] == "the service stopped"


def test_stops_in_the_middle_of_many_streams_say_what_each_client_got(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    """Also with a second signal, which cancels everything at once."""

    async def answer(talk: Conversation) -> None:
        await talk.start()
        for _ in range(int(talk.body["prompt"])):
            await talk.line(response="token ", done=False)
        await talk.done()

    for round in range(5):
        ollama.answer = answer
        log_dir = tmp_path / str(round)
        with (
            process([*SERVE, *GRACE], log_dir, **ollama.environment) as vault,
            connected(vault.url, 60) as connections,
        ):
            for number, connection in enumerate(connections):
                connection.sendall(post("/stream", {"prompt": str(1 + number * 40)}))
            begun = receive(connections[5], b"token")
            vault.popen.send_signal(signal.SIGINT)
            time.sleep(0.02 * round)
            vault.popen.send_signal(signal.SIGINT)
            vault.popen.wait(DEADLINE)
            answers = [read_all(connection) for connection in connections]
            answers[5] = begun + answers[5]
        entries = {int(entry["prompt"]): entry for entry in read_log(log_dir)}
        for number, got in enumerate(answers):
            entry = entries.get(1 + number * 40)
            if got.endswith(b"0\r\n\r\n"):
                assert entry and entry["status"] == "ok"
            elif entry:
                assert entry["status"] == "cancelled", (number, got[-100:])


def test_last_byte_of_a_document_waits_for_the_log(service: Service, ollama: OllamaStandIn) -> None:
    """However it comes: here in pieces that each look like an end, with a length and without."""
    text = "}" * 3_000_000
    body = json.dumps({"message": {"content": text}, "done": True}).encode()

    for has_length in (True, False):

        async def answer(talk: Conversation) -> None:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            framing = b"Content-Length: %d\r\n\r\n" % len(body)
            await talk.raw(head + (framing if has_length else b"Connection: close\r\n\r\n"))
            for start in range(0, len(body), 60_000):
                await talk.raw(body[start : start + 60_000])
            if not has_length:
                talk.writer.close()
            await hang(talk)

        ollama.answer = answer
        service.client.post("/api/chat", json={"stream": False})
        with held(service.log_dir), connect(service.url) as connection:
            connection.sendall(post("/api/chat", {"stream": False}))
            connection.settimeout(2)
            got = b""
            try:
                while data := connection.recv(2**20):
                    got += data
            except TimeoutError:
                pass
            assert got and not got.endswith(b'"done": true}')
        assert [entry["status"] for entry in service.entries][-1] in ("ok", "cancelled")


def test_last_byte_of_a_line_waits_for_the_log(service: Service, ollama: OllamaStandIn) -> None:
    last = json.dumps({"message": {"content": "{}, {}, [[1]]" * 2}, "done": True}).encode()

    async def answer(talk: Conversation) -> None:
        await talk.start()
        for start in range(0, len(last), 7):
            await talk.chunk(last[start : start + 7])
        await talk.raw(b"0\r\n\r\n")

    ollama.answer = answer
    with held(service.log_dir), connect(service.url) as connection:
        connection.sendall(post("/api/chat", {}))
        connection.settimeout(2)
        with pytest.raises(TimeoutError):
            receive(connection, b"true}\r\n")
