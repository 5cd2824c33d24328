"""Who asks is known, and who takes nothing of an answer is given up."""

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from tests.conftest import DEADLINE, Serve, eventually
from tests.ollama_stand_in import OllamaStandIn, tokens

ASK = b'{"prompt": "Why?"}'
HEAD = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def open_connections(port: int) -> int:
    """Return how many connections to a port the system holds on the server's side."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    local = [(line.split()[1], line.split()[3]) for line in lines]
    return sum(int(end.split(":")[1], 16) == port and state != "0A" for end, state in local)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives a connection a time limit")
@pytest.mark.parametrize("endpoint", [b"/generate", b"/stream"])
def test_client_that_takes_nothing_is_gone_after_a_while(
    serve: Serve, ollama: OllamaStandIn, endpoint: bytes
) -> None:
    ollama.answer = tokens(*["x" * 100_000] * 300)
    service = serve(
        llm_service="ollama", ollama_base_url=ollama.url, client_timeout=1, max_concurrency=1
    )
    port = int(service.url.rpartition(":")[2])
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.connect(("127.0.0.1", port))
        client.sendall(HEAD % endpoint + b"Content-Length: %d\r\n\r\n%s" % (len(ASK), ASK))
        eventually(lambda: service.entries)
        eventually(lambda: open_connections(port) == 0)
        if endpoint == b"/stream":
            assert service.entry()["status"] == "cancelled"
    ollama.answer = tokens("Blue")
    eventually(lambda: service.client.post("/generate", json={"prompt": "x"}).status_code == 200)


def test_entry_says_who_asked(serve: Serve) -> None:
    service = serve()
    service.client.post("/generate", json={"prompt": "Why?"}, headers={"User-Agent": "curl/8"})
    entry = service.entry()
    assert (entry["client"], entry["user_agent"]) == ("127.0.0.1", "curl/8")


@pytest.mark.parametrize("endpoint", [b"/generate", b"/stream", b"/api/chat", b"/api/pull"])
def test_key_is_looked_at_before_the_body_comes(serve: Serve, endpoint: bytes) -> None:
    service = serve(api_key="secret")
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), DEADLINE) as client:
        client.sendall(HEAD % endpoint + b"Content-Length: 1000000\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_refusal_needs_no_place(serve: Serve, ollama: OllamaStandIn) -> None:
    async def hold(talk: object) -> None:
        await asyncio.Event().wait()

    ollama.answer = hold
    service = serve(
        llm_service="ollama", ollama_base_url=ollama.url, max_concurrency=1, api_key="secret"
    )
    host, port = service.url.removeprefix("http://").split(":")
    key = {"Authorization": "Bearer secret"}
    with socket.create_connection((host, int(port)), DEADLINE) as client:
        head = HEAD % b"/generate" + b"Authorization: Bearer secret\r\n"
        client.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(ASK), ASK))
        eventually(lambda: ollama.requests)
        full = service.client.post("/generate", json={"prompt": "x"}, headers=key)
        assert full.status_code == 503
        assert service.client.post("/generate", json={"prompt": "x"}).status_code == 401
        assert service.client.post("/generate", json={}, headers=key).status_code == 422
