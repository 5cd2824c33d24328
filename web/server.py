"""How the service is run: uvicorn with MiniVault's defaults, and what it prints at the start.

The address where it listens and the reason why it cannot listen are only in uvicorn's own messages.
So a filter on its logger adds to these what MiniVault's users need next.
"""

import asyncio
import ctypes
import errno
import logging
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

import uvicorn

from settings import VERSION, Settings
from telemetry.output import prepare_loggers
from web.keys import ensure_key_file

ROOT = Path(__file__).parent.parent
LOG_CONFIG = str(ROOT / "deploy" / "logging.json")
DEFAULTS = {
    "app": "app:app",
    "http": "web.connection:Connection",
    "server_header": False,
    "timeout_graceful_shutdown": 8,
    "log_config": LOG_CONFIG,
}
"""uvicorn's options where neither its command line nor its `UVICORN_…` variables set them."""

M_MMAP_THRESHOLD = -3
LARGE_BLOCK_BYTES = 2**17

diagnostics = logging.getLogger("minivault")


class StartFilter(logging.Filter):
    """Replaces uvicorn's message that it is running by a link to the page, and adds to the one that
    the address is in use how to choose another."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def filter(self, record: logging.LogRecord) -> bool:
        """Return that the record is to be printed, with the message that it should have."""
        if isinstance(record.msg, OSError) and record.msg.errno == errno.EADDRINUSE:
            record.msg = f"{record.msg}; choose another port with --port"
        elif str(record.msg).startswith("Uvicorn running on "):
            record.msg = self._describe_start(find_url(record.args))
            record.args = None
            record.__dict__.pop("color_message", None)  # uvicorn's, which would be printed instead
        return True

    def _describe_start(self, url: str | None) -> str:
        where = f"MiniVault is running at {url}" if url else "MiniVault is running"
        if self._settings.log_key:
            return f"{where} (the log's key is what MINIVAULT_LOG_KEY sets)"
        key_file = self._settings.log_dir / ".key"
        if url and url.startswith("http") and sys.stderr.isatty():
            try:
                key = ensure_key_file(self._settings.log_dir)
                return f"{where}#key={key} (press Ctrl+C to stop)"
            except OSError:  # the lifespan prints why
                pass
        # anywhere else the key would end up in a log collector
        return f"{where} (the log's key is in {key_file})"


def find_url(address: object) -> str | None:
    """Return the address from the arguments of uvicorn's message, None if it is in another form.

    They are scheme, host and port; the path of a Unix socket; of a socket that was handed over, its
    own address.
    """
    match address:
        case (str(scheme), str(host), int(port)):
            pass
        case (str(path),):
            return f"unix:{path}"
        case ((str(host), int(port), *_),):
            scheme = "http"
        case _:
            return None
    if host in ("", "0.0.0.0", "::", "127.0.0.1", "::1"):
        host = "localhost"
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"


def open_standard_streams() -> None:
    """Open what is closed of standard input, output and error on `/dev/null`.

    Otherwise the next socket or file gets its number, and what is printed, or a child process,
    ends up there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == number, "the lowest free number is given"
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r"))


def stop_with_parent() -> None:
    """Have a worker stop, as at SIGTERM, when the process that started it has been killed."""
    if not (parent := multiprocessing.parent_process()):
        return
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(parent.sentinel)
        diagnostics.warning("the parent process has ended, so this worker stops")
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(parent.sentinel, stop)


def exit_with_zero() -> None:
    """Let a SIGTERM that stopped uvicorn end in exit status 0.

    After a graceful stop uvicorn raises the signal once more under the handler that was there
    before its own (https://github.com/Kludex/uvicorn/pull/1600), and the default one kills.
    Blocked, the signal stays pending.
    """
    under_uvicorn = callable(signal.getsignal(signal.SIGTERM))
    if under_uvicorn and threading.current_thread() is threading.main_thread():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def return_large_blocks() -> None:
    """Let glibc return the memory of large bodies to the system as soon as they are gone.

    It would raise the limit of what it returns with each of them
    (https://man7.org/linux/man-pages/man3/mallopt.3.html): after ninety bodies of 20 MB, 30 at a
    time, a process kept 635 MiB, with this 119 MiB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if sys.platform == "linux" and mallopt:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def print_what_is_missing() -> None:
    """Print what the service lacks, unless it was started by `python app.py`."""
    if "web.connection" not in sys.modules:  # uvicorn imports it where it is to use it
        diagnostics.warning(
            "some of MiniVault's protections are missing: a client can send endless headers, half "
            "an answer can look whole to HTTP/1.0, and a stop waits for open streams; start it "
            "with `python app.py` to have them"
        )


def serve(settings: Settings, arguments: list[str]) -> None:
    """Run the service with these options of uvicorn's until it is stopped.

    Raises:
        SystemExit: always; the status is 0 after an orderly stop.
    """
    if "--version" in arguments:
        print(f"MiniVault {VERSION}")
        sys.exit()
    open_standard_streams()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as uvicorn expects it
    logging.getLogger("uvicorn.error").addFilter(StartFilter(settings))
    prepare_loggers()
    uvicorn.main.epilog = (
        "These are uvicorn's options. MiniVault's own settings are environment variables, or lines "
        "of .env beside app.py; docs/settings.md lists them."
    )
    uvicorn.main(arguments, prog_name="app.py", default_map=DEFAULTS)
