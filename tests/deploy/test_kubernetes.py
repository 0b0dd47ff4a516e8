"""The Kubernetes files: true to the schemas, to each other, and to the service they run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kustomization import Manifest, containers, merge, resolve
from metric_names import unknown_metrics

from service.gateway.routes import ops
from service.settings import Settings, load_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("single-node", "production")
# Kinds of KEDA and the Prometheus operator: no schema of theirs is in Kubernetes.
FOREIGN = {"ScaledObject", "PodMonitor", "PrometheusRule"}
SECRETS = {"changeroom-secrets", "changeroom-api-keys", "changeroom-tls"}
NOT_OURS = re.compile(r"^(REDIS_URL|AWS_[A-Z_]+|HF_[A-Z_]+)$")
SPARE_S = 15


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return resolve(KUBERNETES / "overlays" / request.param)


@pytest.fixture(scope="module")
def production() -> list[Manifest]:
    return resolve(KUBERNETES / "overlays" / "production")


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    return next(m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name)


def workloads(manifests: list[Manifest]) -> list[Manifest]:
    return of_kind(manifests, "Deployment", "StatefulSet")


def environment(manifests: list[Manifest], name: str) -> dict[str, str]:
    """What a Deployment's container gets, secrets left out."""
    (container,) = containers(named(manifests, "Deployment", name))
    variables: dict[str, str] = {}
    for source in container["envFrom"]:
        if "configMapRef" in source:
            variables |= named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    return variables | {entry["name"]: entry["value"] for entry in container.get("env", [])}


def test_every_manifest_fits_the_schema_of_current_kubernetes(manifests: list[Manifest]) -> None:
    checked = 0
    for manifest in manifests:
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, "1.37", strict=True)
            checked += 1
    assert checked >= 12


def test_the_schema_check_refuses_what_is_wrong(manifests: list[Manifest]) -> None:
    worker = named(manifests, "Deployment", "changeroom-worker")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(merge(worker, {"spec": {"gracePeriod": 3}}), "1.37", strict=True)


def test_a_patch_of_something_absent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml]\npatches: [{path: b.yaml}]\n")
    (tmp_path / "a.yaml").write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: here}}")
    (tmp_path / "b.yaml").write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: there}}")
    with pytest.raises(ValueError, match="nowhere"):
        resolve(tmp_path)


def test_everything_that_is_referred_to_exists(manifests: list[Manifest]) -> None:
    names = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    for manifest in workloads(manifests):
        pod = manifest["spec"]["template"]["spec"]
        claimed = {claim["metadata"]["name"] for claim in manifest["spec"].get("volumeClaimTemplates", [])}
        for volume in pod.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or ("PersistentVolumeClaim", claim) in names
            assert volume.get("secret", {}).get("secretName", "changeroom-secrets") in SECRETS
        for container in pod["containers"]:
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= {volume["name"] for volume in pod.get("volumes", [])} | claimed
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    assert source["secretRef"]["name"] in SECRETS
                else:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in names
    for ingress in of_kind(manifests, "Ingress"):
        for path in ingress["spec"]["rules"][0]["http"]["paths"]:
            assert ("Service", path["backend"]["service"]["name"]) in names


