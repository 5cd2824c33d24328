"""The log over HTTP: what may be asked, and what becomes of the processes that read it."""

import csv
import dataclasses
import io
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from log import processes
from log.entry import LogEntry
from tests.conftest import DEADLINE, Serve, Service, eventually
from tests.processes import GRACE, SERVE, Process, children, command_line, process
from tests.log.test_reader import DAY, entry, write

KEY = "the-logs-own-key-long-enough"
JSON_LINES = {"Accept": "application/x-ndjson"}


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
    return [pid for pid in pids if b"log.worker" in command_line(pid)]


def searching(pid: int) -> list[int]:
    """Return those of the process's children that have a file of the log open."""
    found = []
    for child in children(pid):
        if b"log.worker" not in command_line(child):
            continue  # before its exec it still has the files of the service, which waits for that
        with suppress(FileNotFoundError):  # closed meanwhile
            files = [os.readlink(fd) for fd in Path(f"/proc/{child}/fd").iterdir()]
            found += [child for name in files if name.endswith(".jsonl")]
    return found


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
    write(service.log_dir, at("10:00", model="qwen3"), at("11:00", endpoint="/api/chat"))
    write(service.log_dir, at("12:00", model="library/Qwen3:latest", client="::1"))
    write(
        service.log_dir,
        at("13:00", user_agent="OpenAI/Python 3.57", conversation="ab12", system="Words for this."),
    )
    every = ["13:00", "12:00", "11:00", "10:00", "09:00", "08:00"]
    for params, found in {
        "q=GRÜSSE": ["08:00"],
        "status=error": ["09:00"],
        "model=qwen3": ["12:00", "10:00"],
        "model=Qwen3:latest": ["12:00", "10:00"],
        "model=registry.ollama.ai/library/qwen3": ["12:00", "10:00"],
        "model=wen3:la": ["12:00", "10:00"],
        "model=latest&q=why": ["13:00", "12:00", "11:00", "10:00", "09:00"],
        "model=qwen3:8b": [],
        "endpoint=/api/chat": ["11:00"],
        "endpoint=CHAT": ["11:00"],
        "client=::": ["12:00"],
        "user_agent=openai": ["13:00"],
        "user_agent=OPENAI/python": ["13:00"],
        "conversation=ab12": ["13:00"],
        "conversation=ab": [],
        "q=&model=&endpoint=&client=&conversation=": every,
        f"since={DAY}T12:00Z": ["13:00", "12:00"],
        f"until={DAY}T10:00:00": ["09:00", "08:00"],
        f"since={DAY}T10:00%2B02:00&until={DAY}T11:00%2B02:00": ["08:00"],
        f"since={DAY}&until={DAY}": every,
        "since=2026-11-25": [],
        "until=2026-11-23": [],
        "since=0001-01-01&until=9999-12-31": every,
        "q=BECAUSE+why": every[:-1],
        "q=why+grüße": [],
        "q=why+because&user_agent=openai": ["13:00"],
        'q="for+this"': ["13:00"],
        'q="this+for"': [],
        "q=this+for": ["13:00"],
        'q="for+this"+nowhere': [],
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
        ("/log/figures?tz=Mars/Olympus", "tz"),
        ("/log/figures?tz=../../etc/passwd", "tz"),
        ("/log/count?limit=5", "limit"),
        ("/log/an-id?q=x", "q"),
    ],
)
def test_a_bad_parameter_is_named(service: Service, path: str, name: str) -> None:
    answer = service.client.get(path)
    assert answer.status_code == 422
    assert [problem["loc"] for problem in answer.json()["detail"]] == [["query", name]]


@pytest.mark.parametrize("text", ["\0", "q\nz", "😀", "(", "\\", '"', "a" * 1000, "ß" * 1000])
def test_any_text_can_be_looked_for(service: Service, text: str) -> None:
    write(service.log_dir, entry("a", prompt=f"x{text}y"), entry("b"))
    assert ids(service.client.get("/log", params={"q": text})) == ["a"]


@pytest.mark.parametrize("text", ["", " ", " \n ", "\u3000"])
def test_a_search_for_nothing_finds_all(service: Service, text: str) -> None:
    write(service.log_dir, entry("a", prompt="x"), entry("b"))
    assert ids(service.client.get("/log", params={"q": text})) == ["b", "a"]


