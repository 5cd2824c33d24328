"""A client's connection: uvicorn's own on h11, with nine faults repaired.

h11 keeps heads bounded and delivers a body whatever `Upgrade` asks for, and being Python it can do
no more than raise at any byte of a request. `python app.py` uses it; with uvicorn's own command it
is `--http web.connection:Connection`. Seen with uvicorn 0.54 and h11 0.16:

1. uvicorn stops reading when a second request arrives before the first is answered, and so does not
   notice that its client left. Here it reads on, up to a limit. (No issue known.)
2. Junk after a request with `Connection: close` ends the answer to it. Here the answer goes on.
   (https://github.com/Kludex/uvicorn/issues/2238 is its kin.)
3. Junk in the rest of a body whose answer has begun makes uvicorn begin a second answer, which
   raises in h11. Here there is one answer, and the connection closes. (No issue known.)
4. In HTTP/1.0 and before, the end of the connection ends the answer, and half an answer looks
   complete. Here half an answer ends with a reset: what arrived can be read, and then an error.
   Over TLS or a Unix socket it still looks complete. (HTTP has no other way.)
5. Bytes behind junk are kept until the answer is sent, and searched each time. Here they are
   dropped. (No issue known.)
6. What is not HTTP is refused in plain text. Here in the shape of every error, with an id.
7. A request for a WebSocket is refused, and `Upgrade: h2c` prints a line. Here both are ordinary
   requests. (https://github.com/Kludex/uvicorn/issues/2722 for other parsers.)
8. For every piece of a body uvicorn and h11 walk through their states, which changes nothing. Here
   a piece goes straight to h11's writer: 8 to 11 % of what a token costs.
9. At a stop uvicorn closes what is idle at once, and tells no client that a connection ends. A
   request that is on its way is then reset. Here every answer says `Connection: close` from then
   on, and what is idle stays open for a second. (No issue known.)

The app finds the connection in a request's state, to send pieces by `send_piece`.
"""

import asyncio
import socket
import struct
from contextlib import suppress

import h11
import uuid_utils
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from web.middleware import REQUEST_ID, error_response

MAX_AHEAD = 65536  # bytes beyond the request that is being answered
CLOSE_HEADER = (b"connection", b"close")
LINGER_SECONDS = 1.0
"""How long an idle connection stays open at a stop, for a request that is on its way."""

for overridden in ("_should_upgrade", "send_400_response"):
    assert hasattr(H11Protocol, overridden), f"uvicorn no longer calls {overridden}"


class Connection(H11Protocol):
    """Serves one client's requests, one after the other."""

    is_stopping = False
    """Whether the service stops, so that what has no end of its own has to end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "connection": self}

    def connection_lost(self, exc: Exception | None) -> None:
        # by now all that was written has been sent; the socket is closed after this
        if self.conn.our_state is not h11.SEND_BODY:
            self._reset_at_close(False)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.ERROR:
            return
        super().data_received(data)
        self._reset_at_close(True)
        if self._is_answering() and len(self.conn.trailing_data[0]) < MAX_AHEAD:
            self.flow.resume_reading()

    def shutdown(self) -> None:
        self.is_stopping = True
        for headers in (self.server_state.default_headers, *self._headers_to_come()):
            if CLOSE_HEADER not in headers:
                headers.append(CLOSE_HEADER)
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER_SECONDS, self._close_if_idle)
        else:
            super().shutdown()

    def _headers_to_come(self) -> list[list[tuple[bytes, bytes]]]:
        """Return uvicorn's own headers of the answer that is under way."""
        return [self.cycle.default_headers] if self.cycle else []

    def _close_if_idle(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def _should_upgrade(self) -> bool:
        return False

    def send_400_response(self, msg: str) -> None:
        if self._is_answering():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            if self.cycle:  # the request began well: the app may be about to answer it too
                self.cycle.disconnected = True
            self._send_400(msg)
        self.transport.close()

    def _send_400(self, message: str) -> None:
        has_begun = self.conn.our_state is h11.SEND_RESPONSE
        scope: Scope = {**self.scope} if has_begun else {"path": "", "method": "GET", "state": {}}
        request_id = scope["state"].get("request_id") or str(uuid_utils.uuid7())
        response = error_response(
            scope, 400, message, {"Connection": "close", REQUEST_ID: request_id}
        )
        headers = [*self.server_state.default_headers, *response.raw_headers]
        head = h11.Response(status_code=400, reason=b"Bad Request", headers=headers)
        body = h11.Data(data=b"" if scope["method"] == "HEAD" else bytes(response.body))
        for event in (head, body, h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")

    async def send_piece(self, cycle: RequestResponseCycle, piece: bytes) -> None:
        """Send a piece of the answer of this cycle, whose head has been sent and whose end has not.

        Not for HEAD, whose answer has no body.
        """
        if self.flow.write_paused and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected:
            return
        if cycle.response_complete:
            raise RuntimeError("this answer has ended; the next one may have begun")
        framed: list[bytes] = []
        self.conn._writer.send_data(piece, framed.append)  # type: ignore[union-attr]
        self.transport.write(b"".join(framed))

    def _reset_at_close(self, reset: bool) -> None:
        """Set how a connection closes that ends an answer, also if the process is killed."""
        version = self.conn.their_http_version or b"1.1"
        if version < b"1.1" and self.scheme == "http":
            at_once = struct.pack("ii", reset, 0)  # whatever has not been sent by then is lost
            with suppress(OSError):  # a Unix socket has no reset
                sock = self.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)

    def _is_answering(self) -> bool:
        """Return whether a request has been received to its end and not answered to its end."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete
