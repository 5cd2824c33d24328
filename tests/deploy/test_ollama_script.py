"""The start of Ollama's container, which pulls the model: `deploy/ollama.sh` as it is.

Beside it is an `ollama` that does what the test says; none of this needs Docker.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import DEADLINE, eventually
from tests.processes import ROOT

OLLAMA = """#!/usr/bin/env bash
echo "$*" >>calls
case $1 in
  serve) eval "$SERVE" ;;
  list) true ;;
  show) [ -e "$2.there" ] ;;
  pull) eval "$PULL" ;;
esac
"""


class OllamaScript:
    """A running `deploy/ollama.sh` beside an `ollama` whose pull and serve are these snippets."""

    def __init__(self, folder: Path, pull: str, serve: str) -> None:
        self.folder = folder
        # no waiting of seconds between two tries
        for name, text in (("ollama", OLLAMA), ("sleep", "#!/bin/sh\nexec /bin/sleep 0.02\n")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        with (folder / "output").open("wb") as output:
            self.popen = subprocess.Popen(
                ["bash", str(ROOT / "deploy/ollama.sh")],
                cwd=folder,
                env={
                    "PATH": f"{folder}:{os.environ['PATH']}",
                    "OLLAMA_MODELS": str(folder),
                    "MODEL": "m",
                    "PULL": pull,
                    "SERVE": serve,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> list[str]:
        """The lines that it has printed so far."""
        return (self.folder / "output").read_text().splitlines()

    @property
    def calls(self) -> list[str]:
        """What it has asked of `ollama` so far, beside serving."""
        calls = self.folder / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [line for line in lines if line not in ("serve", "list")]

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(DEADLINE)


RunScript = Callable[..., OllamaScript]


@pytest.fixture
def ollama_script(tmp_path: Path) -> Iterator[RunScript]:
    """Start the script; whatever is left of it is killed."""
    scripts = []

    def run(pull: str = "touch m.there", serve: str = "exec /bin/sleep 1000") -> OllamaScript:
        scripts.append(OllamaScript(tmp_path, pull, serve))
        return scripts[-1]

    yield run
    for script in scripts:
        with suppress(ProcessLookupError):
            os.killpg(script.popen.pid, signal.SIGKILL)
        script.popen.wait(DEADLINE)


def test_a_model_that_is_there_is_not_pulled(ollama_script: RunScript, tmp_path: Path) -> None:
    (tmp_path / "m.there").touch()
    script = ollama_script()
    eventually(lambda: script.calls == ["show m"])
    assert script.stop() == 0
    assert script.calls == ["show m"] and script.output == []


def test_a_pull_that_fails_is_tried_again(ollama_script: RunScript) -> None:
    script = ollama_script("[ -e tried ] && touch m.there || { touch tried; echo no; exit 1; }")
    eventually(lambda: (script.folder / "m.there").exists())
    assert script.calls == ["show m", "pull m"] * 2
    tries = ["getting the model m", "no", "the pull failed; next try in 5 s", "getting the model m"]
    assert script.output == tries


def test_a_model_put_there_by_hand_is_not_overwritten(ollama_script: RunScript) -> None:
    script = ollama_script("touch m.there; exit 1")
    eventually(lambda: script.calls == ["show m", "pull m", "show m"])
    assert script.stop() == 0
    assert script.calls == ["show m", "pull m", "show m"]


def test_a_torn_part_is_removed_with_all_of_its_blob(
    ollama_script: RunScript, tmp_path: Path
) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    part = '{"N":0,"Offset":0,"Size":100,"Completed":1}'
    good = {"sha256-a": "a", "sha256-b-partial": "b", "sha256-b-partial-0": part}
    torn = {"sha256-c-partial": "c", "sha256-c-partial-0": part, "sha256-c-partial-1": ""}
    for name, text in (good | torn | {"sha256-d-partial-0": part[:9]}).items():
        (blobs / name).write_text(text)
    script = ollama_script("touch pulled; exit 1")
    eventually(lambda: (tmp_path / "pulled").exists())
    assert {path.name for path in blobs.iterdir()} == good.keys()
    assert script.stop() == 0


def test_of_a_pulls_screen_a_line_for_each_percent_is_left(ollama_script: RunScript) -> None:
    screen = r"\x1b[?25l\x1b[1Gpulling abc:  %d%% ▕█ ▏ %d KB\x1b[K"
    counts = " ".join(f"{percent} {again}" for percent in (1, 2) for again in (1, 2, 3))
    script = ollama_script(f"printf '{screen}' {counts}; touch m.there")
    eventually(lambda: (script.folder / "m.there").exists())
    assert eventually(lambda: script.output[2:]) == ["pulling abc: 2% 1 KB"]
    assert script.output[:2] == ["getting the model m", "pulling abc: 1% 1 KB"]


def hears_sigterm(pid: int) -> bool:
    """Say whether the process has set a handler for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_ollama_can_be_stopped_before_it_listens_to_signals(ollama_script: RunScript) -> None:
    script = ollama_script()
    eventually(lambda: hears_sigterm(script.popen.pid))
    assert script.stop() == 0


def test_a_stop_waits_for_ollamas_own(ollama_script: RunScript) -> None:
    serve = "trap 'touch stopped; exit 0' TERM; touch serves; /bin/sleep 1000 & wait"
    script = ollama_script(serve=serve)
    eventually(lambda: (script.folder / "serves").exists())
    assert script.stop() == 0
    assert (script.folder / "stopped").exists()


def test_a_crash_of_ollama_is_one_of_the_container(ollama_script: RunScript) -> None:
    assert ollama_script(serve="exit 7").popen.wait(DEADLINE) == 7
