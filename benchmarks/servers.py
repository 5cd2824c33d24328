"""What is measured: how each server is started, on a core of its own, and ended with certainty."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from linux import LOAD_CORES, SERVER_CORES

HERE = Path(__file__).parent
ROOT = HERE.parent
START_SECONDS = 90
STOP_SECONDS = 10
OLLAMA, NGINX, OBVIOUS, LITELLM = "Ollama", "nginx", "the obvious way", "LiteLLM"
MINIVAULT, WITHOUT_LOG, BARE = "MiniVault", "MiniVault, log off", "the bare libraries"
EARLIER = "MiniVault at an earlier commit"
FIRST_ANSWER = {
    **dict.fromkeys((OLLAMA, NGINX, BARE), "/api/generate"),
    LITELLM: "/v1/chat/completions",
}
LITELLM_FOLDER = HERE / ".cache" / "litellm"
LITELLM_CONFIG = """
model_list:
  - model_name: tinyllama
    litellm_params: {model: ollama_chat/tinyllama, api_base: "http://127.0.0.1:%d"}
"""
# it would fetch its price list, report its use, and want a key, which MiniVault does not
LITELLM_ENVIRONMENT = {
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "DO_NOT_TRACK": "1",
}


class NotStartedError(Exception):
    """A server did not come up; the message says what it printed last."""


@dataclass(frozen=True)
class Server:
    """A running server, and how many seconds it took to its first answer."""

    name: str
    port: int
    pid: int
    start_seconds: float


def served(app: str, checkout: Path = ROOT) -> list[str]:
    """Return the README's command that serves, so that its options stand in one place.

    Raises:
        NotStartedError: the README has no such command.
    """
    readme = (checkout / "README.md").read_text()
    command = re.search(r"```sh\n.*(python app.py|uvicorn app:app)(.*)\n", readme)
    if not command:
        raise NotStartedError("the README has no command that serves")
    options = [*shlex.split(command[2]), "--app-dir", str(checkout), "--no-access-log"]
    if command[1] == "python app.py":
        return [sys.executable, str(checkout / "app.py"), app, *options]
    return [sys.executable, "-m", "uvicorn", app, *options]  # until 2026-11-28


def nginx_program() -> str | None:
    """Return nginx's path, None where there is none; Debian keeps it out of users' PATH."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


