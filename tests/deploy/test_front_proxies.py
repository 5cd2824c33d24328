"""nginx and Caddy with the files of `deploy/` in front of a live service.

Only ports, certificate and waits are replaced: what a test waits for is a second long, not ten.
"""

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conftest import DEADLINE, begin_anew, eventually, read_log
from tests.ollama_stand_in import OllamaStandIn, then
from tests.processes import ROOT, SERVE, Process, free_port, process
from tests.web.test_connection_sent_ahead import Pause

NAME = "vault.example.org"
BODY_LIMIT = 20 * 2**20


@dataclass
class Front:
    """A proxy that runs, and the service behind it."""

    port: int
    certificate: Path
    vault: Process
    is_caddy: bool

    def client(self) -> httpx.Client:
        """Return a client that reaches the proxy by its name."""
        trusted = ssl.create_default_context(cafile=str(self.certificate))
        url = f"https://127.0.0.1:{self.port}"
        headers = {"Host": NAME}
        return httpx.Client(
            base_url=url, headers=headers, verify=trusted, timeout=DEADLINE, trust_env=False
        )

    def post(self, client: httpx.Client, path: str, content: bytes) -> httpx.Request:
        """Return a request with this body."""
        return client.build_request(
            "POST",
            path,
            content=content,
            headers={"Content-Type": "application/json"},
            extensions={"sni_hostname": NAME},
        )

    def connect(self) -> ssl.SSLSocket:
        """Return a bare connection."""
        trusted = ssl.create_default_context(cafile=str(self.certificate))
        connection = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        return trusted.wrap_socket(connection, server_hostname=NAME)


