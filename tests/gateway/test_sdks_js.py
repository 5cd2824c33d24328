"""The official JavaScript SDKs, straight and through MiniVault: they yield the same objects."""

import fcntl
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DEADLINE, Way
from tests.ollama_protocols import TEXT
from tests.ollama_stand_in import begin, hang
from tests.ways import check_entries

SCRIPT = Path(__file__).with_name("sdk.mjs")
PACKAGES = ["ollama@0.6.4", "openai@6.49.0"]
STREAMS = ["generate, streamed", "chat, streamed", "chat completion, streamed"]
STREAMS += ["completion, streamed", "response, streamed"]


@pytest.fixture(scope="session")
def sdks(pytestconfig: pytest.Config) -> Path:
    """The folder of the SDKs in pytest's cache; npm fills it the first time."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not there")
    assert pytestconfig.cache
    folder = pytestconfig.cache.mkdir("javascript-sdks")
    done = folder / "-".join(PACKAGES).replace("@", "-")
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other processes of the run share the folder
        if not done.exists():
            install = subprocess.run(command, capture_output=True, text=True)
            if install.returncode:
                pytest.skip(f"npm cannot install the SDKs: {install.stderr}")
            done.touch()
    return folder


def node(sdks: Path, url: str, *cases: str) -> "subprocess.Popen[str]":
    """Start the script."""
    command = ["node", str(SCRIPT), str(sdks), url, *cases]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def yielded(sdks: Path, url: str) -> dict[str, Any]:
    """Return what every case yields."""
    output, errors = node(sdks, url).communicate(timeout=DEADLINE * 2)
    assert not errors
    return dict(json.loads(line) for line in output.splitlines())


def test_the_sdks_yield_what_they_yield_without_us_and_the_log_has_it(sdks: Path, way: Way) -> None:
    got = yielded(sdks, way.url)
    check_entries(way, len(got))
    assert got == yielded(sdks, way.ollama.url)
    errors = {name for name, parts in got.items() if "error" in parts[-1] and parts[-1]["error"]}
    assert errors == {"chat, unknown model", "chat completion, unknown model"}
    for name in STREAMS:
        assert "“¡größer" in str(got[name]), name


@pytest.mark.parametrize("name", STREAMS)
def test_breaking_out_of_the_loop_stops_ollama(sdks: Path, way: Way, name: str) -> None:
    way.ollama.answer = begin(3, end=hang)
    client = node(sdks, way.url, name)
    try:
        assert way.ollama.left.acquire(timeout=DEADLINE), "the request to Ollama stayed open"
        assert client.poll() is None, "it was the end of the program that closed the connection"
        if way.service:
            entry = way.service.entry()
            assert entry["status"] == "cancelled" and "".join(TEXT).startswith(entry["response"])
    finally:
        client.kill()
        client.communicate()
