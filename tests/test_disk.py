"""A disk that is slow, full or read-only (promises 2 and 3), on real mounts where allowed."""

import json
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

import app
from logger import JsonlLog
from tests.conftest import DEADLINE, Serve, eventually, read_log
from tests.ollama_stand_in import OllamaStandIn, tokens
from tests.test_logger import SlowDisk

ASK = {"prompt": "Why?"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 64 kB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"this machine does not allow a mount: {exc}")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Use up all space and return the file that does."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"x" * 4096)
    return filler


def test_full_disk_gives_503_until_there_is_room_and_loses_nothing(
    serve: Serve, ollama: OllamaStandIn, small_disk: Path
) -> None:
    log_dir = small_disk / "logs"
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, log_dir=log_dir)
    first = service.client.post("/generate", json=ASK)
    filler = fill(small_disk)
    # the page that the file has begun has room left: entries still fit, and then one does not
    under_way = eventually(lambda: refused(service.client.post("/generate", json=ASK)))
    assert "No space left on device" in under_way.json()["detail"]
    asked = len(ollama.requests)
    for endpoint in ("/generate", "/stream"):
        response = service.client.post(endpoint, json=ASK)
        assert response.status_code == 503
        assert str(log_dir) in response.json()["detail"]
        assert "No space left on device" in response.json()["detail"]
    assert len(ollama.requests) == asked, "Ollama worked for an answer that could not be kept"
    ready = service.client.get("/ready")
    assert ready.status_code == 503 and "No space left" in ready.json()["detail"]
    filler.unlink()
    last = eventually(lambda: answered(service.client.post("/generate", json=ASK)))
    parsed = list(parse(log_dir))
    ids = [entry["id"] for entry in parsed]
    assert len(set(ids)) == len(ids) == asked + 1
    assert ids[0] == first.headers["x-request-id"] and ids[-1] == last.headers["x-request-id"]
    assert ids[-2] == under_way.headers["x-request-id"], "the kept entry was not written first"
    assert [entry["status"] for entry in parsed[-2:]] == ["error", "ok"]
    assert parsed[-2]["error"] == under_way.json()["detail"]


def refused(response: httpx.Response) -> httpx.Response | None:
    return response if response.status_code == 503 else None


def answered(response: httpx.Response) -> httpx.Response | None:
    return response if response.status_code == 200 else None


def parse(log_dir: Path) -> Iterator[dict[str, str]]:
    """Yield the entries that can be read; the others have to be torn."""
    (path,) = log_dir.glob("*.jsonl")
    for line in path.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            assert not line.endswith(b"}")


@pytest.mark.parametrize(
    ("accept", "end"),
    [("text/event-stream", "event: error"), ("application/jsonl", '{"error":'), ("*/*", None)],
)
def test_stream_that_cannot_be_logged_ends_as_a_broken_one(
    serve: Serve, ollama: OllamaStandIn, small_disk: Path, accept: str, end: str | None
) -> None:
    log_dir = small_disk / "logs"
    service = serve(llm_service="ollama", ollama_base_url=ollama.url, log_dir=log_dir)
    ollama.answer = tokens("x" * 5000, "y", delay=0.3)
    got = ""
    with service.client.stream("POST", "/stream", json=ASK, headers={"accept": accept}) as stream:
        pieces = stream.iter_text()
        got += next(pieces)
        fill(small_disk)
        if end:
            got += "".join(pieces)
            assert end in got and "done" not in got and "No space left" in got
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                got += "".join(pieces)
    (small_disk / "filler").unlink()
    (entry,) = eventually(lambda: list(parse(log_dir)))
    assert entry["status"] == "error" and entry["response"] == "x" * 5000 + "y"


def test_read_only_disk_gives_503_and_service_resumes_by_itself(
    serve: Serve, small_disk: Path
) -> None:
    log_dir = small_disk / "logs"
    service = serve(log_dir=log_dir)
    assert service.client.post("/generate", json=ASK).status_code == 200
    # a disk with files open for writing cannot be made read-only, so one is put over it
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(log_dir)], check=True)
    response = service.client.post("/generate", json=ASK)
    assert response.status_code == 503 and "Read-only file system" in response.json()["detail"]
    subprocess.run(["umount", str(log_dir)], check=True)
    eventually(lambda: answered(service.client.post("/stream", json=ASK)))
    assert [entry["status"] for entry in read_log(log_dir)] == ["ok", "error", "ok"]


def remount(directory: Path, mode: str) -> None:
    """Make a mount read-only or writable, though files of it are open."""
    subprocess.run(["mount", "-o", f"remount,{mode}", str(directory)], check=True)


def test_start_without_a_writable_log_serves_503_and_heals(serve: Serve, small_disk: Path) -> None:
    remount(small_disk, "ro")
    service = serve(log_dir=small_disk / "logs")
    assert service.client.get("/health").status_code == 200
    assert "Read-only file system" in service.client.get("/ready").json()["detail"]
    assert service.client.post("/generate", json=ASK).status_code == 503
    remount(small_disk, "rw")
    eventually(lambda: answered(service.client.get("/ready")))
    assert service.client.post("/generate", json=ASK).status_code == 200


def test_slow_disk_delays_only_the_answers_that_it_keeps(
    serve: Serve, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "JsonlLog", partial(JsonlLog, system=SlowDisk(3)))
    service = serve(llm_service="ollama", ollama_base_url=ollama.url)
    slow = threading.Thread(
        target=httpx.post,
        args=(f"{service.url}/generate",),
        kwargs={"json": ASK, "timeout": DEADLINE},
    )
    slow.start()
    eventually(lambda: ollama.requests)
    ollama.answer = tokens("Blue", "!", delay=1)
    probes = 0
    with service.client.stream("POST", "/stream", json=ASK) as stream:
        assert next(stream.iter_text()) == "Blue"
        assert slow.is_alive(), "the first token waited for another answer's disk"
        while slow.is_alive():
            assert service.client.get("/health").status_code == 200
            probes += 1
    assert probes > 10, "the event loop waited for the disk"
