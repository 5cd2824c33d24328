"""The log over HTTP: who may read it, what may be asked, and what becomes of the processes."""

import json
import os
import re
import signal
import socket
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import run
from typing import Any

import httpx
import pytest

import log_processes
from log_key import key_beside, log_key
from settings import Settings
from tests.conftest import DEADLINE, Serve, Service, eventually
from tests.processes import GRACE, ROOT, UVICORN, children, command_line, process
from tests.test_log_reader import DAY, entry, write

KEY = "the-logs-own-key-long-enough"
JSON_LINES = {"Accept": "application/x-ndjson"}
BROWSER = {"Accept": "text/html"}


@pytest.fixture
def service(serve: Serve) -> Service:
    """A service whose client has the log's key."""
    service = serve(log_key=KEY)
    service.client.headers["Authorization"] = f"Bearer {KEY}"
    return service


def ids(answer: httpx.Response) -> list[str]:
    """Return the ids of an answer's entries."""
    assert answer.status_code == 200, answer.text
    return [entry["id"] for entry in answer.json()["entries"]]


def readers() -> list[int]:
    """Return the processes that this one has started and that still run."""
    pids: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            pids += map(int, (task / "children").read_text().split())
    return [pid for pid in pids if b"log_reader" in command_line(pid)]


def endless(folder: Path) -> None:
    """Make a file that no search comes to the end of: a tebibyte of nothing."""
    os.truncate(write(folder, entry("a")), 1 << 40)


def test_an_answer_is_found_as_it_stands_in_the_log(service: Service) -> None:
    answer = service.client.post("/generate", json={"prompt": "Why is the sky blue?"})
    (found,) = service.client.get("/log").json()["entries"]
    assert found == service.entry()
    assert found["id"] == answer.headers["x-request-id"]
    one = service.client.get(f"/log/{found['id']}")
    assert one.json() == found
    assert one.headers["content-type"] == "application/json"
    assert one.headers["cache-control"] == "no-store"
    assert len(service.entries) == 1, "reading is not logged"


def test_pages_and_lines(service: Service) -> None:
    write(service.log_dir, *(entry(str(number)) for number in range(120)))
    newest_first = [str(number) for number in reversed(range(120))]
    first = service.client.get("/log")
    assert ids(first) == newest_first[:50]
    second = service.client.get("/log", params={"before": first.json()["next"], "limit": 60})
    assert ids(second) == newest_first[50:110]
    lines = service.client.get("/log", headers=JSON_LINES)
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["id"] for line in lines.text.splitlines()] == newest_first
    few = service.client.get("/log", headers=JSON_LINES, params={"limit": 2, "q": "WHY"})
    assert len(few.text.splitlines()) == 2
    assert service.client.get("/log", headers=JSON_LINES, params={"q": "no"}).text == ""


def test_the_filters_of_the_query(service: Service) -> None:
    def at(time: str, **changes: Any) -> dict[str, Any]:
        return entry(time, finished_at=f"{DAY}T{time}:00.000000Z", **changes)

    write(service.log_dir, at("08:00", prompt="Grüße"), at("09:00", status="error"))
    write(service.log_dir, at("10:00", model="llama"), at("11:00", endpoint="/api/chat"))
    for params, found in {
        "q=GRÜSSE": ["08:00"],
        "status=error": ["09:00"],
        "model=llama": ["10:00"],
        "endpoint=/api/chat": ["11:00"],
        "q=&model=&endpoint=": ["11:00", "10:00", "09:00", "08:00"],
        f"since={DAY}T10:00Z": ["11:00", "10:00"],
        f"until={DAY}T10:00:00": ["09:00", "08:00"],
        f"since={DAY}T10:00%2B02:00&until={DAY}T11:00%2B02:00": ["08:00"],
        f"since={DAY}&until={DAY}": ["11:00", "10:00", "09:00", "08:00"],
        "since=2026-11-25": [],
        "until=2026-11-23": [],
        "since=0001-01-01&until=9999-12-31": ["11:00", "10:00", "09:00", "08:00"],
        "q=why&status=error&model=tinyllama": ["09:00"],
    }.items():
        assert ids(service.client.get(f"/log?{params}")) == found, params


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/log?limit=0", "limit"),
        ("/log?limit=1001", "limit"),
        ("/log?status=fine", "status"),
        ("/log?since=yesterday", "since"),
        ("/log?until=2026-13-01", "until"),
        ("/log?until=0001-01-01T00:00%2B23:00", "until"),
        (f"/log?q={'x' * 1001}", "q"),
        ("/log?before=../../etc/passwd.1", "before"),
        ("/log?before=2026-11-24.-1", "before"),
        ("/log?before=2026-11-24.1%0A", "before"),
        ("/log?befor=1", "befor"),
        ("/log/figures?limit=5", "limit"),
        ("/log/an-id?q=x", "q"),
    ],
)
def test_a_bad_parameter_is_named(service: Service, path: str, name: str) -> None:
    answer = service.client.get(path)
    assert answer.status_code == 422
    assert [problem["loc"] for problem in answer.json()["detail"]] == [["query", name]]


