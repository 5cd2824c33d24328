"""The table of errors: each row made to happen for real, on both endpoints."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request

import app
from messages import Chunk, Prompt
from llm_services import LLMServiceError, ModelNotFoundError, StubbedLLMService
from tests.conftest import DEADLINE, Serve, Service
from tests.ollama_stand_in import (
    Behaviour,
    Conversation,
    OllamaStandIn,
    cut,
    cut_mid_line,
    end_without_done,
    error_line,
    hang,
    junk,
    refuse,
    then,
)

ENDPOINTS = pytest.mark.parametrize("endpoint", ["/generate", "/stream"])


def detail(response: httpx.Response) -> str:
    """Return an error answer's words; it has FastAPI's shape and nothing else."""
    key, words = response.json().popitem()
    assert key == "detail" and isinstance(words, str)
    return words


async def html(talk: Conversation) -> None:
    """Answer as a web server that is not Ollama."""
    await talk.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n<html>it works</html>")


async def no_words(talk: Conversation) -> None:
    """Answer 403 with an empty body, as Ollama does to a foreign Host."""
    await talk.raw(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


async def not_http(talk: Conversation) -> None:
    """Answer with something that is not HTTP."""
    await talk.raw(b"220 mail.example ESMTP\r\n\r\n")


async def chunked_refusal(talk: Conversation) -> None:
    """Answer an early error as chunked JSON, as Ollama does to a bad format."""
    await talk.raw(b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n")
    await talk.chunk(b'{"error":"invalid format: \\"xml\\""}')
    await talk.raw(b"0\r\n\r\n")


async def wrong_types(talk: Conversation) -> None:
    """Answer with JSON that has Ollama's keys and other types."""
    await talk.start()
    await talk.line(response=5, done=False)
    await talk.done()


FAILURES: list[tuple[Behaviour, int, list[str]]] = [
    (refuse(400, "unexpected EOF"), 400, ["unexpected EOF"]),
    (refuse(404, "model 'tinyllama' not found"), 503, ["tinyllama", "`ollama pull tinyllama`"]),
    (refuse(503, "server busy, please try again."), 503, ["server busy, please try again."]),
    (refuse(500, 'option "temperature" must be of type float32'), 502, ["must be of type float32"]),
    (refuse(429, "slow down"), 502, ["slow down"]),
    (refuse(500, "x" * 10_000), 502, ["xxx"]),
    (chunked_refusal, 502, ['invalid format: "xml"']),
    (no_words, 502, ["403"]),
    (cut, 502, ["broke off"]),
    (not_http, 502, ["broke off"]),
    (html, 502, ["does not follow its protocol", "<html>it works</html>"]),
    (then(end=cut), 502, ["broke off"]),
    (then(end=cut_mid_line), 502, ["broke off"]),
    (then(end=end_without_done), 502, ["broke off"]),
    (then(end=error_line), 502, ["unexpected EOF"]),
    (then(end=junk), 502, ["does not follow its protocol", "<html>it works</html>"]),
    (wrong_types, 502, ["does not follow its protocol"]),
]


@ENDPOINTS
@pytest.mark.parametrize(("answer", "status", "words"), FAILURES)
def test_failure_before_the_first_token_has_its_status(
    vault: Service,
    ollama: OllamaStandIn,
    endpoint: str,
    answer: Behaviour,
    status: int,
    words: list[str],
) -> None:
    ollama.answer = answer
    response = vault.client.post(endpoint, json={"prompt": "Why?"})
    assert response.status_code == status, response.text
    for word in words:
        assert word in detail(response)
    assert ("retry-after" in response.headers) == (status == 503)
    entry = vault.entry()
    assert (entry["status"], entry["error"]) == ("error", detail(response))
    assert entry["id"] == response.headers["x-request-id"]
    assert entry["response"] == "" and entry["model"] == "tinyllama"


