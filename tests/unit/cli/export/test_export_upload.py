"""`apbmm export --push-to-hub`, against a local stand-in of the Hub's API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from apbmm.export.command import run_export
from apbmm.export.flags import ExportRequest
from apbmm_common.errors import ApbmmError
from hub_stand_in import TOKEN, Hub, hub_stand_in
from merged_runs import write_merged_run, write_pair

# The Hub's library uploads large files in a way that its HTTP library deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upload")
    sources = write_pair(folder / "sources")
    pair = {role: sources[role] for role in ("thinking", "instruct")}
    registered = {"name": "sums", "adapter": "gsm8k", "path": "/none/sums"}
    return write_merged_run(folder, pair, benchmarks=[registered])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with hub_stand_in() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
        yield stand_in


def upload(run_dir: Path, out: Path, *, public: bool = False) -> int:
    request = ExportRequest(out=out, evaluation="e0001", push_to_hub="org/model", public=public)
    return run_export(str(run_dir), request)


@pytest.mark.parametrize("public", [False, True])
def test_the_whole_folder_is_uploaded(
    run_dir: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], public: bool
) -> None:
    out = tmp_path / "out"
    assert upload(run_dir, out, public=public) == 0
    assert hub.created == {"org/model": not public}
    files = [file for file in out.rglob("*") if file.is_file()]
    assert hub.files == {str(file.relative_to(out)): file.read_bytes() for file in files}
    assert ".eval_results/sums.yaml" in hub.files
    assert hub.messages == ["e0001 of the apbmm run world-1"]
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert f"uploaded to {hub.address}/org/model" in capsys.readouterr().out


def test_a_refusal_is_one_line_and_the_folder_stays(
    run_dir: Path, hub: Hub, tmp_path: Path
) -> None:
    hub.refuses = 403
    with pytest.raises(ApbmmError, match="org/model: the upload failed: ") as caught:
        upload(run_dir, tmp_path / "out")
    assert "\n" not in caught.value.message
    assert TOKEN not in str(caught.value)
    assert f"hf upload org/model {tmp_path / 'out'}" in caught.value.hint
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_hub_that_cannot_be_reached(
    run_dir: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ApbmmError, match="org/model: the upload failed: "):
        upload(run_dir, tmp_path / "out")