@pytest.mark.parametrize("text", ["\0", "\n", "😀", "(", "\\", '"', "a" * 1000, "ß" * 1000])
def test_any_text_can_be_looked_for(service: Service, text: str) -> None:
    write(service.log_dir, entry("a", prompt=f"x{text}y"), entry("b"))
    assert ids(service.client.get("/log", params={"q": text})) == ["a"]


def test_an_id_that_is_not_there(service: Service) -> None:
    for path in ("/log/none", "/log/%00", "/log/" + "x" * 5000):
        answer = service.client.get(path)
        assert answer.status_code == 404 and "id" in answer.json()["detail"]


def test_the_figures_follow_their_progress(service: Service) -> None:
    text = "x" * 1_000_000
    write(service.log_dir, *(entry(str(number), prompt=text) for number in range(30)))
    answer = service.client.get("/log/figures", params={"model": "tinyllama"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    *progress, last = [json.loads(line) for line in answer.text.splitlines()]
    shares = [line["progress"] for line in progress]
    assert shares == sorted(shares) and all(0 <= share <= 1 for share in shares)
    assert last["entries"] == 30


# who may read


def test_without_the_key_nothing_is_read(serve: Serve) -> None:
    """Whatever is wrong with the parameters, the key comes first. The API's key is another one."""
    client = serve(log_key=KEY, api_key="API-key").client
    for path in ("/log", "/log/an-id", "/log/figures", "/log?limit=none"):
        for header in (
            "",
            "Bearer wrong",
            "Bearer",
            KEY,
            f"Basic {KEY}",
            "Bearer API-key",
            "Bearer ü",
        ):
            answer = client.get(path, headers={"Authorization": header.encode()} if header else {})
            assert answer.status_code == 401, (path, header)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "MINIVAULT_LOG_KEY" in answer.json()["detail"]
    assert not readers()


def test_the_key_is_made_once_beside_the_log(serve: Serve) -> None:
    service = serve()
    path = service.log_dir / ".key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(service.log_dir.stat().st_mode) == 0o700
    headers = {"Authorization": f"Bearer {path.read_text().strip()}"}
    assert httpx.get(f"{service.url}/log", headers=headers).status_code == 200
    assert httpx.get(f"{serve().url}/log", headers=headers).status_code == 200


@pytest.mark.parametrize("was", [None, "", "short\n"])
def test_those_who_start_together_have_one_key(tmp_path: Path, was: str | None) -> None:
    """The last case is a key that a crash left half; an empty one would let everybody in."""
    if was is not None:
        (tmp_path / ".key").write_text(was)
    code = """if True:
        import os, sys
        from log_key import *
        for _ in range(20):
            if os.fork() == 0:
                os.write(1, key_beside(Path(sys.argv[1])).encode() + b"\\n")
                os._exit(0)
        for _ in range(20):
            os.wait()"""
    made = run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    keys = made.stdout.split()
    assert len(keys) == 20 and set(keys) == {key_beside(tmp_path)} and len(keys[0]) > 40
    assert [path.name for path in tmp_path.iterdir()] == [".key"]


def test_the_key_is_printed_once_at_start_unless_it_was_set(tmp_path: Path) -> None:
    with process([*UVICORN, *GRACE, "--workers", "2"], tmp_path / "logs") as service:
        key = (tmp_path / "logs" / ".key").read_text().strip()
        eventually(lambda: service.output.count("Application startup complete") == 2)
        assert service.output.count(f"/#key={key} ") == 1
    with process(UVICORN, tmp_path / "logs", MINIVAULT_LOG_KEY=KEY) as service:
        assert "#key" not in service.output and KEY not in service.output


def test_where_no_key_can_be_kept_the_service_starts_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".key").mkdir()
    key = log_key(Settings(log_dir=tmp_path))
    assert len(key) > 40
    assert "cannot be kept" in caplog.text


# the processes


def test_a_process_that_was_quick_is_kept_for_the_next(service: Service) -> None:
    write(service.log_dir, entry("a"))
    assert ids(service.client.get("/log")) == ["a"]
    before = readers()
    assert ids(service.client.get("/log")) == ["a"]
    assert readers() == before and len(before) == 1


def test_kept_processes_that_died_are_replaced_and_nobody_is_told(service: Service) -> None:
    write(service.log_dir, entry("a"))
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: service.client.get("/log"), range(20)))
    eventually(lambda: len(readers()) == log_processes.MAX_IDLE)
    for pid in readers():
        os.kill(pid, signal.SIGKILL)
    assert ids(service.client.get("/log")) == ["a"]


