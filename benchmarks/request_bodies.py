"""What a hostile body costs everybody else: for how long, and how much memory.

    python benchmarks/request_bodies.py [--times 3] [--only emoji]

MiniVault runs in front of a stand-in for Ollama. Each body is sent to `/generate`, and to
`/api/chat` as it is, in gzip and in zstd, while another client asks `/health` over and over. The
longest wait for that, less the one without any body, is how long the loop was held. Memory is the
peak of the process over what it held before, in bytes a byte of the body, decompressed.
"""

import argparse
import gzip
import http.client
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backports import zstd
from servers import ROOT, child, free_port, wait_for_answer

ALL_CORES = set(os.sched_getaffinity(0))
MEGABYTE = 1_000_000


def filled(size: int, piece: bytes, before: bytes, after: bytes) -> bytes:
    """Return a body of about this size, made of a piece."""
    return before + piece * ((size - len(before) - len(after)) // len(piece)) + after


def keys(size: int) -> bytes:
    """Return a body of unknown keys."""
    pairs = ",".join(f'"unknown{number}":1' for number in range(size // 17))
    return f'{{"prompt":"x",{pairs}}}'.encode()


BODIES: dict[str, Callable[[int], bytes]] = {
    "lists": lambda n: filled(n, b"[],", b'{"prompt":"x","options":{"a":[', b"[]]}}"),
    "objects": lambda n: filled(n, b'{"a":1},', b'{"prompt":"x","options":{"a":[', b"[]]}}"),
    "numbers": lambda n: filled(n, b"1,", b'{"prompt":"x","options":{"a":[', b"1]}}"),
    "short strings": lambda n: filled(n, b'"a",', b'{"prompt":"x","options":{"a":[', b"1]}}"),
    "190 levels": lambda n: filled(
        n, b"[" * 190 + b"]" * 190 + b",", b'{"prompt":"x","options":{"a":[', b"1]}}"
    ),
    "unknown keys": keys,
    "quotation marks": lambda n: b'"' * n,
    "text": lambda n: filled(n, b"Well, [that] is: text. ", b'{"prompt":"', b'"}'),
    "an emoji": lambda n: filled(n, b"Well that is text. ", '{"prompt":"😀'.encode(), b'"}'),
    "a quote": lambda n: filled(n, b"Well that is text. ", '{"prompt":"“'.encode(), b'"}'),
    "an escape": lambda n: filled(n, b"Well that is text. ", b'{"prompt":"\\ud83d\\ude00', b'"}'),
    "a picture": lambda n: filled(n, b"QUJD", '{"prompt":"Why? 😀","images":["'.encode(), b'"]}'),
    "an odd byte beside": lambda n: filled(n, b"QUJD", b'{"prompt":"\xff","images":["', b'"]}'),
    "line separators": lambda n: filled(n, "a\u2028".encode(), b'{"prompt":"', b'"}'),
    "an odd byte": lambda n: filled(n, b"Well that is text. ", b'{"prompt":"\xff', b'"}'),
    "long integers": lambda n: filled(n, b"9" * 4000 + b",", b'{"options":{"a":[', b"1]}}"),
    "messages": lambda n: filled(n, b'{"role":"user","content":""},', b'{"messages":[', b"{}]}"),
}
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": lambda body: gzip.compress(body, 1),
    "zstd": zstd.compress,
}
EMPTY_FRAMES = zstd.compress(b"")
OLLAMA = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 65536)))
        body = b'{"message":{"content":"x"},"done":true}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST
    def log_message(self, *arguments): pass
import sys
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def post(port: int, path: str, body: bytes, encoding: str) -> int:
    """Send a body and return the status of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    headers = {"Content-Type": "application/json"}
    headers |= {"Content-Encoding": encoding} if encoding else {}
    try:
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
    except ConnectionError:  # it was refused before all of it was sent
        return 0
    finally:
        connection.close()


class Prober(threading.Thread):
    """Asks `/health` over and over; `longest` is the longest wait for an answer, in seconds."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        self.longest = 0.0
        self.stops = False
        self.start()

    def run(self) -> None:
        while not self.stops:
            begun = time.perf_counter()
            self._connection.request("GET", "/health")
            self._connection.getresponse().read()
            self.longest = max(self.longest, time.perf_counter() - begun)
        self._connection.close()


def resident(pid: int, what: str) -> int:
    """Return a figure of a process's memory in bytes."""
    (line,) = (
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith(what)
    )
    return int(line.split()[1]) * 1024


@contextmanager
def minivault(folder: Path) -> Iterator[tuple[int, int]]:
    """Run MiniVault in front of a stand-in; yield its port and its process."""
    ollama, port = free_port(), free_port()
    settings = {
        "MINIVAULT_LLM_SERVICE": "ollama",
        "MINIVAULT_OLLAMA_BASE_URL": f"http://127.0.0.1:{ollama}",
        "MINIVAULT_LOG_DIR": str(folder / "logs"),
    }
    command = [sys.executable, str(ROOT / "app.py"), "--no-access-log", "--port", str(port)]
    with (
        child([sys.executable, "-c", OLLAMA, str(ollama)], {}, ALL_CORES, folder / "ollama"),
        child(command, settings, ALL_CORES, folder / "minivault") as service,
    ):
        wait_for_answer("MiniVault", port, service)
        yield port, service.pid


def measure(port: int, pid: int, path: str, sent: bytes, encoding: str) -> tuple[int, float, int]:
    """Return the status, the longest wait for another client, and the memory that it took."""
    before = resident(pid, "VmRSS:")
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    prober = Prober(port)
    time.sleep(0.2)
    prober.longest = 0.0
    status = post(port, path, sent, encoding)
    time.sleep(0.3)
    prober.stops = True
    prober.join()
    return status, prober.longest, resident(pid, "VmHWM:") - before


def main() -> None:
    """Measure all bodies and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=3, help="of which the worst counts")
    parser.add_argument("--only", default="", help="bodies with this in their name")
    given = parser.parse_args()
    times = given.times
    print("| body | path | MB | status | loop held, ms | memory, bytes a byte |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder, minivault(Path(folder)) as (port, pid):
        measure(port, pid, "/api/chat", b"{}", "")
        quiet = max(measure(port, pid, "/api/chat", b"{}", "")[1] for _ in range(5))
        cases = [
            (name, path, encoding, make(size))
            for name, make in BODIES.items()
            if given.only in name
            for path, sizes in (("/generate", (0.9,)), ("/api/chat", (1, 5, 20)))
            for size in (int(each * MEGABYTE) for each in sizes)
            for encoding in (ENCODINGS if path == "/api/chat" and size > 10**7 else [""])
        ]
        cases += [("empty frames", "/api/chat", "zstd", EMPTY_FRAMES * (4_000_000 // 9))]
        for name, path, encoding, body in cases:
            sent = body if name == "empty frames" else ENCODINGS[encoding](body)
            worst = max(
                (measure(port, pid, path, sent, encoding) for _ in range(times)),
                key=lambda result: result[1],
            )
            status, longest, memory = worst
            print(
                f"| {name}{' in ' + encoding if encoding else ''} | `{path}` "
                f"| {len(sent) / MEGABYTE:.2f} of {len(body) / MEGABYTE:.1f} | {status} "
                f"| {max(0.0, longest - quiet) * 1000:.0f} | {memory / len(body):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
