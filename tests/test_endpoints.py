"""Both endpoints on a real socket: what is answered, in which format, and what the log keeps."""

import json
import re
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest

from log.entry import LogEntry
from tests.conftest import Serve, Service
from tests.ollama_stand_in import OllamaStandIn, tokens

ROOT = Path(__file__).parent.parent
KEYS = [field.name for field in fields(LogEntry)]
ASKED = {
    "prompt": "Why is the sky blue?",
    "model": "llama3:8b",
    "system": "You are a pirate.",
    "options": {"temperature": 0.5, "stop": ["\n"], "num_predict": 10**30},
    "format": {"type": "object"},
    "think": "low",
}


def test_generate_answers_with_the_whole_text_and_logs_it(vault: Service) -> None:
    response = vault.client.post("/generate", json={"prompt": "Why?"})
    assert (response.status_code, response.json()) == (200, {"response": "Blue is a colour."})
    entry = vault.entry()
    assert entry["id"] == response.headers["x-request-id"]
    assert entry["response"] == "Blue is a colour."
    assert entry["status"] == "ok" and entry["error"] is None


def test_every_entry_has_all_keys_in_their_order_and_the_docs_say_so(vault: Service) -> None:
    vault.client.post("/generate", json={"prompt": "Why?"})
    vault.client.post("/stream", json=ASKED)
    for entry in vault.entries:
        assert list(entry) == KEYS
    table = (ROOT / "docs" / "log.md").read_text().partition("| key | |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert re.findall(r"`(\w+)`", " ".join(rows)) == KEYS


def test_entry_keeps_what_was_asked_and_what_ollama_counted(vault: Service) -> None:
    vault.client.post("/stream", json=ASKED)
    entry = vault.entry()
    assert {key: entry[key] for key in ASKED} == ASKED
    assert entry["endpoint"] == "/stream" and entry["llm_type"] == "ollama"
    assert (entry["prompt_tokens"], entry["response_tokens"]) == (26, 12)
    assert 0 < entry["ttft_ms"] <= entry["duration_ms"]


def test_unknown_values_of_an_entry_are_null(vault: Service) -> None:
    vault.client.post("/generate", json={"prompt": "Why?"})
    entry = vault.entry()
    unknown = ("system", "options", "format", "think", "thinking", "error")
    assert [entry[key] for key in unknown] == [None] * 6
    assert entry["model"] == "tinyllama"


def test_times_are_rfc3339_in_utc_with_microseconds(vault: Service) -> None:
    vault.client.post("/generate", json={"prompt": "Why?"})
    entry = vault.entry()
    for key in ("started_at", "finished_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entry[key])
    assert datetime.fromisoformat(entry["started_at"]) <= datetime.fromisoformat(
        entry["finished_at"]
    )
    assert (vault.log_dir / f"{entry['finished_at'][:10]}.jsonl").exists()


def test_log_is_private(vault: Service) -> None:
    vault.client.post("/generate", json={"prompt": "Why?"})
    for path in vault.log_dir.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert vault.log_dir.stat().st_mode & 0o777 == 0o700


def test_ollama_is_asked_for_a_stream_with_every_field_as_it_came(
    vault: Service, ollama: OllamaStandIn
) -> None:
    vault.client.post("/generate", json=ASKED)
    (request,) = ollama.requests
    assert (request.method, request.path) == ("POST", "/api/generate")
    assert request.headers["content-type"] == "application/json"
    assert request.body == {**ASKED, "stream": True}


def test_a_request_without_a_model_asks_for_the_default_one(
    vault: Service, ollama: OllamaStandIn
) -> None:
    vault.client.post("/generate", json={"prompt": "Why?"})
    assert ollama.requests[0].body == {"model": "tinyllama", "prompt": "Why?", "stream": True}


def test_a_password_in_ollamas_url_goes_along(serve: Serve, ollama: OllamaStandIn) -> None:
    url = ollama.url.replace("//", "//me:p%40ss@")
    service = serve(llm_service="ollama", ollama_base_url=url)
    assert service.client.post("/generate", json={"prompt": "Why?"}).status_code == 200
    assert ollama.requests[0].headers["authorization"].lower() == "basic bwu6cebzcw=="


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "*/*",
        "text/plain",
        "image/png",
        "text/*",
        "application/json",
        "text/event-stream;q=0",
        "text/event-stream;q=1.2.3",
    ],
)
def test_stream_is_plain_text_unless_asked_otherwise(vault: Service, accept: str | None) -> None:
    if accept is None:
        del vault.client.headers["accept"]
    headers = {"accept": accept} if accept else {}
    response = vault.client.post("/stream", json={"prompt": "Why?"}, headers=headers)
    assert response.text == "Blue is a colour."
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "application/x-ndjson"])
def test_every_stream_tells_proxies_not_to_hold_it_back(vault: Service, accept: str) -> None:
    response = vault.client.post("/stream", json={"prompt": "Why?"}, headers={"accept": accept})
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "application/json, text/event-stream", "TEXT/EVENT-STREAM"]
)
def test_stream_as_server_sent_events(vault: Service, accept: str) -> None:
    response = vault.client.post("/stream", json={"prompt": "Why?"}, headers={"accept": accept})
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, last, end = response.text.split("\n\n")
    assert end == ""
    texts = [json.loads(event.removeprefix("data: "))["response"] for event in events]
    assert "".join(texts) == "Blue is a colour."
    name, data = last.split("\n")
    entry = vault.entry()
    assert name == "event: done"
    keys = ["id", "model", "status", "prompt_tokens", "response_tokens", "duration_ms"]
    assert json.loads(data.removeprefix("data: ")) == {key: entry[key] for key in keys}


