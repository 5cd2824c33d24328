"""The container's start, which can be stopped at any moment; and what Compose is told.

None of this needs Docker: the program that the container runs is run here as it is.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from settings import PREFIX, VERSION, Settings
from tests.conftest import DEADLINE, eventually
from tests.ollama_stand_in import OllamaStandIn
from tests.processes import CLIENT, ROOT, process, starting

# the tests may run as root, where the image's user is not there
START = """
import sys
from deploy import start
start.leave_root = lambda *_: None
start.start(sys.argv[1:])
"""
ARGUMENTS = ["--timeout-graceful-shutdown", "1"]
STARTED = [sys.executable, "-c", START, *ARGUMENTS]

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="not root")


def beside(ollama: OllamaStandIn, output: str = "logging.json") -> dict[str, str]:
    """Return the environment of a container beside this Ollama."""
    return {
        **ollama.environment,
        "UVICORN_LOG_CONFIG": f"deploy/{output}",
    }


def test_the_log_can_be_read_before_the_model_is_there(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    ollama.models = []
    with process(STARTED, tmp_path / "logs", **beside(ollama)) as service:
        key = (tmp_path / "logs" / ".key").read_text().strip()
        log = CLIENT.get(f"{service.url}/log", headers={"Authorization": f"Bearer {key}"})
        assert log.status_code == 200
        assert CLIENT.get(service.url, headers={"Accept": "text/html"}).status_code == 200
        ready = CLIENT.get(f"{service.url}/ready")
        assert ready.status_code == 503 and "ollama pull tinyllama" in ready.json()["detail"]
        ollama.models = ["tinyllama:latest"]
        assert CLIENT.get(f"{service.url}/ready").status_code == 200


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
        CLIENT.get(f"{service.url}/ready")
        ollama.models = []
        CLIENT.get(f"{service.url}/ready")
        CLIENT.get(f"{service.url}/nothing?q=private")
        eventually(lambda: "/nothing" in service.output)
        lines = re.findall(r'"(\w+ .+?) HTTP/1.1" (\d+)', service.output)
        assert lines == [("GET /ready", "503"), ("GET /nothing", "404")]


def test_the_output_can_be_json_lines(ollama: OllamaStandIn, tmp_path: Path) -> None:
    environment = beside(ollama, "logging-jsonl.json")
    with process(STARTED, tmp_path / "logs", **environment) as service:
        CLIENT.get(f"{service.url}/nothing?q=private")
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


def test_the_image_says_which_version_it_is() -> None:
    assert f'org.opencontainers.image.version="{VERSION}"' in (ROOT / "Dockerfile").read_text()


def test_compose_passes_every_setting_and_can_be_left_alone() -> None:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    not_passed = names - services["minivault-api"]["environment"].keys()
    # the mounted folder, and what only the stub has
    assert not_passed == {"MINIVAULT_LOG_DIR", "MINIVAULT_LOG_SOURCE", "MINIVAULT_STUB_DELAY"}
    assert "ports" not in services["ollama"], "whoever speaks to it past MiniVault is not logged"
    for service in services.values():
        assert service["init"] and service["restart"] == "unless-stopped"
        assert service["security_opt"] == ["no-new-privileges:true"]
    # without it root's init process may not pass SIGTERM on to a service that has left root
    assert "KILL" in services["minivault-api"]["cap_add"]