@pytest.mark.parametrize("text", ['"big sky".', "“big sky”", 'blue "big sky",'])
def test_words_in_quotes_stay_together(service: Service, text: str) -> None:
    write(service.log_dir, entry("a", prompt="the big sky is blue"))
    write(service.log_dir, entry("b", prompt="the blue sky is big"))
    assert ids(service.client.get("/log", params={"q": text})) == ["a"]


@pytest.mark.parametrize("part", ["registry.ollama.ai", "library", "ai/library"])
def test_the_registry_is_a_part_of_a_name_too(service: Service, part: str) -> None:
    write(service.log_dir, entry("a", model="registry.ollama.ai/library/llama3.2"), entry("b"))
    assert ids(service.client.get("/log", params={"model": part})) == ["a"]


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


# the processes


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
    with process([*SERVE, *GRACE], tmp_path / "logs", MINIVAULT_LOG_KEY=KEY) as service:
        headers = {"Authorization": f"Bearer {KEY}"}
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{service.url}/log/none", headers=headers, timeout=1)
        with endless_search(service) as reader:
            assert service.stop(signal.SIGTERM) == 0
        eventually(lambda: not Path(f"/proc/{reader}").exists())
        assert "Traceback" not in service.output


@contextmanager
def endless_search(service: Process) -> Iterator[int]:
    """Have a search that does not end by itself; yield its process."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with ThreadPoolExecutor(1) as pool:
        pool.submit(httpx.get, f"{service.url}/log/none", headers=headers, timeout=DEADLINE)
        (reader,) = eventually(lambda: searching(service.popen.pid))
        yield reader


def test_ctrl_c_is_not_for_the_processes_that_read(tmp_path: Path) -> None:
    """A terminal signals the whole group of the service."""
    endless(tmp_path / "logs")
    with process([*SERVE, *GRACE], tmp_path / "logs", MINIVAULT_LOG_KEY=KEY) as service:
        with endless_search(service) as reader:
            assert os.getpgid(reader) != os.getpgid(service.popen.pid)
            assert service.stop(signal.SIGINT) == 0
        assert "Traceback" not in service.output and "KeyboardInterrupt" not in service.output


def test_a_process_that_hangs_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    endless(tmp_path / "logs")
    with process([*SERVE, *GRACE], tmp_path / "logs", MINIVAULT_LOG_KEY=KEY) as service:
        with endless_search(service) as reader:
            os.kill(reader, signal.SIGSTOP)
            assert service.stop(signal.SIGTERM) == 0
        eventually(lambda: not Path(f"/proc/{reader}").exists())


def test_more_searches_than_processes_wait_for_their_turn(service: Service) -> None:
    endless(service.log_dir)
    write(service.log_dir, entry("b"), day="2026-11-25")
    port = int(service.url.rpartition(":")[2])
    request = f"GET /log/none HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    with ExitStack() as searches:
        for _ in range(processes.MAX_PROCESSES + 2):
            search = searches.enter_context(socket.create_connection(("127.0.0.1", port)))
            search.sendall(request.encode())
        eventually(lambda: len(readers()) == processes.MAX_PROCESSES)
        with pytest.raises(httpx.ReadTimeout):
            service.client.get("/log/b", timeout=1)
    assert service.client.get("/log/b").status_code == 200
    eventually(lambda: not readers())


@contextmanager
def slow_takers(service: Service, count: int, *, accept: str) -> Iterator[None]:
    """Have so many clients ask for all that there is, and take a few bytes of it."""
    port = int(service.url.rpartition(":")[2])
    request = f"GET /log?limit=1000 HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n"
    with ExitStack() as takers:
        for _ in range(count):
            taker = takers.enter_context(socket.socket())
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            taker.connect(("127.0.0.1", port))
            taker.sendall(f"{request}Authorization: Bearer {KEY}\r\n\r\n".encode())
        yield


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_slow_takers_leave_places_for_short_pages(
    service: Service, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    write(service.log_dir, *(entry(str(n), prompt="x" * 100_000) for n in range(300)))
    monkeypatch.setattr(processes, "PLACE_SECONDS", DEADLINE)
    with slow_takers(service, 3 * processes.MAX_PROCESSES, accept=accept):
        eventually(lambda: len(readers()) >= processes.MAX_LONG)
        for path in ("/log?limit=2", "/log/299", "/log/figures"):
            response = service.client.get(path)
            assert response.status_code == 200 and '"299"' in response.text, path
        monkeypatch.setattr(processes, "PLACE_SECONDS", 0.5)
        too_many = service.client.get("/log", headers=JSON_LINES)
        assert too_many.status_code == 503 and too_many.headers["retry-after"]
        assert "retry later" in too_many.json()["detail"]
    eventually(lambda: not readers())
    monkeypatch.undo()
    assert service.client.get("/log", headers=JSON_LINES).status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux drops a client that reads nothing")
def test_a_taker_that_takes_nothing_is_gone(serve: Serve) -> None:
    service = serve(log_key=KEY, client_timeout=1)
    write(service.log_dir, *(entry(str(n), prompt="x" * 100_000) for n in range(300)))
    with slow_takers(service, 2, accept="application/x-ndjson"):
        eventually(readers)
        eventually(lambda: not readers())


def test_the_log_is_read_where_python_has_a_safe_path(tmp_path: Path) -> None:
    """Some images set it, and then nothing is imported from the current directory."""
    write(tmp_path / "logs", entry("a"))
    with process(
        [sys.executable, "-P", *SERVE[1:]], tmp_path / "logs", MINIVAULT_LOG_KEY=KEY
    ) as service:
        headers = {"Authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{service.url}/log", headers=headers).status_code == 200
        assert service.stop(signal.SIGTERM) == 0


def test_the_log_is_read_where_packages_are_found_by_a_variable(tmp_path: Path) -> None:
    write(tmp_path / "logs", entry("a"))
    interpreter = str(Path(sys.executable).resolve())
    packages = str(Path(httpx.__file__).parents[1])
    with process(
        [interpreter, *SERVE[1:]], tmp_path / "logs", MINIVAULT_LOG_KEY=KEY, PYTHONPATH=packages
    ) as service:
        headers = {"Authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{service.url}/log", headers=headers).status_code == 200


def test_a_process_that_fails_is_a_503(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (["false"], ["/no/such/program"]):
        monkeypatch.setattr(processes, "COMMAND", command)
        for path in ("/log", "/log/an-id", "/log/figures"):
            answer = service.client.get(path)
            assert answer.status_code == 503 and "retry-after" in answer.headers
            assert re.search("cannot be read", answer.json()["detail"])


def test_a_process_that_dies_midway_leaves_the_answer_unfinished(service: Service) -> None:
    write(service.log_dir, *(entry(str(n), prompt="x" * 10_000) for n in range(5_000)))
    with pytest.raises(httpx.RemoteProtocolError):
        with service.client.stream("GET", "/log", headers=JSON_LINES) as answer:
            chunks = answer.iter_raw()
            next(chunks)
            os.kill(eventually(readers)[0], signal.SIGKILL)
            for _ in chunks:
                pass


# what is sent of the entries


def test_only_the_fields_that_are_asked_for_are_sent(service: Service) -> None:
    picture = "A" * 1_000_000
    write(service.log_dir, entry("a", request={"images": [picture]}), entry("b", n=2**70))
    fields = {"fields": "model, id,preview,tools,id"}
    page = service.client.get("/log", params=fields)
    assert page.headers["content-type"] == "application/json" and len(page.content) < 1000
    preview = {"prompt": "Why?", "response": "Because.", "match": None}
    wanted = {"model": "tinyllama", "id": "b", "preview": preview, "tools": None}
    assert page.json()["entries"] == [wanted, wanted | {"id": "a"}]
    assert list(page.json()["entries"][0]) == ["model", "id", "preview", "tools"]
    lines = service.client.get("/log", params=fields, headers=JSON_LINES)
    assert [json.loads(line) for line in lines.text.splitlines()] == page.json()["entries"]
    wrong = service.client.get("/log", params={"fields": "id,promt"})
    assert wrong.status_code == 422 and "'promt' is unknown" in wrong.text


MATCHES: dict[str, tuple[str, dict[str, Any], tuple[str, str, str, str]]] = {
    "in the prompt": (
        "sky",
        {"prompt": "Why is the SKY blue?"},
        ("prompt", "Why is the ", "SKY", " blue?"),
    ),
    "in the answer": ("because", {}, ("response", "", "Because", ".")),
    "a ligature": ("strasse", {"prompt": "die Straße."}, ("prompt", "die ", "Straße", ".")),
    "composed": ("caf\u00e9", {"prompt": "a cafe\u0301!"}, ("prompt", "a ", "cafe\u0301", "!")),
    "far in": (
        "needle",
        {"prompt": "é" * 5000 + "x needle" + "y" * 100},
        ("prompt", "é" * 58 + "x ", "needle", "y" * 60),
    ),
    "escaped": (
        "zeile",
        {"tool_calls": [{"arguments": '{"a":"\\u005aeile\\n2"}'}]},
        ("tool_calls", '{"a":"', "Zeile", '\n2"}'),
    ),
    "over a border": (
        '"two words"',
        {"response": "ü" * 4090 + "two words here"},
        ("response", "ü" * 60, "two words", " here"),
    ),
    "the longer word": ("why nowhere?", {"system": "nowhere?"}, ("system", "", "nowhere?", "")),
}


@pytest.mark.parametrize("name", MATCHES)
def test_a_preview_has_the_place_of_the_match(service: Service, name: str) -> None:
    q, changes, expected = MATCHES[name]
    write(service.log_dir, entry("a", **changes))
    params = {"fields": "preview", "q": q}
    (found,) = service.client.get("/log", params=params).json()["entries"]
    match = found["preview"]["match"]
    assert tuple(match[key] for key in ("key", "before", "text", "after")) == expected
    assert len(found["preview"]["prompt"]) <= 200


def test_how_many_match_is_counted(service: Service) -> None:
    write(service.log_dir, *(entry(str(n), status=("ok", "error")[n % 2]) for n in range(120)))
    assert service.client.get("/log").json()["count"] is None, "there are more"
    assert service.client.get("/log?limit=120").json()["count"] == 120
    assert service.client.get("/log?status=error&limit=100").json()["count"] == 60
    page = service.client.get("/log?limit=100").json()
    assert service.client.get("/log", params={"before": page["next"]}).json()["count"] is None
    counted = service.client.get("/log/count", params={"status": "error", "q": "why"})
    assert counted.headers["content-type"] == "application/x-ndjson"
    assert json.loads(counted.text.splitlines()[-1]) == {"count": 60, "warnings": []}


def test_a_count_says_how_far_it_is(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import log.progress, log.worker; log.progress.PROGRESS_SECONDS = 0; log.worker.main()"
    monkeypatch.setattr(processes, "COMMAND", [sys.executable, "-c", code])
    write(service.log_dir, *(entry(str(n), prompt="x" * 100_000) for n in range(30)))
    lines = [json.loads(line) for line in service.client.get("/log/count").text.splitlines()]
    assert len(lines) > 3 and lines[-1] == {"count": 30, "warnings": []}
    assert all(0 < line["progress"] <= 1 and 0 <= line["count"] <= 30 for line in lines[:-1])
    counts = [line["count"] for line in lines]
    assert counts == sorted(counts) and counts[0] < 30


def test_the_entries_as_a_table(service: Service) -> None:
    odd = 'say "hi",\nor\r\n\ud83d'
    write(service.log_dir, entry("a", prompt=odd, options={"seed": 1}, streamed=True, ttft_ms=0.5))
    write(service.log_dir, entry("b", system="", tools=["x"], odd="none of ours"))
    answer = service.client.get("/log", headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    second, first = csv.DictReader(io.StringIO(answer.text, newline=""))
    assert [*first] == [field.name for field in dataclasses.fields(LogEntry)]
    assert first["prompt"] == 'say "hi",\nor\r\n?'
    assert first["options"] == '{"seed":1}' and second["tools"] == '["x"]'
    assert (first["streamed"], first["ttft_ms"], first["system"]) == ("true", "0.5", "")
    few = service.client.get(
        "/log?fields=id,model&limit=1&q=why", headers={"Accept": "application/json;q=0.1, text/csv"}
    )
    assert few.text == "id,model\r\nb,tinyllama\r\n"
    none = service.client.get("/log?fields=id&q=zebra", headers={"Accept": "text/csv"})
    assert none.text == "id\r\n"


CHAT_DATA = {"Accept": "application/x-ndjson; profile=messages"}
CALL = {"id": "c", "name": "f", "arguments": {"x": 1}}
CALLED = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
ASKED = {"role": "user", "content": "Why?"}
ANSWERED = {"role": "assistant", "content": "Because."}
CALLED_G = {"id": "c", "type": "function", "function": {"name": "g", "arguments": "{}"}}
UNNAMED = [{"function": {"name": "f", "arguments": {"x": 1}}}, {"function": {"name": "g"}}]
SOURCE = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CHATS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "a prompt": ({"system": "Be brief."}, [{"role": "system", "content": "Be brief."}, ASKED]),
    "messages": (
        {"request": {"Messages": [{"role": "system", "content": "S"}, ASKED]}, "system": "S"},
        [{"role": "system", "content": "S"}, ASKED],
    ),
    "tools": (
        {
            "request": {
                "messages": [
                    ASKED,
                    {"role": "assistant", "content": None, "tool_calls": [CALLED]},
                    {"role": "tool", "tool_call_id": "c", "content": "warm"},
                ]
            }
        },
        [
            ASKED,
            {"role": "assistant", "content": None, "tool_calls": [CALLED]},
            {"role": "tool", "content": "warm", "tool_call_id": "c"},
        ],
    ),
    "Anthropic's": (
        {
            "system": "S",
            "request": {
                "system": [{"type": "text", "text": "S"}],
                "messages": [
                    ASKED,
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "thinking", "thinking": "hm"},
                            {"type": "text", "text": "Let me see."},
                            {"type": "tool_use", "id": "c", "name": "f", "input": {"x": 1}},
                        ],
                    },
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "c", "content": "warm"},
                            {"type": "text", "text": "And?"},
                        ],
                    },
                ],
            },
        },
        [
            {"role": "system", "content": "S"},
            ASKED,
            {"role": "assistant", "content": "Let me see.", "tool_calls": [CALLED]},
            {"role": "tool", "content": "warm", "tool_call_id": "c"},
            {"role": "user", "content": "And?"},
        ],
    ),
    "items": (
        {
            "request": {
                "input": [
                    {"type": "message", **ASKED},
                    {"type": "reasoning", "summary": []},
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"x": 1}'},
                    {"type": "function_call_output", "call_id": "c", "output": "warm"},
                ]
            }
        },
        [
            ASKED,
            {"role": "assistant", "content": None, "tool_calls": [CALLED]},
            {"role": "tool", "content": "warm", "tool_call_id": "c"},
        ],
    ),
    "a system message behind the instructions": (
        {
            "system": "later",
            "request": {
                "instructions": "S",
                "input": [{"role": "developer", "content": "later"}, ASKED],
            },
        },
        [{"role": "system", "content": "S"}, {"role": "system", "content": "later"}, ASKED],
    ),
    "a result alone": (
        {
            "request": {
                "messages": [
                    ASKED,
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "tool_use", "id": "c", "name": "f", "input": {"x": 1}}
                        ],
                    },
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "tool_use_id": "c",
                                "content": [
                                    {"type": "text", "text": "seen"},
                                    {"type": "image", "source": SOURCE},
                                ],
                            }
                        ],
                    },
                ]
            }
        },
        [
            ASKED,
            {"role": "assistant", "content": None, "tool_calls": [CALLED]},
            {
                "role": "tool",
                "content": [{"type": "text", "text": "seen"}, PICTURE],
                "tool_call_id": "c",
            },
        ],
    ),
    "calls without ids": (
        {
            "request": {
                "messages": [
                    ASKED,
                    {"role": "assistant", "content": "", "tool_calls": UNNAMED},
                    {"role": "tool", "tool_name": "g", "content": "two"},
                    {"role": "tool", "content": "one"},
                ]
            }
        },
        [
            ASKED,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{**CALLED, "id": "call_1"}, {**CALLED_G, "id": "call_2"}],
            },
            {"role": "tool", "content": "two", "tool_call_id": "call_2"},
            {"role": "tool", "content": "one", "tool_call_id": "call_1"},
        ],
    ),
    "a custom tool": (
        {
            "request": {
                "input": [
                    ASKED,
                    {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "ls -l"},
                    {"type": "custom_tool_call_output", "call_id": "c", "output": "warm"},
                ]
            }
        },
        [
            ASKED,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {**CALLED, "function": {"name": "f", "arguments": '{"input": "ls -l"}'}}
                ],
            },
            {"role": "tool", "content": "warm", "tool_call_id": "c"},
        ],
    ),
    "pictures by their address": (
        {
            "request": {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "image",
                                "source": {"type": "url", "url": "data:image/png;base64,AAAA"},
                            },
                            {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                            {"type": "document", "source": {"type": "text", "data": "plain"}},
                        ],
                    }
                ]
            }
        },
        [{"role": "user", "content": [{"type": "text", "text": "plain"}, PICTURE, PICTURE]}],
    ),
    "a prompt with a picture": (
        {"request": {"prompt": "Why?", "images": ["AAAA"]}},
        [{"role": "user", "content": [{"type": "text", "text": "Why?"}, PICTURE]}],
    ),
    "a body that is no plain JSON": (
        {"request": json.dumps({"messages": [{"role": "system", "content": "S"}, ASKED]})},
        [{"role": "system", "content": "S"}, ASKED],
    ),
    "a picture": (
        {"request": {"messages": [{**ASKED, "images": ["AAAA"]}]}},
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Why?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            }
        ],
    ),
}


@pytest.mark.parametrize("name", CHATS)
def test_the_entries_as_chat_data(service: Service, name: str) -> None:
    changes, messages = CHATS[name]
    write(service.log_dir, entry("a", **changes), entry("b", status="error"))
    write(service.log_dir, entry("c", response="", finish_reason="load"))
    answer = service.client.get("/log", headers=CHAT_DATA)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert json.loads(answer.text) == {"messages": [*messages, ANSWERED]}


NO_CHATS: dict[str, dict[str, Any]] = {
    "a failure": {"status": "error"},
    "a load": {"response": "", "finish_reason": "load"},
    "two answers": {"options": {"n": 2}},
    "vectors": {"endpoint": "/v1/embeddings"},
    "a transcription": {"endpoint": "/v1/audio/transcriptions", "prompt": None},
    "a rendered template": {"request": {"prompt": "Why?", "_debug_render_only": True}},
    "a body that was not read": {"prompt": None, "request": {"content_encoding": "x"}},
}


@pytest.mark.parametrize("name", NO_CHATS)
def test_what_is_no_chat_is_left_out(service: Service, name: str) -> None:
    write(service.log_dir, entry("a", **NO_CHATS[name]))
    assert service.client.get("/log", headers=CHAT_DATA).text == ""


def test_an_answer_that_was_begun_goes_on_without_a_break(service: Service) -> None:
    pieces = [{"type": "text", "text": "Well"}, {"type": "text", "text": ": "}]
    request = {"messages": [ASKED, {"role": "assistant", "content": pieces}]}
    write(service.log_dir, entry("a", request=request))
    messages = service.client.get("/log", headers=CHAT_DATA).json()["messages"]
    assert messages[1:] == [{"role": "assistant", "content": "Well: Because."}]


def test_what_ollama_searched_itself_has_its_result(service: Service) -> None:
    write(service.log_dir, entry("a", tool_calls=[CALL | {"result": ["found"]}]))
    messages = service.client.get("/log", headers=CHAT_DATA).json()["messages"]
    assert messages[1:] == [
        {"role": "assistant", "content": None, "tool_calls": [CALLED]},
        {"role": "tool", "content": '["found"]', "tool_call_id": "c"},
        ANSWERED,
    ]


def test_a_limit_counts_what_is_sent(service: Service) -> None:
    write(service.log_dir, *(entry(id) for id in "abc"))
    write(service.log_dir, *(entry(id, status="error") for id in "def"))
    answer = service.client.get("/log", params={"limit": 2}, headers=CHAT_DATA)
    assert len(answer.text.splitlines()) == 2
    assert service.client.get("/log?fields=id", headers=CHAT_DATA).status_code == 422


def test_a_tool_call_is_an_answer_in_chat_data(service: Service) -> None:
    write(service.log_dir, entry("a", response="", tool_calls=[CALL]))
    answer = service.client.get("/log", headers=CHAT_DATA).json()
    assert answer["messages"][-1] == {"role": "assistant", "content": None, "tool_calls": [CALLED]}


@pytest.mark.parametrize("accept", ["text/csv", CHAT_DATA["Accept"]])
def test_a_table_and_chat_data_are_sent_as_they_are_found(service: Service, accept: str) -> None:
    write(service.log_dir, entry("a"))
    endless_day = service.log_dir / "2026-11-20.jsonl"
    endless_day.touch()
    os.truncate(endless_day, 1 << 40)
    with service.client.stream("GET", "/log", headers={"Accept": accept}) as answer:
        first = next(answer.iter_text())
        assert "Because." in first
    eventually(lambda: not readers())
