"""What `cluster/` promises, held against Ray's schema, our own CLI and itself.

No cluster is needed, and none is proved to work: these tests find typos, drift and dangling names.
"""

import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = CLUSTER / "kuberay"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
README = (CLUSTER / "README.md").read_text()
RAY_UP = yaml.safe_load((CLUSTER / "on-premises" / "ray-up.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
)

MANIFESTS = [
    pytest.param(document, id=f"{path.name}-{document['kind']}-{document['metadata']['name']}")
    for path in sorted(KUBERAY.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
RAYJOBS = [param for param in MANIFESTS if param.values[0]["kind"] == "RayJob"]

API_VERSIONS = {
    "CronJob": "batch/v1",
    "Job": "batch/v1",
    "PersistentVolumeClaim": "v1",
    "RayJob": "ray.io/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "ServiceAccount": "v1",
}

# From KubeRay's ray-operator/apis/ray/v1 types: the fields that we use. A new one is looked up
# there first and added here; an API server may drop a misspelt field without an error.
RAYJOB_FIELDS = {
    "backoffLimit",
    "entrypoint",
    "rayClusterSpec",
    "shutdownAfterJobFinishes",
    "submissionMode",
    "submitterPodTemplate",
    "ttlSecondsAfterFinished",
}
RAYCLUSTER_FIELDS = {"authOptions", "headGroupSpec", "rayVersion", "workerGroupSpecs"}
WORKER_GROUP_FIELDS = {
    "groupName",
    "maxReplicas",
    "minReplicas",
    "rayStartParams",
    "replicas",
    "template",
}


def find(node: Any, key: str) -> Iterator[Any]:
    """Every value under `key`, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from find(value, key)
    elif isinstance(node, list):
        for item in node:
            yield from find(item, key)


def pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pod spec in a manifest, however deep."""

    def walk(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if "containers" in node:
                yield node
            else:
                for value in node.values():
                    yield from walk(value)
        elif isinstance(node, list):
            for item in node:
                yield from walk(item)

    return list(walk(manifest))


def shell_lines() -> list[str]:
    """Every command line that `cluster/` tells a person or a machine to run."""
    fences = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for fence in fences for line in fence.splitlines()]
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        lines += RAY_UP[key]
    for param in MANIFESTS:
        lines += find(param.values[0], "entrypoint")
        lines += [shlex.join(command) for command in find(param.values[0], "command")]
    lines += re.findall(r"RUN (.*)", DOCKERFILE)
    return lines


def commands(program: str) -> list[str]:
    """The calls of one program in these lines, without what other programs are told."""
    start = rf"(?:^|[\s'\"/=]){program} "
    return sorted(
        {
            call.strip()
            for line in shell_lines()
            for call in re.findall(rf"{start}([a-z-][^'\"|;&\n]*)", line)
        }
    )


def created_by_readme(kind: str) -> set[str]:
    return set(re.findall(rf"kubectl create {kind} ([\w-]+)", README))


def created_by_manifest(kind: str) -> set[str]:
    documents = [param.values[0] for param in MANIFESTS]
    return {d["metadata"]["name"] for d in documents if d["kind"] == kind}


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_every_manifest_has_the_api_version_of_its_kind(manifest: dict[str, Any]) -> None:
    assert manifest["apiVersion"] == API_VERSIONS[manifest["kind"]]


@pytest.mark.parametrize("rayjob", RAYJOBS)
def test_rayjobs_have_only_fields_that_kuberay_knows(rayjob: dict[str, Any]) -> None:
    spec = rayjob["spec"]
    assert set(spec) <= RAYJOB_FIELDS
    assert set(spec["rayClusterSpec"]) <= RAYCLUSTER_FIELDS
    assert set(spec["rayClusterSpec"]["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert set(group) == WORKER_GROUP_FIELDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("rayjob", RAYJOBS)
def test_a_rayjob_cleans_up_retries_and_keeps_workers_off_the_head(rayjob: dict[str, Any]) -> None:
    spec = rayjob["spec"]
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] > 0
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("rayjob", RAYJOBS)
def test_the_job_file_of_the_entrypoint_is_mounted_where_the_driver_runs(
    rayjob: dict[str, Any],
) -> None:
    job_file = Path(shlex.split(rayjob["spec"]["entrypoint"])[2])
    (head,) = pods(rayjob["spec"]["rayClusterSpec"]["headGroupSpec"])
    mounts = {mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    assert str(job_file.parent) in mounts
    assert f"--from-file={job_file.name}=" in README


@pytest.mark.parametrize("rayjob", RAYJOBS)
def test_head_and_workers_see_the_data_at_the_same_paths(rayjob: dict[str, Any]) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    head, *workers = [
        {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
        for pod in pods(cluster["headGroupSpec"]) + pods(cluster["workerGroupSpecs"])
    ]
    for worker in workers:
        assert worker == {path: name for path, name in head.items() if name != "jobs"}


@pytest.mark.parametrize("rayjob", RAYJOBS)
def test_gpus_are_asked_for_by_the_workers_of_the_gpu_manifest_only(rayjob: dict[str, Any]) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    on_gpu = rayjob["metadata"]["name"].endswith("-gpu")
    assert "nvidia.com/gpu" not in json.dumps(cluster["headGroupSpec"])
    for worker in pods(cluster["workerGroupSpecs"]):
        limits = worker["containers"][0]["resources"]["limits"]
        assert limits.get("nvidia.com/gpu", 0) == (1 if on_gpu else 0)


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_every_mount_has_its_volume_and_every_volume_its_mount(manifest: dict[str, Any]) -> None:
    for pod in pods(manifest):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounts = {
            mount["name"]
            for container in pod["containers"]
            for mount in container.get("volumeMounts", [])
        }
        assert mounts == volumes


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_every_name_that_a_pod_refers_to_is_created_somewhere(manifest: dict[str, Any]) -> None:
    for config_map in find(manifest, "configMap"):
        assert config_map["name"] in created_by_readme("configmap")
    for secret in find(manifest, "secretRef"):
        assert secret["name"] in created_by_readme("secret generic")
    for claim in find(manifest, "persistentVolumeClaim"):
        assert claim["claimName"] in created_by_manifest("PersistentVolumeClaim")
    for account in find(manifest, "serviceAccountName"):
        assert account in created_by_manifest("ServiceAccount")


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_pods_request_what_they_are_limited_to_and_run_without_privileges(
    manifest: dict[str, Any],
) -> None:
    for pod in pods(manifest):
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_no_secret_is_written_into_a_manifest(manifest: dict[str, Any]) -> None:
    for env in find(manifest, "env"):
        for variable in env:
            assert not re.search("TOKEN|SECRET|PASSWORD|KEY", variable["name"])


@pytest.mark.parametrize("rayjob", RAYJOBS)
def test_a_rayjob_is_one_image_of_this_version_of_the_project(rayjob: dict[str, Any]) -> None:
    images = {container["image"] for pod in pods(rayjob) for container in pod["containers"]}
    assert len(images) == 1
    assert re.fullmatch(rf".+:{re.escape(PROJECT['version'])}-(cpu|gpu)", images.pop())


def test_manifests_and_dockerfile_have_the_ray_version_of_the_constraints() -> None:
    tags = re.findall(r"rayproject/ray:([\d.]+)-py(\d)(\d+)-(cpu|gpu)\b", DOCKERFILE + README)
    versions = {version for version, *_ in tags}
    versions |= {v for param in RAYJOBS for v in find(param.values[0], "rayVersion")}
    assert versions == {PINS["ray"]}
    minimum = PROJECT["requires-python"].removeprefix(">=")
    assert {f"{major}.{minor}" for _, major, minor, _ in tags} == {minimum}
    assert f"python{minimum} -m venv" in " ".join(RAY_UP["setup_commands"])


def test_the_image_runs_as_a_user_other_than_root_and_holds_no_secret() -> None:
    users = re.findall(r"^USER (\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert users[-1] == "1000:100"
    assert not re.search(r"^(ARG|ENV) .*(TOKEN|SECRET|PASSWORD|KEY)", DOCKERFILE, re.MULTILINE)
    assert not re.search(r"^(COPY|ADD) .*\s\.\s", DOCKERFILE, re.MULTILINE)


def test_the_image_keeps_its_caches_on_the_volume_that_the_pods_mount() -> None:
    caches = re.findall(r"(?:HF_HOME|SHARDSCRIBE_CACHE)=(\S+)", DOCKERFILE)
    assert len(caches) == 2
    for param in RAYJOBS:
        mounts = [m for mounts in find(param.values[0], "volumeMounts") for m in mounts]
        (mount,) = {m["mountPath"] for m in mounts if m["name"] == "model-cache"}
        assert all(Path(cache).is_relative_to(mount) for cache in caches)


def test_the_ray_up_file_satisfies_the_schema_that_ray_bundles() -> None:
    spec = find_spec("ray")  # where it is, without importing it
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(RAY_UP, schema)
    assert RAY_UP["provider"]["type"] == "local"
    assert RAY_UP["provider"]["head_ip"] not in RAY_UP["provider"]["worker_ips"]


def test_every_ray_start_option_exists_in_the_installed_ray() -> None:
    from ray.scripts.scripts import start  # the only test here that imports Ray

    known = {option for param in start.params for option in param.opts}
    calls = [call for call in commands("ray") if call.startswith("start ")]
    used = {flag for call in calls for flag in re.findall(r"--[a-z-]+", call)}
    for param in RAYJOBS:
        for params in find(param.values[0], "rayStartParams"):
            used |= {f"--{name}" for name in params}
    assert {"--head", "--address", "--num-cpus", "--dashboard-host"} <= used
    assert used <= known


def test_every_ray_start_asks_for_the_token() -> None:
    starts = [line for line in shell_lines() if re.search(r"\bray start ", line)]
    assert len(starts) == 4
    assert all("RAY_AUTH_MODE=token" in line for line in starts)


# The last one is not written out anywhere, but the README advises it.
@pytest.mark.parametrize(
    "call", [*commands("shardscribe"), "run /jobs/movie_reviews.yaml --address auto --wait"]
)
def test_every_shardscribe_command_in_cluster_parses(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.cli.main import main

    command: click.Command | None = main
    name, arguments = "shardscribe", shlex.split(call)
    context: click.Context | None = None
    with suppress(click.exceptions.Exit):  # --help
        while command is not None:
            for param in command.params:
                # /jobs exists in a pod, not here: it's the syntax that is under test.
                if isinstance(param.type, click.Path):
                    monkeypatch.setattr(param.type, "exists", False)
            # A copy: Click empties the list that it parses.
            context = command.make_context(name, [*arguments], parent=context)
            if not isinstance(command, click.Group):
                return
            # No command in cluster/ has an option before the verb.
            resolved, command, arguments = command.resolve_command(context, arguments)
            name = resolved or ""


def test_the_commands_that_the_parser_test_sees_include_the_entrypoint() -> None:
    found = commands("shardscribe")
    assert "run /jobs/movie_reviews.yaml --address auto" in found
    assert "run /lake/jobs/movie_reviews.yaml --address auto" in found  # quoted, in `ray exec`
    assert any(call.startswith("models pull ") for call in found)


def test_every_file_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"cluster/[\w./-]+\.yaml", README))
    named |= {f"cluster/{link}" for link in re.findall(r"\]\(([\w./-]+)\)", README)}
    assert len(named) > 5
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


CRON = yaml.safe_load_all((KUBERAY / "cronjob-nightly.yaml").read_text())
CRON_DOCUMENTS = {document["kind"]: document for document in CRON}


def cron_script() -> str:
    (pod,) = pods(CRON_DOCUMENTS["CronJob"])
    command = pod["containers"][0]["command"]
    assert command[:2] == ["/bin/sh", "-euc"]
    return str(command[2])


@pytest.mark.parametrize(
    ("status", "verbs"),
    [
        ("", ["get", "delete", "create"]),
        ("Complete", ["get", "delete", "create"]),
        ("Failed", ["get", "delete", "create"]),
        ("Running", ["get"]),
        ("Retrying", ["get"]),
    ],
)
def test_a_night_starts_a_rayjob_unless_the_last_one_still_runs(
    status: str, verbs: list[str], tmp_path: Path
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" != get ] || printf %s "{status}"\n'
    )
    kubectl.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-euc", cron_script()], env={"PATH": path}, capture_output=True, check=False
    )
    calls = (tmp_path / "calls").read_text().splitlines()
    assert done.returncode == 0, done.stderr
    assert [call.split()[0] for call in calls] == verbs
    assert set(verbs) <= set(CRON_DOCUMENTS["Role"]["rules"][0]["verbs"])


def test_the_nightly_job_never_overlaps_itself_and_names_the_rayjob_that_it_creates() -> None:
    assert CRON_DOCUMENTS["CronJob"]["spec"]["concurrencyPolicy"] == "Forbid"
    rayjob = yaml.safe_load((KUBERAY / "rayjob-cpu.yaml").read_text())
    assert f"job={rayjob['metadata']['name']} " in cron_script()
    assert "--from-file=rayjob.yaml=cluster/kuberay/rayjob-cpu.yaml" in README
    (pod,) = pods(CRON_DOCUMENTS["CronJob"])
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert f"{mount['mountPath']}/rayjob.yaml" in cron_script()
