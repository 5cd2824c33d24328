"""The container's start waits for the model and says what it waits for."""

import asyncio
import threading

import pytest

from deploy.wait_for_model import wait_for_model
from settings import Settings
from tests.conftest import DEADLINE
from tests.ollama_stand_in import OllamaStandIn


def test_it_waits_for_the_model_and_says_so_once(
    ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.wait_for_model.RETRY_SECONDS", 0.02)
    ollama.models = []
    settings = Settings(llm_service="ollama", ollama_base_url=ollama.url)
    waiting = threading.Thread(target=lambda: asyncio.run(wait_for_model(settings)))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive(), "it did not wait"
    ollama.models = ["tinyllama:latest"]
    waiting.join(DEADLINE)
    assert not waiting.is_alive()
    assert capsys.readouterr().out == "MiniVault starts when Ollama has the model tinyllama\n"
