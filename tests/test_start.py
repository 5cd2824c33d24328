"""How the service is started: by `python app.py` with uvicorn's options, or in other ways."""

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import settings
from settings import load_settings
from tests.conftest import clear_environment, eventually
from tests.processes import BIN, CLIENT, GRACE, ROOT, SERVE, process, starting
from web.server import find_url

KEY = "the-logs-own-key-long-enough"
CODE = ("gateway", "log", "page", "protocols", "telemetry", "upstream", "web", "deploy")
OTHER_WAYS = {
    "uvicorn": [str(BIN / "uvicorn"), "app:app"],
    "fastapi run": [str(BIN / "fastapi"), "run", "app.py", "--host", "127.0.0.1"],
    "fastapi dev": [str(BIN / "fastapi"), "dev", "app.py"],
}


def readme_command() -> str:
    """Return the program that the README's first command runs, as it stands there."""
    block = (ROOT / "README.md").read_text().partition("<!-- run -->")[2].split("```")[1]
    return block.rpartition("&&")[2].strip().removeprefix("sh\n")


def test_readmes_command_serves_as_it_is_meant(tmp_path: Path) -> None:
    """Our connection, no server header, 8 s of grace: a stop does not wait for an open stream."""
    python, *arguments = readme_command().split()
    assert (python, arguments) == (".venv/bin/python", ["app.py"])
    with process([sys.executable, str(ROOT / "app.py")], tmp_path / "logs") as service:
        answer = CLIENT.get(f"{service.url}/health")
        assert answer.status_code == 200 and "server" not in answer.headers
        upgraded = CLIENT.get(f"{service.url}/health", headers={"Upgrade": "h2c"})
        assert upgraded.status_code == 200
        assert "python app.py" not in service.output, "nothing is missing"
        assert service.stop(signal.SIGTERM) == 0
    assert "GET /health" not in service.output, "probes that succeed are not printed"


def start_lines(output: str) -> list[str]:
    """Return the lines that say where the service is running."""
    return [line for line in output.splitlines() if "running" in line]


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_start_is_one_line_with_the_address_and_where_the_key_is(
    tmp_path: Path, workers: list[str]
) -> None:
    log_dir = tmp_path / "logs"
    with process([*SERVE, *GRACE, *workers], log_dir) as service:
        (line,) = eventually(lambda: start_lines(service.output))
        url = service.url.replace("127.0.0.1", "localhost")
        assert f"MiniVault is running at {url}/ (the log's key is in {log_dir}/.key)" in line
        key = eventually(lambda: (log_dir / ".key").read_text().strip())
        eventually(lambda: service.output.count("startup complete") == max(1, len(workers)))
        assert key not in service.output, "it would be in every log collector"


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (("http", "127.0.0.1", 8000), "http://localhost:8000/"),
        (("https", "::", 443), "https://localhost:443/"),
        (("http", "fe80::1", 8000), "http://[fe80::1]:8000/"),
        (("/run/minivault.sock",), "unix:/run/minivault.sock"),
        ((("127.0.0.1", 9000),), "http://localhost:9000/"),
        ((b"abstract",), None),
    ],
)
def test_the_address_is_named_in_every_form(
    arguments: tuple[object, ...], address: str | None
) -> None:
    assert find_url(arguments) == address


