"""A client's connection: uvicorn's on h11, less what is odd about it.

h11 keeps heads bounded and hands bodies on whatever `Upgrade` asks for, and is Python: no byte of
a request can do more than raise. `uvicorn --http web.connection:Connection` puts it to use.

1. uvicorn stops reading when a second request comes before the first is answered, and so does not
   see its client leave. Here it reads on, up to a limit.
2. Junk after a request with `Connection: close` ends the answer to it. Here the answer goes on.
3. Junk in the rest of a body, where its answer is out or on its way, has uvicorn begin a second
   answer, which is an exception in h11. Here there is one, and the connection ends.
4. In HTTP/1.0 and before, the end of the connection is the end of the answer, and half an answer
   looks whole. Here a half one ends with a reset: what has arrived can be read, and then an error.
   Over TLS or a Unix socket it still looks whole.
5. What comes behind junk is kept until the answer has left, and gone through each time. Here it is
   dropped.
6. What is no HTTP is refused in plain text. Here in the shape of every error, with an id.
7. A request for a WebSocket is refused, and `Upgrade: h2c` has a line printed. Here either is a
   request like any other.
8. For every piece of a body uvicorn and h11 walk through their states, which leaves both where they
   are and was a sixth of all that a token cost. Here a piece goes straight to what frames it.

The app finds the connection in a request's state, to send pieces by `send_piece`.
"""

import asyncio
import socket
import struct
import uuid
from contextlib import suppress

import h11
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from web.middleware import REQUEST_ID, refuse

MAX_AHEAD = 65536  # bytes beyond the request that is being answered


class Connection(H11Protocol):
    """Serves one client's requests, one after the other."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "connection": self}

    def connection_lost(self, exc: Exception | None) -> None:
        # all that was written has left by now, and the socket is closed after this
        if self.conn.our_state is not h11.SEND_BODY:
            self.reset_at_close(False)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.ERROR:
            return
        super().data_received(data)
        self.reset_at_close(True)
        if self.answers_whole_request() and len(self.conn.trailing_data[0]) < MAX_AHEAD:
            self.flow.resume_reading()

    def _should_upgrade(self) -> bool:
        return False

    def send_400_response(self, msg: str) -> None:
        if self.answers_whole_request():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            if self.cycle:  # its request began well: the app may be about to answer it too
                self.cycle.disconnected = True
            self._answer_400(msg)
        self.transport.close()

    def _answer_400(self, detail: str) -> None:
        has_begun = self.conn.our_state is h11.SEND_RESPONSE
        scope: Scope = {**self.scope} if has_begun else {"path": "", "method": "GET", "state": {}}
        request_id = scope["state"].get("request_id") or str(uuid.uuid4())
        answer = refuse(scope, 400, detail, {"Connection": "close", REQUEST_ID: request_id})
        headers = [*self.server_state.default_headers, *answer.raw_headers]
        head = h11.Response(status_code=400, reason=b"Bad Request", headers=headers)
        body = h11.Data(data=b"" if scope["method"] == "HEAD" else bytes(answer.body))
        for event in (head, body, h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")

    async def send_piece(self, cycle: RequestResponseCycle, piece: bytes) -> None:
        """Send a piece of the answer of this cycle, whose head has left and whose end has not.

        Not to HEAD, which has no body to send pieces of.
        """
        if self.flow.write_paused and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected:
            return
        if cycle.response_complete:
            raise RuntimeError("the answer has left; the next one is on its way")
        framed: list[bytes] = []
        self.conn._writer.send_data(piece, framed.append)  # type: ignore[union-attr]
        self.transport.write(b"".join(framed))

    def reset_at_close(self, reset: bool) -> None:
        """Say how a connection ends that ends an answer, also where the process is killed."""
        version = self.conn.their_http_version or b"1.1"
        if version < b"1.1" and self.scheme == "http":
            without_waiting = struct.pack("ii", reset, 0)  # what is not sent by then is lost
            with suppress(OSError):  # a Unix socket knows no reset
                sock = self.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, without_waiting)

    def answers_whole_request(self) -> bool:
        """Return whether a request has arrived to its end and its answer has not left to its."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete
