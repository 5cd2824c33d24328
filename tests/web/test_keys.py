"""The log's key: who may read the log over HTTP, and where its key comes from."""

import stat
import sys
from pathlib import Path
from subprocess import run

import pytest
from pydantic import SecretStr

from settings import Settings
from tests.conftest import Serve
from tests.processes import CLIENT, ROOT
from tests.web.test_log_routes import KEY, readers
from web.keys import ensure_key_file, get_log_key


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
    assert CLIENT.get(f"{service.url}/log", headers=headers).status_code == 200
    assert CLIENT.get(f"{serve().url}/log", headers=headers).status_code == 200


@pytest.mark.parametrize("was", [None, "", "short\n"])
def test_those_who_start_together_have_one_key(tmp_path: Path, was: str | None) -> None:
    """The last case is a key that a crash left half; an empty one would let everybody in."""
    if was is not None:
        (tmp_path / ".key").write_text(was)
    code = """if True:
        import os, sys
        from web.keys import *
        for _ in range(20):
            if os.fork() == 0:
                os.write(1, ensure_key_file(Path(sys.argv[1])).encode() + b"\\n")
                os._exit(0)
        for _ in range(20):
            os.wait()"""
    made = run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    keys = made.stdout.split()
    assert len(keys) == 20 and set(keys) == {ensure_key_file(tmp_path)} and len(keys[0]) > 40
    assert [path.name for path in tmp_path.iterdir()] == [".key"]


def test_where_no_key_can_be_kept_the_service_starts_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".key").mkdir()
    key = get_log_key(Settings(log_dir=tmp_path))
    assert len(key) > 40
    assert "its key is missing" in caplog.text


ODD_FILES = {
    "clé-clé-clé-clé-clé": "one line of ASCII",
    "a-long-enough-line\nand-another-one": "one line of ASCII",
    "\x9b31m-and-more-of-this": "one line of ASCII",
}


@pytest.mark.parametrize("content", ODD_FILES)
def test_a_key_file_that_holds_no_key_is_named_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / ".key").write_text(content, encoding="latin-1")
    key = get_log_key(Settings(log_dir=tmp_path))
    assert key not in content and len(key) > 40
    (message,) = caplog.messages
    assert ODD_FILES[content] in message and str(tmp_path / ".key") in message
    assert "remove it" in message and "\n" not in message
    assert (tmp_path / ".key").read_text(encoding="latin-1") == content


def test_a_key_that_others_can_read_or_guess_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / ".key"
    ensure_key_file(tmp_path)
    get_log_key(Settings(log_dir=tmp_path))
    assert not caplog.messages
    path.chmod(0o644)
    assert get_log_key(Settings(log_dir=tmp_path)) == path.read_text().strip()
    get_log_key(Settings(log_dir=tmp_path, log_key=SecretStr("x")))
    readable, short = caplog.messages
    assert f"chmod 600 {path}" in readable
    assert "MINIVAULT_LOG_KEY" in short and "longer" in short
