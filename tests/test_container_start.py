"""The containers' start: waits, says for what, can be stopped at once; and what Compose is told.

None of this needs Docker: the programs that the containers run are run here as they are, Ollama's
beside an `ollama` that does what the test says.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from settings import PREFIX, Settings
from tests.conftest import DEADLINE, eventually
from tests.ollama_stand_in import OllamaStandIn
from tests.processes import ROOT, Process, process

# the tests may run as root, where the image's user is not there
START = """
import sys
from deploy import start
start.leave_root = lambda *_: None
start.start(sys.argv[1:])
"""
IMPATIENT = """
from deploy import wait_for_model
wait_for_model.RETRY_SECONDS = 0.02
"""
ARGUMENTS = ["app:app", "--timeout-graceful-shutdown", "1"]
STARTED = [sys.executable, "-c", IMPATIENT + START, *ARGUMENTS]
WAITS = "MiniVault starts when Ollama has the model tinyllama"

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="not root")


@contextmanager
def starting(command: list[str], log_dir: Path, **environment: str) -> Iterator[Process]:
    """Start a service without waiting for it; whatever is left of it is killed."""
    service = Process(command, log_dir, **environment)
    try:
        yield service
    finally:
        if service.popen.poll() is None:
            os.killpg(service.popen.pid, signal.SIGKILL)
        service.popen.wait(DEADLINE)


def beside(ollama: OllamaStandIn, output: str = "logging.json") -> dict[str, str]:
    """Return the environment of a container beside this Ollama."""
    return {
        "MINIVAULT_LLM_SERVICE": "ollama",
        "MINIVAULT_OLLAMA_BASE_URL": ollama.url,
        "UVICORN_LOG_CONFIG": f"deploy/{output}",
    }


def test_the_port_opens_when_the_model_is_there(ollama: OllamaStandIn, tmp_path: Path) -> None:
    ollama.models = []
    with starting(STARTED, tmp_path / "logs", **beside(ollama)) as service:
        eventually(lambda: WAITS in service.output)
        time.sleep(0.2)  # some tries more, of which nothing is said
        with pytest.raises(httpx.ConnectError):
            httpx.get(service.url)
        ollama.models = ["tinyllama:latest"]
        service.wait_until_up()
        assert service.output.count(WAITS) == 1
        assert service.stop(signal.SIGTERM) == 0


def test_it_is_stopped_at_once_while_it_waits(ollama: OllamaStandIn, tmp_path: Path) -> None:
    ollama.models = []
    with starting(STARTED, tmp_path / "logs", **beside(ollama)) as service:
        eventually(lambda: WAITS in service.output)
        assert service.stop(signal.SIGTERM) == 0


STOPPED_IN_IMPORT = """
import os, signal, sys
module = sys.argv.pop(1)
class Stop:
    def find_spec(name, path, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Stop)
"""


@pytest.mark.parametrize("module", ["asyncio", "uvicorn", "settings", "uvloop", "app"])
def test_a_stop_at_any_moment_of_the_start_ends_in_zero(
    ollama: OllamaStandIn, tmp_path: Path, module: str
) -> None:
    command = [sys.executable, "-c", STOPPED_IN_IMPORT + START, module, *ARGUMENTS]
    with starting(command, tmp_path / "logs", **beside(ollama)) as service:
        assert service.popen.wait(DEADLINE) == 0, service.output


def test_the_output_leaves_out_good_probes_and_queries(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    with process(STARTED, tmp_path / "logs", **beside(ollama)) as service:
        httpx.get(f"{service.url}/ready")
        ollama.models = []
        httpx.get(f"{service.url}/ready")
        httpx.get(f"{service.url}/nothing?q=private")
        eventually(lambda: "/nothing" in service.output)
        lines = re.findall(r'"(\w+ .+?) HTTP/1.1" (\d+)', service.output)
        assert lines == [("GET /ready", "503"), ("GET /nothing", "404")]


def test_the_output_can_be_json_lines(ollama: OllamaStandIn, tmp_path: Path) -> None:
    ollama.models = []
    environment = beside(ollama, "logging-jsonl.json")
    with starting(STARTED, tmp_path / "logs", **environment) as service:
        eventually(lambda: WAITS in service.output)
        ollama.models = ["tinyllama:latest"]
        service.wait_until_up()
        httpx.get(f"{service.url}/nothing?q=private")
        assert service.stop(signal.SIGTERM) == 0
        lines = [json.loads(line) for line in service.output.splitlines()]
    said = {"level", "logger", "message", "timestamp"}
    asked = {"client", "method", "path", "http_version", "status"}
    assert {frozenset(line) for line in lines} == {frozenset(said), frozenset(said | asked)}
    (access,) = [line for line in lines if line["logger"] == "uvicorn.access"]
    assert (access["method"], access["path"], access["status"]) == ("GET", "/nothing", 404)


LEAVE_ROOT = """
import os
from pathlib import Path
from deploy.start import leave_root
leave_root(Path("parent/logs"), "nobody")
Path("parent/logs/today.jsonl").touch()
print(os.getuid(), os.getgid(), os.getgroups())
"""


@pytest.fixture
def leave_root(tmp_path: Path) -> Callable[[], list[str]]:
    """Leave root in a process of its own, for `parent/logs`; returns who it is then."""
    tmp_path.chmod(0o755)

    def run() -> list[str]:
        command = [sys.executable, "-c", LEAVE_ROOT]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            extra_groups=[4],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.split()

    return run


def owners(*paths: Path) -> set[int]:
    """Return whose these files are."""
    return {path.stat().st_uid for path in paths}


NOBODY = 65534


@needs_root
def test_a_log_folder_that_is_not_there_is_made(
    leave_root: Callable[[], list[str]], tmp_path: Path
) -> None:
    assert leave_root() == [str(NOBODY), str(NOBODY), "[]"]
    logs = tmp_path / "parent/logs"
    assert owners(logs) == {NOBODY} and logs.stat().st_mode & 0o777 == 0o700


@needs_root
def test_roots_log_folder_is_given_to_the_images_user(
    leave_root: Callable[[], list[str]], tmp_path: Path
) -> None:
    logs = tmp_path / "parent/logs"
    logs.mkdir(parents=True)
    ours, other = [logs / "2026-11-24.jsonl", logs / ".key"], logs / ".gitkeep"
    for path in (*ours, other):
        path.touch()
    leave_root()
    assert owners(logs, *ours) == {NOBODY} and owners(other) == {0}


@needs_root
def test_somebodys_log_folder_stays_theirs(
    leave_root: Callable[[], list[str]], tmp_path: Path
) -> None:
    logs = tmp_path / "parent/logs"
    logs.mkdir(parents=True)
    os.chown(logs, 4242, 4243)
    assert leave_root() == ["4242", "4243", "[]"]
    assert owners(logs, logs / "today.jsonl") == {4242}


def test_compose_passes_every_setting_and_can_be_left_alone() -> None:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    not_passed = names - services["minivault-api"]["environment"].keys()
    # the mounted folder, and what only the stub has
    assert not_passed == {"MINIVAULT_LOG_DIR", "MINIVAULT_STUB_DELAY"}
    assert "ports" not in services["ollama"], "whoever speaks to it past MiniVault is not logged"
    for service in services.values():
        assert service["init"] and service["restart"] == "unless-stopped"
        assert service["security_opt"] == ["no-new-privileges:true"]
    # without it root's init process may not pass SIGTERM on to a service that has left root
    assert "KILL" in services["minivault-api"]["cap_add"]


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
