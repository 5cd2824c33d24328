"""A slow reader costs no memory: it slows Ollama's side down instead."""

import socket
import time
from pathlib import Path

import pytest

from tests.conftest import DEADLINE, eventually, read_log
from tests.ollama_stand_in import Conversation, OllamaStandIn
from tests.processes import SERVE, process
from tests.test_disconnect import ask

TOKEN = "x" * 1000
TOKENS = 200_000
BUFFERS = 24 * 2**20  # sockets' and the process's own together; an answer would be 200 MB


class Torrent:
    """An answer that comes as fast as it is taken, and how much of it was taken."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.sent = 0

    async def __call__(self, talk: Conversation) -> None:
        await talk.start()
        for _ in range(self.count):
            await talk.line(response=TOKEN, done=False)
            self.sent += len(TOKEN)
        await talk.done()


def largest_receive_buffer() -> int:
    """Return how much the kernel may hold of what has been sent to a socket (tcp(7))."""
    return int(Path("/proc/sys/net/ipv4/tcp_rmem").read_text().split()[2])


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("path", "accept"),
    [("/stream", "text/plain"), ("/stream", "text/event-stream"), ("/api/generate", "*/*")],
)
@pytest.mark.parametrize("bytes_per_second", [0, 1000])
def test_slow_reader_slows_ollama_down_and_buffers_stay_bounded(
    ollama: OllamaStandIn, tmp_path: Path, bytes_per_second: int, path: str, accept: str
) -> None:
    torrent = Torrent(TOKENS)
    ollama.answer = torrent
    with process(SERVE, tmp_path / "logs", **ollama.environment) as service:
        before = resident(service.popen.pid)
        connection = ask(service.url, path, accept)
        eventually(lambda: torrent.sent > 0)
        for _ in range(20):
            time.sleep(0.1)
            if bytes_per_second:
                connection.recv(bytes_per_second // 10)
        grown = resident(service.popen.pid) - before
        print(f"\n{torrent.sent >> 10} KiB left Ollama, {grown >> 10} KiB more memory")
        assert torrent.sent < BUFFERS + largest_receive_buffer() and grown < BUFFERS
        connection.close()
        (entry,) = eventually(lambda: read_log(service.log_dir))
        assert entry["status"] == "cancelled"
        assert 0 < len(entry["response"]) <= torrent.sent + len(TOKEN)


def test_reader_that_wakes_up_gets_the_whole_answer(ollama: OllamaStandIn, tmp_path: Path) -> None:
    ollama.answer = Torrent(20_000)
    with process(SERVE, tmp_path / "logs", **ollama.environment) as service:
        connection = ask(service.url, "/stream")
        time.sleep(1)
        _, _, body = drain(connection).partition(b"\r\n\r\n")
        assert body.count(b"x") == 20_000 * len(TOKEN)
        (entry,) = eventually(lambda: read_log(service.log_dir))
        assert (entry["status"], len(entry["response"])) == ("ok", 20_000 * len(TOKEN))


def drain(connection: socket.socket) -> bytes:
    """Read up to the end of a chunked answer."""
    connection.settimeout(DEADLINE)
    data = bytearray()
    while not data.endswith(b"\r\n0\r\n\r\n"):
        data += connection.recv(1 << 20)
    connection.close()
    return bytes(data)
