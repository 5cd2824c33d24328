"""The gateway in a process of its own, stopped and killed while it answers on every protocol."""

import json
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.conftest import DEADLINE, eventually, read_log
from tests.ollama_stand_in import OllamaStandIn, begin, hang, hang_up, like_ollama
from tests.processes import GRACE, UVICORN, process
from tests.ways import PATHS, ask, connect, parse, post, read_all, receive, send

BEGUN = 7  # pieces: some text of every protocol is among them


def environment(ollama: OllamaStandIn) -> dict[str, str]:
    """Return the environment of a service in front of the stand-in."""
    return {"MINIVAULT_LLM_SERVICE": "ollama", "MINIVAULT_OLLAMA_BASE_URL": ollama.url}


def test_a_stop_cancels_and_logs_the_streams_of_every_protocol(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    ollama.answer = begin(BEGUN, end=hang)
    with process(UVICORN + GRACE, tmp_path / "logs", **environment(ollama)) as service:
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


def read_to_the_end(connection: socket.socket) -> None:
    """Read until the other side closes; raise ConnectionResetError where it breaks off."""
    while connection.recv(2**16):
        pass


def test_a_half_answer_in_http_1_0_ends_with_an_error_and_a_whole_one_without(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    """There the end of the connection is all that says that an answer is whole."""
    bodies = {path: ask(path, stream=True) for path in PATHS} | {"/stream": {"prompt": "Why?"}}
    with process(UVICORN + GRACE, tmp_path / "logs", **environment(ollama)) as service:

        def begun(path: str) -> socket.socket:
            connection = connect(service.url)
            connection.sendall(post(path, bodies[path]).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            receive(connection, b" 200 OK\r\n")
            return connection

        ollama.answer = like_ollama
        for path in bodies:
            with begun(path) as connection:
                read_to_the_end(connection)
        ollama.answer = begin(BEGUN, end=hang_up)
        for path in bodies:
            with begun(path) as connection, pytest.raises(ConnectionResetError):
                read_to_the_end(connection)
        ollama.answer = begin(BEGUN, end=hang)
        left = [begun(path) for path in bodies]
        assert service.stop(signal.SIGTERM) == 0, service.output
        for connection in left:
            with connection, pytest.raises(ConnectionResetError):
                read_to_the_end(connection)


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
    with process(UVICORN, tmp_path / "logs", **environment(ollama)) as service:
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
    command = [*UVICORN, "--root-path", "/vault"]
    limit = {"MINIVAULT_IDLE_TIMEOUT": "0.2"}
    with process(command, tmp_path / "logs", **environment(ollama), **limit) as service:
        ollama.answer = like_ollama
        for path in paths:
            assert send(service.url, post(path, ask(path, stream=True))).status == 200
        assert [entry["endpoint"] for entry in read_log(service.log_dir)] == paths
        assert [talk.path for talk in ollama.requests] == paths
        refused = send(service.url, post("/v1/messages/batches", {}))
        assert refused.status == 403 and json.loads(refused.body)["type"] == "error"
        ollama.answer = begin(BEGUN, end=hang)
        late = send(service.url, post("/v1/messages", ask("/v1/messages", stream=True)))
        assert b'event: error\ndata: {"type":"error"' in late.body and not late.is_whole
