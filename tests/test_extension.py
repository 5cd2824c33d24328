"""What it takes to add a protocol or a service: one class, and everything else follows."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import app
from llm_services import HTTPService
from messages import Chunk, Prompt
from protocols import registry
from protocols.base import Endpoint, Json, Protocol, append_text, joined_text
from protocols.openai import ChatCompletions
from protocols.turns import Turn
from settings import Settings
from tests.conftest import Serve, Service, eventually
from tests.ollama_stand_in import Conversation, OllamaStandIn, hang, like_ollama, refuse
from tests.ollama_wires import EVENTS, Wire
from tests.ways import post, send


class Rerank(Protocol):
    """A protocol that somebody adds."""

    prefix = "/v1/rerank"
    reference = "https://rerank.example/reference"
    endpoints = (
        Endpoint("/v1/rerank", "Order documents", {"query": "Sky?"}, operation="retrieval"),
    )
    last_data = b"[END]"
    error_event = "oops"

    def error_body(self, status: int, message: str) -> Json:
        return {"oops": {"status": status, "message": message}}

    def read_event(self, event: Json, chunk: Chunk, *, streamed: bool) -> None:
        append_text(chunk.response, joined_text(event.get("order")))

    def read_turns(self, body: Json) -> list[Turn]:
        return [Turn("user", [str(body.get("query"))])]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the protocol registered, as a line of `protocols.registry` would."""
    monkeypatch.setattr(registry, "PROTOCOLS", [*registry.PROTOCOLS, Rerank()])


WIRE = Wire(200, EVENTS, (b'data: {"order":"2, 1"}\n\n', b"data: [END]\n\n"), is_chunked=True)
ASK: Json = {"model": "tiny", "query": "Sky?", "top_k": 3}


async def rerank(talk: Conversation) -> None:
    """Answer as its server would."""
    for data in WIRE.encode():
        await talk.raw(data)


async def rerank_and_hang(talk: Conversation) -> None:
    """Answer half of it."""
    for data in WIRE.encode()[:2]:
        await talk.raw(data)
    await hang(talk)


@pytest.fixture
def service(serve: Serve, ollama: OllamaStandIn) -> Service:
    """A service in front of a server with the protocol."""
    ollama.answer = rerank
    return serve(llm_service="ollama", ollama_base_url=ollama.url, idle_timeout=1)


def test_a_protocol_is_forwarded_and_recorded(service: Service) -> None:
    answer = send(service.url, post("/v1/rerank", ASK))
    assert (answer.status, answer.body) == (200, WIRE.body)
    entry = service.entry()
    known = {"endpoint": "/v1/rerank", "status": "ok", "prompt": "Sky?", "response": "2, 1"}
    assert known.items() <= entry.items()
    assert entry["options"] == {"top_k": 3} and entry["request"] == ASK


def test_a_protocols_errors_have_its_shape(
    service: Service, serve: Serve, ollama: OllamaStandIn
) -> None:
    locked = serve(llm_service="ollama", ollama_base_url=ollama.url, api_key="a-key")
    refused = send(locked.url, post("/v1/rerank", ASK))
    assert refused.status == 401 and list(json.loads(refused.body)) == ["oops"]
    ollama.answer = rerank_and_hang
    late = send(service.url, post("/v1/rerank", {**ASK, "stream": True}))
    assert b'event: oops\ndata: {"oops":{"status":504,' in late.body and not late.is_whole


def test_a_protocol_is_in_the_docs_and_in_traces(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    row = "| `/v1/rerank` | [Order documents](https://rerank.example/reference) |"
    assert row in document["info"]["description"]
    assert registry.find_operation("/v1/rerank") == "retrieval"


class LlamaServer(HTTPService):
    """A service that somebody adds: llama.cpp's server, by OpenAI's interface."""

    llm_type = "llama"
    name = "llama-server"
    protocol = ChatCompletions()
    path = b"/v1/chat/completions"
    start_hint = "start it with `llama-server`"
    model_hint = "start llama-server with `-m {model}`"

    def encode_prompt(self, prompt: Prompt) -> Json:
        messages = [{"role": "user", "content": prompt.prompt}]
        return {"model": prompt.model or self.model, "messages": messages, "stream": True}


@pytest.fixture
def llama(
    serve: Serve, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    """A MiniVault whose factory knows the service."""
    ollama.answer = like_ollama
    create: Any = lambda settings: LlamaServer(ollama.url, "tiny", settings)  # noqa: E731
    monkeypatch.setattr(app, "create_llm_service", create)
    yield serve(idle_timeout=1)


def test_a_service_is_one_class(llama: Service, ollama: OllamaStandIn) -> None:
    answer = llama.client.post("/generate", json={"prompt": "Why?"})
    assert answer.status_code == 200
    entry = llama.entry()
    assert entry["response"] == answer.json()["response"] and entry["llm_type"] == "llama"
    assert ollama.requests[0].path == "/v1/chat/completions"
    for path in ("/api/chat", "/api/version"):
        refused = llama.client.request("POST" if "chat" in path else "GET", path, json={})
        assert refused.status_code == 503 and "MINIVAULT_LLM_SERVICE=ollama" in refused.text


@dataclass(frozen=True)
class Fault:
    """What happens to a server, and the words that its client is told."""

    status: int
    words: str


FAULTS = {
    404: Fault(503, "model 'tiny' not found; start llama-server with `-m tiny`"),
    400: Fault(400, "llama-server refused the request: no"),
    503: Fault(503, "llama-server is busy: no"),
    500: Fault(502, "llama-server failed: no"),
}


def test_a_services_errors_name_it(llama: Service, ollama: OllamaStandIn) -> None:
    for status, fault in FAULTS.items():
        ollama.answer = refuse(status, "no")
        answer = llama.client.post("/generate", json={"prompt": "Why?"})
        assert (answer.status_code, answer.json()["detail"]) == (fault.status, fault.words)
    ollama.answer = hang
    assert "Ollama" not in llama.client.get("/ready").text

    async def check() -> str:
        async with LlamaServer("http://127.0.0.1:9", "tiny", Settings()) as service:
            with pytest.raises(Exception) as error:
                await service.check()
        return str(error.value)

    message = asyncio.run(check())
    assert message.startswith("llama-server is unreachable") and "`llama-server`" in message
    eventually(lambda: len(llama.entries) == len(FAULTS))
