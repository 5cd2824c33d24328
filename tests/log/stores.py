"""Stores for tests: a folder or a real S3 server, with the entries of several pods."""

import gzip
import json
import os
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from log.processes import ROOT

COMPACT = [sys.executable, "-m", "log.compact"]


def pack(*entries: dict[str, Any] | bytes) -> bytes:
    """Return an object as a shipper makes it."""
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in entries]
    return gzip.compress(b"".join(line + b"\n" for line in lines), mtime=0)


def scatter(folder: Path, store: Path, rng: random.Random, pods: int = 3) -> None:
    """Give the lines of a log's daily files to the objects of pods, some of them twice."""
    for path in folder.glob("????-??-??.jsonl"):
        lines = path.read_bytes().split(b"\n")
        lines += rng.sample(lines, len(lines) // 5)
        rng.shuffle(lines)
        while lines:
            count = rng.randint(8, 40) if len(lines) > 50 else len(lines)
            some, lines = lines[:count], lines[count:]
            pod = store / f"date={path.stem}" / f"pod=minivault-{rng.randrange(pods)}"
            pod.mkdir(parents=True, exist_ok=True)
            name = f"{len(lines):06d}.jsonl.gz"
            (pod / name).write_bytes(pack(*some))


def start_compacting(source: str, **environment: str) -> "subprocess.Popen[str]":
    """Start `python -m log.compact`."""
    return subprocess.Popen(
        [*COMPACT, source],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def compact(source: str, **environment: str) -> tuple[int, str]:
    """Run `python -m log.compact`; return its exit status and what it printed."""
    process = start_compacting(source, **environment)
    output, _ = process.communicate()
    return process.returncode, output


@contextmanager
def serving_s3() -> Iterator[dict[str, str]]:
    """Run an S3 server with an empty bucket `log`; yield the environment for its clients."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST"))
        urllib.request.urlopen(urllib.request.Request(f"{url}/log", method="PUT"))
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "minivault",
            "AWS_SECRET_ACCESS_KEY": "a secret",
            "AWS_REGION": "us-east-1",
        }
    finally:
        server.stop()
