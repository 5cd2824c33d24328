"""A service that reads the log of many pods, and answers nothing else."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from settings import Settings
from tests.conftest import Serve, Service
from tests.log.stores import pack, serving_s3
from tests.log.test_reader import DAY, entry
from tests.log.test_store import put

KEY = "the-logs-own-key-long-enough"
AUTH = {"Authorization": f"Bearer {KEY}"}
S3 = "s3://log/of/pods"


def viewer(serve: Serve, source: str) -> Service:
    """Start a service that reads the log."""
    return serve(llm_service="none", log_source=source, log_key=KEY)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder with the entries of two pods."""
    for pod, ids in (("a", "135"), ("b", "246")):
        folder = tmp_path / "store" / f"date={DAY}" / f"pod={pod}"
        folder.mkdir(parents=True)
        made = [entry(id, finished_at=f"{DAY}T12:00:00.00000{id}Z") for id in ids]
        (folder / "1.jsonl.gz").write_bytes(pack(*made))
    return tmp_path / "store"


def test_the_log_of_all_pods_is_served(serve: Serve, store: Path) -> None:
    client = viewer(serve, str(store)).client
    page = client.get("/log", params={"limit": 4}, headers=AUTH).json()
    assert [each["id"] for each in page["entries"]] == ["6", "5", "4", "3"]
    assert page["count"] is None and "last minute" in page["warnings"][0]
    older = client.get("/log", params={"before": page["next"]}, headers=AUTH).json()
    assert [each["id"] for each in older["entries"]] == ["2", "1"] and older["next"] is None
    assert older["warnings"] == []
    lines = client.get("/log", headers=AUTH | {"Accept": "application/x-ndjson"}).text
    assert [json.loads(line)["id"] for line in lines.splitlines()] == [*"654321"]
    table = client.get("/log?fields=id", headers=AUTH | {"Accept": "text/csv"}).text
    assert table.split() == ["id", *"654321"]
    assert client.get("/log/3", headers=AUTH).json()["prompt"] == "Why?"
    assert client.get("/log/no", headers=AUTH).status_code == 404
    assert json.loads(client.get("/log/count", headers=AUTH).text)["count"] == 6
    figures = client.get("/log/figures", headers=AUTH).text.splitlines()[-1]
    assert json.loads(figures)["entries"] == 6
    assert client.get("/log").status_code == 401


def test_nothing_else_is_answered(serve: Serve, store: Path) -> None:
    client = viewer(serve, str(store)).client
    for path in ("/generate", "/stream", "/api/chat", "/v1/chat/completions"):
        assert client.post(path, json={"prompt": "Why?"}).status_code == 404
    assert client.get("/ready").status_code == 200
    assert "<html" in client.get("/", headers={"Accept": "text/html"}).text


def test_what_cannot_be_read_is_said(serve: Serve, store: Path) -> None:
    """A page says what it lacks; what has no place to say so is refused or left unfinished."""
    (store / f"date={DAY}" / "pod=b" / "2.jsonl.gz").write_bytes(pack(entry("7"))[:-9])
    client = viewer(serve, str(store)).client
    assert "pod=b/2.jsonl.gz is damaged" in client.get("/log", headers=AUTH).json()["warnings"][0]
    answer = client.get("/log/no", headers=AUTH)
    assert answer.status_code == 503 and "not whole" in answer.json()["detail"]
    assert client.get("/log/3", headers=AUTH).status_code == 200


@contextmanager
def refusing(status: int, body: bytes) -> Iterator[str]:
    """Run a server that answers every request with a status."""

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def test_a_bucket_that_refuses_or_is_away_is_named(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_s3() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        client = viewer(serve, S3).client
        assert client.get("/log", headers=AUTH).json()["entries"] == []
        put(S3, f"date={DAY}/pod=a/1.jsonl", json.dumps(entry("1")).encode())
        put(S3, f"date={DAY}/pod=a/2.jsonl.gz", pack(entry("2")))
        found = client.get("/log", headers=AUTH).json()
        assert [each["id"] for each in found["entries"]] == ["2", "1"]
    with refusing(403, DENIED) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        answer = client.get("/log", headers=AUTH)
        assert answer.status_code == 503 and "credentials" in answer.json()["detail"]
    answer = client.get("/log", headers=AUTH)  # nobody listens there any more
    assert answer.status_code == 503 and "MINIVAULT_LOG_SOURCE" in answer.json()["detail"]


def test_a_source_that_cannot_be_one_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a URL such as s3://"):
        Settings(log_source=str(tmp_path / "nothing"))
