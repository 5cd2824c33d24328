"""How far it goes: the README's tables are what the script computes, and the script is right."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import yaml

from deploy.capacity import IDLE_BYTES, README, RESULTS
from deploy.capacity import Measured, Plan, arguments, demand, measured

ROOT = Path(__file__).parent.parent
ONE = Measured(cpu_us=100, proxy_cpu_us=50, idle_bytes=2**26, stream_bytes=2**16)
PLAN = Plan(
    tokens_per_second=20,
    tokens_per_answer=200,
    entry_bytes=1000,
    cpu_share=0.5,
    pod_bytes=2**30,
    open_files=2064,
    max_concurrency=500,
    ollama_streams=4,
    gpus_per_node=8,
    packet_bytes=100,
)


def run(*options: str) -> str:
    """Return what the script prints."""
    command = [sys.executable, "deploy/capacity.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_readme_shows_what_the_script_computes() -> None:
    assert run() in README.read_text(), "python deploy/capacity.py --write"


def test_a_pod_carries_what_its_scarcest_resource_allows() -> None:
    assert PLAN.limits(ONE) == {
        "CPU": 250,  # half a second of CPU, at 20 × 100 µs a stream
        "memory": 15360,  # 1 GiB less 64 MiB, at 64 KiB a stream
        "files": 1000,
        "concurrency": 500,
    }


def test_ten_thousand_streams_take_what_arithmetic_says() -> None:
    assert demand(PLAN, ONE, 10_000) == [
        "10,000",
        "200,000",
        "40",
        "20",
        "3.1 GiB",  # 40 × 64 MiB, and 10,000 × 64 KiB
        "20,000",
        "80 GiB",  # 1,000 answers of 1,000 bytes a second
        "10; 160",
        "2,500",
    ]


def test_the_figures_are_the_benchmark_s() -> None:
    results = {
        "samples": {
            "100 streams × 40 tokens/s": {
                "MiniVault /stream": [{"cpu_us_per_token": us} for us in (90, 100, 200)],
                "nginx /api/generate": [{"cpu_us_per_token": 50}],
            },
            "1,000 streams × 5 tokens/s": {
                "MiniVault /stream": [{"kib_per_stream": 64}, {"kib_per_stream": 1}]
            },
        }
    }
    assert measured(results) == replace(ONE, idle_bytes=IDLE_BYTES)
    real = measured(json.loads(RESULTS.read_text()))
    assert real.proxy_cpu_us < real.cpu_us < 1000
    assert 2**10 < real.stream_bytes < 2**20 < real.idle_bytes < 2**30


def test_other_models_and_prompts_can_be_asked_about() -> None:
    (line,) = (
        line
        for line in run("--tokens-per-second", "100", "--ollama-streams", "1").splitlines()
        if line.startswith("| 1,000,000")
    )
    cells = line.split(" | ")
    assert (cells[1], cells[-1]) == ("100,000,000", "1,000,000 |")


def test_the_defaults_are_what_kubernetes_is_told() -> None:
    base = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/minivault.yaml").read_text())
    objects = {found["kind"]: found["spec"] for found in base}
    (container,) = objects["Deployment"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    (metric,) = objects["HorizontalPodAutoscaler"]["metrics"]
    defaults = arguments().parse_args([])
    assert variables["MINIVAULT_MAX_CONCURRENCY"] == str(defaults.max_concurrency)
    assert container["resources"]["limits"]["memory"] == f"{defaults.pod_bytes // 2**30}Gi"
    assert metric["resource"]["target"]["averageValue"] == f"{defaults.cpu_share * 1000:.0f}m"
