"""A transport for httpx that carries streams over aiohttp.

httpx's own transport parses HTTP in Python, yields every HTTP chunk by itself, and its pool is
quadratic in open connections. aiohttp parses in C and hands over all that one read of the socket
brought. The benchmarks say what that is worth.

What differs from httpx-aiohttp: no limit on connections, a server that hangs up is a read error and
not a connect timeout, and closing a response never waits.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import httpx
from yarl import URL


@contextmanager
def httpx_errors(request: httpx.Request) -> Iterator[None]:
    """Raise httpx's errors for aiohttp's."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as exc:
        raise httpx.ConnectTimeout(str(exc), request=request) from exc
    except aiohttp.ClientConnectorError as exc:
        raise httpx.ConnectError(str(exc.os_error), request=request) from exc
    except aiohttp.ClientResponseError as exc:
        raise httpx.RemoteProtocolError(exc.message, request=request) from exc
    except aiohttp.ClientError as exc:
        raise httpx.ReadError(str(exc), request=request) from exc


class AiohttpStream(httpx.AsyncByteStream):
    """A response's body, in pieces as large as the reads that brought them."""

    def __init__(self, response: aiohttp.ClientResponse, request: httpx.Request) -> None:
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with httpx_errors(self._request):
            while data := await self._response.content.readany():
                yield data

    async def aclose(self) -> None:
        """Close the connection, unless the body has ended and it went back to the pool."""
        self._response.close()


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends httpx's requests over one aiohttp session; of the timeouts it keeps `connect`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response as soon as the head is there."""
        if self._session is None:  # made here, as it belongs to the running loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
            )
        connect = request.extensions["timeout"]["connect"]
        with httpx_errors(request):
            response = await self._session.request(
                request.method,
                URL(str(request.url.copy_with(userinfo=b"")), encoded=True),
                headers=request.headers.multi_items(),
                data=await request.aread() or None,
                allow_redirects=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=connect),
            )
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=AiohttpStream(response, request),
            request=request,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
