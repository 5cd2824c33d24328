"""The units for systemd and launchd: what they run is there, and takes what they give it."""

import configparser
import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from settings import Settings
from tests.conftest import eventually
from tests.processes import CLIENT, ROOT, free_port
from web.server import DEFAULTS

UNITS = ROOT / "deploy" / "systemd"
PLIST = ROOT / "deploy" / "launchd" / "org.minivault.plist"
GRACE = int(str(DEFAULTS["timeout_graceful_shutdown"]))


def read_unit(name: str) -> configparser.ConfigParser:
    """Return a unit's sections."""
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string((UNITS / name).read_text())
    return unit


def test_the_service_is_run_on_the_socket_of_its_unit() -> None:
    service, listener = read_unit("minivault.service"), read_unit("minivault.socket")
    command = service["Service"]["ExecStart"].split()
    assert command[1:] == ["/opt/minivault/app.py", "--fd", "3"]
    assert service["Unit"]["Requires"] == "minivault.socket"
    assert listener["Socket"]["ListenStream"] == "127.0.0.1:8000"
    assert int(service["Service"]["TimeoutStopSec"]) >= GRACE + 5
    variables = dict(each.split("=") for each in service["Service"]["Environment"].split())
    assert {name.removeprefix("MINIVAULT_").lower() for name in variables} <= {
        *Settings.model_fields
    }
    state = f"/var/lib/{service['Service']['StateDirectory']}"
    assert variables["MINIVAULT_LOG_DIR"] == state


def test_the_agent_runs_what_the_readme_runs() -> None:
    agent = plistlib.loads(PLIST.read_bytes())
    python, app = agent["ProgramArguments"]
    assert app == f"{agent['WorkingDirectory']}/app.py"
    assert python == f"{agent['WorkingDirectory']}/.venv/bin/python"
    assert agent["Label"] == PLIST.stem and agent["ExitTimeOut"] >= GRACE + 5


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for name in ("minivault.service", "minivault.socket"):
        text = (UNITS / name).read_text().replace("/opt/minivault", str(ROOT))
        (tmp_path / name).write_text(re.sub(r"(?<==)\S+/python ", f"{sys.executable} ", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "minivault.service"],
        capture_output=True,
        text=True,
    )
    assert "minivault" not in done.stderr, done.stderr


@pytest.mark.skipif(
    not shutil.which("systemd-socket-activate"), reason="there is no systemd-socket-activate"
)
def test_a_socket_of_systemd_is_served() -> None:
    port = free_port()
    with TemporaryDirectory() as folder:
        command = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-E", "MINIVAULT_LOG_DIR"]
        with subprocess.Popen(
            [*command, sys.executable, str(ROOT / "app.py"), "--fd", "3"],
            env={**os.environ, "MINIVAULT_LOG_DIR": folder},
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                answer = eventually(lambda: try_health(port))
                assert answer == {"status": "ok"}
            finally:
                process.terminate()
        assert process.returncode == 0


def try_health(port: int) -> object:
    """Return what `/health` answers; the first connection starts the service, and waits for it."""
    try:
        return CLIENT.get(f"http://127.0.0.1:{port}/health").json()
    except httpx.TransportError:
        return None
