"""A stand-in for Ollama that costs little: the wire of a real one, without the model.

A request says what it gets: `options.num_predict` is the number of tokens, and the made-up option
`tokens_per_second` their pace, 0 for as fast as the reader takes them. Every token's text has one
`~` in it, so that a client can count tokens in any format by counting one byte. With the made-up
option `stamp` the text is the time at which it was sent, in nanoseconds of the monotonic clock.

One timer serves all the streams: it turns once a millisecond and sends what is due by then. The
first token comes somewhere within one token's time, spread over the streams, so that they do not
all speak at once.

    python ollama_stand_in.py PORT
"""

import asyncio
import gc
import json
import re
import sys
import time
from typing import Any

import uvloop

TICK = 0.001
FAST_BATCH = 16  # tokens in one write where no pace is asked for
GOLDEN_RATIO = 0.618033988749895  # its multiples, less their whole part, spread evenly
WORDS = "been which container column templating released restart desktop known crashes".split()
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
    b"Date: Mon, 23 Nov 2026 05:33:52 GMT\r\nTransfer-Encoding: chunked\r\n\r\n"
)
START = '{"model":"tinyllama","created_at":"2026-11-23T05:33:5'
LINE = START + '2.%09dZ","response":" %s~","done":false}\n'
DONE = (
    '"done":true,"done_reason":"length","total_duration":55733660,"load_duration":1599377,'
    '"prompt_eval_count":66,"prompt_eval_duration":1189000,"eval_count":%d,'
    '"eval_duration":46225000}'
)
LAST_LINE = START + '3.1Z","response":"",' + DONE + "\n"
WHOLE = START + '3.1Z","response":"%s",' + DONE
TAGS = '{"models":[{"name":"tinyllama:latest","model":"tinyllama:latest","size":5792681}]}'
SHOW = '{"template":"","details":{"family":"llama"},"model_info":{},"capabilities":["completion"]}'
CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


def chunk(line: str) -> bytes:
    """Return a line as one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(line), line.encode())


TOKENS = [chunk(LINE % (number * 997, word)) for number, word in enumerate(WORDS)]
BATCH = b"".join(TOKENS[number % len(TOKENS)] for number in range(FAST_BATCH))
STAMPED = chunk(LINE % (0, "S" * 18)).replace(b"S" * 18, b"%018d")


class Wheel:
    """Steps streams at their times, all of one tick in one turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, list["OllamaProtocol"]] = {}
        self._tick = 0
        self._turning = False

    def add(self, stream: "OllamaProtocol") -> None:
        """Step the stream when it is due."""
        if not self._turning:
            self._turning = True
            self._tick = int(time.monotonic() / TICK)
            self._loop.call_later(TICK, self._turn)
        slot = max(int(stream.due / TICK), self._tick + 1)
        self._slots.setdefault(slot, []).append(stream)

    def _turn(self) -> None:
        now = int(time.monotonic() / TICK)
        while self._tick < now:
            self._tick += 1
            for stream in self._slots.pop(self._tick, ()):
                stream.step()
        self._turning = bool(self._slots)
        if self._turning:
            self._loop.call_later(TICK, self._turn)


class OllamaProtocol(asyncio.Protocol):
    """A connection: one request at a time, each answered in full before the next."""

    streams = 0

    def __init__(self, loop: asyncio.AbstractEventLoop, wheel: Wheel) -> None:
        self.due = 0.0
        self._loop = loop
        self._wheel = wheel
        self._asked = b""
        self._left = 0
        self._paused = self._waits = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._left = 0

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._waits:
            self._waits = False
            self.due = time.monotonic()
            self.step()

    def data_received(self, data: bytes) -> None:
        self._asked += data
        head, end, body = self._asked.partition(b"\r\n\r\n")
        length = CONTENT_LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            return
        self._asked = b""
        path = head.split(b" ", 2)[1]
        if path == b"/api/generate":
            self._generate(json.loads(body))
        else:
            self._answer({b"/api/tags": TAGS, b"/api/show": SHOW}.get(path, "{}"))

    def _generate(self, asked: dict[str, Any]) -> None:
        options = asked.get("options", {})
        self._count = self._left = options.get("num_predict", 64)
        self._stamp = options.get("stamp", False)
        pace = options.get("tokens_per_second", 0)
        self._period = 1 / pace if pace else 0.0
        if not asked.get("stream", True):
            text = "".join(f" {WORDS[number % len(WORDS)]}~" for number in range(self._count))
            delay = self._count * self._period
            self._loop.call_later(delay, self._answer, WHOLE % (text, self._count))
            return
        self._transport.write(HEAD)
        OllamaProtocol.streams += 1
        phase = OllamaProtocol.streams * GOLDEN_RATIO % 1
        self.due = time.monotonic() + phase * self._period
        self._again()

    def _answer(self, text: str) -> None:
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: "
        )
        self._transport.write(f"{head}{len(text)}\r\n\r\n{text}".encode())

    def _again(self) -> None:
        if self._paused:
            self._waits = True
        elif self._period:
            self._wheel.add(self)
        else:
            self._loop.call_soon(self.step)

    def step(self) -> None:
        """Send the next token, or without a pace the next few, and what ends the answer."""
        if self._transport.is_closing():
            return
        if self._stamp:
            self._left -= 1
            data = STAMPED % time.monotonic_ns()
        elif self._period or self._left < FAST_BATCH:
            self._left -= 1
            data = TOKENS[self._left % len(TOKENS)]
        else:
            self._left -= FAST_BATCH
            data = BATCH
        self.due += self._period
        if self._left > 0:
            self._transport.write(data)
            self._again()
        else:
            self._transport.write(data + chunk(LAST_LINE % self._count) + b"0\r\n\r\n")


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    wheel = Wheel(loop)
    server = await loop.create_server(
        lambda: OllamaProtocol(loop, wheel), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    gc.disable()  # it makes no cycles worth collecting, and a collection would delay tokens
    uvloop.run(serve(int(sys.argv[1])))
