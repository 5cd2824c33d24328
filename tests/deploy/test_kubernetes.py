"""What `deploy/kubernetes` promises, read from the objects that kubectl renders.

Nothing here needs a cluster. Without kubectl 1.30 or later (`KUBECTL` names one that is not on the
path) these tests are skipped.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
OLDEST, NEWEST = "1.33", "1.37"

# of Checkov's rules, those that are not followed
NOT_FOLLOWED = {
    "CKV_K8S_11": "a CPU limit throttles: every stream of the pod stutters",
    "CKV_K8S_15": "a pinned tag need not be asked for again at each start",
    "CKV_K8S_35": "the settings are environment variables, the keys too",
    "CKV_K8S_43": "whoever builds the image knows its digest",
}

Object = dict[str, Any]
SHIP = (KUBERNETES / "components" / "log-shipper" / "ship.sh").read_text()
SHIP_FOLDER = "/etc/shipper"


def kubectl_program() -> str | None:
    """Return a kubectl whose Kustomize knows all that is used here, if there is one."""
    program = shutil.which(os.environ.get("KUBECTL", "kubectl"))
    if not program:
        return None
    said = subprocess.run([program, "version", "--client", "-o", "json"], capture_output=True)
    minor = json.loads(said.stdout or "{}").get("clientVersion", {}).get("minor", "0")
    return program if int(re.match(r"\d+", minor)[0]) >= 30 else None  # type: ignore[index]


KUBECTL = kubectl_program()
pytestmark = pytest.mark.skipif(not KUBECTL, reason="there is no kubectl 1.30 or later")


@cache
def rendered(folder: Path) -> str:
    """Return what `kubectl kustomize` makes of the folder."""
    done = subprocess.run([str(KUBECTL), "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(name: str) -> list[Object]:
    """Return the objects of the base or of an overlay."""
    return list(yaml.safe_load_all(rendered(KUBERNETES / name)))


def one(objects: list[Object], kind: str, name: str) -> Object:
    """Return the object of that kind and name."""
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name)
    return found


ALL = ["base", *(f"overlays/{name}" for name in OVERLAYS)]
every_build = pytest.mark.parametrize("name", ALL)


def pods(objects: list[Object]) -> Iterator[Object]:
    """Yield the spec of every pod."""
    for found in objects:
        if found["kind"] in ("Deployment", "StatefulSet"):
            yield found["spec"]["template"]["spec"]
        elif found["kind"] == "CronJob":
            yield found["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def minivault_pod(objects: list[Object]) -> Object:
    """Return the spec of the pod that serves."""
    (found,) = (pod for pod in pods(objects) if pod["containers"][0]["name"] == "minivault")
    return found


def containers(pod: Object) -> list[Object]:
    """Return all its containers, those that come first too."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(container: Object) -> dict[str, Object]:
    """Return its variables by name, in their order."""
    return {variable["name"]: variable for variable in container["env"]}


def values(tree: Any, key: str) -> Iterator[Any]:
    """Yield every value that has this key, however deep."""
    if isinstance(tree, dict):
        if key in tree:
            yield tree[key]
        tree = list(tree.values())
    if isinstance(tree, list):
        for child in tree:
            yield from values(child, key)


