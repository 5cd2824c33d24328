"""The recipes of `docs/analysis.md`, each with its real tool, on a log with all that is odd."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from log.entry import LogEntry
from log.store import LogStore
from tests.log.stores import compact, pack, serving_s3
from tests.log.test_reader import write
from tests.processes import BIN, ROOT
from web.docs import EXAMPLE_ENTRY

TEXT = (ROOT / "docs" / "analysis.md").read_text()
SECOND = {
    "started_at": "2026-11-25T09:00:00.000000Z",
    "finished_at": "2026-11-25T09:00:01.000000Z",
}
needs_jq = pytest.mark.skipif(not shutil.which("jq"), reason="needs Debian's package jq")


def blocks(section: str, language: str) -> list[str]:
    """Return the code of a section in a language."""
    (text,) = re.findall(rf"^## {section}\b.*?\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found
    return found


def entry(id: str, **changes: Any) -> dict[str, Any]:
    """Return an entry with all keys."""
    example: LogEntry = EXAMPLE_ENTRY
    return json.loads(example.to_line()) | {"id": id} | changes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a log of two days."""
    logs = tmp_path / "logs"
    write(
        logs,
        entry(
            "a", options=None, tools=["f"], tool_calls=[{"id": None, "name": "f", "arguments": {}}]
        ),
        b'{"id":"torn","started_at":"2026-11-24T\n',
        b"[1, 2]\n",
        entry("b", options={"temperature": "hot"}, format="json", think=True, status="error"),
        entry("c", options={"temperature": [1]}, format={"type": "object"}, think="high"),
        entry("d", request={"images": ["A" * 20_000_000]}, images=["QQ=="], prompt="Zebras?"),
        day="2026-11-24",
    )
    write(logs, entry("e", model=None, prompt_tokens=None, **SECOND), day="2026-11-25")
    write(logs, entry("f", request="[no JSON", **SECOND), b'{"id":"half', day="2026-11-25")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_duckdb(folder: Path) -> None:
    import duckdb

    results = []
    text, parquet = blocks("DuckDB", "sql")
    with duckdb.connect() as connection:
        for statement in duckdb.extract_statements(text):
            results.append(connection.execute(statement).fetchall())
        days = [(str(day), *others) for day, *others in results[1]]
        assert days == [
            ("2026-11-24", "tinyllama", 36, 18),
            ("2026-11-25", "tinyllama", 12, 6),
            ("2026-11-25", None, None, 6),
        ]
        assert dict(results[2])["b"] == "hot"
        saved = connection.execute("SELECT id, format, tools FROM 'log.parquet' ORDER BY id")
        assert [row[0] for row in saved.fetchall()] == list("abcdef")
        assert compact(str(folder / "logs"))[0] == 0
        found = [connection.execute(each).fetchall() for each in duckdb.extract_statements(parquet)]
        assert found[0] == days and dict(found[1])["b"] == "hot"


def test_duckdbs_columns_are_those_of_the_entry() -> None:
    text, _ = blocks("DuckDB", "sql")
    columns = re.findall(r"(\w+): '", text.partition("columns = {")[2])
    assert columns == list(json.loads(EXAMPLE_ENTRY.to_line()))