def test_selectors_select_pods(manifests: list[Manifest]) -> None:
    pods = {m["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] for m in workloads(manifests)}
    for manifest in workloads(manifests):
        name = manifest["metadata"]["name"]
        assert manifest["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}
        assert name in pods
    for manifest in of_kind(manifests, "PodDisruptionBudget", "PodMonitor"):
        assert manifest["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] in pods
    for manifest in of_kind(manifests, "Service"):
        assert manifest["spec"]["selector"]["app.kubernetes.io/name"] in pods


@pytest.mark.parametrize("name", ["changeroom-gateway", "changeroom-worker"])
def test_every_variable_is_a_setting_with_a_value_it_takes(manifests: list[Manifest], name: str) -> None:
    variables = environment(manifests, name)
    given: dict[str, Any] = {}
    for variable, value in variables.items():
        if variable.startswith("CHANGEROOM_"):
            given[variable.removeprefix("CHANGEROOM_").lower()] = value
        else:
            assert NOT_OURS.match(variable), variable
    assert given
    assert isinstance(load_settings(**given), Settings)


@pytest.mark.parametrize("name", ["changeroom-gateway", "changeroom-worker"])
def test_grace_outlasts_the_drain(manifests: list[Manifest], name: str) -> None:
    pod = named(manifests, "Deployment", name)["spec"]["template"]["spec"]
    pre_stop = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    drain = float(environment(manifests, name)["CHANGEROOM_DRAIN_GRACE_S"])
    assert pod["terminationGracePeriodSeconds"] >= pre_stop + drain + SPARE_S
    assert (pre_stop > 0) == (name == "changeroom-gateway")


def test_the_gateways_probes_ask_what_it_serves(manifests: list[Manifest]) -> None:
    (container,) = containers(named(manifests, "Deployment", "changeroom-gateway"))
    served = {route.path for route in ops.router.routes}
    asked = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["path"] for probe in asked.values()} <= served
    assert asked["livenessProbe"]["path"] == "/livez" and asked["readinessProbe"]["path"] == "/readyz"
    assert container["ports"] == [{"name": "http", "containerPort": Settings.model_fields["port"].default}]
    assert {probe["port"] for probe in asked.values()} == {"http"}


def test_the_workers_probes_ask_its_metrics_port(manifests: list[Manifest]) -> None:
    (container,) = containers(named(manifests, "Deployment", "changeroom-worker"))
    port = int(environment(manifests, "changeroom-worker")["CHANGEROOM_METRICS_PORT"])
    assert container["ports"] == [{"name": "metrics", "containerPort": port}]
    assert container["livenessProbe"]["httpGet"] == {"path": "/metrics", "port": "metrics"}
    assert f"http://127.0.0.1:{port}/metrics" in container["readinessProbe"]["exec"]["command"]


def test_no_pod_may_do_more_than_it_needs(manifests: list[Manifest]) -> None:
    for manifest in workloads(manifests):
        pod = manifest["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


def test_the_network_is_closed_by_default(manifests: list[Manifest]) -> None:
    closed = named(manifests, "NetworkPolicy", "default-deny")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    worker = named(manifests, "NetworkPolicy", "worker")["spec"]["ingress"]
    assert [rule["ports"] for rule in worker] == [[{"protocol": "TCP", "port": 9101}]]
    assert all(rule["from"] for rule in worker)


def test_production_asks_for_gpus_and_keeps_one_worker(production: list[Manifest]) -> None:
    pod = named(production, "Deployment", "changeroom-worker")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert container["image"].endswith("-cuda")
    scaled = named(production, "ScaledObject", "changeroom-worker")["spec"]
    assert scaled["scaleTargetRef"]["name"] == "changeroom-worker"
    assert scaled["minReplicaCount"] == 1 < scaled["fallback"]["replicas"] <= scaled["maxReplicaCount"]
    drain = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert drain["stabilizationWindowSeconds"] >= 300
    assert "replicas" not in named(production, "Deployment", "changeroom-worker")["spec"]
    assert "replicas" not in named(production, "Deployment", "changeroom-gateway")["spec"]


def test_scaling_asks_prometheus_for_metrics_we_have(
    production: list[Manifest], tmp_path: Path, promtool: str
) -> None:
    rules = []
    for trigger in named(production, "ScaledObject", "changeroom-worker")["spec"]["triggers"]:
        assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
        assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold", "ignoreNullValues"}
        assert float(trigger["metadata"]["threshold"]) > 0
        assert not unknown_metrics(trigger["metadata"]["query"])
        rules.append({"record": f"t:{len(rules)}", "expr": trigger["metadata"]["query"]})
    assert "changeroom_backlog_seconds" in rules[0]["expr"]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "scaling", "rules": rules}]}))
    subprocess.run([promtool, "check", "rules", str(path)], check=True, capture_output=True)


def test_scraping_gives_the_job_names_of_the_rules(production: list[Manifest]) -> None:
    in_rules = set(re.findall(r'job="([^"]+)"', (DEPLOY / "prometheus/rules.yaml").read_text()))
    monitors = of_kind(production, "PodMonitor")
    assert {m["spec"]["selector"]["matchLabels"][m["spec"]["jobLabel"]] for m in monitors} == in_rules
    for monitor in monitors:
        (container,) = containers(named(production, "Deployment", monitor["metadata"]["name"]))
        ports = {port["name"] for port in container["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports
