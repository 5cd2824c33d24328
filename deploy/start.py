"""The container's start: leave root, serve.

A stop is quick and ends in status 0 from the first moment on. So all of it is one process: between
a program and the next one that it executes, a signal has no handler.

Who owns the mounted log directory is known at run time only. So the container may start as root;
nothing but this file runs as root.
"""

import os
import pwd
import signal
import sys
from contextlib import suppress
from pathlib import Path


def leave_root(log_dir: Path, user: str) -> None:
    """Become the owner of the log directory, who can read its 0600 files; `user` if that is root.

    Raises:
        OSError: the directory does not exist and cannot be made.
    """
    log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    uid, gid = log_dir.stat().st_uid, log_dir.stat().st_gid
    account = pwd.getpwnam(user)
    if uid == 0 and Path("/proc/self/uid_map").read_text().split()[1] != "0":
        return  # the root of a rootless engine is the host's user
    if uid in (0, account.pw_uid):  # root's checkout, in which root may have written a log before
        uid, gid = account.pw_uid, account.pw_gid
        with suppress(PermissionError):  # a file system without owners
            for path in (log_dir, *log_dir.glob("*.jsonl"), *log_dir.glob(".key")):
                os.chown(path, uid, gid, follow_symlinks=False)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def start(arguments: list[str]) -> None:
    """Serve with these options of uvicorn's."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # not sys.exit: raised in a callback of the import system, it would be swallowed
        signal.signal(number, lambda *_: os._exit(0))
    # only now: these imports take long enough to be stopped in
    from settings import load_settings
    from web.server import serve

    settings = load_settings()
    if os.getuid() == 0:
        try:
            leave_root(settings.log_dir, "minivault")
        except OSError as exc:
            sys.exit(f"MiniVault cannot start: MINIVAULT_LOG_DIR cannot be made: {exc}")
    serve(settings, arguments)


if __name__ == "__main__":
    start(sys.argv[1:])
