"""docker-compose.yml, without Docker."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from agents.cli import cli
from deploy.kafka_files import KAFKA_VERSION

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
ONE_SHOT = {"topics", "setup", "producer", "labels"}

each_service = pytest.mark.parametrize("name", SERVICES)


def test_the_file_fits_the_compose_specification() -> None:
    """The specification's own JSON schema, as check-jsonschema ships it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@each_service
def test_an_image_is_pinned_or_built_here(name: str) -> None:
    service = SERVICES[name]
    if name in OURS:
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert service["pull_policy"] == "build", "our image is nowhere to be pulled from"
    else:
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"])


def test_kafka_is_the_one_that_the_tests_run_on() -> None:
    images = {service["image"] for service in SERVICES.values() if "kafka" in service["image"]}
    assert images == {f"apache/kafka:{KAFKA_VERSION}"}


@each_service
def test_a_service_is_bounded_and_unprivileged(name: str) -> None:
    """A limit on its memory and its log, no capabilities, and a word on what happens when it ends."""
    service = SERVICES[name]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    assert not service.keys() & {"privileged", "network_mode", "pid", "ipc", "devices", "cap_add"}
    assert name not in OURS or service["read_only"]


@each_service
def test_nothing_is_published_beyond_this_machine(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)


def test_there_are_no_secrets() -> None:
    variables = {key: value for service in SERVICES.values() for key, value in service.get("environment", {}).items()}
    assert not [key for key in variables if re.search("PASSWORD|SECRET|TOKEN|CREDENTIAL", key)]
    assert "secrets" not in COMPOSE
    assert variables["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true", (
        "else there is an admin with a known password"
    )


@each_service
def test_what_is_mounted_is_there(name: str) -> None:
    """A file or folder of the repository, read-only, or a declared volume."""
    for mount in SERVICES[name].get("volumes", []):
        source, _, rest = mount.partition(":")
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert rest.endswith(":ro"), mount
        else:
            assert source in COMPOSE["volumes"], source


@each_service
def test_what_is_waited_for_can_happen(name: str) -> None:
    """Services that end are waited for until they have; healthy ones have a way to tell."""
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        service = SERVICES[other]
        assert (wanted["condition"] == "service_completed_successfully") == (other in ONE_SHOT)
        if wanted["condition"] == "service_healthy":
            assert "test" in service.get("healthcheck", {}) or other == "worker", "the worker's is in its image"


def known(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, name
    return command


@pytest.mark.parametrize("name", OURS)
def test_our_commands_are_known(name: str) -> None:
    """Every command line is one that `foreshock` takes."""
    words = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in SERVICES[name]["command"]]
    command, arguments = known(words[0]), words[1:]
    command.make_context(words[0], arguments)


def test_the_commands_in_the_comments_are_known() -> None:
    """What the head of the file says to type is what there is."""
    for line in re.findall(r"^#   docker compose exec (.*)$", FILE.read_text(encoding="utf-8"), re.MULTILINE):
        service, program, command, *arguments = shlex.split(line)
        assert (service, program) == ("worker", "foreshock")
        known(command).make_context(command, arguments)


def test_the_parts_find_each_other() -> None:
    """Broker, topic and files are called the same by all that use them."""
    kafka = SERVICES["kafka"]["environment"]
    broker = kafka["KAFKA_ADVERTISED_LISTENERS"].removeprefix("PLAINTEXT://")
    words = {name: SERVICES[name]["command"] for name in SERVICES if "command" in SERVICES[name]}
    for name in ("worker", "producer", "labels"):
        assert words[name][words[name].index("--broker") + 1] == broker
    assert f"--bootstrap-server={broker}" in words["topics"]
    assert "--topic=inference" in words["topics"] and "inference" in words["producer"]
    folder = words["setup"][-1]
    assert f"demo:{folder}" in SERVICES["setup"]["volumes"]
    for name in ("worker", "producer", "labels"):
        assert f"demo:{folder}:ro" in SERVICES[name]["volumes"]
        assert f"{folder}/foreshock.yaml" in words[name]
