"""Ollama's wire at little cost, without a model: what stands behind every server that is measured.

The prompt says what it gets: `200 tokens at 40/s`, and at 0/s as fast as the reader takes them.
Every token has one `~`, so that a client counts tokens in any format by counting one byte. A
stream's first token comes within one token's time, so that streams do not all speak at once.

    python paced_ollama.py PORT
"""

import asyncio
import gc
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, cycle, islice

import uvloop
from httptools import HttpRequestParser

READ = 65536  # what says how to answer stands in front of any image
FAST_BATCH = 16  # tokens in one write where no pace is asked for
GOLDEN_RATIO = 0.618033988749895  # its multiples, less their whole part, spread evenly
WORDS = "been which container column templating released restart desktop known".split()
TOKENS = [*(f" {word}~" for word in WORDS), r"~\n"]
"""What is said, as JSON writes it: one in ten is not written as it is, as in what models say."""
ASKED = re.compile(rb"(\d+) tokens at (\d+)/s")
STREAM = re.compile(rb'"stream": ?(true|false)')
TAGS = '{"models":[{"name":"tinyllama:latest","model":"tinyllama:latest","size":5792681}]}'
SHOW = '{"template":"","details":{"family":"llama"},"model_info":{},"capabilities":["completion"]}'
NATIVE = '{"model":"tinyllama","created_at":"2026-11-23T05:33:52.644224067Z",'
DONE = (
    '"done":true,"done_reason":"length","total_duration":55733660,"load_duration":1599377,'
    '"prompt_eval_count":66,"prompt_eval_duration":1189000,"eval_count":COUNT,'
    '"eval_duration":46225000}'
)
COMPLETION = (
    '{"id":"chatcmpl-303","object":"chat.completion","created":1795447362,'
    '"model":"tinyllama","system_fingerprint":"fp_ollama","choices":[{"index":0,'
)
EVENT = "data: " + COMPLETION.replace('completion"', 'completion.chunk"')
USAGE = '"usage":{"prompt_tokens":66,"completion_tokens":COUNT,"total_tokens":66}}\n'


@dataclass(frozen=True)
class Protocol:
    """How one of Ollama's interfaces writes; TEXT and COUNT are filled in."""

    content_type: str
    first: str
    token: str
    last: str
    whole: str
    streams: bool
    """Whether it streams where the request does not say."""

    def chunks(self, count: int) -> Iterator[bytes]:
        """Yield a streamed answer, a token each, with what ends the answer in the last one."""
        first = chunk(self.first.replace("TEXT", TOKENS[0]))
        tokens = [chunk(self.token.replace("TEXT", token)) for token in TOKENS]
        last = tokens[0] + chunk(self.last.replace("COUNT", str(count))) + b"0\r\n\r\n"
        return chain([first], islice(cycle(tokens), count - 2), [last])

    def answer(self, count: int) -> str:
        """Return a whole answer."""
        text = "".join(islice(cycle(TOKENS), count))
        return self.whole.replace("COUNT", str(count)).replace("TEXT", text)


def chunk(text: str) -> bytes:
    """Return a text as one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(text), text.encode())


def native(text: str) -> Protocol:
    """Return one of Ollama's own protocols by the key that holds a token's text."""
    line = f'{NATIVE}{text},"done":false}}\n'
    last = f"{NATIVE}{text},{DONE}"
    return Protocol(
        "application/x-ndjson", line, line, last.replace("TEXT", "") + "\n", last, streams=True
    )


PROTOCOLS = {
    b"/api/generate": native('"response":"TEXT"'),
    b"/api/chat": native('"message":{"role":"assistant","content":"TEXT"}'),
    b"/v1/chat/completions": Protocol(
        "text/event-stream",
        EVENT + '"delta":{"role":"assistant","content":"TEXT"},"finish_reason":null}]}\n\n',
        EVENT + '"delta":{"content":"TEXT"},"finish_reason":null}]}\n\n',
        EVENT + '"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
        COMPLETION
        + '"message":{"role":"assistant","content":"TEXT"},"finish_reason":"stop"}],'
        + USAGE,
        streams=False,
    ),
}


class Connection(asyncio.Protocol):
    """A connection: one request at a time, each answered in full before the next."""

    streams = 0

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = HttpRequestParser(self)
        self._paused = self._waits = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._waits:
            self._waits = False
            self._due = self._loop.time()
            self._step()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._path = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, body: bytes) -> None:
        if len(self._body) < READ:
            self._body += body

    def on_message_complete(self) -> None:
        if protocol := PROTOCOLS.get(self._path):
            self._generate(protocol)
        else:
            self._answer({b"/api/tags": TAGS, b"/api/show": SHOW}.get(self._path, "{}"))

    def _generate(self, protocol: Protocol) -> None:
        asked, stream = ASKED.search(self._body), STREAM.search(self._body)
        self._left, pace = (int(asked[1]), int(asked[2])) if asked else (20, 0)
        self._period = 1 / pace if pace else 0.0
        if stream[1] == b"false" if stream else not protocol.streams:
            delay = self._left * self._period
            self._loop.call_later(delay, self._answer, protocol.answer(self._left))
            return
        self._transport.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: {protocol.content_type}\r\n"
            "Date: Mon, 23 Nov 2026 05:33:52 GMT\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        Connection.streams += 1
        self._chunks = protocol.chunks(self._left)
        self._due = self._loop.time() + Connection.streams * GOLDEN_RATIO % 1 * self._period
        self._go_on()

    def _answer(self, text: str) -> None:
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: "
        )
        self._transport.write(f"{head}{len(text)}\r\n\r\n{text}".encode())

    def _go_on(self) -> None:
        if self._paused:
            self._waits = True
        elif self._period:
            self._loop.call_at(self._due, self._step)
        else:
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        if self._transport.is_closing():
            return
        count = 1 if self._period else FAST_BATCH
        self._transport.write(b"".join(islice(self._chunks, count)))
        self._left -= count
        self._due += self._period
        if self._left > 0:
            self._go_on()


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(
        Connection, "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    gc.disable()  # it makes no cycles worth collecting, and a collection would delay tokens
    uvloop.run(serve(int(sys.argv[1])))
