"""What the tests share: a service on a real socket, and an Ollama beside it."""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import HealthCheck, settings

from app import create_app
from settings import Settings
from tests.ollama_stand_in import OllamaStandIn, like_ollama
from web.connection import Connection

pytest.register_assert_rewrite("tests.ways")

DEADLINE = 120  # seconds; generous, for a slow machine: only a failing test waits so long
LONGEST = ("test_docs.py", "test_crash.py")
SETTINGS_OF_THE_MACHINE = re.compile(
    r"MINIVAULT_.*|OLLAMA_HOST|.*_PROXY|SSL_CERT_(FILE|DIR)", re.IGNORECASE
)

settings.register_profile(
    "a service for all examples, on any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("a service for all examples, on any machine")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run more tests at a time than there are cores: most of them wait for processes."""
    return 3 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: at the end all would wait for it."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def eventually(condition: Callable[[], Any]) -> Any:
    """Return the condition's value as soon as it is true; fail where it never is."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)
    return value


def read_log(directory: Path) -> list[dict[str, Any]]:
    """Return all entries of a log folder, in order; every line that has ended has to parse."""
    return [
        json.loads(line)
        for path in sorted(directory.glob("*.jsonl"))
        for line in path.read_bytes().split(b"\n")[:-1]
    ]


class Service:
    """A running MiniVault in this process, its client, and its log."""

    def __init__(self, settings: Settings) -> None:
        self.log_dir = settings.log_dir
        self.app = create_app(settings)
        config = uvicorn.Config(
            self.app,
            http=Connection,
            port=0,
            log_level="warning",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)

    @contextmanager
    def running(self) -> Iterator["Service"]:
        """Serve for the length of the block."""
        thread = threading.Thread(target=self.server.run, daemon=True)
        thread.start()
        eventually(lambda: self.server.started or not thread.is_alive())
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        try:
            # to load certificates takes as long as to start the service
            with httpx.Client(base_url=self.url, timeout=DEADLINE, verify=False) as self.client:
                yield self
        finally:
            self.server.should_exit = True
            thread.join(DEADLINE)
            assert not thread.is_alive(), "the service did not stop"

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The log's entries so far."""
        return read_log(self.log_dir)

    def entry(self) -> dict[str, Any]:
        """Return the only entry, waiting for it."""
        (entry,) = eventually(lambda: self.entries)
        return entry


Serve = Callable[..., Service]


def clear_environment(patch: pytest.MonkeyPatch) -> None:
    """Take all of the machine's settings away, its proxies and certificates among them."""
    for name in os.environ:
        if SETTINGS_OF_THE_MACHINE.fullmatch(name):
            patch.delenv(name)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no setting of the machine reach a test."""
    clear_environment(monkeypatch)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start services with the settings given, on a log folder of the test's own."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Service:
            assert settings.keys() <= Settings.model_fields.keys()
            settings = {"log_dir": tmp_path / "logs", "stub_delay": 0, **settings}
            return stack.enter_context(Service(Settings(**settings)).running())

        yield start


@pytest.fixture
def ollama() -> Iterator[OllamaStandIn]:
    """An Ollama stand-in on a real socket."""
    with OllamaStandIn() as stand_in:
        yield stand_in


@pytest.fixture
def vault(serve: Serve, ollama: OllamaStandIn) -> Service:
    """A service in front of the stand-in."""
    return serve(llm_service="ollama", ollama_base_url=ollama.url)


def begin_anew(ollama: OllamaStandIn, log_dir: Path | None) -> None:
    """Have what tests share as if nothing had been asked yet."""
    for path in log_dir.glob("*.jsonl") if log_dir else ():
        path.unlink()
    ollama.reset()


@dataclass(frozen=True)
class Way:
    """Where a client is pointed at; `service` is None where that is Ollama itself."""

    url: str
    ollama: OllamaStandIn
    service: Service | None = None

    def reset(self) -> None:
        """Begin anew, in front of a stand-in that answers all."""
        begin_anew(self.ollama, self.service.log_dir if self.service else None)
        self.ollama.answer = like_ollama


@pytest.fixture(scope="module")
def minivault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """A way through MiniVault that a module's tests share: to start and stop one takes a while."""
    with pytest.MonkeyPatch.context() as patch, OllamaStandIn() as stand_in:
        clear_environment(patch)
        settings: dict[str, Any] = {
            "llm_service": "ollama",
            "ollama_base_url": stand_in.url,
            "log_dir": tmp_path_factory.mktemp("minivault") / "logs",
        }
        with Service(Settings(**settings)).running() as service:
            yield Way(service.url, stand_in, service)


@pytest.fixture
def through(minivault: Way) -> Way:
    """The way through MiniVault to a stand-in that answers on every interface."""
    minivault.reset()
    return minivault


@pytest.fixture(params=["straight", "through"])
def way(request: pytest.FixtureRequest) -> Way:
    """Each of the two ways, so that a test compares them."""
    if request.param == "through":
        return request.getfixturevalue("through")  # type: ignore[no-any-return]
    ollama: OllamaStandIn = request.getfixturevalue("ollama")
    straight = Way(ollama.url, ollama)
    straight.reset()
    return straight
