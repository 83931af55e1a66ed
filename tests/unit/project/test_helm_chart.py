"""The Helm chart, rendered by Helm's own library: whole, and naming only what exists."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from apbmm_common.protocol.curve_keys import master_keys, new_master, new_worker, worker_keys
from apbmm_master.wire.allow_list import AllowList
from apbmm_worker.app import WorkerFlags
from cluster_settings import MASTER, reads, settings
from commands import REPOSITORY, environment
from custom_resources import SCHEMAS
from helm_charts import ChartError, remarks, rendered

VERSION = "1.33"
"""Of Kubernetes, whose schema the manifests are to fit."""
CHART = REPOSITORY / "examples" / "cluster" / "helm" / "apbmm"
RUN = "name = 'a \"run\"'\n[sources]\nthinking = '/models/t'\n"
DEFAULT: dict[str, Any] = {"run": RUN}
AS_JOBS: dict[str, Any] = {
    "run": RUN,
    "jobSet": {"enabled": True},
    "metrics": {"enabled": True, "serviceMonitor": {"enabled": True, "labels": {"a": "b"}}},
    "workers": [
        {"name": "worker", "replicas": 2, "gpus": 2, "nodeSelector": {"gpu": "h100"}},
        {"name": "small", "replicas": 3, "gpus": 1, "tolerations": [{"operator": "Exists"}]},
    ],
}
RELEASES = {
    "default": DEFAULT,
    "sets": {**AS_JOBS, "jobSet": {"enabled": False}},
    "jobs": AS_JOBS,
}


@cache
def release(kind: str) -> list[dict[str, Any]]:
    """The objects of one of the releases above."""
    return rendered(CHART, RELEASES[kind])


def named(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [
        d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, f"apbmm-{name}")
    ]
    return found


def jobs(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The jobs of the set, as the controller would make them."""
    (found,) = [d for d in documents if d["kind"] == "JobSet"]
    return {job["name"]: job["template"] for job in found["spec"]["replicatedJobs"]}