def install_litellm() -> None:
    """Make a virtual environment for LiteLLM in the cache, unless it is there.

    Raises:
        subprocess.CalledProcessError: it cannot be installed.
    """
    if not (LITELLM_FOLDER / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", LITELLM_FOLDER], check=True)
        pip = [LITELLM_FOLDER / "bin" / "python", "-m", "pip", "install", "-q", "litellm[proxy]"]
        subprocess.run(pip, check=True)


@dataclass
class Starter:
    """Starts servers in front of one stand-in for Ollama, with their files in one folder."""

    folder: Path
    earlier: str = ""
    """The commit that is `EARLIER`; it runs on the packages that are here now."""
    ollama: Server = field(init=False)

    @contextmanager
    def running(self, name: str) -> Iterator[Server]:
        """Run a server for the length of the block, the stand-in for Ollama before all others.

        Raises:
            NotStartedError: it ended or did not answer.
        """
        port = free_port()
        output = self.folder / f"{name}-{port}.txt"
        started = time.monotonic()
        cores = LOAD_CORES if name == OLLAMA else SERVER_CORES
        with child(*self._command(name, port), cores, output) as process:
            try:
                wait_for_answer(name, port, process)
            except NotStartedError as exc:
                last = output.read_text(errors="replace").strip()[-600:]
                raise NotStartedError(f"{name}: {exc}; it printed last: {last}") from None
            server = Server(name, port, process.pid, time.monotonic() - started)
            if name == OLLAMA:
                self.ollama = server
            yield server

    def _command(self, name: str, port: int) -> tuple[list[str], dict[str, str]]:
        if name == OLLAMA:
            return [sys.executable, str(HERE / "paced_ollama.py"), str(port)], {}
        ollama_port = self.ollama.port
        listen = ["--host", "127.0.0.1", "--port", str(port)]
        if name == NGINX:
            configuration = self.folder / f"nginx-{port}.conf"
            template = string.Template((HERE / "nginx.conf").read_text())
            configuration.write_text(template.substitute(port=port, ollama_port=ollama_port))
            return [nginx_program() or NGINX, "-p", str(self.folder), "-c", str(configuration)], {}
        if name == LITELLM:
            configuration = self.folder / "litellm.yaml"
            configuration.write_text(LITELLM_CONFIG % ollama_port)
            program = [str(LITELLM_FOLDER / "bin" / "litellm"), "--config", str(configuration)]
            return [*program, *listen, "--num_workers", "1"], LITELLM_ENVIRONMENT
        if name == OBVIOUS:
            command = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "obvious:app"]
            environment = {"OLLAMA_HOST": f"http://127.0.0.1:{ollama_port}"}
            return [*command, *listen, "--no-access-log"], environment
        checkout = self._earlier_checkout() if name == EARLIER else ROOT
        app = {WITHOUT_LOG: "app_without_log:app", BARE: "bare:app"}.get(name, "app:app")
        return [*served(app, checkout), *listen], {
            "PYTHONPATH": str(HERE),
            "OLLAMA_HOST": f"http://127.0.0.1:{ollama_port}",
            "MINIVAULT_LLM_SERVICE": "ollama",
            "MINIVAULT_MAX_CONCURRENCY": "4096",
            "MINIVAULT_LOG_DIR": str(self.folder / f"logs-{port}"),
        }

    def _earlier_checkout(self) -> Path:
        checkout = self.folder / "earlier"
        checkout.mkdir(exist_ok=True)
        archive = ["git", "-C", str(ROOT), "archive", self.earlier]
        try:
            packed = subprocess.run(archive, capture_output=True)
        except FileNotFoundError:
            raise NotStartedError(f"{EARLIER}: git is not here") from None
        if packed.returncode:
            raise NotStartedError(f"{EARLIER}: {packed.stderr.decode().strip()}")
        subprocess.run(["tar", "-xC", str(checkout)], input=packed.stdout, check=True)
        return checkout


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def question(path: str, tokens: int, pace: int = 0, *, stream: bool, image: int = 0) -> str:
    """Return the body that asks for an answer of so many tokens, at so many a second.

    `image` is the size of one that goes with it, in bytes as they are sent.
    """
    text = (
        f"Why is the sky blue? Answer me, as you would tell a friend: {tokens} tokens at {pace}/s"
    )
    if path in ("/stream", "/generate"):
        return json.dumps({"prompt": text})
    body = {"model": "tinyllama", "stream": stream}
    if path == "/api/generate":
        return json.dumps({**body, "prompt": text})
    images = {"images": ["A" * image]} if image else {}
    return json.dumps({**body, "messages": [{"role": "user", "content": text, **images}]})


def wait_for_answer(name: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the server gives a first whole answer; raise `NotStartedError` otherwise."""
    path = FIRST_ANSWER.get(name, "/generate")
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        question(path, 2, stream=False).encode(),
        {"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotStartedError(f"it ended with status {process.returncode}")
        with suppress(OSError):
            opener.open(asked, timeout=10).read()
            return
        time.sleep(0.005)
    raise NotStartedError(f"no answer within {START_SECONDS} s")


@contextmanager
def child(
    command: list[str], environment: dict[str, str], cores: set[int], output: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on these cores for the length of the block, its output in a file.

    It gets a session of its own, so that Ctrl-C reaches only the benchmark, which then ends it.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINIVAULT_")}
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**kept, **environment},
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):  # what is left of its session
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)
