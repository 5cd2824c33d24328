"""The benchmark works: its own machinery, on a load of a second or two; its figures are no test."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DEADLINE, eventually
from tests.processes import CLIENT, GRACE, ROOT, SERVE, process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of the two smallest cases: answers and images, one at a time."""
    folder = tmp_path_factory.mktemp("results")
    options = ["--quick", "--only", "one at a time", "--results", str(folder)]
    command = [sys.executable, "benchmarks/run.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10 * DEADLINE)
    assert done.returncode == 0, done.stderr
    report = (folder / "results.md").read_text()
    assert report.split("\n\n")[2] in done.stdout, "the headlines are printed"
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def test_whole_answers_count_and_are_charged_for(found: dict[str, Any]) -> None:
    ways = found["samples"]["/generate of 200 tokens, one at a time"]
    assert set(ways) == {"Ollama /api/generate", "MiniVault /generate"}
    for (sample,) in ways.values():
        assert not sample["failures"]
        assert sample["answers"] == 50
        assert sample["cpu_us_per_token"] > 0
        assert 0 < sample["first_ms"] <= sample["total_ms"]
        assert sample["tokens_per_second"] > 0


def test_ollamas_own_interfaces_are_measured_or_said_to_be_skipped(found: dict[str, Any]) -> None:
    ways = found["samples"]["an image of 10 MiB, one at a time"]
    ours = "MiniVault /api/chat"
    assert "Ollama /api/chat" in ways
    assert (ours in ways) != (ours in str(found["skipped"]))
    for (sample,) in ways.values():
        assert not sample["failures"]
        assert sample["answers"] == 3
        assert sample["longest_gap_ms"] > 0


def test_the_cpu_time_of_all_workers_counts(tmp_path: Path) -> None:
    from benchmarks.linux import cpu_seconds, family

    command = [*SERVE, *GRACE, "--workers", "2"]
    with process(command, tmp_path / "logs", MINIVAULT_STUB_DELAY="0") as service:
        workers = eventually(
            lambda: len(found := re.findall(r"Started server process \[(\d+)\]", service.output))
            == 2
            and [int(pid) for pid in found]
        )
        for number in range(20):
            answer = CLIENT.post(f"{service.url}/generate", json={"prompt": f"{number}"})
            assert answer.status_code == 200
        alone = sum(cpu_seconds(pid) for pid in workers)
        assert set(workers) < set(family(service.popen.pid))
        assert cpu_seconds(service.popen.pid) > alone > 0


def test_the_benchmark_of_reading_can_start() -> None:
    command = [sys.executable, "benchmarks/log_reading.py", "--help"]
    assert b"--gigabytes" in subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE).stdout


def test_an_earlier_commit_is_served_from_a_checkout_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from benchmarks.servers import EARLIER, OLLAMA, NotStartedError, Starter

    starter = Starter(tmp_path, "HEAD")
    with starter.running(OLLAMA), starter.running(EARLIER) as server:
        command = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
        assert command[command.index("--app-dir") + 1] == str(tmp_path / "earlier")
        assert (tmp_path / "earlier" / "app.py").exists()
        starter.earlier = "no such commit"
        with pytest.raises(NotStartedError, match="no such commit"):
            with starter.running(EARLIER):
                pass
