"""The balancer: HAProxy with the component's file, before servers that are found by a name."""

import http.server
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dns.message
import dns.rrset
import httpx
import pytest
import yaml

from tests.conftest import DEADLINE, eventually
from tests.processes import ROOT, free_port

CONFIG = ROOT / "deploy" / "kubernetes" / "components" / "balancer" / "haproxy.cfg"
PODS = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
CLIENTS = 12
pytestmark = pytest.mark.skipif(not shutil.which("haproxy"), reason="there is no haproxy")


@contextmanager
def pod(address: str, port: int, asked: Counter[str], seconds: float) -> Iterator[None]:
    """Run a server that counts what it is asked, and takes some time for it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != "/api/version":
                asked[address] += 1
                time.sleep(seconds)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((address, port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@contextmanager
def name_server(addresses: list[str]) -> Iterator[int]:
    """Answer every question with these addresses, as the cluster's name server does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                try:
                    data, client = server.recvfrom(4096)
                except OSError:
                    return
                question = dns.message.from_wire(data)
                answer = dns.message.make_response(question)
                if question.question[0].rdtype == dns.rdatatype.A:
                    name = question.question[0].name
                    answer.answer = [dns.rrset.from_text(name, 1, "IN", "A", *addresses)]
                server.sendto(answer.to_wire(), client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]


@contextmanager
def balancing(
    addresses: list[str], seconds: dict[str, float], asked: Counter[str], folder: Path
) -> Iterator[Callable[[int], int]]:
    """Run HAProxy before pods that take some seconds for an answer, of which it finds these
    addresses; yield what asks as the client of this number, and returns the status."""
    port, pods_port = free_port(), free_port()
    with ExitStack() as stack:
        dns_port = stack.enter_context(name_server(addresses))
        for address in PODS:
            stack.enter_context(pod(address, pods_port, asked, seconds.get(address, 0.02)))
        text = CONFIG.read_text().replace("bind :11434", f"bind 127.0.0.1:{port}")
        text = text.replace("ollama-pods:11434", f"ollama-pods.test:{pods_port}")
        text = text.replace("parse-resolv-conf", f"nameserver test 127.0.0.1:{dns_port}")
        (folder / "haproxy.cfg").write_text(text)
        process = stack.enter_context(
            subprocess.Popen(["haproxy", "-f", folder / "haproxy.cfg", "-db"])
        )
        stack.callback(process.terminate)
        clients = [
            stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE))
            for _ in range(CLIENTS)
        ]

        def ask(number: int) -> int:
            try:
                return clients[number % CLIENTS].get("/api/tags").status_code
            except httpx.TransportError:
                return 0

        eventually(lambda: ask(0) == 200)
        yield ask


def test_pods_that_come_get_their_share(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()
    addresses = PODS[:1]
    with (
        balancing(addresses, {}, asked, tmp_path) as ask,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        assert set(pool.map(ask, range(60))) == {200}
        assert asked.keys() == {PODS[0]}
        addresses += PODS[1:]  # scaled
        eventually(lambda: ask(0) and asked.keys() == {*PODS})
        asked.clear()
        assert set(pool.map(ask, range(300))) == {200}
    assert all(70 <= asked[address] <= 130 for address in PODS), asked


def test_a_slow_pod_does_not_hold_up_the_others(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()
    slow, *others = PODS
    with (
        balancing(PODS, {slow: 2}, asked, tmp_path) as ask,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        eventually(lambda: ask(0) and asked.keys() == {*PODS})
        asked.clear()
        assert set(pool.map(ask, range(300))) == {200}
    assert asked[slow] < 40 and all(asked[address] > 100 for address in others), asked


def test_compose_has_the_same_balancer() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "compose-balancer.yml").read_text())["services"]
    manifest = (CONFIG.parent / "balancer.yaml").read_text()
    assert f"image: {services['balancer']['image']}\n" in manifest
    (mounted,) = services["balancer"]["volumes"]
    assert (ROOT / mounted.partition(":")[0]).resolve() == CONFIG.parent
    (name,) = services["ollama"]["networks"]["default"]["aliases"]
    assert f" {name}:11434 " in CONFIG.read_text()