@pytest.mark.parametrize(
    "accept", ["application/x-ndjson", "application/jsonl", "text/plain;q=0.5, application/jsonl"]
)
def test_stream_as_json_lines(vault: Service, accept: str) -> None:
    response = vault.client.post("/stream", json={"prompt": "Why?"}, headers={"accept": accept})
    assert response.headers["content-type"] == accept.split(", ")[-1]
    *parts, last = [json.loads(line) for line in response.text.splitlines()]
    assert "".join(part["response"] for part in parts) == "Blue is a colour."
    keys = ["id", "model", "status", "prompt_tokens", "response_tokens", "duration_ms"]
    entry = vault.entry()
    assert last == {key: entry[key] for key in keys} | {"done": True}


def test_thinking_is_no_part_of_the_plain_answer(vault: Service, ollama: OllamaStandIn) -> None:
    ollama.answer = tokens("Blue.", thinking=("Hm", "m."))
    assert vault.client.post("/stream", json={"prompt": "Why?"}).text == "Blue."
    assert vault.client.post("/generate", json={"prompt": "?"}).json() == {"response": "Blue."}
    for entry in vault.entries:
        assert (entry["thinking"], entry["response"]) == ("Hmm.", "Blue.")


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_thinking_goes_out_as_objects_of_its_own(
    vault: Service, ollama: OllamaStandIn, accept: str
) -> None:
    ollama.answer = tokens("Blue.", thinking=("Hm", "m."), delay=0.02)
    response = vault.client.post("/stream", json={"prompt": "Why?"}, headers={"accept": accept})
    lines = [line.removeprefix("data: ") for line in response.text.splitlines()]
    parts = [json.loads(line) for line in lines if line.startswith("{")]
    assert "".join(part.get("thinking", "") for part in parts) == "Hmm."
    assert "".join(part.get("response", "") for part in parts) == "Blue."
    assert not any({"thinking", "response"} <= part.keys() for part in parts)


