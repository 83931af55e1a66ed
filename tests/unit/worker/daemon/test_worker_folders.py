"""A worker's folders: its own, and named when they cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm_common.errors import EXIT_USAGE, EvaluationError, UsageError
from apbmm_worker.child.pipeline import require_cards
from apbmm_worker.daemon.child_process import EvaluationChild
from apbmm_worker.daemon.options import Claim, Options, claim_folders


def worker(tmp_path: Path, gpu: str = "cpu", name: str = "a") -> Options:
    return Options(name, gpu, "tcp://127.0.0.1:1", tmp_path / "state", tmp_path / "scratch")


def test_two_workers_never_share_an_outbox(tmp_path: Path) -> None:
    first = claim_folders(worker(tmp_path))
    assert (tmp_path / "state").is_dir()
    assert (tmp_path / "scratch").is_dir()
    with pytest.raises(UsageError, match=r"state folder .* is in use by another worker") as caught:
        claim_folders(worker(tmp_path, name="b"))
    assert "--state" in caught.value.hint
    first.release()
    claim_folders(worker(tmp_path, name="b")).release()


@pytest.mark.parametrize(
    ("name", "flag"), [("state", "--state"), ("outbox", "--state"), ("scratch", "--scratch")]
)
def test_a_folder_that_cannot_be_is_named_with_its_flag(
    name: str, flag: str, tmp_path: Path
) -> None:
    path = worker(tmp_path).outbox if name == "outbox" else tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(UsageError, match=f"{name} cannot be .*not a folder") as caught:
        claim_folders(worker(tmp_path))
    assert flag in caught.value.hint
    assert caught.value.exit_code == EXIT_USAGE


async def test_an_evaluation_process_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    child = EvaluationChild("rehearsal", tmp_path / "gone" / "child.log")
    with pytest.raises(EvaluationError, match=r"cannot be started: .*child\.log") as caught:
        await child.start()
    assert caught.value.kind == "infrastructure"


def test_cards_are_claimed_by_their_names_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APBMM_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    first = Claim(worker(tmp_path, "0", "a"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    Claim(worker(tmp_path, "0", "b")).release()
    with pytest.raises(UsageError, match="GPU 3 is in use"):
        Claim(worker(tmp_path, "1", "b"))
    with pytest.raises(UsageError, match="GPU 2 is not there"):
        Claim(worker(tmp_path, "2", "b"))
    first.release()


def test_a_card_that_pytorch_does_not_see_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    require_cards("cpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(UsageError, match=r"--gpu 0: the PyTorch .* for the CPU"):
        require_cards("0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="--gpu 0,7: PyTorch sees 1 of 2 cards"):
        require_cards("0,7")
    require_cards("0")
