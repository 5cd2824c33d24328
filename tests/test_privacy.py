"""What the log leaves out and what it removes: texts where only metadata is kept, old days."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from log import retention
from tests.conftest import Serve, eventually
from tests.ollama_stand_in import OllamaStandIn, like_ollama, refuse

SECRET = "a secret that nobody keeps"
CHAT = {"model": "tinyllama", "messages": [{"role": "user", "content": SECRET}]}


def test_metadata_keeps_no_text_but_its_length(serve: Serve, ollama: OllamaStandIn) -> None:
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, log_content="metadata")
    service.client.post("/generate", json={"prompt": SECRET, "system": SECRET})
    ollama.answer = like_ollama
    service.client.post("/api/chat", json=CHAT)
    ollama.answer = refuse(400, f"what is {SECRET}?")
    service.client.post("/stream", json={"prompt": SECRET})
    service.client.post("/v1/chat/completions", json=CHAT)
    (path,) = service.log_dir.glob("*.jsonl")
    assert SECRET not in path.read_text()
    for entry in service.entries:
        texts = ("prompt", "system", "response", "thinking", "tool_calls", "request", "error")
        assert [entry[key] for key in texts] == [None] * 7
        assert entry["prompt_chars"] == len(SECRET)
    first, second, third, _ = service.entries
    assert first["response_chars"] == len("Blue is a colour.") and second["response_chars"] > 0
    assert (third["status"], third["response_chars"]) == ("error", 0)


def test_full_entries_say_their_lengths_too(serve: Serve) -> None:
    service = serve()
    answer = service.client.post("/generate", json={"prompt": "größer?"}).json()["response"]
    entry = service.entry()
    assert (entry["prompt_chars"], entry["response_chars"]) == (7, len(answer))


@pytest.fixture
def old_days(tmp_path: Path) -> Iterator[list[Path]]:
    """A folder with ten past days, and what only looks like one."""
    today = datetime.now(UTC).date()
    (tmp_path / "logs").mkdir()
    days = [tmp_path / "logs" / f"{today - timedelta(days=n)}.jsonl" for n in range(1, 11)]
    for day in days:
        day.write_text("{}\n")
    target = tmp_path / "target"
    target.write_text("kept")
    (tmp_path / "logs" / "2001-01-01.jsonl").symlink_to(target)
    (tmp_path / "logs" / "2001-01-02.jsonl.gz").write_text("kept")
    (tmp_path / "logs" / "notes.jsonl").write_text("kept")
    yield days
    assert target.read_text() == "kept"
    assert {"2001-01-01.jsonl", "2001-01-02.jsonl.gz", "notes.jsonl"} <= {
        path.name for path in (tmp_path / "logs").iterdir()
    }


def test_days_that_are_older_go_once_that_is_sure(
    serve: Serve, old_days: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(retention, "GRACE_SECONDS", 0.2)
    service = serve(log_retention_days=3)
    eventually(lambda: not any(day.exists() for day in old_days[3:]))
    assert all(day.exists() for day in old_days[:3])
    assert service.client.get("/ready").status_code == 200


def test_all_days_stay_where_no_retention_is_set(serve: Serve, old_days: list[Path]) -> None:
    serve().client.post("/generate", json={"prompt": "x"})
    assert all(day.exists() for day in old_days)
