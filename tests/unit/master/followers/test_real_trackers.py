"""The real trackers and their local stores: every point once, whatever ended the follower before.

They need an interpreter that has their packages, which APBMM_TRACKERS_PYTHON names: `make
test-trackers`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from apbmm_master.followers.process import Ending
from apbmm_master.followers.track.kinds import KINDS
from apbmm_master.journal.events import ResultRecorded
from apbmm_master.journal.storage.store import Journal, read_journal
from commands import environment
from written_runs import write_run

PYTHON = os.environ.get("APBMM_TRACKERS_PYTHON", "")
POINTS = [(0.2, 0.3), (0.1, 0.1), (0.5, 0.5), (0.4, 0.9)]
READERS = {
    "mlflow": """
from mlflow import MlflowClient
client = MlflowClient()
(run,) = client.search_runs([client.get_experiment_by_name("apbmm").experiment_id])
found = client.get_metric_history(run.info.run_id, "hypervolume")
front = client.download_artifacts(run.info.run_id, "front.json", ".")
told = {
    "steps": [each.step for each in found],
    "hypervolumes": [each.value for each in found],
    "front": [row["merge"] for row in json.load(open(front))["front"]],
    "end": run.info.status,
    "seed": run.data.params["seed"],
}
""",
    "trackio": """
from trackio.sqlite_storage import SQLiteStorage
logs = SQLiteStorage.get_logs("apbmm", "world-1")
tables = [log["front/table"]["_value"] for log in logs if "front/table" in log]
told = {
    "steps": [log["step"] for log in logs],
    "hypervolumes": [log["hypervolume"] for log in logs],
    "front": [row["merge"] for row in tables[-1]],
    "end": "",
    "seed": str(SQLiteStorage.get_run_config("apbmm", "world-1")["seed"]),
}
""",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="APBMM_TRACKERS_PYTHON names no interpreter with them"),
]


def run_here(folder: Path, *arguments: str, given: bytes = b"") -> str:
    """Run the interpreter that has the trackers, whose stores are in ``folder``."""
    stores = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TRACKIO_DIR": str(folder / "trackio"),
        "WANDB_MODE": "offline",
    }
    ran = subprocess.run(
        [PYTHON, *arguments],
        input=given, capture_output=True, env=environment(stores), cwd=folder, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout.decode()


def follow(folder: Path, run_dir: Path, kind: str, ending: Ending) -> None:
    """Send a run as the follower of a master that has ended so."""
    module = "apbmm_master.followers.track"
    said = run_here(folder, "-P", "-m", module, str(run_dir), kind, given=ending.encode())
    assert said == ""


def stored(folder: Path, kind: str) -> dict[str, Any]:
    """What the tracker's own library reads from its store."""
    found: dict[str, Any] = json.loads(
        run_here(folder, "-c", f"import json\n{READERS[kind]}\nprint(json.dumps(told))")
        .strip()
        .splitlines()[-1]
    )
    return found


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Path, Path]:
    """A run of which two evaluations are in the journal, and the folder of the whole run."""
    whole = write_run(tmp_path / "whole", POINTS)
    records = read_journal(whole)
    results = [n for n, r in enumerate(records) if isinstance(r.event, ResultRecorded)]
    with Journal(tmp_path / "run") as journal:
        journal.append(records[: results[-2]])
    return tmp_path / "run", whole


def complete(run_dir: Path, whole: Path) -> None:
    """Add what is left of a run to its journal."""
    with Journal(run_dir) as journal:
        journal.append(read_journal(whole, journal.seq))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", READERS)
def test_a_resumed_run_goes_on_in_its_tracker(
    kind: str, begun: tuple[Path, Path], tmp_path: Path
) -> None:
    run_dir, whole = begun
    if kind == "mlflow":  # whose new database takes longer than a follower has at the end
        run_here(tmp_path, "-c", "import mlflow; mlflow.MlflowClient().search_experiments()")
    follow(tmp_path, run_dir, kind, Ending("stopped"))
    assert stored(tmp_path, kind)["steps"] == [1, 2]
    complete(run_dir, whole)
    for _ in range(2):
        follow(tmp_path, run_dir, kind, Ending("over"))
    told = stored(tmp_path, kind)
    assert told["steps"] == [1, 2, 3, 4]
    assert told["hypervolumes"] == pytest.approx([0.2, 0.2, 0.49, 0.73])
    assert told["front"] == ["e0003", "e0004"]
    assert told["end"] == {"mlflow": "FINISHED", "trackio": ""}[kind]
    assert told["seed"] == "3"


@pytest.mark.timeout(600)
def test_an_offline_run_of_wandb_is_whole(begun: tuple[Path, Path], tmp_path: Path) -> None:
    run_dir, whole = begun
    complete(run_dir, whole)
    follow(tmp_path, run_dir, "wandb", Ending("over"))
    (store,) = run_dir.glob("wandb/offline-run-*/run-world-1.wandb")
    assert store.stat().st_size > 0
    tables = store.parent.glob("files/media/table/front/*.table.json")
    rows = {len(json.loads(table.read_text())["data"]) for table in tables}
    assert rows == {1, 2}


def test_every_kind_is_tried() -> None:
    assert {*READERS, "wandb"} == {*KINDS}
