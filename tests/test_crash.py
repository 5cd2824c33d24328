"""`kill -9` at any moment loses no answered request, shown on real processes.

The short version runs with all other tests, the long one with `pytest -m long`.
"""

import json
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import DEADLINE, eventually
from tests.entries import readable
from tests.processes import BIN, SERVE, Process, process, workers

RECORDING = [str(BIN / "uvicorn"), "tests.recording_app:app", "--no-access-log"]
WORKERS = ["--workers", "4"]
QUICK_STUB = {"MINIVAULT_STUB_DELAY": "0.001"}
CLIENTS = 8
ENDS = {
    "text/event-stream": "event: done",
    "application/x-ndjson": '"done":true',
    "text/plain": "",
}


class Load:
    """Clients that ask all the time, and the ids of the answers that they received whole."""

    def __init__(self, url: str) -> None:
        self.whole: list[str] = []
        self._url = url
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, answers: int) -> None:
        """Return when so many more answers were received whole."""
        enough = len(self.whole) + answers
        eventually(lambda: len(self.whole) >= enough)

    def stop(self) -> None:
        """Let the clients finish what they are at."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, seed: int) -> None:
        choice = random.Random(seed)
        with httpx.Client(base_url=self._url, timeout=DEADLINE) as client:
            while not self._over.is_set():
                # long lines are the ones that a kill tears
                prompt = {"prompt": "x" * choice.choice([10, 1000, 100_000, 900_000])}
                try:
                    if choice.random() < 0.5:
                        response = client.post("/generate", json=prompt)
                        end = '"response"'
                    else:
                        accept, end = choice.choice(list(ENDS.items()))
                        response = client.post("/stream", json=prompt, headers={"accept": accept})
                except httpx.TransportError:
                    time.sleep(0.01)
                    continue
                assert response.status_code == 200 and end in response.text
                self.whole.append(response.headers["x-request-id"])


def cut_power(log_dir: Path, notes: Path) -> None:
    """Throw away what no sync covered."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    covered: dict[int, int] = {}
    for inode, size in (map(int, line.split()) for line in lines):
        # of two workers' syncs the one that covered less may be noted last
        covered[inode] = max(size, covered.get(inode, 0))
    for path in log_dir.glob("*.jsonl"):
        os.truncate(path, covered.get(path.stat().st_ino, 0))


def crash(service: Process, kills: random.Random, *, worker: bool) -> list[str]:
    """Ask the service for some answers, kill it, and return what was answered whole."""
    load = Load(service.url)
    load.wait_for(kills.randint(1, 12))
    if worker:  # one of several: the others and its successor go on with the same file
        os.kill(kills.choice(workers(service.popen.pid)), signal.SIGKILL)
        load.wait_for(kills.randint(1, 6))
    os.killpg(service.popen.pid, signal.SIGKILL)
    service.popen.wait()
    load.stop()
    return load.whole


CASES = [
    pytest.param(SERVE, id="one process"),
    pytest.param(SERVE + WORKERS, id="four workers"),
    pytest.param(RECORDING, id="power cut"),
    pytest.param(RECORDING + WORKERS, id="power cut, four workers"),
]


def check_kills(command: list[str], log_dir: Path, times: int) -> tuple[int, int]:
    """Kill a service so many times; return how many answers were whole and how many lines torn."""
    kills = random.Random(times)
    notes = log_dir.with_suffix(".notes")
    environment = {**QUICK_STUB, "SYNC_NOTES": str(notes), "PYTHONPATH": "."}
    environment["MINIVAULT_LOG_FSYNC"] = str(command[1] == RECORDING[1])
    whole: list[str] = []
    for _ in range(times):
        with process(command, log_dir, **environment) as service:
            whole += crash(service, kills, worker=WORKERS[0] in command)
        if command[1] == RECORDING[1]:
            cut_power(log_dir, notes)
    with process(command, log_dir, **environment) as service:
        last = httpx.post(f"{service.url}/generate", json={"prompt": "last"}, timeout=DEADLINE)
        whole.append(last.headers["x-request-id"])
        service.stop(signal.SIGTERM)
    found = readable(log_dir)
    assert set(whole) <= found.keys(), "an answer that a client received is not in the log"
    assert set(found.values()) == {1}
    lines = sum(path.read_bytes().count(b"\n") for path in log_dir.glob("*.jsonl"))
    return len(whole), lines - len(found)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("command", CASES)
def test_kill_loses_no_answered_request(tmp_path: Path, command: list[str]) -> None:
    times = 1 if WORKERS[0] in command else 2  # four workers start for each
    whole, _ = check_kills(command, tmp_path / "logs", times)
    assert whole > times


@pytest.mark.long
@pytest.mark.parametrize("command", CASES)
def test_fifty_kills_lose_no_answered_request(tmp_path: Path, command: list[str]) -> None:
    whole, torn = check_kills(command, tmp_path / "logs", 50)
    print(f"\n50 kills: {whole} answers received whole, all in the log once; {torn} torn lines")
    assert whole > 50


def test_eight_processes_append_whole_lines_to_one_file(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from logger import JsonlLog\n"
        "from tests.entries import numbered\n"
        "import random; me = int(sys.argv[1]); sizes = random.Random(me)\n"
        "async def main():\n"
        "    async with JsonlLog(Path(sys.argv[2])) as log:\n"
        "        for n in range(25):\n"
        "            size = int(100 * 20_000 ** sizes.random())\n"
        "            await log.append(numbered(f'{me}-{n}', prompt=f'{me}' * size))\n"
        "asyncio.run(main())"
    )
    command = [str(BIN / "python"), "-c", code]
    writers = [
        subprocess.Popen([*command, str(number), str(tmp_path)], env={"PYTHONPATH": "."})
        for number in range(8)
    ]
    assert [writer.wait(DEADLINE * 4) for writer in writers] == [0] * 8
    (path,) = tmp_path.iterdir()
    entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert {entry["id"] for entry in entries} == {f"{me}-{n}" for me in range(8) for n in range(25)}
    assert len(entries) == 200
    for entry in entries:
        assert set(entry["prompt"]) == {entry["id"][0]}
