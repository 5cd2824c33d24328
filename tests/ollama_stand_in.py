"""An Ollama for tests: a real socket that speaks the recorded wire and fails on demand.

A test sets `answer` to one of the behaviours below, or to a coroutine of its own that gets the
`Conversation`; `like_ollama` answers on every interface. The real thing's oddities are kept: a line
a chunk and a chunk a token, early errors as JSON with a length, a stopped server that just cuts the
connection.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import zstandard

from tests.ollama_wires import Wire, answer_to, dying


@dataclass
class Conversation:
    """One request and the connection to answer it on."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter
    head: bytes = b""
    content: bytes = b""

    @property
    def wire(self) -> Wire:
        """What a real Ollama answers."""
        return answer_to(self.method, self.path, self.headers, self.unpacked)

    @property
    def unpacked(self) -> bytes:
        """The body that Ollama reads: it unpacks zstd, and only on one path."""
        if self.path == "/v1/responses" and self.headers.get("content-encoding") == "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(self.content)
        return self.content

    async def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def json(self, status: int, content: dict[str, Any]) -> None:
        """Send a whole answer with a length, as for errors and `/api/tags`."""
        body = json.dumps(content).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json; charset=utf-8\r\n"
        await self.raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def start(self) -> None:
        """Send the head of a stream."""
        await self.raw(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
            b"Date: Mon, 23 Nov 2026 05:33:52 GMT\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    async def chunk(self, data: bytes) -> None:
        """Send one HTTP chunk."""
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def line(self, **fields: Any) -> None:
        """Send a line of the stream, a chunk of its own."""
        await self.chunk(self.encode(**fields))

    def encode(self, **fields: Any) -> bytes:
        """Return a line of the stream."""
        head = {"model": self.body.get("model"), "created_at": "2026-11-23T05:33:52.64422406Z"}
        return json.dumps({**head, **fields}, ensure_ascii=False).encode() + b"\n"

    async def done(self, **fields: Any) -> None:
        """Send the last line and the end of the stream."""
        counts = {"prompt_eval_count": 26, "eval_count": 12, "total_duration": 55733660}
        last = {"response": "", "done": True, "done_reason": "stop", "context": [1, 2], **counts}
        await self.line(**{**last, **fields})
        await self.raw(b"0\r\n\r\n")


Behaviour = Callable[[Conversation], Awaitable[None]]


def tokens(*texts: str, delay: float = 0, thinking: tuple[str, ...] = ()) -> Behaviour:
    """Answer with these tokens, `delay` seconds apart, after these thoughts."""

    async def answer(talk: Conversation) -> None:
        await talk.start()
        for text in thinking:
            await talk.line(response="", thinking=text, done=False)
            await asyncio.sleep(delay)
        for text in texts:
            await talk.line(response=text, done=False)
            await asyncio.sleep(delay)
        await talk.done()

    return answer


def refuse(status: int, words: str) -> Behaviour:
    """Answer with an error status and words."""

    async def answer(talk: Conversation) -> None:
        await talk.json(status, {"error": words})

    return answer


def then(*texts: str, end: Behaviour) -> Behaviour:
    """Send these tokens, then end in some other way."""

    async def answer(talk: Conversation) -> None:
        await talk.start()
        for text in texts:
            await talk.line(response=text, done=False)
        await end(talk)

    return answer


async def hang(talk: Conversation) -> None:
    """Say nothing more, for ever."""
    await asyncio.Event().wait()


async def cut(talk: Conversation) -> None:
    """Drop the connection, as a stopped server does."""
    talk.writer.transport.abort()


async def cut_mid_line(talk: Conversation) -> None:
    """Drop the connection in the middle of a line."""
    await talk.raw(b'70\r\n{"model":"tinyllama","resp')
    await asyncio.sleep(0.05)
    talk.writer.transport.abort()


async def end_without_done(talk: Conversation) -> None:
    """End the stream cleanly, but without its last line."""
    await talk.raw(b"0\r\n\r\n")


async def error_line(talk: Conversation) -> None:
    """Fail as Ollama does when its runner is killed: an error line and a clean end."""
    words = "an error was encountered while running the model: unexpected EOF"
    await talk.chunk(json.dumps({"error": words}).encode() + b"\n")
    await talk.raw(b"0\r\n\r\n")


async def junk(talk: Conversation) -> None:
    """Send a line that is not JSON."""
    await talk.chunk(b"<html>it works</html>\n")
    await talk.raw(b"0\r\n\r\n")


async def like_ollama(talk: Conversation) -> None:
    """Answer as a real Ollama does, a piece of the stream at a time."""
    for data in talk.wire.encode():
        await talk.raw(data)


async def killed(talk: Conversation) -> None:
    """Answer as a real Ollama does whose model's process is killed in mid-answer."""
    for data in dying(talk.path, talk.unpacked).encode():
        await talk.raw(data)


def begin(pieces: int, end: Behaviour) -> Behaviour:
    """Send the head and so many pieces of the real answer, then end in some other way."""

    async def answer(talk: Conversation) -> None:
        for data in talk.wire.encode()[: pieces + 1]:
            await talk.raw(data)
        await end(talk)

    return answer


async def in_two_reads(talk: Conversation, data: bytes, cut: int) -> None:
    """Send these bytes as two writes, far enough apart to be read one by one, and hang up."""
    await talk.raw(data[:cut])
    await asyncio.sleep(0.003)
    await talk.raw(data[cut:])
    talk.writer.close()


async def hang_up(talk: Conversation) -> None:
    """Close the connection in an orderly way: all that was sent arrives, and nothing more."""
    talk.writer.close()


@dataclass
class OllamaStandIn:
    """The server, in a thread of its own; `with OllamaStandIn() as ollama:`."""

    answer: Behaviour = field(default_factory=lambda: tokens("Blue", " is", " a", " colour."))
    models: list[str] = field(default_factory=lambda: ["tinyllama:latest"])
    requests: list[Conversation] = field(default_factory=list)
    left: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    connections: int = 0
    looks: int = 0
    """How often it was asked for its models."""
    port: int = 0
    """Where it listens; 0 finds a free one."""

    def __enter__(self) -> Self:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What tells a service to ask here."""
        return {"MINIVAULT_LLM_SERVICE": "ollama", "MINIVAULT_OLLAMA_BASE_URL": self.url}

    def reset(self) -> None:
        """Forget what was asked."""
        self.requests.clear()
        self.left = threading.Semaphore(0)
        self.connections = 0

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines if line)
                if "100-continue" in headers.get("expect", ""):
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                content = await read_body(reader, headers)
                method, path, version = request.split(" ")
                talk = Conversation(method, path, headers, parsed(content), writer, head, content)
                await self._answer(talk, reader)
                if headers.get("connection") == "close" or version == "HTTP/1.0":
                    return writer.close()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the client left, or the test is over
        finally:
            if not writer.is_closing():
                writer.transport.abort()

    async def _answer(self, talk: Conversation, reader: asyncio.StreamReader) -> None:
        if (talk.method, talk.path) == ("GET", "/api/tags"):
            self.looks += 1
            await talk.json(200, {"models": [{"name": name} for name in self.models]})
            return
        self.requests.append(talk)
        work = asyncio.ensure_future(self.answer(talk))
        leaving = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():  # the client closed the connection while it was being answered
            leaving.exception()  # a reset is a way to leave too
            work.cancel()
            self.left.release()
            raise ConnectionResetError
        leaving.cancel()
        await asyncio.wait({leaving})
        await work


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """Read a request's body, whichever way it is framed."""
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


def parsed(content: bytes) -> dict[str, Any]:
    """Return a body's JSON object, an empty one where there is none."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