@ENDPOINTS
def test_a_model_that_the_request_named_and_is_not_there_is_404(
    vault: Service, ollama: OllamaStandIn, endpoint: str
) -> None:
    ollama.answer = refuse(404, "model 'nope' not found")
    response = vault.client.post(endpoint, json={"prompt": "Why?", "model": "nope"})
    assert response.status_code == 404
    assert "'nope'" in detail(response) and "`ollama pull nope`" in detail(response)
    assert vault.entry()["model"] == "nope"


@ENDPOINTS
def test_ollama_out_of_reach_is_503_and_names_its_url(serve: Serve, endpoint: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        service = serve(llm_service="ollama", ollama_base_url=url)
        response = service.client.post(endpoint, json={"prompt": "Why?"})
    assert response.status_code == 503 and response.headers["retry-after"]
    assert url in detail(response) and "`ollama serve`" in detail(response)
    assert service.entry()["error"] == detail(response)


def test_a_password_in_ollamas_url_is_in_no_error(serve: Serve) -> None:
    service = serve(llm_service="ollama", ollama_base_url="http://me:hunter2@127.0.0.1:9")
    response = service.client.post("/generate", json={"prompt": "Why?"})
    assert response.status_code == 503 and "hunter2" not in response.text


@ENDPOINTS
def test_no_first_token_in_time_is_504_and_names_the_setting(
    serve: Serve, ollama: OllamaStandIn, endpoint: str
) -> None:
    service = serve(
        llm_service="ollama", ollama_base_url=ollama.url, first_token_timeout=1, idle_timeout=60
    )
    for answer in (hang, then(end=hang)):
        ollama.answer = answer
        response = service.client.post(endpoint, json={"prompt": "Why?"})
        assert response.status_code == 504
        assert "first token within 1 s" in detail(response)
        assert "MINIVAULT_FIRST_TOKEN_TIMEOUT" in detail(response)
        assert ollama.left.acquire(timeout=DEADLINE), "the request to Ollama was not closed"


def test_no_next_token_in_time_is_504_with_the_text_so_far_in_the_log(
    serve: Serve, ollama: OllamaStandIn
) -> None:
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, idle_timeout=1)
    ollama.answer = then("Blue", " is", end=hang)
    response = service.client.post("/generate", json={"prompt": "Why?"})
    assert response.status_code == 504
    assert "next token within 1 s" in detail(response)
    assert "MINIVAULT_IDLE_TIMEOUT" in detail(response)
    entry = service.entry()
    assert (entry["status"], entry["response"]) == ("error", "Blue is")
    assert entry["ttft_ms"] > 0
    assert ollama.left.acquire(timeout=DEADLINE)


MIDWAY = pytest.mark.parametrize(
    ("end", "words"),
    [
        (cut, "broke off"),
        (cut_mid_line, "broke off"),
        (end_without_done, "broke off"),
        (error_line, "unexpected EOF"),
        (junk, "does not follow its protocol"),
    ],
)


@MIDWAY
def test_failure_after_the_first_token_breaks_the_plain_stream(
    vault: Service, ollama: OllamaStandIn, end: Behaviour, words: str
) -> None:
    ollama.answer = then("Blue", " is", end=end)
    got = b""
    with vault.client.stream("POST", "/stream", json={"prompt": "Why?"}) as response:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            for data in response.iter_raw():
                got += data
    assert got == b"Blue is"
    entry = vault.entry()
    assert (entry["status"], entry["response"]) == ("error", "Blue is")
    assert words in entry["error"]


@MIDWAY
def test_failure_after_the_first_token_ends_events_with_an_error_event(
    vault: Service, ollama: OllamaStandIn, end: Behaviour, words: str
) -> None:
    ollama.answer = then("Blue", " is", end=end)
    headers = {"accept": "text/event-stream"}
    text = vault.client.post("/stream", json={"prompt": "Why?"}, headers=headers).text
    name, data = text.removesuffix("\n\n").split("\n\n")[-1].split("\n")
    assert name == "event: error"
    key, said = json.loads(data.removeprefix("data: ")).popitem()
    assert key == "detail" and words in said and said == vault.entry()["error"]
    assert "event: done" not in text


