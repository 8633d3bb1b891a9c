"""deploy/kubernetes against the schemas of Kubernetes, and against the worker that it runs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from agents.cli import cli
from agents.merge import LOAD_WITHIN_S
from agents.web import OPEN
from streams.configure import load
from streams.plan import compile_plan
from tests.deploy.test_image import said

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSIONS = ("1.31", "1.37")
Manifest = dict[str, Any]

TEXT, WHOLE = {"type": "string"}, {"type": "integer", "minimum": 0}


def only(required: str, **properties: Any) -> dict[str, Any]:
    """An object with these fields and no others; `required` are their names."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


POLICIES = only(
    "stabilizationWindowSeconds policies",
    stabilizationWindowSeconds=WHOLE,
    policies=many(
        only("type value periodSeconds", type={"enum": ["Pods", "Percent"]}, value=WHOLE, periodSeconds=WHOLE)
    ),
)
PARAMETERS = many(only("parameter name key", parameter=TEXT, name=TEXT, key=TEXT))
CUSTOM = {
    # What we use of the definitions of KEDA 2.16 and of the Prometheus operator 0.80.
    ("keda.sh/v1alpha1", "ScaledObject"): only(
        "scaleTargetRef triggers",
        scaleTargetRef=only("name", apiVersion=TEXT, kind=TEXT, name=TEXT),
        pollingInterval=WHOLE,
        minReplicaCount=WHOLE,
        maxReplicaCount=WHOLE,
        advanced=only(
            "", horizontalPodAutoscalerConfig=only("", behavior=only("", scaleUp=POLICIES, scaleDown=POLICIES))
        ),
        triggers=many(
            only(
                "type metadata",
                type={"const": "kafka"},
                metadata={"type": "object", "additionalProperties": TEXT},
                authenticationRef=only("name", name=TEXT),
            )
        ),
    ),
    ("keda.sh/v1alpha1", "TriggerAuthentication"): only("", secretTargetRef=PARAMETERS, configMapTargetRef=PARAMETERS),
    ("monitoring.coreos.com/v1", "PodMonitor"): only(
        "selector podMetricsEndpoints",
        selector=only("matchLabels", matchLabels={"type": "object", "additionalProperties": TEXT}),
        podMetricsEndpoints=many(
            only(
                "port",
                port=TEXT,
                interval=TEXT,
                authorization=only("credentials", type=TEXT, credentials=only("name key", name=TEXT, key=TEXT)),
                relabelings=many(
                    only("targetLabel", sourceLabels={"type": "array"}, targetLabel=TEXT, replacement=TEXT)
                ),
            )
        ),
    ),
}


def manifests() -> list[Manifest]:
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    assert {f"{name}" for name in names} == {file.name for file in FOLDER.iterdir()} - {"kustomization.yaml"}
    return [item for name in names for item in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))]


ALL = manifests()


def the(kind: str, name: str | None = None) -> Manifest:
    (found,) = (item for item in ALL if item["kind"] == kind and name in (None, item["metadata"]["name"]))
    return found


def check(item: Manifest, version: str) -> None:
    """Raises ValidationError."""
    schema = CUSTOM.get((item["apiVersion"], item["kind"]))
    if schema is None:
        kubernetes_validate.validate(item, version, strict=True)
    else:
        jsonschema.validate(item["spec"], schema)


POD = the("StatefulSet")["spec"]["template"]["spec"]
(WORKER,) = POD["containers"]
CONFIG = yaml.safe_load(the("ConfigMap", "foreshock-config")["data"]["foreshock.yaml"])
LABELS = {"app.kubernetes.io/name": "foreshock-worker"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("item", ALL, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_each_keeps_to_its_schema(item: Manifest, version: str) -> None:
    check(item, version)


@pytest.mark.parametrize(
    "kind", ["StatefulSet", "PodDisruptionBudget", "NetworkPolicy", "Service", "ScaledObject", "PodMonitor"]
)
def test_a_misspelt_field_would_be_found(kind: str) -> None:
    item = copy.deepcopy(the(kind))
    item["spec"]["selctor"] = {}
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError), match="selctor"):
        check(item, VERSIONS[-1])


