"""What a client sends while its answer is on its way, as bytes: it harms neither it nor others."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from web.connection import MAX_AHEAD
from tests.conftest import DEADLINE, Service, eventually, read_log
from tests.ollama_stand_in import Conversation, OllamaStandIn, hang, then
from tests.processes import SERVE, Process, process
from tests.raw_requests import JUNK, LAST, flood, statuses, whole
from tests.test_slow_reader import BUFFERS, resident
from tests.ways import connect, read_all

AHEAD = {
    "another request": whole(),
    "half a request": whole()[:30],
    "a request with a large body": whole(body=b"x" * (MAX_AHEAD // 2)),
    "junk": JUNK,
}


@pytest.mark.parametrize("endpoint", [b"/generate", b"/stream"])
@pytest.mark.parametrize("ahead", AHEAD.values(), ids=AHEAD.keys())
def test_client_that_sent_more_ahead_is_seen_to_leave(
    vault: Service, ollama: OllamaStandIn, endpoint: bytes, ahead: bytes
) -> None:
    ollama.answer = then("Blue", end=hang)
    with connect(vault.url) as connection:
        connection.sendall(whole(path=endpoint))
        eventually(lambda: ollama.requests)
        connection.sendall(ahead)
        time.sleep(0.2)  # it has been read, and reading has stopped where it does
    assert ollama.left.acquire(timeout=DEADLINE), "the request to Ollama stayed open"
    assert vault.entry()["status"] == "cancelled"


class Pause:
    """An answer of two tokens; the second one waits until the test lets it go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    async def __call__(self, talk: Conversation) -> None:
        await talk.start()
        await talk.line(response="Blue", done=False)
        while not self.go_on.is_set():
            await asyncio.sleep(0.01)
        await talk.line(response=" sky", done=False)
        await talk.done()


@pytest.fixture
def pause(ollama: OllamaStandIn) -> Pause:
    """What the stand-in answers with."""
    ollama.answer = pause = Pause()
    return pause


@pytest.fixture
def live(ollama: OllamaStandIn, tmp_path: Path) -> Iterator[Process]:
    """A service in front of the stand-in, in a process of its own."""
    with process(SERVE, tmp_path / "logs", **ollama.environment) as service:
        yield service


@pytest.mark.parametrize(
    ("line", "expected"), [(b"", [200, 400]), (b"Connection: close\r\n", [200])]
)
def test_junk_after_a_request_spoils_no_answer(
    live: Process, pause: Pause, line: bytes, expected: list[int]
) -> None:
    with connect(live.url) as connection:
        connection.sendall(whole(line, path=b"/stream"))
        answers = b""
        while b"Blue" not in answers:
            answers += connection.recv(1000)
        connection.sendall(JUNK)
        time.sleep(0.2)  # it has been read
        pause.go_on.set()
        answers += read_all(connection)
    assert statuses(answers) == expected and b" sky" in answers
    (entry,) = read_log(live.log_dir)
    assert (entry["status"], entry["response"]) == ("ok", "Blue sky")
    assert "Traceback" not in live.output


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("line", [b"Connection: close\r\n", b""])
def test_junk_without_end_is_not_kept_until_the_answer_has_left(
    live: Process, pause: Pause, line: bytes
) -> None:
    with connect(live.url) as connection:
        connection.sendall(whole(line, path=b"/stream"))
        answers = connection.recv(1000)
        before = resident(live.popen.pid)
        connection.settimeout(2)
        flood(connection, JUNK, most=30_000_000)
        assert resident(live.popen.pid) - before < 10_000_000
        pause.go_on.set()
        connection.settimeout(DEADLINE)
        while b" sky" not in answers:
            answers += connection.recv(1000)
        read_all(connection)
    (entry,) = eventually(lambda: read_log(live.log_dir))
    assert entry["status"] == "ok"


def test_requests_sent_ahead_of_an_answer_wait_in_the_clients_own_buffers(
    live: Process, pause: Pause
) -> None:
    with connect(live.url) as connection:
        connection.sendall(whole(path=b"/stream"))
        assert b"200" in connection.recv(1000)
        connection.settimeout(1)
        assert flood(connection, LAST) < BUFFERS
        pause.go_on.set()
        (entry,) = eventually(lambda: read_log(live.log_dir))
        assert entry["status"] == "ok"
