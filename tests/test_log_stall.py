"""A log that stalls fails like a full disk: it is said, nothing hangs, and it heals by itself."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from logger import JsonlLog, LogUnavailableError
from tests.conftest import DEADLINE, Serve, eventually, read_log
from tests.entries import ENTRY, numbered
from tests.processes import GRACE, SERVE, process

PROMPT = {"prompt": "Why?"}


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold the lock of the day's file, as a backup or an editor may."""
    with (directory / f"{ENTRY.day}.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_held_lock_is_a_failure_that_heals(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    service = serve(log_timeout=0.5)
    assert service.client.post("/generate", json=PROMPT).status_code == 200
    with held(service.log_dir):
        stalled = service.client.post("/generate", json=PROMPT)
        assert stalled.status_code == 503
        assert "no write succeeded for 0.5 s" in stalled.json()["detail"]
        assert service.client.get("/ready").status_code == 503
        refused = service.client.post("/stream", json=PROMPT)
        assert refused.status_code == 503 and refused.headers["retry-after"]
    eventually(lambda: service.client.get("/ready").status_code == 200)
    assert service.client.post("/generate", json=PROMPT).status_code == 200
    first, told, last = service.entries
    assert [first["status"], told["status"], last["status"]] == ["ok", "error", "ok"]
    assert told["id"] == stalled.headers["x-request-id"]
    assert "no write succeeded" in told["error"]
    said = [record.getMessage() for record in caplog.records if record.name == "minivault"]
    assert sum("no write succeeded" in line for line in said) == 1
    assert sum("can be written again" in line for line in said) == 1


def test_answers_that_wait_all_end_and_free_their_places(serve: Serve) -> None:
    service = serve(log_timeout=0.5, max_concurrency=20)

    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, timeout=DEADLINE) as client:
            asked = (client.post("/generate", json=PROMPT) for _ in range(20))
            return await asyncio.gather(*asked)

    with held(service.log_dir):
        assert {answer.status_code for answer in asyncio.run(ask_all())} == {503}
    eventually(lambda: service.client.get("/ready").status_code == 200)
    answers = asyncio.run(ask_all())
    assert {answer.status_code for answer in answers} == {200}, "a place was not given back"
    eventually(lambda: len({entry["id"] for entry in service.entries}) == len(service.entries))


def test_stop_during_a_stall_ends_and_names_what_is_lost(tmp_path: Path) -> None:
    log_dir = tmp_path / "logs"
    with process(SERVE + GRACE, log_dir, MINIVAULT_LOG_TIMEOUT="1") as service:
        httpx.post(f"{service.url}/generate", json=PROMPT, timeout=DEADLINE)
        with held(log_dir):
            lost = httpx.post(f"{service.url}/generate", json=PROMPT, timeout=DEADLINE)
            assert lost.status_code == 503
            assert service.stop(signal.SIGTERM) == 0
        assert f"1 entries not written: {lost.headers['x-request-id']}" in service.output
        assert "Traceback" not in service.output


def test_start_during_a_stall_is_not_held_up(tmp_path: Path) -> None:
    async def main() -> None:
        with held(tmp_path):
            async with JsonlLog(tmp_path, timeout=0.2) as log:
                with pytest.raises(LogUnavailableError):
                    log.check()
                with pytest.raises(LogUnavailableError):
                    await log.append(numbered(1))

    asyncio.run(main())


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; skipped where the machine lets a test mount none."""
    if os.geteuid() != 0 or not shutil.which("fsfreeze") or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root, mkfs.ext4 and fsfreeze")
    image, point = tmp_path / "image", tmp_path / "mount"
    with image.open("wb") as file:
        file.truncate(16 * 2**20)
    point.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(point)]).returncode:
        pytest.skip("this machine lets a test mount nothing")
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_frozen_file_system_is_a_failure_that_heals(mount: Path) -> None:
    log_dir = mount / "logs"

    async def main() -> None:
        async with JsonlLog(log_dir, timeout=0.5) as log:
            await log.append(numbered(1))
            subprocess.run(["fsfreeze", "--freeze", str(mount)], check=True)
            try:
                with pytest.raises(LogUnavailableError, match="no write succeeded"):
                    await log.append(numbered(2))
                with pytest.raises(LogUnavailableError):
                    log.check()
                with pytest.raises(LogUnavailableError):
                    await asyncio.wait_for(log.append(numbered(3)), DEADLINE)
            finally:
                subprocess.run(["fsfreeze", "--unfreeze", str(mount)], check=True)
            await asyncio.to_thread(eventually, lambda: not log.failure)
            await log.append(numbered(4))

    asyncio.run(main())
    entries = {entry["id"]: entry["status"] for entry in read_log(log_dir)}
    assert entries.pop("2") in ("ok", "error")  # the system had it already; its client did not
    assert entries == {"1": "ok", "3": "error", "4": "ok"}
