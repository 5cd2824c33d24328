"""`GET /ready`: says what is missing, in the words of the errors that a prompt would get."""

import socket
from pathlib import Path

import pytest

from settings import VERSION
from tests.conftest import Serve, Service
from tests.ollama_stand_in import OllamaStandIn
from tests.test_errors import detail


def test_ready_names_everything_that_is_missing(
    vault: Service, ollama: OllamaStandIn, tmp_path: Path
) -> None:
    ollama.models = ["llama3:8b", "tinyllama:other"]
    response = vault.client.get("/ready")
    assert response.status_code == 503
    assert "`ollama pull tinyllama`" in detail(response)
    vault.log_dir.rename(tmp_path / "moved")
    vault.log_dir.write_text("a file where the folder should be")
    assert vault.client.post("/generate", json={"prompt": "Why?"}).status_code == 503
    words = detail(vault.client.get("/ready"))
    assert str(vault.log_dir) in words and "`ollama pull tinyllama`" in words
    assert vault.client.get("/health").status_code == 200


def test_ready_when_ollama_is_out_of_reach_or_something_else(
    serve: Serve, ollama: OllamaStandIn
) -> None:
    service = serve(llm_service="ollama", ollama_base_url="http://127.0.0.1:9")
    response = service.client.get("/ready")
    assert response.status_code == 503 and "http://127.0.0.1:9" in detail(response)
    other = serve(llm_service="ollama", ollama_base_url=service.url)
    response = other.client.get("/ready")
    assert response.status_code == 503 and "not Ollama" in detail(response)


@pytest.mark.parametrize(
    "name",
    ["tinyllama", "tinyllama:latest", "TinyLlama", "registry.ollama.ai/library/tinyllama:latest"],
)
def test_ready_knows_a_model_by_all_its_names(
    serve: Serve, ollama: OllamaStandIn, name: str
) -> None:
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, ollama_model=name)
    assert service.client.get("/ready").json() == {"status": "ok"}


def test_ready_does_not_wait_for_an_ollama_that_says_nothing(
    serve: Serve, ollama: OllamaStandIn
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        service = serve(llm_service="ollama", ollama_base_url=url, connect_timeout=0.2)
        response = service.client.get("/ready")
    assert response.status_code == 503 and "no answer" in detail(response)


def test_health_says_which_version_it_is(serve: Serve) -> None:
    answer = serve().client.get("/health")
    assert answer.json() == {"status": "ok"}
    assert answer.headers["x-minivault-version"] == VERSION


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_answer_head(vault: Service, path: str) -> None:
    answered = vault.client.head(path)
    assert (answered.status_code, answered.content) == (200, b"")
