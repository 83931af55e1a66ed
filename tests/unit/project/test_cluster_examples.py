"""The files for Slurm and Kubernetes: whole, and naming only what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

from apbmm_common.errors import EvaluationError
from apbmm_common.protocol.addresses import is_local
from apbmm_common.protocol.curve_keys import master_keys, new_master, new_worker, worker_keys
from apbmm_master.app import MasterFlags, master
from apbmm_master.wire.allow_list import AllowList
from apbmm_worker.app import WorkerFlags
from apbmm_worker.app import app as worker_app
from apbmm_worker.daemon.local_paths import LocalPaths
from apbmm_worker.daemon.options import parse_roots
from commands import REPOSITORY, environment
from rehearsal_runs import run_spec

VERSION = "1.33"
"""Of Kubernetes, whose schema the manifests are to fit."""
CLUSTER = REPOSITORY / "examples" / "cluster"
SBATCH = CLUSTER / "slurm" / "apbmm.sbatch"
MANIFEST = CLUSTER / "kubernetes" / "apbmm.yaml"


MASTER = (master, MasterFlags)
"""What has the arguments of the master's command."""


def settings(*commands: Any) -> set[str]:
    """The variables that set the arguments of a command."""
    found = {f"APBMM_{name.upper()}" for each in commands for name in each.__annotations__}
    return found - {"APBMM_RETURN", "APBMM_FLAGS"}


def check(*arguments: object) -> str:
    """What a checker says, standard error included."""
    ran = subprocess.run(
        [*map(str, arguments)], capture_output=True, text=True, env=environment(), check=False
    )
    return f"{ran.returncode}\n{ran.stdout}{ran.stderr}".strip()


def reads(variables: dict[str, str], path: Path) -> bool:
    """Whether a worker with these settings reads a source that a run file has at ``path``."""
    with pytest.MonkeyPatch.context() as patch:
        for name in {"APBMM_GPU", "APBMM_MASTER", "APBMM_ROOT"} & variables.keys():
            patch.setenv(name, variables[name])
        _, told, _ = worker_app.parse_args([], print_error=False)
    flags = told.arguments["flags"]
    assert not is_local(flags.master, "--master")
    paths = LocalPaths({}, parse_roots(flags.root, flags.master))
    spec = run_spec(evaluation={"kind": "vllm"}, sources={"thinking": str(path)})
    try:
        return paths.of("thinking", spec.sources.folders["thinking"]) == str(path)
    except EvaluationError:
        return False


# ---- Slurm ---------------------------------------------------------------------------------


def test_the_batch_script_is_bash() -> None:
    assert check("bash", "-n", SBATCH) == "0"


def test_the_batch_script_has_nothing_that_shellcheck_minds() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed here (package shellcheck)")
    # 2317: functions that traps and other shells call look unreachable.
    assert check("shellcheck", "--exclude=SC2317", SBATCH) == "0"


def test_directives_come_before_the_first_command() -> None:
    lines = SBATCH.read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    commands = [number for number, line in enumerate(lines) if line and line[0] != "#"]
    assert len(directives) >= 9
    assert max(directives) < min(commands)


def test_the_batch_script_names_settings_and_commands_that_exist() -> None:
    text = SBATCH.read_text()
    own = {"APBMM_HOME", "APBMM_LOCK_DIR"}
    named = set(re.findall(r"APBMM_[A-Z_]+", text))
    assert {"APBMM_GPU", "APBMM_MASTER", "APBMM_KEYS", "APBMM_STATE"} <= named
    assert named <= settings(WorkerFlags) | own
    flags = set(re.findall(r"apbmm-master .*", text)[0].split()) - {"&"}
    assert {flag for flag in flags if flag.startswith("--")} == {"--run-dir", "--bind"}
    assert settings(*MASTER) >= {"APBMM_RUN_DIR", "APBMM_BIND"}


