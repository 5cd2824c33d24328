"""MiniVault that holds tokens back for a while, to measure that. Only for the benchmark.

After each read of Ollama's stream the next one waits until `STREAM_WINDOW_MS` are over, so that
tokens gather; the first one leaves at once, and unread bytes stay bounded by the transport.
"""

import asyncio
import os

import app as minivault
import transport

WINDOW_SECONDS = float(os.environ["STREAM_WINDOW_MS"]) / 1000

read = transport.Connection.read


async def read_after_the_window(connection: transport.Connection) -> bytes:
    """Wait out the rest of the window since the last read, then read."""
    now = asyncio.get_running_loop().time
    if (rest := getattr(connection, "next_read", 0) - now()) > 0:
        await asyncio.sleep(rest)
    data = await read(connection)
    connection.next_read = now() + WINDOW_SECONDS if data else 0  # type: ignore[attr-defined]
    return data


if WINDOW_SECONDS:
    transport.Connection.read = read_after_the_window  # type: ignore[method-assign]
app = minivault.app
