"""The gateway in a process of its own, stopped and killed while it answers on every protocol."""

import json
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.conftest import DEADLINE, eventually, read_log
from tests.ollama_stand_in import OllamaStandIn, begin, hang, hang_up, like_ollama, tokens
from tests.processes import GRACE, SERVE, Process, process, starting
from tests.ways import PATHS, ask, connect, http, parse, post, read_all, receive, send

Connect = Callable[[], ssl.SSLSocket]
BEGUN = 7  # pieces: some text of every protocol is among them


def test_a_stop_cancels_and_logs_the_streams_of_every_protocol(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    ollama.answer = begin(BEGUN, end=hang)
    with process(SERVE + GRACE, tmp_path / "logs", **ollama.environment) as service:
        connections = [connect(service.url) for _ in PATHS]
        got = []
        for path, connection in zip(PATHS, connections, strict=True):
            connection.sendall(post(path, ask(path, stream=True)))
            got.append(receive(connection, b"HTTP/1.1 200 OK\r\n"))
        assert service.stop(signal.SIGTERM) == 0, service.output
        for connection, data in zip(connections, got, strict=True):
            answer = parse("POST", data + read_all(connection))
            connection.close()
            assert answer.status == 200 and not answer.is_whole
        entries = read_log(service.log_dir)
        assert sorted(entry["endpoint"] for entry in entries) == sorted(PATHS)
        assert {entry["status"] for entry in entries} == {"cancelled"}
        assert all(entry["response"] for entry in entries)
        assert "Traceback" not in service.output, service.output


def old(path: str, version: bytes = b"HTTP/1.0") -> bytes:
    """Return a request for a stream in HTTP/1.0."""
    body = ask(path, stream=True) if path in PATHS else {"prompt": "Why?"}
    return post(path, body).replace(b"HTTP/1.1", version, 1)


def begun(url: str, path: str, version: bytes = b"HTTP/1.0") -> socket.socket:
    """Return a connection in HTTP/1.0 whose answer has begun."""
    connection = connect(url)
    connection.sendall(old(path, version))
    receive(connection, b" 200 OK\r\n")
    return connection


def ends_with_a_reset(connection: socket.socket) -> bool:
    """Return whether the other side breaks a connection off, or closes it in an orderly way."""
    with connection:
        try:
            while connection.recv(2**16):
                pass
        except ConnectionResetError:
            return True
    return False


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_half_an_answer_in_http_1_0_ends_with_a_reset_and_a_whole_one_without(
    ollama: OllamaStandIn, tmp_path: Path, end: int
) -> None:
    """There the end of the connection is all that says that an answer is whole."""
    paths = [*PATHS, "/stream"]
    with process(SERVE + GRACE, tmp_path / "logs", **ollama.environment) as service:
        ollama.answer = like_ollama
        assert not any(ends_with_a_reset(begun(service.url, path)) for path in paths)
        refused = connect(service.url)
        chunked = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n"
        refused.sendall(b"POST /stream HTTP/1.0\r\nHost: localhost\r\n" + chunked)
        assert not ends_with_a_reset(refused)
        ollama.answer = begin(BEGUN, end=hang_up)
        assert all(ends_with_a_reset(begun(service.url, path)) for path in paths)
        assert ends_with_a_reset(begun(service.url, "/stream", b"HTTP/0.9"))
        ollama.answer = begin(BEGUN, end=hang)
        left = [begun(service.url, path) for path in paths]
        ollama.answer = tokens(*["x" * 10_000] * 2000)  # more than is taken before the end
        left.append(begun(service.url, "/stream"))
        service.stop(end)
        assert all([ends_with_a_reset(connection) for connection in left])
        assert "Traceback" not in service.output, service.output


@contextmanager
def over_tls(ollama: OllamaStandIn, folder: Path) -> Iterator[tuple[Process, Connect]]:
    """Run a service that speaks TLS; yield it, and what connects to it."""
    authority, trusted = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trusted)
    pem = folder / "localhost.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    tls = ["--ssl-certfile", str(pem)]
    with starting([*SERVE, *GRACE, *tls], folder / "logs", **ollama.environment) as service:
        eventually(lambda: "MiniVault is running at https://localhost:" in service.output)
        yield service, lambda: trusted.wrap_socket(
            connect(service.url), server_hostname="localhost"
        )
        assert service.stop(signal.SIGTERM) == 0
        assert "Traceback" not in service.output, service.output


