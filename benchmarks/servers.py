"""What is measured: how each server is started, and how it is asked for the same answer."""

import getpass
import json
import os
import shutil
import string
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from processes import LOAD_CORES, SERVER_CORES, child, free_port

HERE = Path(__file__).parent
ROOT = HERE.parent
PROMPT = "Why is the sky blue? Answer in a few words, as you would tell a friend."
START_SECONDS = 90
LITELLM_CONFIG = """
model_list:
  - model_name: tinyllama
    litellm_params: {model: ollama/tinyllama, api_base: "http://127.0.0.1:%d"}
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
Api = Literal["minivault", "ollama", "openai"]


@dataclass(frozen=True)
class Target:
    """A running server, and the way in which it is asked."""

    name: str
    port: int
    pid: int
    api: Api
    headers: dict[str, str] = field(default_factory=dict)

    def request(self, tokens: int, pace: float, *, stream: bool = True, stamp: bool = False) -> str:
        """Return the HTTP request for an answer of so many tokens, at so many a second."""
        options = {"num_predict": tokens, "tokens_per_second": pace}
        if stamp:
            options["stamp"] = True
        body: dict[str, Any]
        match self.api:
            case "minivault":
                path = "/stream" if stream else "/generate"
                body = {"prompt": PROMPT, "options": options}
            case "ollama":
                path = "/api/generate"
                body = {"model": "tinyllama", "prompt": PROMPT, "options": options}
                body["stream"] = stream
            case "openai":
                path = "/v1/chat/completions"
                body = {
                    "model": "tinyllama",
                    "messages": [{"role": "user", "content": PROMPT}],
                    "max_tokens": tokens,
                    "tokens_per_second": pace,
                    "stream": stream,
                }
        text = json.dumps(body)
        headers = {
            "Host": f"127.0.0.1:{self.port}",
            "Content-Type": "application/json",
            "Content-Length": str(len(text)),
            **self.headers,
        }
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", text])


class NotStartedError(Exception):
    """A server did not come up; the message says what it printed last."""


@dataclass
class Starter:
    """Starts servers in front of one stand-in, with their files in one folder."""

    folder: Path
    ollama_port: int = 0
    started: int = 0

    @contextmanager
    def ollama(self) -> Iterator[Target]:
        """Run the stand-in, on the cores of the load; all that start later ask it."""
        port = free_port()
        command = [sys.executable, str(HERE / "ollama_stand_in.py"), str(port)]
        with self._run("straight to Ollama", command, port, "ollama", cores=LOAD_CORES) as target:
            self.ollama_port = port
            yield target

    @contextmanager
    def minivault(
        self, name: str = "MiniVault", module: str = "app", **environment: str
    ) -> Iterator[Target]:
        """Run MiniVault as its README says, on a log folder of its own."""
        port = free_port()
        url = f"http://127.0.0.1:{self.ollama_port}"
        environment = {
            "PYTHONPATH": str(ROOT),
            "MINIVAULT_LLM_SERVICE": "ollama",
            "MINIVAULT_OLLAMA_BASE_URL": url,
            "MINIVAULT_MAX_CONCURRENCY": "4096",
            "MINIVAULT_LOG_DIR": str(self.folder / f"logs-{port}"),
            **environment,
        }
        with self._run(name, uvicorn(module, port), port, "minivault", environment) as target:
            yield target

    @contextmanager
    def obvious(self) -> Iterator[Target]:
        """Run the obvious way."""
        port = free_port()
        environment = {"OLLAMA_URL": f"http://127.0.0.1:{self.ollama_port}"}
        with self._run(
            "the obvious way", uvicorn("obvious", port), port, "minivault", environment
        ) as target:
            yield target

    @contextmanager
    def nginx(self) -> Iterator[Target]:
        """Run nginx with one worker and nothing buffered."""
        port = free_port()
        folder = self.folder / "nginx"
        folder.mkdir()
        template = string.Template((HERE / "nginx.conf").read_text())
        configuration = folder / "nginx.conf"
        configuration.write_text(
            template.substitute(
                user=f"user {getpass.getuser()};" if os.geteuid() == 0 else "",
                folder=folder,
                port=port,
                ollama_port=self.ollama_port,
            )
        )
        command = [nginx_program() or "nginx", "-p", str(folder), "-c", str(configuration)]
        with self._run("nginx", command, port, "ollama") as target:
            yield target

    @contextmanager
    def litellm(self, program: Path) -> Iterator[Target]:
        """Run the LiteLLM proxy with one worker."""
        port = free_port()
        configuration = self.folder / "litellm.yaml"
        configuration.write_text(LITELLM_CONFIG % self.ollama_port)
        command = [str(program), "--config", str(configuration), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--num_workers", "1"]
        with self._run("LiteLLM", command, port, "openai", LITELLM_ENVIRONMENT) as target:
            yield target

    @contextmanager
    def _run(
        self,
        name: str,
        command: list[str],
        port: int,
        api: Api,
        environment: dict[str, str] | None = None,
        cores: set[int] = SERVER_CORES,
    ) -> Iterator[Target]:
        self.started += 1
        output = self.folder / f"output-{self.started}.txt"
        with child(command, cores, output, environment) as process:
            target = Target(name, port, process.pid, api)
            try:
                self._wait_for_answer(target, process)
            except NotStartedError as exc:
                last = output.read_text(errors="replace").strip()[-600:]
                raise NotStartedError(f"{name}: {exc}; it printed last: {last}") from None
            yield target

    def _wait_for_answer(self, target: Target, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise NotStartedError(f"it ended with status {process.returncode}")
            try:
                first_answer(target)
                return
            except OSError:
                time.sleep(0.005)
        raise NotStartedError(f"no answer within {START_SECONDS} s")


def first_answer(target: Target) -> None:
    """Ask for a short whole answer; raise `OSError` where there is none yet."""
    head, body = target.request(2, 0, stream=False).split("\r\n\r\n")
    path = head.split(" ")[1]
    request = urllib.request.Request(
        f"http://127.0.0.1:{target.port}{path}",
        body.encode(),
        {"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as response:
        response.read()


def uvicorn(module: str, port: int) -> list[str]:
    """Return the command that serves a module's app with one process, without an access log."""
    folder = ROOT if module == "app" else HERE
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(folder), f"{module}:app"]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--no-access-log"]


def nginx_program() -> str | None:
    """Return nginx's path, None where there is none; Debian keeps it out of users' PATH."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


def litellm_folder() -> Path:
    """Return where LiteLLM's virtual environment is, or would be."""
    return HERE / ".cache" / "litellm"


def litellm_program() -> Path:
    """Return LiteLLM's path in a virtual environment of its own, made in the cache if absent."""
    folder = litellm_folder()
    program = folder / "bin" / "litellm"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=120)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "litellm[proxy]"]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=1200)
        if done.returncode:
            raise NotStartedError(f"LiteLLM cannot be installed: {done.stderr.strip()[-600:]}")
    return program