def batch_settings(folder: Path, **given: str) -> dict[str, str]:
    """What the batch script exports to its workers, in a job whose folders are in ``folder``."""
    beginning, _, _ = SBATCH.read_text().partition("\nworker() {")
    (folder / "run.toml").touch()
    slurm = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(folder), "TMPDIR": str(folder)}
    ran = subprocess.run(
        ["bash", "-c", f"{beginning}\nenv -0", "apbmm.sbatch", str(folder / "run.toml")],
        env=environment({**slurm, **given}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(line.split("=", 1) for line in ran.stdout.split("\0") if line)


def test_a_jobs_workers_read_what_its_run_file_names(tmp_path: Path) -> None:
    found = batch_settings(tmp_path)
    assert reads(found, tmp_path / "thinking")
    narrowed = batch_settings(tmp_path, APBMM_ROOT=str(tmp_path))
    assert reads(narrowed, tmp_path / "thinking")
    assert not reads(narrowed, Path("/etc"))


# ---- Kubernetes ----------------------------------------------------------------------------


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(MANIFEST.read_text()))


def pod(name: str) -> dict[str, Any]:
    """The pod of one of the two sets."""
    sets = {d["metadata"]["name"]: d for d in documents() if d["kind"] == "StatefulSet"}
    found: dict[str, Any] = sets[name]["spec"]["template"]["spec"]
    return found


def container(name: str) -> dict[str, Any]:
    (only,) = pod(name)["containers"]
    return dict(only)


@pytest.mark.parametrize(
    "document", documents(), ids=lambda d: f"{d['kind']}-{d['metadata']['name']}"
)
def test_a_manifest_fits_the_schema(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)
    unknown = {**document, "spec": {**document["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(unknown, VERSION, strict=True)


def test_there_is_one_master_and_its_workers_find_it() -> None:
    kinds = [(d["kind"], d["metadata"]["name"]) for d in documents()]
    both = ("apbmm-master", "apbmm-worker")
    assert sorted(kinds) == sorted((k, n) for k in ("Service", "StatefulSet") for n in both)
    service, stateful = (d["spec"] for d in documents() if d["metadata"]["name"] == both[0])
    assert stateful["replicas"] == 1
    port = service["ports"][0]["port"]
    bound = {e["name"]: e.get("value") for e in container(both[0])["env"]}["APBMM_BIND"]
    reached = {e["name"]: e.get("value") for e in container(both[1])["env"]}["APBMM_MASTER"]
    assert (bound, reached) == (f"tcp://0.0.0.0:{port}", f"tcp://apbmm-master:{port}")


@pytest.mark.parametrize(
    ("name", "commands"), [("apbmm-master", MASTER), ("apbmm-worker", (WorkerFlags,))]
)
def test_a_pod_names_settings_and_volumes_that_exist(name: str, commands: Any) -> None:
    named = {variable["name"] for variable in container(name)["env"]}
    assert named <= settings(*commands) | {"APBMM_LOG_FORMAT", "HOME"}
    assert container(name)["command"] == [name]
    sets = next(d for d in documents() if d["metadata"]["name"] == name and d["kind"] != "Service")
    claims = {c["metadata"]["name"] for c in sets["spec"]["volumeClaimTemplates"]}
    volumes = {volume["name"] for volume in pod(name)["volumes"]} | claims
    mounted = {
        mount["name"]
        for part in (*pod(name)["containers"], *pod(name)["initContainers"])
        for mount in part["volumeMounts"]
    }
    assert mounted == volumes


def test_a_pods_worker_reads_the_models_and_writes_its_home(tmp_path: Path) -> None:
    told = {e["name"]: e.get("value", "") for e in container("apbmm-worker")["env"]}
    mounts = {mount["mountPath"]: mount for mount in container("apbmm-worker")["volumeMounts"]}
    assert mounts[told["APBMM_ROOT"]]["name"] == "models"
    assert not mounts[told["HOME"]].get("readOnly", False)
    here = {**told, "APBMM_ROOT": str(tmp_path)}
    assert reads(here, tmp_path / "thinking")
    assert not reads(here, Path("/etc"))


def prepare(name: str, mounts: Path, **variables: str) -> Path:
    """Run a pod's preparation of its keys on the folders of ``mounts``; the folder it makes."""
    (script,) = pod(name)["initContainers"][0]["args"]
    script = re.sub(r"(?<=[ \"])/(secret|keys|allowed)", rf"{mounts}/\1", script)
    ran = subprocess.run(
        [*pod(name)["initContainers"][0]["command"], script],
        env=environment(variables), capture_output=True, text=True, check=False,
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

    own = prepare("apbmm-worker", workers, APBMM_NAME="apbmm-worker-1")
    assert {file.name for file in own.iterdir()} == {"master.key", "apbmm-worker-1.key_secret"}
    keys = worker_keys(str(own), "apbmm-worker-1")
    serving = master_keys(str(prepare("apbmm-master", masters)))
    assert keys is not None
    assert serving is not None
    assert keys.master == serving.pair.public == made.pair.public
    assert AllowList(serving.allowed).name_of(keys.pair.public) == "apbmm-worker-1"