def test_a_browser_that_gets_the_page_finds_a_process_ready(service: Service) -> None:
    service.client.get("/")
    assert not readers()
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: service.client.get("/", headers=BROWSER), range(20)))
    (ready,) = eventually(readers)
    assert ids(service.client.get("/log")) == []
    assert readers() == [ready]


def test_few_processes_are_kept(service: Service) -> None:
    write(service.log_dir, entry("a"))
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ids(service.client.get("/log")), range(40)))
    assert answers == [["a"]] * 40
    eventually(lambda: len(readers()) <= log_processes.MAX_IDLE)


@pytest.mark.parametrize("path", ["/log?q=none", "/log/none", "/log/figures?q=none"])
def test_leaving_ends_a_search(service: Service, path: str) -> None:
    endless(service.log_dir)
    with pytest.raises(httpx.ReadTimeout):
        service.client.get(path, timeout=1)
    eventually(lambda: not readers())


def test_leaving_while_nothing_is_taken_ends_a_search(service: Service) -> None:
    write(service.log_dir, *(entry(str(n), prompt="x" * 10_000) for n in range(5_000)))
    with service.client.stream("GET", "/log", headers=JSON_LINES) as answer:
        chunks = answer.iter_raw()  # httpx closes the connection with its iterator
        next(chunks)
        eventually(readers)
    eventually(lambda: not readers())


def test_a_stop_ends_searches(serve: Serve, tmp_path: Path) -> None:
    endless(tmp_path / "logs")
    with process([*UVICORN, *GRACE], tmp_path / "logs", MINIVAULT_LOG_KEY=KEY) as service:
        headers = {"Authorization": f"Bearer {KEY}"}
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{service.url}/log/none", headers=headers, timeout=1)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(httpx.get, f"{service.url}/log/none", headers=headers, timeout=DEADLINE)
            (reader,) = eventually(lambda: children(service.popen.pid))
            assert service.stop(signal.SIGTERM) == 0
        eventually(lambda: not Path(f"/proc/{reader}").exists())
        assert "Traceback" not in service.output


def test_more_searches_than_processes_wait_for_their_turn(service: Service) -> None:
    endless(service.log_dir)
    write(service.log_dir, entry("b"), day="2026-11-25")
    port = int(service.url.rpartition(":")[2])
    request = f"GET /log/none HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    with ExitStack() as searches:
        for _ in range(log_processes.MAX_READERS + 2):
            search = searches.enter_context(socket.create_connection(("127.0.0.1", port)))
            search.sendall(request.encode())
        eventually(lambda: len(readers()) == log_processes.MAX_READERS)
        with pytest.raises(httpx.ReadTimeout):
            service.client.get("/log/b", timeout=1)
    assert service.client.get("/log/b").status_code == 200
    eventually(lambda: len(readers()) <= log_processes.MAX_IDLE)


def test_a_process_that_fails_is_a_503(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (["false"], ["/no/such/program"]):
        monkeypatch.setattr(log_processes, "COMMAND", command)
        for path in ("/log", "/log/an-id", "/log/figures"):
            answer = service.client.get(path)
            assert answer.status_code == 503 and "retry-after" in answer.headers
            assert re.search("cannot be read", answer.json()["detail"])


@pytest.mark.parametrize("was_kept", [False, True])
def test_a_process_that_dies_midway_leaves_the_answer_unfinished(
    service: Service, was_kept: bool
) -> None:
    if was_kept:
        service.client.get("/log")
    write(service.log_dir, *(entry(str(n), prompt="x" * 10_000) for n in range(5_000)))
    with pytest.raises(httpx.RemoteProtocolError):
        with service.client.stream("GET", "/log", headers=JSON_LINES) as answer:
            chunks = answer.iter_raw()
            next(chunks)
            os.kill(eventually(readers)[0], signal.SIGKILL)
            for _ in chunks:
                pass