def test_a_client_of_http_1_0_over_tls_is_answered_and_seen_to_leave(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    with over_tls(ollama, tmp_path) as (service, connect_safely):
        for answer in (like_ollama, begin(BEGUN, end=hang)):
            ollama.answer = answer
            with connect_safely() as connection:
                connection.sendall(old("/api/chat"))
                receive(connection, b" 200 OK\r\n")
                if answer is like_ollama:
                    assert b'"done":true' in read_all(connection)
        eventually(lambda: len(read_log(service.log_dir)) == 2)
        errors = [entry["error"] for entry in read_log(service.log_dir)]
        assert errors == [None, "the client left"]


def test_a_client_that_sends_ahead_and_leaves_in_one_go_over_tls_is_no_bug(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    with over_tls(ollama, tmp_path) as (service, connect_safely):
        hasty = [connect_safely() for _ in range(5)]
        service.popen.send_signal(signal.SIGSTOP)
        for connection in hasty:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
            connection.close()
        service.popen.send_signal(signal.SIGCONT)
        with connect_safely() as connection:
            connection.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert b" 200 OK\r\n" in read_all(connection)


class Load(threading.Thread):
    """A client that asks on one path until the service is gone, and the answers that were whole."""

    def __init__(self, url: str, path: str) -> None:
        super().__init__()
        self._url, self._path = url, path
        self.whole: list[str | None] = []
        self.start()

    def run(self) -> None:
        streams = 0
        while True:
            body = ask(self._path, stream=bool(streams % 2))
            try:
                answer = send(self._url, post(self._path, body))
            except (OSError, AssertionError):
                return
            if not answer.is_whole:
                return
            assert answer.status == 200
            self.whole.append(answer.request_id)
            streams += 1


def test_a_kill_loses_no_answer_that_a_client_received(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    ollama.answer = like_ollama
    with process(SERVE, tmp_path / "logs", **ollama.environment) as service:
        loads = [Load(service.url, path) for path in PATHS]
        eventually(lambda: all(len(load.whole) > 3 for load in loads))
        service.stop(signal.SIGKILL)
        for load in loads:
            load.join(DEADLINE)
    ids = [entry["id"] for entry in read_log(tmp_path / "logs")]
    assert len(set(ids)) == len(ids)
    assert {request_id for load in loads for request_id in load.whole} <= set(ids)


def test_behind_a_prefix_all_is_as_without_it(ollama: OllamaStandIn, tmp_path: Path) -> None:
    """A proxy that takes `/vault` away says so by `--root-path`."""
    paths = ["/api/chat", "/v1/messages"]
    command = [*SERVE, "--root-path", "/vault"]
    limit = {"MINIVAULT_IDLE_TIMEOUT": "0.2"}
    with process(command, tmp_path / "logs", **ollama.environment, **limit) as service:
        ollama.answer = like_ollama
        for path in paths:
            assert send(service.url, post(path, ask(path, stream=True))).status == 200
        assert [entry["endpoint"] for entry in read_log(service.log_dir)] == paths
        assert [talk.path for talk in ollama.requests] == paths
        foreign = post(paths[0], ask(paths[0]), "Origin: https://evil.example")
        assert send(service.url, foreign).status == 403 and len(ollama.requests) == len(paths)
        preflight = http("OPTIONS", "/generate", b"", "Origin: http://localhost:3000")
        assert send(service.url, preflight).status == 204
        refused = send(service.url, post("/v1/messages/batches", {}))
        assert refused.status == 404 and json.loads(refused.body)["type"] == "error"
        ollama.answer = begin(BEGUN, end=hang)
        late = send(service.url, post("/v1/messages", ask("/v1/messages", stream=True)))
        assert b'event: error\ndata: {"type":"error"' in late.body and not late.is_whole