def certificate(folder: Path) -> Path:
    """Make a certificate for the name and its key, `vault.pem` and `vault.key`."""
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-subj", f"/CN={NAME}"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", f"subjectAltName=DNS:{NAME}"]
    command += ["-keyout", str(folder / "vault.key"), "-out", str(folder / "vault.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "vault.pem"


def nginx(folder: Path, port: int, upstream: str) -> list[str]:
    """Write nginx's file for the test and return the command that runs it."""
    config = (ROOT / "deploy" / "nginx.conf").read_text()
    config = config.replace("/etc/ssl/", f"{folder}/").replace("/run/", f"{folder}/")
    config = config.replace("443 ssl", f"127.0.0.1:{port} ssl").replace("127.0.0.1:8000", upstream)
    config = re.sub(r"\b10s", "1s", config)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = config.replace("http {", f"http {{ access_log off; {places}")
    (folder / "nginx.conf").write_text(config)
    user = "user root;" if os.geteuid() == 0 else ""  # the folder is for its owner only
    options = f"daemon off; error_log {folder}/errors.txt; {user}"
    errors = str(folder / "errors.txt")
    return ["nginx", "-e", errors, "-c", str(folder / "nginx.conf"), "-g", options]


def caddy(folder: Path, port: int, upstream: str) -> list[str]:
    """Write Caddy's file for the test and return the command that runs it."""
    config = (ROOT / "deploy" / "Caddyfile").read_text()
    config = config.replace("{\n", "{\nadmin off\nauto_https disable_redirects\n", 1)
    files = f"tls {folder}/vault.pem {folder}/vault.key"
    config = config.replace(f"{NAME} {{", f"https://{NAME}:{port} {{\nbind 127.0.0.1\n{files}")
    config = config.replace("127.0.0.1:8000", upstream)
    config = re.sub(r"\b[16]0s", "1s", config)
    (folder / "Caddyfile").write_text(config)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """Run a proxy for the length of the block."""
    with (folder / "output.txt").open("wb") as output:
        proxy = subprocess.Popen(
            command,
            env={**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
            stdout=output,
            stderr=output,
        )
    try:
        eventually(lambda: listens(port) or proxy.poll() is not None)
        assert proxy.poll() is None, (folder / "output.txt").read_text()
        yield
    finally:
        proxy.terminate()
        proxy.wait(DEADLINE)


def listens(port: int) -> bool:
    """Return whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStandIn]:
    """The stand-in behind the service; all tests share it."""
    with OllamaStandIn() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def service_limit() -> int:
    """The service's own limit of a body."""
    return BODY_LIMIT


@pytest.fixture
def front(shared_front: Front, ollama: OllamaStandIn) -> Front:
    """A proxy whose service was asked nothing yet."""
    begin_anew(ollama, shared_front.vault.log_dir)
    return shared_front


@pytest.fixture(scope="module", params=[nginx, caddy], ids=lambda proxy: proxy.__name__)
def shared_front(
    request: pytest.FixtureRequest,
    ollama: OllamaStandIn,
    tmp_path_factory: pytest.TempPathFactory,
    service_limit: int,
) -> Iterator[Front]:
    """Each of the proxies in front of a service in front of the stand-in."""
    for program in (request.param.__name__, "openssl"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    environment = {
        **ollama.environment,
        "MINIVAULT_ALLOWED_HOSTS": NAME,
        "MINIVAULT_MAX_PROMPT_BYTES": str(service_limit),
    }
    port = free_port()
    folder = tmp_path_factory.mktemp("front")
    pem = certificate(folder)
    with process(SERVE, folder / "logs", **environment) as vault:
        command = request.param(folder, port, vault.url.removeprefix("http://"))
        with running(command, folder, port):
            yield Front(port, pem, vault, is_caddy=request.param is caddy)


def test_each_token_passes_at_once_and_a_slow_one_is_waited_for(
    front: Front, ollama: OllamaStandIn
) -> None:
    ollama.answer = pause = Pause()
    with front.client() as client:
        request = front.post(client, "/stream", b'{"prompt": "Why?"}')
        answer = client.send(request, stream=True)
        pieces = answer.iter_raw()
        assert next(pieces) == b"Blue"
        assert not pause.go_on.wait(3)  # longer than a head and a body may take
        pause.go_on.set()
        assert b"".join(pieces) == b" sky"
    (entry,) = read_log(front.vault.log_dir)
    assert (entry["status"], entry["response"]) == ("ok", "Blue sky")


def test_leaving_the_proxy_is_leaving_the_service(front: Front, ollama: OllamaStandIn) -> None:
    ollama.answer = Pause()
    with front.client() as client:
        request = front.post(client, "/stream", b'{"prompt": "Why?"}')
        next(client.send(request, stream=True).iter_raw())
    assert ollama.left.acquire(timeout=DEADLINE)
    (entry,) = eventually(lambda: read_log(front.vault.log_dir))
    assert entry["status"] == "cancelled"


@pytest.mark.parametrize("rest", ["", "Content-Length: 100\r\n\r\n{"], ids=["head", "body"])
def test_client_that_does_not_get_on_with_its_request_is_dropped(front: Front, rest: str) -> None:
    with front.connect() as connection:
        start = f"POST /generate HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: application/json\r\n"
        connection.sendall((start + rest).encode())
        while connection.recv(1000):
            pass
    assert read_log(front.vault.log_dir) == []


@pytest.mark.parametrize(
    "service_limit", [BODY_LIMIT, 2 * BODY_LIMIT], ids=["same", "larger"], scope="module"
)
def test_body_over_the_limit_is_refused_before_ollama_sees_it(
    front: Front, ollama: OllamaStandIn, service_limit: int
) -> None:
    with front.client() as client:
        ask = front.post(client, "/generate", b'{"prompt": "%s"}' % (b"x" * BODY_LIMIT))
        answer = client.send(ask)
    # an older Caddy, such as Debian's, says 502 where it is the one to refuse
    old_caddy = front.is_caddy and service_limit > BODY_LIMIT
    assert answer.status_code in ((413, 502) if old_caddy else (413,))
    assert ollama.requests == []


def test_body_under_the_limit_passes(front: Front, ollama: OllamaStandIn) -> None:
    ollama.answer = then("Blue", end=lambda talk: talk.done())
    with front.client() as client:
        ask = front.post(client, "/generate", b'{"prompt": "%s"}' % (b"x" * (BODY_LIMIT - 100)))
        answer = client.send(ask)
    assert answer.json() == {"response": "Blue"}


def test_two_framings_reach_the_service_as_one_or_not_at_all(
    front: Front, ollama: OllamaStandIn
) -> None:
    ollama.answer = then("Blue", end=lambda talk: talk.done())
    body = b'{"prompt": "Why?"}'
    hidden = b"POST /generate HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n\r\n" % NAME.encode()
    with front.connect() as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"%x\r\n%s\r\n0\r\n\r\n%s" % (NAME.encode(), 100 + len(hidden), len(body), body, hidden)
        )
        answers = b""
        while piece := connection.recv(1 << 16):
            answers += piece
    assert re.findall(rb"HTTP/1.1 (\d+) ", answers) in ([b"200"], [b"400"])
    assert len(ollama.requests) <= 1
