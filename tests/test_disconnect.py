"""A client that leaves stops the work, shown on a real uvicorn process."""

import asyncio
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import DEADLINE, Service, eventually, read_log
from tests.ollama_stand_in import Conversation, OllamaStandIn, hang, then, tokens
from tests.processes import CLIENT, SERVE, process

ASK = b'{"prompt": "Why?"}'


def ask(url: str, endpoint: str, accept: str = "*/*") -> socket.socket:
    """Send a request on a bare socket and return the socket."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), DEADLINE)
    head = f"POST {endpoint} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Accept: {accept}\r\n"
    connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n%s" % (len(ASK), ASK))
    return connection


@pytest.mark.parametrize("endpoint", ["/generate", "/stream"])
@pytest.mark.parametrize(("before", "text"), [([], ""), (["Blue", " is"], "Blue is")])
def test_leaving_closes_the_request_to_ollama_and_is_logged(
    ollama: OllamaStandIn, tmp_path: Path, endpoint: str, before: list[str], text: str
) -> None:
    ollama.answer = then(*before, end=hang)
    with process(SERVE, tmp_path / "logs", **ollama.environment) as service:
        connection = ask(service.url, endpoint)
        eventually(lambda: ollama.requests)
        time.sleep(0.3)  # the tokens are on their way
        if before and endpoint == "/stream":
            assert b"Blue" in connection.recv(4096)
        connection.close()
        assert ollama.left.acquire(timeout=DEADLINE), "the request to Ollama stayed open"
        (entry,) = eventually(lambda: read_log(service.log_dir))
        assert (entry["status"], entry["response"]) == ("cancelled", text)
        assert entry["error"] == "the client left"
        assert "Traceback" not in service.output and "ERROR" not in service.output


def test_leaving_while_a_chunk_is_being_sent_is_logged_too(
    vault: Service, ollama: OllamaStandIn
) -> None:
    """The client reads nothing, so the service sits in `send` when the client leaves."""
    ollama.answer = tokens(*["x" * 10_000] * 10_000)
    connection = ask(vault.url, "/stream")
    eventually(lambda: ollama.requests)
    time.sleep(0.5)
    connection.close()
    assert ollama.left.acquire(timeout=DEADLINE)
    entry = vault.entry()
    assert entry["status"] == "cancelled" and set(entry["response"]) == {"x"}


def test_many_that_leave_and_stay_have_one_entry_each(
    vault: Service, ollama: OllamaStandIn
) -> None:
    letters = "abcdefghij"

    async def answer(talk: Conversation) -> None:
        await talk.start()
        for letter in letters:
            await talk.line(response=letter, done=False)
            await asyncio.sleep(0.02)
        await (talk.done() if talk.body["prompt"] == "stay" else hang(talk))

    ollama.answer = answer
    whole: list[str] = []

    def stay() -> None:
        answer = CLIENT.post(f"{vault.url}/stream", json={"prompt": "stay"})
        whole.append(answer.headers["x-request-id"])

    def leave() -> None:
        with CLIENT.stream("POST", f"{vault.url}/stream", json={"prompt": "leave"}) as answer:
            next(answer.iter_raw())

    threads = [threading.Thread(target=target) for target in (stay, leave) * 20]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = eventually(lambda: vault.entries if len(vault.entries) == 40 else None)
    status = {entry["id"]: entry["status"] for entry in entries}
    assert len(status) == 40
    assert [status[request_id] for request_id in whole] == ["ok"] * 20
    left = [entry for entry in entries if entry["prompt"] == "leave"]
    assert {entry["status"] for entry in left} == {"cancelled"}
    assert all(letters.startswith(entry["response"]) for entry in left)