def test_polars_and_pandas(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet

    namespace: dict[str, Any] = {}
    for code in blocks("Python", "python"):
        exec(code, namespace)
    assert capsys.readouterr().out.count("tinyllama") >= 3
    for name in ("log-polars.parquet", "log-pandas.parquet"):
        table = pyarrow.parquet.read_table(name).to_pydict()
        assert sorted(table["id"]) == list("abcdef")
        options = dict(zip(table["id"], table["options"], strict=True))
        assert json.loads(options["b"]) == {"temperature": "hot"} and options["a"] is None
        assert sum(tokens for tokens in table["prompt_tokens"] if tokens and tokens == tokens) == 60


def run(command: str) -> str:
    """Run a block of the shell's."""
    environment = {"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(
        ["bash", "-euc", command], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


DAYS = [
    ("2026-11-24", "tinyllama", 24, 12),
    ("2026-11-25", "tinyllama", 24, 12),
    ("2026-11-25", None, None, 6),
]
"""What the recipes find in the bucket."""


def fill(store: LogStore) -> None:
    """Put a merged day into a bucket and one that is not merged, with all that is odd."""

    def put(day: str, name: str, *lines: dict[str, Any] | bytes) -> None:
        store._store.put(f"date={day}/pod={name}.jsonl.gz", pack(*lines))

    first = entry("a", options=None, tools=["f"])
    mixed = {"options": {"temperature": "hot"}, "format": "json", "think": True, "status": "error"}
    put("2026-11-24", "x/1", first, entry("b", **mixed))
    put("2026-11-24", "y/1", first, entry("c", format={"type": "object"}, think="high"))
    assert compact(store.url)[0] == 0
    twice = entry("e", model=None, prompt_tokens=None, **SECOND)
    picture = {"images": ["A" * 20_000_000]}
    put("2026-11-25", "x/1", entry("d", request=picture, **SECOND), twice)
    put("2026-11-25", "y/1", twice, b'{"id":"torn","sta')
    put("2026-11-25", "y/2", entry("f", request="[no JSON", **SECOND))


def test_duckdb_on_a_bucket(tmp_path: Path) -> None:
    """Here a folder: its client of S3 comes from the network."""
    import duckdb

    fill(LogStore(str(tmp_path)))
    text, _ = blocks("A bucket", "sql")
    recipe = text.partition("credential_chain);")[2].replace(
        "s3://my-bucket/minivault", str(tmp_path)
    )
    with duckdb.connect() as connection:
        for statement in duckdb.extract_statements(recipe):
            found = connection.execute(statement).fetchall()
        assert found == DAYS
        (hot,) = connection.execute(
            "SELECT options->>'$.temperature' FROM log WHERE id = 'b'"
        ).fetchall()
    assert hot == ("hot",)


RUN_IN_CLICKHOUSE = """
import sys
from chdb.session import Session
session = Session()
for statement in sys.stdin.read().split(";")[:-1]:
    print(session.query(statement, "JSONEachRow"))
"""


def test_clickhouse(monkeypatch: pytest.MonkeyPatch) -> None:
    python = os.environ.get("CHDB_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import chdb"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("CHDB_PYTHON names no Python that has chdb")
    with serving_s3() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        fill(LogStore("s3://log/minivault"))
        _, recipe = blocks("A bucket", "sql")
        for old, new in {
            "https://my-bucket.s3.amazonaws.com": f"{environment['AWS_ENDPOINT_URL']}/log",
            "<key>": environment["AWS_ACCESS_KEY_ID"],
            "<secret>": environment["AWS_SECRET_ACCESS_KEY"],
        }.items():
            recipe = recipe.replace(old, new)
        command = [python, "-c", RUN_IN_CLICKHOUSE]
        done = subprocess.run(command, input=recipe, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line]
    days = [
        (row["day"], row["model"], row["asked"], row["answered"]) for row in rows if "day" in row
    ]
    assert days == DAYS
    assert {row["id"]: row["temperature"] for row in rows if "id" in row}["b"] == '"hot"'


@needs_jq
def test_sqlite(folder: Path) -> None:
    (code,) = blocks("SQLite", "sh")
    outputs = [run(command) for command in re.split(r"\n(?=sqlite-utils )", code)]
    assert len(json.loads(outputs[2])) == 5, "all but the one about zebras"
    days = [
        (row["day"], row["model"], row["asked"], row["answered"]) for row in json.loads(outputs[3])
    ]
    assert days == [
        ("2026-11-24", "tinyllama", 36, 18),
        ("2026-11-25", None, None, 6),
        ("2026-11-25", "tinyllama", 12, 6),
    ]
    write(folder / "logs", b"\n", entry("g", prompt="more zebras"), day="2026-11-25")
    run(code.partition("\n")[0])
    found = run("sqlite-utils search log.db entries zebras -c id")
    assert sorted(row["id"] for row in json.loads(found)) == ["d", "g"]
    # an entry with a key that those before did not have
    write(folder / "logs", entry("h", later=1), day="2026-11-26")
    run(code.partition("\n")[0])
    assert json.loads(run("sqlite-utils log.db 'SELECT id FROM entries WHERE later = 1'"))


@needs_jq
def test_jq(folder: Path) -> None:
    (code,) = blocks("jq", "sh")
    output = run(code)
    decoder, days, position = json.JSONDecoder(), [], 0
    while position < len(output.rstrip()):
        value, position = decoder.raw_decode(output, position)
        days.append((value["day"], value["model"], value["asked"], value["answered"]))
        position = len(output) - len(output[position:].lstrip())
    assert days == [
        ("2026-11-24", "tinyllama", 48, 24),
        ("2026-11-25", None, None, 6),
        ("2026-11-25", "tinyllama", 12, 6),
    ]