@every_build
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_one_that_kubernetes_knows(name: str, version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for found in build(name):
        if found["kind"] != "ServiceMonitor":  # the Prometheus operator's
            validator.validate(found, version, strict=True)


def test_the_monitor_finds_the_service_and_its_port() -> None:
    objects = build("overlays/service-monitor")
    service = one(objects, "Service", "minivault")
    assert one(objects, "ServiceMonitor", "minivault") == {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": "minivault", "namespace": service["metadata"]["namespace"]},
        "spec": {
            "selector": {"matchLabels": service["metadata"]["labels"]},
            "endpoints": [
                {"port": service["spec"]["ports"][0]["name"], "path": "/metrics", "interval": "15s"}
            ],
        },
    }


def test_the_lint_has_nothing_to_say(tmp_path: Path) -> None:
    checkov = shutil.which(os.environ.get("CHECKOV", "checkov"))
    if not checkov:
        pytest.skip("there is no checkov")
    for name in ALL:
        (tmp_path / f"{Path(name).name}.yaml").write_text(rendered(KUBERNETES / name))
    options = ["--framework", "kubernetes", "--skip-download", "--compact", "--quiet"]
    done = subprocess.run(
        [checkov, "-d", tmp_path, *options, "--skip-check", ",".join(NOT_FOLLOWED)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@every_build
def test_every_container_is_confined(name: str) -> None:
    for pod in pods(build(name)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] > 10000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]


def test_the_pod_runs_as_the_image_s_user() -> None:
    user = re.search(r"useradd --uid (\d+)", (ROOT / "Dockerfile").read_text())
    assert user and minivault_pod(build("base"))["securityContext"]["runAsUser"] == int(user[1])


def test_ollama_is_reached_by_minivault_alone() -> None:
    objects = build("base")
    pod = one(objects, "StatefulSet", "ollama")["spec"]["template"]
    policy = one(objects, "NetworkPolicy", "ollama")["spec"]
    assert policy["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    client = one(objects, "Deployment", "minivault")["spec"]["template"]["metadata"]["labels"]
    assert policy["ingress"] == [
        {"from": [{"podSelector": {"matchLabels": client}}], "ports": [{"port": "http"}]}
    ]
    assert policy["policyTypes"] == ["Ingress", "Egress"]


@every_build
def test_what_is_referred_to_by_name_is_there(name: str) -> None:
    objects = build(name)
    maps = {o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"}
    for pod in pods(objects):
        for key in ("configMapKeyRef", "configMapRef", "configMap"):
            assert {reference["name"] for reference in values(pod, key)} <= maps
    target = one(objects, "HorizontalPodAutoscaler", "minivault")["spec"]["scaleTargetRef"]
    assert one(objects, target["kind"], target["name"])["spec"].get("replicas") is None
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        for selected in ("minivault", "ollama"):
            assert one(objects, kind, selected)


@every_build
def test_every_setting_is_one_and_the_keys_come_from_the_secret(name: str) -> None:
    variables = environment(minivault_pod(build(name))["containers"][0])
    settings = {PREFIX + field.upper() for field in Settings.model_fields}
    assert {variable for variable in variables if variable.startswith(PREFIX)} <= settings
    for key in ("MINIVAULT_API_KEY", "MINIVAULT_LOG_KEY"):
        assert variables[key]["valueFrom"] == {"secretKeyRef": {"name": "minivault", "key": key}}


@every_build
def test_the_service_s_names_are_hosts_that_it_answers_to(name: str) -> None:
    objects = build(name)
    variables = environment(minivault_pod(objects)["containers"][0])
    order = list(variables)
    # Kubernetes expands $(…) only to what stands before it
    assert order.index("NAMESPACE") < order.index("MINIVAULT_ALLOWED_HOSTS")
    hosts = variables["MINIVAULT_ALLOWED_HOSTS"]["value"].replace("$(NAMESPACE)", "prod")
    assert Settings(allowed_hosts=hosts).allowed_hosts == {
        f"{service}{domain}"
        for service in ("minivault", "minivault-log")
        for domain in ("", ".prod", ".prod.svc", ".prod.svc.cluster.local")
    }


@every_build
def test_the_log_is_reached_while_no_pod_is_ready(name: str) -> None:
    objects = build(name)
    log, answers = (one(objects, "Service", each) for each in ("minivault-log", "minivault"))
    assert log["spec"]["publishNotReadyAddresses"] is True
    assert log["spec"]["selector"] == answers["spec"]["selector"]
    assert log["metadata"]["labels"] != answers["metadata"]["labels"], "it would be scraped twice"


def test_an_apply_undoes_no_scaling_and_deletes_nothing() -> None:
    ollama = one(build("base"), "StatefulSet", "ollama")["spec"]
    assert "replicas" not in ollama
    assert ollama["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"


@every_build
def test_a_stop_has_the_time_that_its_parts_take(name: str) -> None:
    pod = minivault_pod(build(name))
    service = pod["containers"][0]
    serving = service["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert serving >= 5, "balancers need some seconds to leave"
    grace = int(service["args"][service["args"].index("--timeout-graceful-shutdown") + 1])
    assert grace >= 60, "answers that clients wait for have the time to end"
    served = serving + grace
    assert pod["terminationGracePeriodSeconds"] >= served + 10
    for sidecar in pod.get("initContainers", []):
        assert (
            sidecar["restartPolicy"] == "Always"
        ), "it would have to end before the service starts, and stop before it ends"
        assert pod["terminationGracePeriodSeconds"] >= served + 60, "to send what was written last"


@every_build
def test_the_probes_ask_the_right_question(name: str) -> None:
    service = minivault_pod(build(name))["containers"][0]
    paths = {key: probe["httpGet"]["path"] for key, probe in service.items() if "Probe" in key}
    assert paths == {
        "startupProbe": "/health",
        "livenessProbe": "/health",
        "readinessProbe": "/ready",
    }
    assert service["readinessProbe"]["timeoutSeconds"] > Settings().connect_timeout


def test_no_two_pods_ever_write_to_one_volume() -> None:
    objects = build("overlays/log-volume")
    spec = one(objects, "StatefulSet", "minivault")["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    variables = environment(minivault_pod(objects)["containers"][0])
    assert variables["MINIVAULT_LOG_FSYNC"]["value"] == "true"
    assert variables["MINIVAULT_LOG_DIR"]["value"].startswith("/logs/")


@pytest.mark.parametrize("name", ["overlays/log-shipper", "overlays/cluster"])
def test_the_shipper_takes_the_log_of_its_pod(name: str) -> None:
    objects = build(name)
    pod = minivault_pod(objects)
    (shipper,) = pod["initContainers"]
    folder = environment(pod["containers"][0])["MINIVAULT_LOG_DIR"]["value"]
    assert f"log=${{LOG_DIR:-{folder}}}" in SHIP
    mounted = {mount["mountPath"]: mount for mount in shipper["volumeMounts"]}
    assert "readOnly" not in mounted["/logs"] and mounted["/logs"]["name"] == "logs"
    assert shipper["command"] == ["sh", f"{SHIP_FOLDER}/ship.sh"] and SHIP_FOLDER in mounted
    variables = {variable["name"] for variable in shipper["env"]}
    assert set(re.findall(r"\$\{?([A-Z_]+)\}?", SHIP)) - variables == {
        *("LOG_DIR", "OUTGOING_DIR", "SECONDS_BETWEEN")
    }


def test_what_is_shipped_is_what_is_read() -> None:
    objects = build("overlays/cluster")
    (bucket,) = (o["data"] for o in objects if "DESTINATION" in o.get("data", {}))
    shipped = bucket["DESTINATION"].removeprefix("bucket:")
    assert bucket["MINIVAULT_LOG_SOURCE"] == f"s3://{shipped}"
    (compact,) = one(objects, "CronJob", "minivault-compact")["spec"]["jobTemplate"]["spec"][
        "template"
    ]["spec"]["containers"]
    assert compact["args"] == ["$(MINIVAULT_LOG_SOURCE)"]


def test_the_viewer_reads_the_bucket_and_nothing_else() -> None:
    objects = build("overlays/cluster")
    viewer = one(objects, "Deployment", "log-viewer")["spec"]
    assert viewer["replicas"] == 2
    (container,) = viewer["template"]["spec"]["containers"]
    variables = environment(container)
    settings = {PREFIX + field.upper() for field in Settings.model_fields}
    assert {variable for variable in variables if variable.startswith(PREFIX)} <= settings
    assert variables["MINIVAULT_LLM_SERVICE"]["value"] == "none"
    assert variables["MINIVAULT_LOG_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "minivault"
    assert {probe["httpGet"]["path"] for key, probe in container.items() if "Probe" in key} == {
        "/health"
    }
    (volume,) = viewer["template"]["spec"]["volumes"]
    assert "emptyDir" in volume
    labels = viewer["template"]["metadata"]["labels"]
    assert one(objects, "Service", "log-viewer")["spec"]["selector"] == labels
    policy = one(objects, "NetworkPolicy", "log-viewer")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [53, 53, 443]


def test_a_gpu_is_asked_for_once() -> None:
    pod = one(build("overlays/gpu"), "StatefulSet", "ollama")["spec"]["template"]["spec"]
    assert list(values(pod, "nvidia.com/gpu")) == [1]


def test_what_the_readme_tells_to_write_builds(tmp_path: Path) -> None:
    readme = (ROOT / "deploy" / "README.md").read_text()
    block = re.search(r"```yaml\n(# kustomization\.yaml\n.*?)```", readme, re.DOTALL)
    assert block
    shutil.copytree(KUBERNETES, tmp_path / "minivault" / "deploy" / "kubernetes")
    (tmp_path / "kustomization.yaml").write_text(block[1])
    objects = list(yaml.safe_load_all(rendered(tmp_path)))
    assert {o["metadata"].get("namespace") for o in objects} - {None} == {"llm"}
    image = minivault_pod(objects)["containers"][0]["image"]
    assert image == "registry.example.com/minivault:2026-11-25"
    assert "qwen3:8b" in values(objects, "MINIVAULT_OLLAMA_MODEL")


def test_a_model_is_pulled_once_and_no_torn_part_is_in_its_way(tmp_path: Path) -> None:
    """The script of the pod that pulls, with a stand-in of Ollama's program beside it."""
    pull = one(build("base"), "StatefulSet", "ollama")["spec"]["template"]["spec"]
    script = pull["initContainers"][0]["args"][0]
    program = tmp_path / "ollama"
    program.write_text(
        "#!/bin/sh\n"
        'echo "$*" >>calls\n'
        "case $1 in\n"
        "  serve) touch up; exec sleep 60;;\n"
        "  list) test -e up;;\n"
        '  pull) touch "model-$2";;\n'
        '  show) test -e "model-$2";;\n'
        "esac\n"
    )
    program.chmod(0o755)
    blobs = tmp_path / ".ollama" / "models" / "blobs"
    blobs.mkdir(parents=True)
    for part, content in {
        "torn-partial": "x",
        "torn-partial-0": "",
        "whole-partial-0": "{}",
    }.items():
        (blobs / part).write_text(content)
    for _ in range(2):
        path = f"{tmp_path}:{os.environ['PATH']}"
        subprocess.run(
            ["timeout", "60", "bash", "-c", f"{script}\nstatus=$?; kill %1; exit $status"],
            cwd=tmp_path,
            env={"PATH": path, "MODEL": "tinyllama", "HOME": str(tmp_path)},
            check=True,
        )
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls.count("pull tinyllama") == 1
    assert [path.name for path in blobs.iterdir()] == ["whole-partial-0"]
