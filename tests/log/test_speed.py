"""Tokens a second: one rule, which metrics, figures and the page share."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from log.speed import SPEED_KEYS, tokens_per_second
from tests.processes import ROOT

STREAM = {
    **{"response_tokens": 101, "response_ms": None, "streamed": True},
    **{"duration_ms": 2500.0, "ttft_ms": 500.0},
}
CASES: dict[str, tuple[dict[str, Any], float | None]] = {
    "a stream": ({}, 50),
    "measured": ({"response_ms": 1010.0}, 100),
    "measured, whole": ({"response_ms": 1010.0, "streamed": False}, 100),
    "measured, one token": ({"response_ms": 10.0, "response_tokens": 1}, 100),
    "whole": ({"streamed": False}, None),
    "whole, at its end": ({"streamed": False, "ttft_ms": 2499.959}, None),
    "in one piece": ({"ttft_ms": 2499.95}, None),
    "in one piece, its end late": ({"ttft_ms": 2481.0}, None),
    "one token": ({"response_tokens": 1}, None),
    "no tokens": ({"response_tokens": None}, None),
    "nothing but tool calls": ({"ttft_ms": 2485.0}, None),
    "no first token": ({"ttft_ms": None}, None),
    "of an older version": ({"streamed": None}, 50),
    "measured as nothing": ({"response_ms": 0}, 50),
    "no numbers": ({"response_tokens": "many", "duration_ms": "long"}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rule(name: str) -> None:
    entry, expected = CASES[name]
    assert tokens_per_second(*map((STREAM | entry).get, SPEED_KEYS)) == expected


@pytest.mark.skipif(not shutil.which("node"), reason="needs Debian's package nodejs")
def test_the_page_has_the_same_rule() -> None:
    entries = json.dumps([STREAM | entry for entry, _ in CASES.values()])
    script = f"""
        import {{ rate }} from {json.dumps((ROOT / 'page' / 'measure.js').as_uri())};
        console.log(JSON.stringify({entries}.map((entry) => rate(entry) ?? null)));
    """
    command = ["node", "--input-type=module", "-e", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == [expected for _, expected in CASES.values()]