def test_text_of_every_kind_arrives_and_is_logged_as_it_is(
    vault: Service, ollama: OllamaStandIn
) -> None:
    text = 'héllo 日本 😀 <b>& "\\ \r\n\t\x00\u2028'
    ollama.answer = tokens(*text)
    assert vault.client.post("/stream", json={"prompt": text}).content == text.encode()
    assert vault.client.post("/generate", json={"prompt": text}).json()["response"] == text
    for entry in vault.entries:
        assert entry["prompt"] == entry["response"] == text


def test_first_token_leaves_before_the_second_is_there(
    vault: Service, ollama: OllamaStandIn
) -> None:
    ollama.answer = tokens("one", "two", delay=1)
    with vault.client.stream("POST", "/stream", json={"prompt": "Why?"}) as response:
        pieces = response.iter_text()
        assert next(pieces) == "one"
        assert vault.entries == []
        assert "".join(pieces) == "two"


def test_stub_answers_the_same_prompt_with_the_same_text(serve: Serve) -> None:
    service = serve()
    whole = service.client.post("/generate", json={"prompt": "Hi"}).json()["response"]
    streamed = service.client.post("/stream", json={"prompt": "Hi"}).text
    assert whole == streamed and len(whole) > 40
    assert [entry["response"] for entry in service.entries] == [whole, whole]
    assert {entry["llm_type"] for entry in service.entries} == {"stubbed"}
    others = {
        service.client.post("/generate", json={"prompt": f"{n}"}).json()["response"]
        for n in range(20)
    }
    assert len(others) > 1


def test_stub_streams_word_by_word_with_its_delay(serve: Serve) -> None:
    service = serve(stub_delay=0.02)
    with service.client.stream("POST", "/stream", json={"prompt": "Hi"}) as response:
        pieces = list(response.iter_text())
    entry = service.entry()
    assert "".join(pieces) == entry["response"]
    words = len(entry["response"].split())
    assert len(pieces) > words / 2
    assert entry["duration_ms"] >= (words - 1) * 20


def test_stub_takes_all_fields_and_ignores_all_but_the_prompt(serve: Serve) -> None:
    service = serve()
    plain = service.client.post("/generate", json={"prompt": ASKED["prompt"]})
    full = service.client.post("/generate", json=ASKED)
    assert plain.json() == full.json()
    assert service.entries[1]["options"] == ASKED["options"]
    assert service.entries[1]["model"] == "stub"


def test_health_and_ready_are_not_logged(vault: Service) -> None:
    assert vault.client.get("/health").json() == {"status": "ok"}
    assert vault.client.get("/ready").status_code == 200
    assert vault.entries == []


def test_every_answer_carries_a_request_id_of_its_own(serve: Serve) -> None:
    service = serve(max_prompt_bytes=100)
    client = service.client
    answers = [
        client.get("/health"),
        client.get("/nowhere"),
        client.get("/generate"),
        client.post("/generate", json={}),
        client.post("/generate", json={"prompt": "x" * 200}),
        client.get("/health", headers={"host": "evil.example"}),
        client.post("/generate", json={"prompt": "x"}),
        client.post("/stream", json={"prompt": "x"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 422, 413, 400, 200, 200]
    request_ids = [answer.headers["x-request-id"] for answer in answers]
    assert len({*request_ids}) == len(answers) and request_ids == sorted(request_ids)
    assert {UUID(id).version for id in request_ids} == {7}
    assert [entry["id"] for entry in service.entries] == [
        answer.headers["x-request-id"] for answer in answers[-2:]
    ]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_no_line_is_broken_where_python_breaks_lines(
    vault: Service, ollama: OllamaStandIn, accept: str
) -> None:
    text = "a\u2028b\u2029c\x85d"
    ollama.answer = tokens(text)
    answered = vault.client.post("/stream", json={"prompt": text}, headers={"accept": accept})
    assert len(answered.text.splitlines()) == answered.content.count(b"\n")
    (path,) = vault.log_dir.glob("*.jsonl")
    (line,) = path.read_text().splitlines()
    entry = json.loads(line)
    assert (entry["prompt"], entry["response"]) == (text, text)
