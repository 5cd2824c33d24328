"""The benchmark works: its own machinery, on a load of a second or two; its figures are no test."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import DEADLINE, eventually
from tests.processes import GRACE, ROOT, UVICORN, process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


def run(results: Path, only: str) -> dict[str, Any]:
    """Run the cases with this in their names, quickly, and return the results."""
    command = [sys.executable, "benchmarks/run.py", "--quick", "--only", only, "--results", results]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=5 * DEADLINE)
    assert done.returncode == 0, done.stderr
    report = (results / "results.md").read_text()
    assert report.split("\n\n")[2] in done.stdout, "the headlines are printed"
    found: dict[str, Any] = json.loads((results / "results.json").read_text())
    return found


def test_every_way_answers_whole_and_is_charged_for_it(tmp_path: Path) -> None:
    found = run(tmp_path, "/generate of 200 tokens, 32 at a time")
    (ways,) = found["samples"].values()
    assert set(ways) == {"MiniVault /generate", "the obvious way /generate"}
    for samples in ways.values():
        (sample,) = samples
        assert not sample["failures"]
        assert sample["answers"] == 64
        assert sample["cpu_us_per_token"] > 0
        assert 0 < sample["first_ms"] <= sample["total_ms"]
        assert sample["tokens_per_second"] > 0


def test_ollamas_own_interfaces_are_measured_or_said_to_be_skipped(tmp_path: Path) -> None:
    found = run(tmp_path, "an image")
    (ways,) = found["samples"].values()
    skipped = {way for way in ("MiniVault /api/chat",) if way in str(found["skipped"])}
    assert {"Ollama /api/chat", "MiniVault /api/chat"} <= set(ways) | skipped
    assert not skipped & set(ways)
    for (sample,) in ways.values():
        assert not sample["failures"]
        assert sample["answers"] == 3
        assert sample["longest_gap_ms"] > 0


def test_the_cpu_time_of_all_workers_counts(tmp_path: Path) -> None:
    from benchmarks.linux import cpu_seconds, family

    command = [*UVICORN, *GRACE, "--workers", "2"]
    with process(command, tmp_path / "logs", MINIVAULT_STUB_DELAY="0") as service:
        workers = eventually(
            lambda: len(found := re.findall(r"Started server process \[(\d+)\]", service.output))
            == 2
            and [int(pid) for pid in found]
        )
        for number in range(20):
            answer = httpx.post(f"{service.url}/generate", json={"prompt": f"{number}"})
            assert answer.status_code == 200
        alone = sum(cpu_seconds(pid) for pid in workers)
        assert set(workers) < set(family(service.popen.pid))
        assert cpu_seconds(service.popen.pid) > alone > 0
