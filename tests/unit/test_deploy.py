"""The files of `deploy/` agree with each other and with the programs that they start."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml
from starlette.routing import Route

from service.cli import cli
from service.cli_distributed import ROLE_NAMES
from service.configuration import Configuration, load_configuration
from service.http import Showcase, make_app
from tests.servers import DEFAULT_KAFKA, DEFAULT_POSTGRESQL, DEFAULT_REDIS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "chart"
LOCAL = DEPLOY / "local"
HTTP_PORT = 8787
COMMAND_SECONDS = 60.0


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def compose_services() -> dict[str, Any]:
    """Services with their environment and commands as Compose sees them, defaults filled in."""
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    services = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))["services"]
    assert isinstance(services, dict)
    return services


def ours(services: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in services.items() if one["image"] == "synchroscope"}


def parse(arguments: Sequence[str], config: Path) -> click.Context:
    """Let the command itself read the arguments of a container; fails where it would not start."""
    words = [str(config) if word.startswith("/etc/synchroscope/") else word for word in arguments]
    command = cli.commands[words[0]]
    return command.make_context(words[0], list(words[1:]))


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SYNCHROSCOPE_")}
    return subprocess.run(
        [str(word) for word in command],
        env={**kept, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def served_paths() -> set[str]:
    return {route.path for route in make_app(Showcase()).routes if isinstance(route, Route)}


# -- local servers ---------------------------------------------------------------------------------

SCRIPTS = ("up", "down", "restart", "env")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_local_script_explains_itself_and_does_nothing_else(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "never"
    done = run(LOCAL / name, "--help", SYNCHROSCOPE_LOCAL_DIR=str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert not folder.exists()


@pytest.mark.parametrize("name", ("up", "down", "restart"))
def test_an_unknown_server_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    done = run(LOCAL / name, "mysql", SYNCHROSCOPE_LOCAL_DIR=str(tmp_path / "never"))
    assert done.returncode == 2
    assert "unknown server mysql: choose from kafka postgres redis" in done.stderr


def test_the_tests_look_for_local_servers_where_the_scripts_start_them() -> None:
    assert run(LOCAL / "env").stdout.splitlines() == [
        f"export SYNCHROSCOPE_KAFKA={DEFAULT_KAFKA}",
        f"export SYNCHROSCOPE_POSTGRESQL={DEFAULT_POSTGRESQL}",
        f"export SYNCHROSCOPE_REDIS={DEFAULT_REDIS}",
    ]


def test_other_ports_are_taken_from_the_environment() -> None:
    done = run(LOCAL / "env", SYNCHROSCOPE_LOCAL_KAFKA_PORT="1", SYNCHROSCOPE_LOCAL_REDIS_PORT="2")
    assert "SYNCHROSCOPE_KAFKA=127.0.0.1:1\n" in done.stdout
    assert "redis://127.0.0.1:2/0" in done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("port", ("abc", "0", "70000", "1 2", "-1"))
def test_a_port_that_is_none_is_refused_by_its_name(name: str, port: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "never")
    done = run(LOCAL / name, SYNCHROSCOPE_LOCAL_DIR=folder, SYNCHROSCOPE_LOCAL_KAFKA_PORT=port)
    assert done.returncode == 2
    assert done.stderr == f"SYNCHROSCOPE_LOCAL_KAFKA_PORT is '{port}': give a port, 1 to 65535\n"


def test_what_is_not_running_is_stopped_without_complaint(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "pid").write_text(f"{os.getpid()}\n")  # stale: it is somebody else's
    done = run(LOCAL / "down", "--purge", SYNCHROSCOPE_LOCAL_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "redis is not running" in done.stdout


def test_one_version_of_kafka_is_used_everywhere() -> None:
    pom = re.search(r"<kafka\.version>(.+)</", (LOCAL / "kafka" / "pom.xml").read_text())
    script = re.search(r'^kafka_version="(.+)"', (LOCAL / "common.sh").read_text(), re.MULTILINE)
    assert pom is not None and script is not None
    assert pom[1] == script[1] == compose_services()["kafka"]["image"].partition(":")[2]


# -- the image -------------------------------------------------------------------------------------


def test_the_image_is_built_from_every_package() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    packages = packages["build"]["targets"]["wheel"]["packages"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    needed = {*packages, "requirements.lock", "pyproject.toml", "README.md", "hatch_build.py"}
    copied = {
        word
        for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE)
        for word in line.split()[:-1]
    }
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text()
    assert copied == needed
    assert set(re.findall(r"^!(.+)$", ignored, re.MULTILINE)) == needed


def test_the_image_is_checked_where_the_process_serves() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    asked = re.search(r"urlopen\('http://127\.0\.0\.1:(\d+)(/\w+)'", dockerfile)
    assert asked is not None
    assert int(asked[1]) == HTTP_PORT
    assert asked[2] in served_paths()
    assert f"EXPOSE {HTTP_PORT}" in dockerfile
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", dockerfile, re.MULTILINE), "root, or a name"


# -- compose ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_compose_runs_each_role_twice_where_its_health_is_asked(role: str) -> None:
    service = compose_services()[role]
    context = parse(service["command"], ROOT / "examples" / "retail" / "kafka.yaml")
    assert context.params["roles"] == (role,)
    assert (context.params["http_host"], context.params["http_port"]) == ("0.0.0.0", HTTP_PORT)
    assert service["deploy"]["replicas"] == 2
    assert service["expose"] == [str(HTTP_PORT)]
    for published in service.get("ports", []):
        assert re.fullmatch(rf"127\.0\.0\.1:\d+-\d+:{HTTP_PORT}", published)


def test_compose_starts_commands_that_exist_and_waits_for_what_they_need() -> None:
    services = compose_services()
    config = ROOT / "examples" / "retail" / "kafka.yaml"
    for name, service in ours(services).items():
        parse(service["command"], config)
        for needed, how in service["depends_on"].items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed], f"{name} waits for {needed} for ever"
    assert set(services["prepare"]["depends_on"]) == {"kafka", "postgres", "redis"}


def test_compose_mounts_the_file_that_its_commands_name() -> None:
    whole = load(DEPLOY / "compose.yaml")
    file = DEPLOY / whole["configs"]["synchroscope"]["file"]
    assert file.resolve() == ROOT / "examples" / "retail" / "kafka.yaml"
    for service in ours(compose_services()).values():
        [mounted] = service["configs"]
        assert mounted["target"] in service["command"]


def test_the_example_reads_every_address_from_the_environment_of_compose() -> None:
    services = compose_services()
    environment = services["relay"]["environment"]
    file = ROOT / "examples" / "retail" / "kafka.yaml"
    assert set(re.findall(r"\$\{(SYNCHROSCOPE_\w+)", file.read_text())) == set(environment)
    configuration = load_configuration(file, environment)
    assert configuration.log.kafka.bootstrap_servers == "kafka:9092"
    assert set(hosts_of(configuration)) == {"postgres", "redis"}
    broker = services["kafka"]["environment"]
    assert broker["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://kafka:9092"
    shortest = broker["KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS"] / 1000
    assert configuration.log.kafka.session_timeout_seconds >= shortest


def hosts_of(configuration: Configuration) -> Iterator[str | None]:
    yield urlsplit(configuration.event_store.postgresql.dsn).hostname
    for replica in configuration.replicas:
        if replica.redis is not None:
            yield urlsplit(replica.redis.url).hostname
        if replica.postgresql is not None:
            yield urlsplit(replica.postgresql.dsn).hostname


def test_docker_accepts_the_compose_file() -> None:
    if shutil.which("docker") is None or run("docker", "compose", "version").returncode:
        pytest.skip("there is no docker client with compose")
    done = run("docker", "compose", "-f", DEPLOY / "compose.yaml", "config", "--quiet")
    assert done.returncode == 0, done.stderr


# -- chart -----------------------------------------------------------------------------------------


def test_the_chart_has_each_role_and_a_configuration_that_loads(tmp_path: Path) -> None:
    values = load(CHART / "values.yaml")
    assert set(values["roles"]) == set(ROLE_NAMES)
    assert values["httpPort"] == HTTP_PORT
    check_chart_configuration(yaml.safe_dump(values["configuration"]), tmp_path)


def check_chart_configuration(text: str, folder: Path) -> None:
    file = folder / "synchroscope.yaml"
    file.write_text(text, encoding="utf-8")
    described = (CHART / "values.yaml").read_text(encoding="utf-8")
    secrets = dict(re.findall(r"--from-literal=(\w+)=(\S+)", described))
    configuration = load_configuration(file, secrets)
    assert set(hosts_of(configuration)) == {"postgres", "redis"}


def test_the_schema_knows_exactly_the_values_there_are() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def compare(value: Any, part: Mapping[str, Any], place: str) -> None:
        if "$ref" in part:
            part = schema["definitions"][part["$ref"].rpartition("/")[2]]
        if part.get("additionalProperties") is not False:
            return
        known = set(part["properties"]) - {"global"}  # Helm adds it by itself
        assert set(value) == known, place
        for key, inner in value.items():
            compare(inner, part["properties"][key], f"{place}.{key}")

    compare(load(CHART / "values.yaml"), schema, "values")


def test_the_templates_use_only_values_that_exist() -> None:
    values = load(CHART / "values.yaml")
    for file in sorted((CHART / "templates").iterdir()):
        for path in re.findall(r"\.Values((?:\.\w+)+)", file.read_text(encoding="utf-8")):
            found = values
            for key in path.removeprefix(".").split("."):
                assert key in found, f"{file.name} uses .Values{path}"
                found = found[key]


def test_the_chart_asks_for_pages_that_are_served() -> None:
    template = (CHART / "templates" / "deployment.yaml").read_text(encoding="utf-8")
    asked = set(re.findall(r"httpGet: \{path: (/\w+), port: http\}", template))
    asked |= set(re.findall(r"prometheus\.io/path: (/\w+)", template))
    assert asked == {"/healthz", "/readyz", "/metrics"}
    assert asked <= served_paths()


def helm_template(*arguments: str) -> list[dict[str, Any]]:
    if shutil.which("helm") is None:
        pytest.skip("there is no helm")
    done = run("helm", "template", "test", CHART, "--kube-version", "1.30", *arguments)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def test_helm_renders_a_safe_deployment_of_each_role(tmp_path: Path) -> None:
    objects = helm_template("--set", "roles.projector.autoscaling.enabled=true")
    by_kind: dict[str, dict[str, Any]] = {}
    for one in objects:
        by_kind.setdefault(one["kind"], {})[one["metadata"]["name"]] = one
    names = {f"test-synchroscope-{role}" for role in ROLE_NAMES}
    assert set(by_kind["Deployment"]) == set(by_kind["PodDisruptionBudget"]) == names
    assert set(by_kind["HorizontalPodAutoscaler"]) == {"test-synchroscope-projector"}
    [service] = by_kind["Service"].values()
    [mapping] = by_kind["ConfigMap"].values()
    check_chart_configuration(mapping["data"]["synchroscope.yaml"], tmp_path)
    for role in ROLE_NAMES:
        deployment = by_kind["Deployment"][f"test-synchroscope-{role}"]["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        for selector in (service["spec"]["selector"], deployment["selector"]["matchLabels"]):
            assert selector.items() <= labels.items()
        assert ("replicas" in deployment) == (role != "projector"), "a scaler sets them"
        pod = deployment["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        [container] = pod["containers"]
        context = parse(container["args"], tmp_path / "synchroscope.yaml")
        assert context.params["roles"] == (role,)
        assert context.params["http_port"] == container["ports"][0]["containerPort"]
        for one in (container, *pod["initContainers"]):
            parse(one["args"], tmp_path / "synchroscope.yaml")
            assert one["securityContext"]["readOnlyRootFilesystem"] is True
            assert one["envFrom"] == [{"secretRef": {"name": "synchroscope"}}]


def test_helm_refuses_a_value_that_does_not_exist() -> None:
    if shutil.which("helm") is None:
        pytest.skip("there is no helm")
    done = run("helm", "lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout
    done = run("helm", "lint", CHART, "--set", "roles.projektor.enabled=true")
    assert done.returncode == 1
    assert "projektor" in done.stdout + done.stderr
