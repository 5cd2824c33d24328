"""The alert rules and the dashboard: valid, and of metrics that the service has."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "minivault.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "minivault.json"

METRICS = {
    "minivault_requests_total": "counter",
    "minivault_requests_in_flight": "gauge",
    "minivault_requests_in_flight_limit": "gauge",
    "minivault_ollama_unreachable_total": "counter",
    "gen_ai_server_request_duration_seconds": "histogram",
    "gen_ai_server_time_to_first_token_seconds": "histogram",
    "gen_ai_server_time_per_output_token_seconds": "histogram",
    "minivault_tokens_total": "counter",
    "minivault_log_entries_total": "counter",
    "minivault_log_bytes_total": "counter",
    "minivault_log_write_duration_seconds": "histogram",
    "minivault_log_failures_total": "counter",
    "minivault_log_seconds_since_writable": "gauge",
    "minivault_log_size_bytes": "gauge",
    "minivault_log_free_bytes": "gauge",
    "minivault_log_entries_waiting": "gauge",
    "minivault_build_info": "gauge",
    "minivault_refused_requests_total": "counter",
}
"""Every metric of `/metrics`, and its type."""

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool")


def promtool(*arguments: str | Path) -> None:
    """Run it and show what it says where it is not content."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def alert_expressions() -> list[str]:
    """Return what the rules look at."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def panel_expressions() -> list[str]:
    """Return what the dashboard shows, with values for its variables."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return [query.replace("$__rate_interval", "5m") for query in queries]


@needs_promtool
def test_the_rules_are_valid_and_fire_when_they_should() -> None:
    promtool("check", "rules", RULES)
    promtool("test", "rules", RULES.with_suffix(".test.yml"))


@needs_promtool
def test_the_dashboard_s_queries_are_valid(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query}
        for number, query in enumerate(panel_expressions())
    ]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", path)


def test_only_metrics_that_the_service_has_are_asked_for() -> None:
    series = {
        name
        for metric, kind in METRICS.items()
        for name in ([f"{metric}_bucket"] if kind == "histogram" else [metric])
    }
    asked = re.findall(r"\b(?:minivault|gen_ai)_\w+", " ".join(alert_expressions()))
    shown = re.findall(r"\b(?:minivault|gen_ai)_\w+", " ".join(panel_expressions()))
    assert set(asked) <= series
    assert set(shown) == series, "the dashboard shows every one of them"


def test_the_dashboard_has_a_place_for_every_panel() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (column, line)
        for place in (panel["gridPos"] for panel in panels)
        for column in range(place["x"], place["x"] + place["w"])
        for line in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "two panels overlap"
    assert max(column for column, _ in cells) < 24
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(?!__)(\w+)", json.dumps(panels)))
    assert used == variables
