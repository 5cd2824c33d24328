"""What is being answered now, told while it is."""

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import DEADLINE, Serve, read_log
from tests.ollama_stand_in import Conversation, OllamaStandIn, hang, then
from tests.processes import GRACE, SERVE, process
from web import live_routes

KEY = "the-logs-own-key-long-enough"
LOG_KEY = {"Authorization": f"Bearer {KEY}"}
Event = tuple[str, dict[str, Any]]


@contextmanager
def watching(url: str) -> Iterator[Iterator[Event]]:
    """Read the events for the length of the block."""
    client = httpx.Client(timeout=DEADLINE, verify=False)
    with client, client.stream("GET", f"{url}/log/live", headers=LOG_KEY) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield read_events(answer)


def read_events(answer: httpx.Response) -> Iterator[Event]:
    """Yield each event with its data."""
    event = ""
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_routes, "LOOK_SECONDS", 0.02)


def test_an_answer_is_told_of_from_its_beginning_to_its_end(
    serve: Serve, ollama: OllamaStandIn, quick: None
) -> None:
    goes_on = threading.Event()

    async def finish(talk: Conversation) -> None:
        await asyncio.to_thread(goes_on.wait, DEADLINE)
        await talk.done()

    ollama.answer = then("Blue", " is", end=finish)
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, log_key=KEY)
    prompt = "Why? " * 100
    body = {"json": {"prompt": prompt}, "headers": {"User-Agent": "mine/1"}}
    with (
        watching(service.url) as events,
        service.client.stream("POST", "/stream", **body) as answer,
    ):
        name, started = next(events)
        assert name == "started" and started["id"] == answer.headers["x-request-id"]
        assert started["prompt"] == prompt[:200] and started["user_agent"] == "mine/1"
        assert (started["endpoint"], started["model"]) == ("/stream", "tinyllama")
        with watching(service.url) as others:
            assert next(others) == ("started", started), "who comes later is told as well"
        seen = next(events)
        while seen[1].get("tokens") != 2:
            assert seen[0] == "progress" and seen[1]["id"] == started["id"]
            seen = next(events)
        goes_on.set()
        answer.read()
        assert next(events) == ("ended", {"id": started["id"]})
        entry = service.entry()
    assert (entry["id"], entry["started_at"]) == (started["id"], started["started_at"])


@pytest.mark.parametrize("prompt", ["€" * 100_000, "😀" * 100_000])
def test_a_large_prompt_is_told_by_its_beginning(
    serve: Serve, ollama: OllamaStandIn, quick: None, prompt: str
) -> None:
    ollama.answer = then("Blue", end=hang)
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, log_key=KEY)
    body = {"model": "m", "prompt": prompt}
    with watching(service.url) as events, service.client.stream("POST", "/api/generate", json=body):
        _, started = next(events)
        assert started["prompt"] == prompt[:200]


def test_no_text_is_told_where_none_is_kept(
    serve: Serve, ollama: OllamaStandIn, quick: None
) -> None:
    ollama.answer = then("Blue", end=hang)
    service = serve(
        llm_service="ollama", ollama_base_url=ollama.url, log_key=KEY, log_content="metadata"
    )
    body = {"messages": [{"role": "user", "content": "secret"}], "stream": True}
    with watching(service.url) as events, service.client.stream("POST", "/api/chat", json=body):
        _, started = next(events)
        assert started["prompt"] is None and "secret" not in str(started)


def test_it_wants_the_logs_key(serve: Serve) -> None:
    client = serve(log_key=KEY).client
    assert client.get("/log/live").status_code == 401
    assert client.get("/log/live", headers={"Authorization": "Bearer no"}).status_code == 401


def test_who_watches_holds_up_no_stop(tmp_path: Path) -> None:
    with process([*SERVE, *GRACE], tmp_path / "logs", MINIVAULT_LOG_KEY=KEY) as service:
        with watching(service.url) as events:
            assert httpx.post(f"{service.url}/generate", json={"prompt": "x"}).status_code == 200
            assert service.stop(signal.SIGTERM) == 0
            assert {name for name, _ in events} <= {"started", "progress", "ended"}
        assert "cancel" not in service.output.lower(), "it ended by itself"
        assert len(read_log(service.log_dir)) == 1
