"""What `deploy/` and the images are made from, read by the tools that will read it: nothing is started.

hadolint for the Dockerfile, the published compose-spec and Kubernetes schemas, a PromQL parser for rules and dashboard;
`docker compose config` where there is a container engine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import kubernetes_validate
import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY

import service.metrics  # noqa: F401 - registers them
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = ("docker-compose.yml", "docker-compose.cpu.yml", "deploy/docker-compose.s3.yml")
COMPOSE_SETS = (
    COMPOSE[:1],
    COMPOSE[:2],
    (COMPOSE[0], COMPOSE[2]),
    COMPOSE,
    (COMPOSE[0], "deploy/docker-compose.monitoring.yml"),
)
COMPOSE_FILES = sorted({name for names in COMPOSE_SETS for name in names})
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
IMAGES = {"maskstream-api", "maskstream-worker", "redis:7"}


class ComposeLoader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML with compose's merge tags; a value that is reset is none at all."""


ComposeLoader.add_constructor("!reset", lambda loader, node: None)
ComposeLoader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node, deep=True))


def load(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def load_compose(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.load((ROOT / name).read_text(encoding="utf-8"), ComposeLoader)  # noqa: S506 - safe
    for described in document["services"].values():
        for key in [key for key, value in described.items() if value is None]:
            del described[key]
    return document


def test_dockerfile_passes_hadolint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_compose_files_match_the_published_schema(name: str) -> None:
    folder = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.validate(load_compose(name), schema)


@pytest.mark.docker
@pytest.mark.parametrize("names", COMPOSE_SETS)
def test_compose_reads_its_files_together(names: tuple[str, ...]) -> None:
    files = [part for name in names for part in ("-f", name)]
    environment = {
        **os.environ,  # the engine may be configured there
        "MASKSTREAM_API_KEY": "k" * 43,
        "MASKSTREAM_STORAGE_URL": "s3://bucket/prefix",
        "GRAFANA_PASSWORD": "p",
    }
    found = subprocess.run(
        ["docker", "compose", *files, "config", "-q"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr


def settings_named(value: Any) -> Iterator[str]:
    """Names of settings anywhere in a document: as keys, as `name:` or as NAME=value."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from settings_named(key)
            yield from settings_named(below)
    elif isinstance(value, list):
        for below in value:
            yield from settings_named(below)
    elif isinstance(value, str) and value.startswith("MASKSTREAM_"):
        yield value.split("=", 1)[0]


def test_every_setting_that_is_deployed_exists() -> None:
    known = {f"MASKSTREAM_{name.upper()}" for name in Settings.model_fields}
    documents: list[Any] = [load_compose(name) for name in COMPOSE_FILES]
    documents += [document for path in DEPLOY.glob("kubernetes*/*.yaml") for document in load(path)]
    named = {name for document in documents for name in settings_named(document)}
    assert len(named) > 5
    assert named <= known


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_match_the_published_schemas(path: Path) -> None:
    for document in load(path):
        if document["kind"] == "ScaledObject":  # KEDA's own kind; what it names is looked at below
            continue
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def resources() -> dict[tuple[str, str], dict[str, Any]]:
    """Everything that the base brings up, by kind and name."""
    (base,) = load(DEPLOY / "kubernetes" / "kustomization.yaml")
    paths = [DEPLOY / "kubernetes" / name for name in base["resources"]]
    return {(each["kind"], each["metadata"]["name"]): each for path in paths for each in load(path)}


def test_manifests_fit_together() -> None:
    found = resources()
    claims = {name for kind, name in found if kind == "PersistentVolumeClaim"}
    for (kind, name), resource in found.items():
        if kind == "Service":
            labels = [r["spec"]["template"]["metadata"]["labels"] for r in found.values() if "template" in r["spec"]]
            assert resource["spec"]["selector"] in labels, f"{name} selects nothing"
        if kind == "Deployment":
            pod = resource["spec"]["template"]["spec"]
            mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}
            named = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
            assert named <= claims
            assert pod["containers"][0]["image"] in IMAGES
            assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    (scaler,) = load(DEPLOY / "kubernetes" / "autoscaler.yaml")
    assert ("Deployment", scaler["spec"]["scaleTargetRef"]["name"]) in found
    assert_metrics_exist(scaler["spec"]["triggers"][0]["metadata"]["query"])


def test_the_bucket_overlay_patches_what_it_means_to() -> None:
    folder = DEPLOY / "kubernetes-s3"
    (overlay,) = load(folder / "kustomization.yaml")
    root = (folder / overlay["resources"][0]).resolve()
    assert root == DEPLOY / "kubernetes"
    assert not folder.is_relative_to(root), "kustomize takes a base that contains its overlay for a cycle"
    (base,) = load(DEPLOY / "kubernetes" / "kustomization.yaml")
    assert overlay["configMapGenerator"][0]["name"] == base["configMapGenerator"][0]["name"]
    deployments, claim = overlay["patches"]
    assert ("PersistentVolumeClaim", claim["target"]["name"]) in resources()
    for name in ("maskstream-api", "maskstream-worker"):
        pod = resources()["Deployment", name]["spec"]["template"]["spec"]
        volume, secret = yaml.safe_load(deployments["patch"])
        assert volume["path"].endswith("/volumes/0") and volume["value"]["name"] == pod["volumes"][0]["name"] == "data"
        assert secret["path"].endswith("/containers/0/envFrom/-") and pod["containers"][0]["envFrom"]
        pod["volumes"][0] = volume["value"]
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod},
            kubernetes_validate.latest_version(),
            strict=True,
        )


def samples() -> set[str]:
    """Names of all time series that the service exports."""
    found = set()
    for metric in REGISTRY.collect():
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
        found |= {metric.name + ending for ending in endings}
    return found


def names_read(query: str) -> set[str]:
    """Names of the time series that a query reads. Raises ValueError where it is no PromQL."""
    found: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector) and node.name is not None:
            found.add(node.name)

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def assert_metrics_exist(query: str) -> None:
    read = names_read(query)
    assert read, f"{query} reads nothing"
    assert read <= samples(), f"{query} reads what the service does not export"


def test_alert_rules_parse_and_read_metrics_that_exist() -> None:
    (rules,) = load(DEPLOY / "prometheus" / "alerts.yml")
    (config,) = load(DEPLOY / "prometheus" / "prometheus.yml")
    assert config["rule_files"] == ["alerts.yml"]
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 5
    for rule in alerts:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        promql_parser.parse_duration(rule["for"])
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "action"}
        assert_metrics_exist(rule["expr"])


def queries(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "expr" in value:
            yield value["expr"]
        for below in value.values():
            yield from queries(below)
    elif isinstance(value, list):
        for below in value:
            yield from queries(below)


def test_the_dashboard_reads_metrics_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "maskstream.json").read_text(encoding="utf-8"))
    found = list(queries(dashboard))
    assert len(found) > 15
    for query in found:
        assert_metrics_exist(query)


def test_a_query_of_something_that_is_not_exported_is_noticed() -> None:
    with pytest.raises(AssertionError, match="does not export"):
        assert_metrics_exist("sum(rate(maskstream_masks[1m]))")
