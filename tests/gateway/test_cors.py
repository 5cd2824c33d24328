"""What web apps of other origins may do is what Ollama lets them do, also where it is away."""

from collections.abc import Mapping

import httpx
import pytest

from tests.conftest import Serve, Service, Way, eventually
from tests.ollama_stand_in import OllamaStandIn
from tests.ways import http, send

FOREIGN = "https://evil.example"
LOCAL = ["http://localhost", "https://localhost:3000", "http://127.0.0.1:5173", "tauri://app"]
OURS = ("/generate", "/stream")
ASK = {"prompt": "Why?", "model": "tinyllama"}


def preflight(service: Service, path: str, origin: str) -> httpx.Response:
    """Ask whether a page of the origin may post to the path."""
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    return service.client.options(path, headers=headers)


def cors(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that are about origins."""
    return {name: value for name, value in headers.items() if name.startswith("access-control")}


@pytest.mark.parametrize("origin", LOCAL)
def test_a_local_app_may_ask_and_reads_the_refusals(serve: Serve, origin: str) -> None:
    service = serve(api_key="a-key", gateway=True)
    for path in OURS:
        allowed = preflight(service, path, origin)
        assert allowed.status_code == 204
        assert allowed.headers["access-control-allow-origin"] == origin
        assert "Authorization" in allowed.headers["access-control-allow-headers"]
    for path in (*OURS, "/api/chat", "/v1/messages"):
        refused = service.client.post(path, json=ASK, headers={"Origin": origin})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == origin
        assert "Origin" in refused.headers["vary"]


def test_every_refusal_can_be_read_by_a_local_app(serve: Serve, ollama: OllamaStandIn) -> None:
    service = serve(
        llm_service="ollama",
        ollama_base_url="http://127.0.0.1:9",
        max_body_bytes=1000,
        max_prompt_bytes=1000,
    )
    headers = {"Origin": LOCAL[0], "Content-Type": "application/json"}
    answers = {
        422: service.client.post("/generate", content="{}", headers=headers),
        413: service.client.post("/v1/messages", content=2000 * "x", headers=headers),
        503: service.client.post("/api/chat", json=ASK, headers=headers),
        404: service.client.get("/api/nothing", headers=headers),
        400: service.client.post("/api/chat", json=ASK, headers={**headers, "Host": "a.example"}),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == LOCAL[0], status
    for path in ("/api/chat", "/v1/messages", "/generate"):  # Ollama is away
        assert preflight(service, path, LOCAL[0]).status_code == 204
        assert cors(preflight(service, path, FOREIGN).headers) == {}


def test_a_foreign_page_is_refused_before_its_body_is_read(through: Way) -> None:
    assert through.service
    for path in ("/api/chat", "/v1/messages", *OURS):
        headers = (f"Origin: {FOREIGN}", "Content-Length: 15000000")
        answer = send(through.url, http("PUT", path, b"", *headers).replace(b"PUT", b"POST", 1))
        assert (answer.status, answer.body) == (403, b"")
    assert through.ollama.requests == [] and through.service.entries == []


def test_origins_of_the_setting_are_allowed(serve: Serve, ollama: OllamaStandIn) -> None:
    service = serve(ollama_origins=frozenset({"https://app.example", "https://*.example.org"}))
    for origin in ("https://app.example", "https://a.example.org"):
        assert preflight(service, "/stream", origin).status_code == 204
    assert preflight(service, "/stream", FOREIGN).status_code == 403
    everyone = serve(ollama_origins=frozenset({"*"}))
    assert preflight(everyone, "/stream", FOREIGN).headers["access-control-allow-origin"] == "*"
    answer = everyone.client.post("/generate", json=ASK, headers={"Origin": FOREIGN})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "*"


def test_the_page_of_this_service_may_do_all(through: Way) -> None:
    assert through.service
    for scheme in ("http", "https"):  # a proxy in front of us may end TLS
        headers = {"Host": "10.0.0.7:8000", "Origin": f"{scheme}://10.0.0.7:8000"}
        answer = through.service.client.post("/generate", json=ASK, headers=headers)
        assert answer.status_code != 403
    eventually(lambda: through.ollama.requests)


def test_the_log_and_the_page_are_for_no_other_origin(serve: Serve) -> None:
    service = serve()
    for origin in (LOCAL[1], FOREIGN):
        for path in ("/log", "/log/figures", "/log/x", "/page/page.js", "/metrics", "/docs"):
            assert cors(service.client.get(path, headers={"Origin": origin}).headers) == {}
            assert cors(preflight(service, path, origin).headers) == {}
    browser = {"Origin": LOCAL[1], "Accept": "text/html"}
    assert cors(service.client.get("/", headers=browser).headers) == {}
    plain = service.client.get("/", headers={"Origin": LOCAL[1]})  # as Ollama's own root
    assert plain.headers["access-control-allow-origin"] == LOCAL[1]
