"""The container's start: leave root, wait for the model, become the command that was given.

Ollama is healthy long before its first pull ends, so the service waits for the model itself and
opens its port when a prompt would be answered. Only at run time can it be seen whose the mounted
log folder is; so the container may start as root, and nothing beyond this file runs as root.
"""

import asyncio
import os
import pwd
import signal
import sys
from contextlib import suppress
from pathlib import Path

from llm_services import DefaultModelNotFoundError, LLMServiceError, create_llm_service
from settings import Settings, load_settings

RETRY_SECONDS = 2


def leave_root(log_dir: Path) -> None:
    """Become the log folder's owner, who can read its 0600 files then; the image's user if root."""
    uid, gid = log_dir.stat().st_uid, log_dir.stat().st_gid
    user = pwd.getpwnam("minivault")
    if uid == 0 and Path("/proc/self/uid_map").read_text().split()[1] != "0":
        return  # a rootless engine's root is the host's user
    if uid in (0, user.pw_uid):  # root's checkout, where root may have written a log as well
        uid, gid = user.pw_uid, user.pw_gid
        with suppress(PermissionError):  # a file system without owners
            for path in (log_dir, *log_dir.glob("*.jsonl")):
                os.chown(path, uid, gid, follow_symlinks=False)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


async def wait_for_model(settings: Settings) -> None:
    """Return when the service could answer; say what it waits for, each reason once."""
    said = ""
    async with create_llm_service(settings) as service:
        while True:
            try:
                return await service.check()
            except DefaultModelNotFoundError:
                reason = f"Ollama has the model {service.model}"
            except LLMServiceError as exc:
                reason = f"Ollama answers ({exc})"
            if reason != said:
                print(f"MiniVault starts when {reason}", flush=True)
                said = reason
            await asyncio.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    settings = load_settings()
    if os.getuid() == 0:
        leave_root(settings.log_dir)
    asyncio.run(wait_for_model(settings))
    os.execvp(sys.argv[1], sys.argv[1:])