@MIDWAY
def test_failure_after_the_first_token_ends_json_lines_with_an_error(
    vault: Service, ollama: OllamaStandIn, end: Behaviour, words: str
) -> None:
    ollama.answer = then("Blue", " is", end=end)
    headers = {"accept": "application/x-ndjson"}
    text = vault.client.post("/stream", json={"prompt": "Why?"}, headers=headers).text
    key, said = json.loads(text.splitlines()[-1]).popitem()
    assert key == "error" and words in said and said == vault.entry()["error"]
    assert '"done"' not in text


@MIDWAY
def test_generate_gives_no_half_answer(
    vault: Service, ollama: OllamaStandIn, end: Behaviour, words: str
) -> None:
    ollama.answer = then("Blue", " is", end=end)
    response = vault.client.post("/generate", json={"prompt": "Why?"})
    assert response.status_code == 502 and words in detail(response)
    assert "Blue" not in response.json()
    assert vault.entry()["response"] == "Blue is"


def test_tokens_that_arrive_with_a_failure_are_not_lost(
    vault: Service, ollama: OllamaStandIn
) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.start()
        await talk.chunk(talk.encode(response="Blue", done=False) + b'{"error":"boom"}\n')
        await talk.raw(b"0\r\n\r\n")

    ollama.answer = answer
    headers = {"accept": "application/x-ndjson"}
    text = vault.client.post("/stream", json={"prompt": "Why?"}, headers=headers).text
    assert [json.loads(line) for line in text.splitlines()] == [
        {"response": "Blue"},
        {"error": "Ollama failed: boom"},
    ]
    assert vault.entry()["response"] == "Blue"


def test_log_that_cannot_be_written_is_503_with_file_and_reason(
    vault: Service, ollama: OllamaStandIn, tmp_path: Path
) -> None:
    vault.log_dir.rename(tmp_path / "moved")
    vault.log_dir.write_text("a file where the folder should be")
    broken = vault.client.post("/generate", json={"prompt": "Why?"})
    asked = len(ollama.requests)
    refused = vault.client.post("/stream", json={"prompt": "Why?"})
    for response in (broken, refused):
        assert response.status_code == 503
        assert str(vault.log_dir) in detail(response) and "Not a directory" in detail(response)
    assert len(ollama.requests) == asked, "work was asked of Ollama that could not be logged"


@ENDPOINTS
def test_a_bug_is_a_500_with_an_id_and_an_entry(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    class BrokenService(StubbedLLMService):
        async def stream(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
            yield Chunk(["Blue"])
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(app, "create_llm_service", lambda settings: BrokenService(0))
    service = serve()
    headers = {"accept": "text/event-stream"}
    if endpoint == "/generate":
        response = service.client.post(endpoint, json={"prompt": "Why?"}, headers=headers)
        assert response.status_code == 500 and "MiniVault" in detail(response)
        assert response.headers["x-request-id"] == service.entry()["id"]
    else:
        with pytest.raises(httpx.RemoteProtocolError):
            service.client.post(endpoint, json={"prompt": "Why?"}, headers=headers)
    entry = service.entry()
    assert (entry["status"], entry["error"], entry["response"]) == ("error", "a bug", "Blue")


def test_subclass_of_an_error_has_its_status() -> None:
    def every(kind: type[Exception]) -> Iterator[type[Exception]]:
        yield kind
        for sub in kind.__subclasses__():
            yield from every(sub)

    class NewError(ModelNotFoundError):
        """As somebody adds it with a service."""

    request = Request(
        {"type": "http", "path": "/generate", "headers": [], "state": {"request_id": "x"}}
    )
    for kind in every(LLMServiceError):
        assert asyncio.run(app.handle_error(request, kind("x"))).status_code >= 400
    assert asyncio.run(app.handle_error(request, NewError("x"))).status_code == 404
