"""Who may ask, and how much at a time: the key, the Host header, the limit of generations."""

import json
import socket
import threading
from typing import Any

import httpx
import pytest

from recorder import Recorder
from tests.conftest import Serve, Service, eventually
from tests.ollama_stand_in import OllamaStandIn, hang, then, tokens
from tests.ways import Answer, connect, http, read_all, send

KEY = "s3cret-key"
ASK = {"prompt": "Why?"}


@pytest.mark.parametrize(
    "header",
    [None, "Bearer wrong", "Bearer", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer é", KEY],
)
@pytest.mark.parametrize("endpoint", ["/generate", "/stream"])
def test_without_the_key_it_is_401(serve: Serve, endpoint: str, header: str | None) -> None:
    service = serve(api_key=KEY)
    headers = {b"authorization": header.encode()} if header else {}
    response = service.client.post(endpoint, json=ASK, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "MINIVAULT_API_KEY" in response.json()["detail"]
    assert service.entries == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_key_it_answers(serve: Serve, scheme: str) -> None:
    service = serve(api_key=KEY)
    headers = {b"authorization": f"{scheme} {KEY}".encode()}
    assert service.client.post("/generate", json=ASK, headers=headers).status_code == 200


def test_probes_and_docs_need_no_key_and_docs_can_use_it(serve: Serve) -> None:
    client = serve(api_key=KEY).client
    for path in ("/health", "/ready", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    schema = client.get("/openapi.json").json()
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert schema["components"]["securitySchemes"]["x-api-key"]["name"] == "x-api-key"
    either_or_none = [{}, {"key": []}, {"x-api-key": []}]
    assert schema["paths"]["/generate"]["post"]["security"] == either_or_none
    assert schema["paths"]["/log"]["get"]["security"] == [{"log-key": []}]


def test_key_is_in_no_log_no_error_and_no_repr(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    service = serve(api_key=KEY)
    headers = {b"authorization": f"Bearer {KEY}".encode()}
    service.client.post("/generate", json=ASK, headers=headers)
    refused = service.client.post("/generate", json=ASK, headers={"authorization": "Bearer no"})
    log = "".join(path.read_text() for path in service.log_dir.iterdir())
    for text in (log, refused.text, repr(service.app.state.settings), caplog.text):
        assert KEY not in text


ALLOWED = ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "10.1.2.3", "[::1]:8000"]
ALLOWED += ["[2001:DB8::1]", "vault.lan", "Vault.LAN:443", "vault.lan.", "localhost.:8000"]
ALLOWED += ["[fe80::1%25eth0]:8000"]
ALLOWED += [socket.gethostname(), "a.b.localhost", "pi.local:8000", "host.docker.internal:8000"]
REFUSED = ["evil.example", "localhost.evil.example", "evil.example:8000", "", "[::1", "[evil]"]
REFUSED += ["local", "internal", ".", "evil.internal.example", "evil.localhost..", "mylocalhost"]
REFUSED += ["localhost:port", "evil@localhost", "vault.lan.evil.example", "127.0.0.1.evil.example"]


@pytest.mark.parametrize("host", ALLOWED)
def test_hosts_that_may_be_asked_for(serve: Serve, host: str) -> None:
    client = serve(allowed_hosts="vault.lan, other.lan").client
    assert client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", REFUSED)
def test_other_hosts_are_refused_with_the_setting(serve: Serve, host: str) -> None:
    service = serve(allowed_hosts="vault.lan")
    response = service.client.post("/generate", json=ASK, headers={"host": host})
    assert response.status_code == 400
    assert "MINIVAULT_ALLOWED_HOSTS" in response.json()["detail"]
    assert service.entries == []


def test_http_1_0_needs_no_host(serve: Serve) -> None:
    service = serve()
    assert send(service.url, b"GET /health HTTP/1.0\r\n\r\n").status == 200
    assert send(service.url, b"GET /health HTTP/1.0\r\nHost: evil.example\r\n\r\n").status == 400


def test_a_star_allows_every_host(serve: Serve) -> None:
    client = serve(allowed_hosts="*").client
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 200


def test_the_ollama_program_is_told_in_words_that_it_prints(
    serve: Serve, ollama: OllamaStandIn
) -> None:
    """It takes a 401 for one of Ollama's cloud, prints that one has to sign in, and exits 0."""
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, api_key=KEY)
    program = {"User-Agent": "ollama/0.33.0 (amd64 linux) Go/go1.24.1"}
    for path in ("/api/chat", "/api/generate", "/api/show", "/api/pull"):
        refused = service.client.post(path, json=ASK, headers=program)
        assert refused.status_code == 403 and "MINIVAULT_API_KEY" in refused.json()["error"]
    with_key = {**program, "Authorization": f"Bearer {KEY}"}  # a proxy added it
    assert service.client.get("/api/tags", headers=with_key).status_code == 200
    python = {"User-Agent": "ollama-python/0.6.0"}
    assert service.client.post("/api/chat", json=ASK, headers=python).status_code == 401


def absolute(service: Service, target: str, host: str = "localhost") -> Answer:
    """Send a request with a target in absolute form (RFC 9112 §3.2.2)."""
    return send(service.url, http("POST", target, json.dumps(ASK).encode(), host=host))


def test_a_target_in_absolute_form_is_served(serve: Serve, ollama: OllamaStandIn) -> None:
    service = serve(llm_service="ollama", ollama_base_url=ollama.url)
    ollama.answer = tokens("Blue")
    for path in ("/generate", "/api/generate"):
        for target in (f"http://localhost:8000{path}", f"HTTPS://127.0.0.1{path}?a=%2f"):
            assert absolute(service, target).status == 200, target
    assert ollama.requests[-1].path == "/api/generate?a=%2f"
    assert send(service.url, http("GET", "http://localhost")).status == 200
    # the host of the target counts, whatever the header says
    assert absolute(service, "http://evil.example/generate").status == 400
    assert absolute(service, "http://localhost/generate", host="evil.example").status == 200
    for odd in ("http://", "http:///generate", "http://a@localhost/generate", "ftp://localhost/x"):
        assert absolute(service, odd).status in (400, 404), odd


def test_two_framings_of_a_body_close_the_connection(serve: Serve) -> None:
    """RFC 9112 §6.3: a proxy in between may have seen another end of the body."""
    service = serve()
    head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    framing = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = json.dumps(ASK)
    with connect(service.url) as connection:
        connection.sendall(f"{head}{framing}{len(body):x}\r\n{body}\r\n0\r\n\r\n".encode())
        data = read_all(connection)  # ends, as the service closes it
    assert data.startswith(b"HTTP/1.1 200") and b"connection: close" in data.lower()
    assert service.entry()["prompt"] == ASK["prompt"]


def test_one_generation_too_many_gets_503_and_room_comes_back(
    serve: Serve, ollama: OllamaStandIn
) -> None:
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, max_concurrency=2)
    ollama.answer = then("Blue", end=hang)
    with (
        service.client.stream("POST", "/stream", json=ASK),
        service.client.stream("POST", "/stream", json=ASK),
    ):
        for endpoint in ("/generate", "/stream"):
            response = service.client.post(endpoint, json=ASK)
            assert response.status_code == 503 and response.headers["retry-after"]
            assert "2 requests" in response.json()["detail"]
            assert "MINIVAULT_MAX_CONCURRENCY" in response.json()["detail"]
        for path in ("/health", "/ready", "/docs"):
            assert service.client.get(path).status_code == 200
        assert len(ollama.requests) == 2 and service.entries == []
    ollama.answer = tokens("Blue")
    eventually(lambda: service.client.post("/generate", json=ASK).status_code == 200)


def in_flight(service: Service) -> int:
    """Return how many generations the service counts, from the state of its lifespan."""
    state: dict[str, Any] = service.server.lifespan.state
    recorder: Recorder = state["recorder"]
    return recorder.in_flight


def test_after_a_thousand_cancelled_requests_none_is_counted(
    serve: Serve, ollama: OllamaStandIn
) -> None:
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, max_concurrency=20)
    ollama.answer = then("Blue", end=hang)

    def leave(number: int) -> None:
        timeout = httpx.Timeout(10, read=0.02 if number % 2 else 10)
        with httpx.Client(base_url=service.url, timeout=timeout) as client:
            for _ in range(125):
                try:
                    if number % 2:
                        client.post("/generate", json=ASK)
                    else:
                        with client.stream("POST", "/stream", json=ASK) as response:
                            next(response.iter_raw())
                except httpx.ReadTimeout:
                    pass

    threads = [threading.Thread(target=leave, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: in_flight(service) == 0)
    # a client can be gone before its prompt reaches the service: that leaves no entry
    assert len(ollama.requests) <= len(service.entries) <= 1000
    assert {entry["status"] for entry in service.entries} == {"cancelled"}
    ollama.answer = tokens("Blue")
    assert service.client.post("/generate", json=ASK).status_code == 200