def test_help_says_where_the_settings_are() -> None:
    command = [sys.executable, str(ROOT / "app.py"), "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "docs/settings.md" in output and "--port" in output


def test_a_key_that_is_set_is_not_said_to_be_in_a_file(tmp_path: Path) -> None:
    with process(SERVE, tmp_path / "logs", MINIVAULT_LOG_KEY=KEY) as service:
        (line,) = eventually(lambda: start_lines(service.output))
        assert "MINIVAULT_LOG_KEY" in line and ".key" not in line and KEY not in service.output


def clean(log_dir: Path) -> dict[str, str]:
    """Return an environment without settings but for the log's directory."""
    with pytest.MonkeyPatch.context() as patch:
        clear_environment(patch)
        return {**os.environ, "MINIVAULT_LOG_DIR": str(log_dir)}


@contextmanager
def in_terminal(*options: str, log_dir: Path) -> Iterator[list[str]]:
    """Run the service in a terminal; yield what is on its screen, read when it is looked at."""
    main, side = pty.openpty()
    command = [sys.executable, str(ROOT / "app.py"), "--no-use-colors", *options]
    with subprocess.Popen(
        command, stdin=side, stdout=side, stderr=side, env=clean(log_dir), start_new_session=True
    ) as running:
        os.close(side)

        def read() -> Iterator[str]:
            rest = b""
            with suppress(OSError):  # the terminal is closed
                while data := os.read(main, 4096):
                    *lines, rest = (rest + data).split(b"\r\n")
                    yield from (line.decode() for line in lines)

        try:
            yield read()  # type: ignore[misc]
        finally:
            os.kill(running.pid, signal.SIGTERM)
            list(read())
            os.close(main)
            assert running.wait() == 0


def test_in_a_terminal_the_start_shows_a_link_that_opens_the_log(tmp_path: Path) -> None:
    """With the port that the system chose."""
    log_dir = tmp_path / "logs"
    with in_terminal("--port", "0", log_dir=log_dir) as screen:
        line = next(line for line in screen if "running" in line)
        found = re.search(r"(http://localhost:(\d+))/#key=(\S+) ", line)
        assert found and found[3] == (log_dir / ".key").read_text().strip() and found[2] != "0"
        headers = {"Authorization": f"Bearer {found[3]}"}
        assert CLIENT.get(f"{found[1]}/log", headers=headers).status_code == 200


def test_a_socket_that_is_handed_over_is_named_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.set_inheritable(True)
        command = [*SERVE, "--fd", str(listener.fileno())]
        with subprocess.Popen(
            command,
            env=clean(tmp_path / "logs"),
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as running:
            assert running.stdout
            line = next(line for line in running.stdout if "running" in line)
            assert f"http://localhost:{port}/" in line
            assert CLIENT.get(f"http://127.0.0.1:{port}/health").status_code == 200
            running.terminate()
            assert running.wait() == 0


def test_an_address_in_use_names_the_option_for_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        for workers in ([], ["--workers", "2"]):
            command = [*SERVE, *workers, "--port", port]
            done = subprocess.run(
                command, env=clean(tmp_path / "logs"), capture_output=True, text=True
            )
            assert done.returncode != 0 and "--port" in done.stderr
            assert "ddress already in use" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_started_in_another_way_it_serves_and_says_what_is_missing(
    tmp_path: Path, way: str
) -> None:
    with process(OTHER_WAYS[way], tmp_path / "logs") as service:
        assert CLIENT.post(f"{service.url}/generate", json={"prompt": "Why?"}).status_code == 200
        (line,) = eventually(
            lambda: [line for line in service.output.splitlines() if "python app.py" in line]
        )
        assert "WARNING" in line
        assert "answers come from the stub; the log is in" in service.output


def test_removal_of_old_days_is_announced(tmp_path: Path) -> None:
    log_dir = tmp_path / "logs"
    log_dir.mkdir()
    today = datetime.now(UTC).date()
    for age in (40, 35, 25, 1):
        (log_dir / f"{today - timedelta(days=age)}.jsonl").write_text("{}\n")
    with process(SERVE, log_dir, MINIVAULT_LOG_RETENTION_DAYS="30") as service:
        line = eventually(lambda: re.search(r".*2 files of the log.*", service.output))[0]
        assert line.startswith("WARNING:") and "MINIVAULT_LOG_RETENTION_DAYS" in line
        assert f"{today - timedelta(days=40)}.jsonl" in line


def test_a_file_beside_the_app_sets_what_the_environment_does_not(tmp_path: Path) -> None:
    """With the quotes and the line ends of other systems, and other programs' variables."""
    for folder in CODE:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    lines = ["# ours", f'MINIVAULT_LOG_KEY="{KEY}"', "MINIVAULT_API_KEY='f'", "X=1"]
    (tmp_path / ".env").write_bytes("\r\n".join(lines).encode())
    command = [sys.executable, str(tmp_path / "app.py")]
    with process(command, tmp_path / "elsewhere", MINIVAULT_API_KEY="e") as service:
        ask = {"json": {"prompt": "Why?"}, "headers": {"Authorization": "Bearer e"}}
        assert CLIENT.post(f"{service.url}/generate", **ask).status_code == 200  # type: ignore
        headers = {"Authorization": f"Bearer {KEY}"}
        assert CLIENT.get(f"{service.url}/log", headers=headers).status_code == 200
        assert CLIENT.post(f"{service.url}/generate", json=ask["json"]).status_code == 401


UNKNOWN = [
    ("MINIVAULT_IDEL_TIMEOUT", "MINIVAULT_IDLE_TIMEOUT"),
    ("MINIVAULT_OLLAMA_URL", "MINIVAULT_OLLAMA_BASE_URL"),
    ("minivault_log_directory", "MINIVAULT_LOG_DIR"),
    ("MINIVAULT_", None),
]


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize(("name", "similar"), UNKNOWN)
def test_an_unknown_name_is_one_line_with_the_most_similar_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, similar: str | None, in_file: bool
) -> None:
    monkeypatch.setattr(settings, "ENV_FILE", tmp_path / ".env")
    if in_file:
        (tmp_path / ".env").write_text(f"{name}=1\n")
    else:
        monkeypatch.setenv(name, "1")
    with pytest.raises(SystemExit) as stop:
        load_settings()
    line = str(stop.value)
    assert f"{name} is not a setting" in line and "\n" not in line
    assert similar is None or f"did you mean {similar}?" in line


def test_a_setting_that_stops_the_start_prints_one_line(tmp_path: Path) -> None:
    with starting(SERVE, tmp_path / "logs", MINIVAULT_LOG_FSNYC="true") as service:
        assert service.popen.wait() == 1
        assert service.output.count("\n") == 1 and "MINIVAULT_LOG_FSYNC" in service.output


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_closed_standard_streams_cost_nothing(
    tmp_path: Path, closed: str, workers: list[str]
) -> None:
    command = ["sh", "-c", f'exec "$0" "$@" {closed}', *SERVE, *workers]
    with process(command, tmp_path / "logs", MINIVAULT_LOG_KEY=KEY) as service:
        headers = {"Authorization": f"Bearer {KEY}"}
        answered = CLIENT.post(f"{service.url}/generate", json={"prompt": "Why?"})
        assert answered.status_code == 200
        found = CLIENT.get(f"{service.url}/log", headers=headers)
        assert found.status_code == 200 and len(found.json()["entries"]) == 1
        assert service.stop(signal.SIGTERM) == 0
