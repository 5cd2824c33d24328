"""A host that dies without a word is noticed by TCP, and one that is only silent is not.

Between two network namespaces, where packets can be lost; skipped where none can be made.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.conftest import DEADLINE
from tests.processes import ROOT

SERVER = """
import socket, sys
with socket.create_server(("10.77.0.1", 8000)) as server:
    print("listening", flush=True)
    client = server.accept()[0]
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 9\\r\\n\\r\\nBlue")
    print("silent", flush=True)
    if sys.stdin.readline():
        client.sendall(b" sky.")
    sys.stdin.readline()
"""
CLIENT = """
import asyncio, aiohttp
from yarl import URL
from upstream import transport
transport.DEAD_SECONDS, transport.PROBES = 4, 3
async def main():
    session = transport.Transport(5)
    response = await session.send("POST", URL("http://10.77.0.1:8000/"), [])
    print(await response.content.readany(), flush=True)
    try:
        print(await response.content.read(), flush=True)
    except aiohttp.ClientError as exc:
        print("dead:", transport.describe_error(exc), flush=True)
    await session.aclose()
asyncio.run(main())
"""


def run(*command: str) -> None:
    """Run a command; fail where it fails."""
    subprocess.run(command, check=True, capture_output=True)


@dataclass
class Network:
    """Two hosts with a cable between them."""

    server: str
    client: str

    def start(self, host: str, code: str) -> subprocess.Popen[str]:
        """Run Python on one of them."""
        return subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def cut(self) -> None:
        """Lose every packet from now on."""
        run("ip", "-n", self.server, "link", "set", "cable", "down")


@pytest.fixture
def network() -> Iterator[Network]:
    """Two hosts; skip where they cannot be made."""
    found = Network(f"minivault-s{os.getpid()}", f"minivault-c{os.getpid()}")
    try:
        run("ip", "netns", "add", found.server)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network namespace can be made here (root and iproute2 can)")
    try:
        run("ip", "netns", "add", found.client)
        peer = ("peer", "name", "cable", "netns", found.client)
        run("ip", "-n", found.server, "link", "add", "cable", "type", "veth", *peer)
        for host, address in ((found.server, "10.77.0.1/24"), (found.client, "10.77.0.2/24")):
            run("ip", "-n", host, "address", "add", address, "dev", "cable")
            run("ip", "-n", host, "link", "set", "cable", "up")
        yield found
    finally:
        for host in (found.server, found.client):
            subprocess.run(["ip", "netns", "del", host], capture_output=True)


@pytest.mark.parametrize("dies", [True, False])
def test_dead_host_is_noticed_and_a_silent_one_is_waited_for(network: Network, dies: bool) -> None:
    with network.start(network.server, SERVER) as server:
        assert server.stdin and server.stdout
        assert server.stdout.readline() == "listening\n"
        with network.start(network.client, CLIENT) as client:
            assert client.stdout and client.stdin
            assert client.stdout.readline() == "b'Blue'\n"
            assert server.stdout.readline() == "silent\n"
            if dies:
                network.cut()
                assert client.stdout.readline().startswith("dead:")
            else:
                with pytest.raises(subprocess.TimeoutExpired):
                    client.wait(8)  # twice as long as a dead host takes
                server.stdin.write("\n")
                server.stdin.flush()
                assert client.stdout.readline() == "b' sky.'\n"
            assert client.wait(DEADLINE) == 0
        server.stdin.close()
        server.stdin = None
        server.wait(DEADLINE)