def pod(documents: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The pod of a stateful set or of a job."""
    if any(d["kind"] == "JobSet" for d in documents):
        found: dict[str, Any] = jobs(documents)[name]["spec"]["template"]["spec"]
    else:
        found = named(documents, "StatefulSet", name)["spec"]["template"]["spec"]
    return found


def container(documents: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (only,) = pod(documents, name)["containers"]
    return dict(only)


def variables(documents: list[dict[str, Any]], name: str) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container(documents, name)["env"]}


def test_helm_has_nothing_to_say_of_the_chart() -> None:
    assert remarks(CHART, AS_JOBS) == []


@pytest.mark.parametrize("kind", RELEASES)
def test_every_object_fits_kubernetes_schema(kind: str) -> None:
    documents = release(kind)
    own = [d for d in documents if d["kind"] not in SCHEMAS]
    if kind == "jobs":
        own += [
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, **job}
            for name, job in jobs(documents).items()
        ]
    assert len(own) >= 6
    for document in own:
        kubernetes_validate.validate(document, VERSION, strict=True)
        part = "data" if document["kind"] == "ConfigMap" else "spec"
        unknown = {**document, part: {**document[part], "replica": 1}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(unknown, VERSION, strict=True)


def test_custom_resources_have_the_fields_that_their_types_define() -> None:
    others = [d for d in release("jobs") if d["kind"] in SCHEMAS]
    assert {document["kind"] for document in others} == SCHEMAS.keys()
    for document in others:
        jsonschema.validate(document, SCHEMAS[document["kind"]])
        for unknown in (
            {**document, "spec": {**document["spec"], "maxRestarts": 1}},
            {**document, "apiVersion": document["apiVersion"].replace("v1", "v2")},
        ):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(unknown, SCHEMAS[document["kind"]])
    (found,) = [d for d in others if d["kind"] == "JobSet"]
    assert set(found["spec"]["successPolicy"]["targetReplicatedJobs"]) <= jobs(others).keys()


def test_there_is_one_master_and_its_workers_find_it() -> None:
    documents = release("default")
    kinds = {(d["kind"], d["metadata"]["name"]) for d in documents}
    sets = {
        (kind, f"apbmm-{n}") for kind in ("Service", "StatefulSet") for n in ("master", "worker")
    }
    assert kinds == sets | {
        ("ConfigMap", "apbmm-master"),
        ("PersistentVolumeClaim", "apbmm-master"),
    }
    service = named(documents, "Service", "master")["spec"]
    stateful = named(documents, "StatefulSet", "master")["spec"]
    assert stateful["replicas"] == 1
    assert service["selector"] == stateful["template"]["metadata"]["labels"]
    assert service["selector"] == stateful["selector"]["matchLabels"]
    port = service["ports"][0]["port"]
    assert variables(documents, "master")["APBMM_BIND"] == f"tcp://0.0.0.0:{port}"
    assert variables(documents, "worker")["APBMM_MASTER"] == f"tcp://apbmm-master:{port}"
    assert named(documents, "ConfigMap", "master")["data"]["run.toml"] == RUN


def test_workers_have_the_cards_that_they_take() -> None:
    for kind in ("sets", "jobs"):
        documents = release(kind)
        for name, gpus in (("worker", "0,1"), ("small", "0")):
            assert variables(documents, name)["APBMM_GPU"] == gpus
            limits = container(documents, name)["resources"]["limits"]
            assert limits["nvidia.com/gpu"] == str(len(gpus.split(",")))
        assert pod(documents, "worker")["nodeSelector"] == {"gpu": "h100"}
        assert pod(documents, "small")["tolerations"] == [{"operator": "Exists"}]
    assert named(release("sets"), "StatefulSet", "small")["spec"]["replicas"] == 3
    assert jobs(documents)["small"]["spec"]["completions"] == 3


@pytest.mark.parametrize("kind", RELEASES)
@pytest.mark.parametrize(("name", "commands"), [("master", MASTER), ("worker", (WorkerFlags,))])
def test_a_pod_names_settings_and_volumes_that_exist(name: str, commands: Any, kind: str) -> None:
    documents = release(kind)
    known = settings(*commands) | {"APBMM_LOG_FORMAT", "HOME", "INDEX"}
    assert variables(documents, name).keys() <= known
    assert f"apbmm-{name}" in container(documents, name)["command"][-1]
    claims = [
        claim["metadata"]["name"]
        for document in documents
        if document["kind"] == "StatefulSet" and document["metadata"]["name"] == f"apbmm-{name}"
        for claim in document["spec"].get("volumeClaimTemplates", ())
    ]
    volumes = [volume["name"] for volume in pod(documents, name)["volumes"]] + claims
    assert len(set(volumes)) == len(volumes)
    mounted = {
        mount["name"]
        for part in (*pod(documents, name)["containers"], *pod(documents, name)["initContainers"])
        for mount in part["volumeMounts"]
    }
    assert mounted == set(volumes)


def test_a_pods_worker_reads_the_models_and_writes_its_home(tmp_path: Path) -> None:
    documents = release("default")
    told = variables(documents, "worker")
    mounts = {mount["mountPath"]: mount for mount in container(documents, "worker")["volumeMounts"]}
    assert mounts[told["APBMM_ROOT"]]["name"] == "models"
    assert not mounts[told["HOME"]].get("readOnly", False)
    here = {**told, "APBMM_ROOT": str(tmp_path)}
    assert reads(here, tmp_path / "thinking")
    assert not reads(here, Path("/etc"))


def test_metrics_are_served_and_scraped_where_asked() -> None:
    assert "APBMM_METRICS" not in variables(release("default"), "master")
    for kind in ("sets", "jobs"):
        documents = release(kind)
        service = named(documents, "Service", "master")
        (port,) = [p["port"] for p in service["spec"]["ports"] if p["name"] == "metrics"]
        assert variables(documents, "master")["APBMM_METRICS"] == f"0.0.0.0:{port}"
        monitor = named(documents, "ServiceMonitor", "master")
        assert monitor["metadata"]["labels"] == {"a": "b"}
        assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
        assert monitor["spec"]["endpoints"] == [{"port": "metrics", "interval": "30s"}]
    with pytest.raises(ChartError, match=r"needs metrics\.enabled"):
        rendered(CHART, {"run": RUN, "metrics": {"serviceMonitor": {"enabled": True}}})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"run": ""},
        {"run": RUN, "jobset": {"enabled": True}},
        {"run": RUN, "workers": [{"name": "worker", "replicas": 1, "gpus": 0}]},
        {"run": RUN, "workers": [{"name": "master", "replicas": 1, "gpus": 1}]},
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ChartError, match="at '"):
        rendered(CHART, values)


# ---- a set of jobs -------------------------------------------------------------------------


def test_a_run_that_is_a_set_of_jobs_ends_with_its_master() -> None:
    documents = release("jobs")
    (found,) = [d for d in documents if d["kind"] == "JobSet"]
    assert not [d for d in documents if d["kind"] == "StatefulSet"]
    assert found["spec"].keys() == {"successPolicy", "failurePolicy", "replicatedJobs"}
    assert found["spec"]["successPolicy"] == {
        "operator": "All",
        "targetReplicatedJobs": ["master"],
    }
    master = jobs(documents)["master"]["spec"]
    assert master["template"]["spec"]["restartPolicy"] == "Never"
    (wrong, _) = master["podFailurePolicy"]["rules"]
    assert wrong["onExitCodes"]["values"] == [2]
    service = named(documents, "Service", "master")["spec"]
    assert service["selector"].items() <= master["template"]["metadata"]["labels"].items()
    assert variables(documents, "worker")["APBMM_NAME"] == "apbmm-worker-$(INDEX)"


def test_a_worker_of_a_job_is_told_to_stop_and_never_counts_as_done(tmp_path: Path) -> None:
    worker = tmp_path / "apbmm-worker"
    worker.write_text(
        "#!/bin/sh\ntrap 'sleep 0.2; echo drained; exit 0' TERM\n"
        "echo up\nwhile :; do sleep 0.1; done\n"
    )
    worker.chmod(0o755)
    command = container(release("jobs"), "worker")["command"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True,
        env=environment({"PATH": f"{tmp_path}:/usr/bin:/bin"}),
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.read() == "drained\n"
    assert running.returncode == 3


# ---- keys ----------------------------------------------------------------------------------


def prepare(name: str, mounts: Path, **given: str) -> Path:
    """Run a pod's preparation of its keys on the folders of ``mounts``; the folder it makes."""
    (preparation,) = pod(release("default"), name)["initContainers"]
    (script,) = preparation["args"]
    script = re.sub(r"(?<=[ \"])/(secret|keys|allowed)", rf"{mounts}/\1", script)
    ran = subprocess.run(
        [*preparation["command"], script],
        env=environment(given), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    return mounts / "keys" / "own"


def test_the_pods_make_usable_keys_of_their_secrets(tmp_path: Path) -> None:
    made = new_master(tmp_path / "made")
    secrets = [new_worker(made, f"apbmm-worker-{number}") for number in range(2)]
    public = made.folder / "master.key"
    masters, workers = tmp_path / "master", tmp_path / "worker"
    for mounts, files in (
        (masters, [public, made.folder / "master.key_secret"]),
        (workers, [public, *secrets]),
    ):
        (mounts / "secret").mkdir(parents=True)
        for file in files:
            Path(shutil.copy(file, mounts / "secret")).chmod(0o444)
    shutil.copytree(made.allowed, masters / "allowed")

    own = prepare("worker", workers, APBMM_NAME="apbmm-worker-1")
    assert {file.name for file in own.iterdir()} == {"master.key", "apbmm-worker-1.key_secret"}
    keys = worker_keys(str(own), "apbmm-worker-1")
    serving = master_keys(str(prepare("master", masters)))
    assert keys is not None
    assert serving is not None
    assert keys.master == serving.pair.public == made.pair.public
    assert AllowList(serving.allowed).name_of(keys.pair.public) == "apbmm-worker-1"