def test_the_arguments_are_ones_that_foreshock_takes() -> None:
    """And the worker has the name of its pod, and its folder on its volume."""
    top = cli.make_context("foreshock", list(WORKER["args"]), resilient_parsing=False)
    with top:
        command = cli.get_command(top, "worker")
        assert command is not None
        at = WORKER["args"].index("worker")
        options = command.make_context("worker", WORKER["args"][at + 1 :], parent=top).params
    assert top.params["form"] == "json"
    mounts = {mount["name"]: mount for mount in WORKER["volumeMounts"]}
    assert str(options["state"]) == mounts["state"]["mountPath"]
    assert str(options["config_file"].parent) == mounts["config"]["mountPath"]
    assert options["instance"] == "$(POD_NAME)"
    assert WORKER["env"][0] == {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    (claim,) = the("StatefulSet")["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "state"


def test_the_configuration_can_be_used_and_its_secrets_are_there() -> None:
    config = load(the("ConfigMap", "foreshock-config")["data"]["foreshock.yaml"])
    assert compile_plan(config, {}).models
    given = {item["name"] for item in WORKER["env"] if "secretKeyRef" in item["valueFrom"]}
    assert given == {config.kafka.security.password_env, config.web.token_env}
    assert config.kafka.security.ca_file in {
        f"{mount['mountPath']}/{key}"
        for mount in WORKER["volumeMounts"]
        for key in the("ConfigMap", "foreshock-kafka-ca")["data"]
    }
    assert not [item for item in ALL if item["kind"] == "Secret"], "no secret is in a repository"


def test_the_pod_is_what_the_image_was_made_for() -> None:
    user, group = said("USER")[-1].split(":")
    assert (POD["securityContext"]["runAsUser"], POD["securityContext"]["runAsGroup"]) == (int(user), int(group))
    assert POD["securityContext"]["runAsNonRoot"] and WORKER["securityContext"]["readOnlyRootFilesystem"]
    assert not WORKER["securityContext"]["allowPrivilegeEscalation"]
    assert WORKER["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    ports = {port["name"]: port["containerPort"] for port in WORKER["ports"]}
    assert [str(ports["metrics"])] == said("EXPOSE")
    assert CONFIG["web"]["listen"] == f"0.0.0.0:{ports['metrics']}"
    assert {"name": "tmp", "mountPath": "/tmp"} in WORKER["volumeMounts"], "where a worker writes beside its state"


def test_probes_ask_what_needs_no_token_and_leave_time_for_a_rebuild() -> None:
    probes = {name: WORKER[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert {probe["httpGet"]["path"] for probe in probes.values()} == {*OPEN}
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"metrics"}
    assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] > LOAD_WITHIN_S
    assert probes["readiness"]["httpGet"]["path"] == "/ready", "a rolling upgrade waits for a rebuild"


def test_all_speak_of_the_same_pods() -> None:
    assert the("StatefulSet")["spec"]["selector"]["matchLabels"] == LABELS
    assert the("Service")["spec"]["selector"] == LABELS
    for kind, place in (
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
        ("PodMonitor", "selector"),
    ):
        assert the(kind)["spec"][place]["matchLabels"] == LABELS
    assert the("ScaledObject")["spec"]["scaleTargetRef"]["name"] == the("StatefulSet")["metadata"]["name"]
    broker = CONFIG["kafka"]["broker"]
    assert json.dumps(int(broker.rpartition(":")[2])) in json.dumps(the("NetworkPolicy")["spec"]["egress"])


def test_the_lag_that_adds_workers_is_more_than_an_idle_group_has() -> None:
    """What is read of an open chunk is not committed yet."""
    spec = the("ScaledObject")["spec"]
    (trigger,) = spec["triggers"]
    config = load(the("ConfigMap", "foreshock-config")["data"]["foreshock.yaml"]).kafka
    assert trigger["metadata"]["consumerGroup"] == config.prefix + config.group
    assert trigger["metadata"]["topic"] == config.prefix + config.inference
    assert trigger["metadata"]["bootstrapServers"] == config.broker
    partitions = spec["maxReplicaCount"]
    assert int(trigger["metadata"]["lagThreshold"]) > 2 * partitions / spec["minReplicaCount"] * config.chunk_size
