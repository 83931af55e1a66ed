"""Where merged checkpoints lie between merge and hot-load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from apbmm_common.errors import EvaluationError
from apbmm_worker.merging.folders.available_memory import available_memory
from apbmm_worker.merging.folders.temporary_checkpoints import TemporaryCheckpoints
from small_disk import small_disk

SIZE = 40_000


def written(size: int = SIZE) -> Callable[[Path], None]:
    """Writes as `write_merge` does: an OSError becomes the cause of an `EvaluationError`."""

    def write(path: Path) -> None:
        path.mkdir()
        try:
            (path / "weights").write_bytes(bytes(size))
        except OSError as error:
            raise EvaluationError("full", kind="infrastructure") from error

    return write


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    (tmp_path / "memory").mkdir()
    return tmp_path / "memory"


def test_checkpoints_are_removed_after_use_and_orphans_at_the_start(
    scratch: Path, memory: Path
) -> None:
    checkpoints = TemporaryCheckpoints(scratch, memory)
    seen = set()
    for _ in range(3):
        with checkpoints.holding(written(), SIZE) as path:
            assert path.is_relative_to(memory)
            seen.add(path)
        assert not path.exists()
    assert len(seen) == 2
    checkpoints.remove()
    assert not any(memory.iterdir())
    assert not any(scratch.iterdir())

    orphan, foreign = memory / "apbmm-0123-1", memory / "apbmm-without-a-lock"
    (orphan / "0").mkdir(parents=True)
    (orphan / "lock").touch()
    foreign.mkdir()
    alive = TemporaryCheckpoints(scratch.with_name("other"), memory)
    assert not orphan.exists()
    assert foreign.exists()
    TemporaryCheckpoints(scratch, memory).remove()
    assert all(folder.exists() for folder in alive.folders)
    alive.remove()


def test_each_merge_goes_where_it_fits(scratch: Path, memory: Path) -> None:
    checkpoints = TemporaryCheckpoints(scratch, memory)
    for size, where in ((1 << 60, scratch), (SIZE, memory)):
        with checkpoints.holding(written(), size) as path:
            assert path.is_relative_to(where)
    checkpoints.remove()


def test_memory_that_others_fill_meanwhile_is_left_for_scratch(scratch: Path, memory: Path) -> None:
    with small_disk(memory, kilobytes=2 * SIZE // 1024 + 8):
        one, two = (
            TemporaryCheckpoints(scratch, memory),
            TemporaryCheckpoints(scratch.with_name("other"), memory),
        )

        def late(path: Path) -> None:
            """Begins to write when another merge has just taken the room."""
            if path.is_relative_to(memory):
                (memory / "others").write_bytes(bytes(SIZE // 2))
            written()(path)

        with one.holding(written(), SIZE) as first, two.holding(late, SIZE) as second:
            assert first.is_relative_to(memory)
            assert second.is_relative_to(scratch.with_name("other"))
            assert (second / "weights").stat().st_size == SIZE
            assert len(list(memory.glob("*/[01]"))) == 1
        one.remove()
        two.remove()


def test_a_full_disk_and_other_faults_are_not_hidden(scratch: Path, memory: Path) -> None:
    with small_disk(scratch, kilobytes=32):
        checkpoints = TemporaryCheckpoints(scratch, memory)
        with pytest.raises(EvaluationError), checkpoints.holding(written(), 1 << 60):
            pytest.fail("it was written")
        assert not list(scratch.glob("*/[01]"))

        def bad(_: Path) -> None:
            raise EvaluationError("holds a NaN", kind="vector")

        with pytest.raises(EvaluationError, match="NaN"), checkpoints.holding(bad, SIZE):
            pytest.fail("it was written")
        checkpoints.remove()


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 8192 << 10), ("5000000", 5_000_000 - 3_000_000 + 1_000_000)]
)
def test_a_control_group_limits_what_is_available(
    tmp_path: Path, limit: str, expected: int
) -> None:
    """Slurm's and Kubernetes' limits stand above the group of the process."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 16384 kB\nMemAvailable: 8192 kB\n")
    (proc / "self/cgroup").write_text("1:name=systemd:/\n0::/job/step\n")
    (groups / "job/step").mkdir(parents=True)
    (groups / "job/memory.max").write_text(limit + "\n")
    (groups / "job/memory.current").write_text("3000000\n")
    (groups / "job/memory.stat").write_text("anon 2000000\ninactive_file 1000000\n")
    assert available_memory(proc, groups) == expected
    assert available_memory() > 1 << 20


def test_older_control_groups_limit_it_too(tmp_path: Path) -> None:
    proc, job = tmp_path / "proc", tmp_path / "cgroup/memory/job"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemAvailable: 8192 kB\n")
    (proc / "self/cgroup").write_text("4:memory:/job/step\n0::/\n")
    (job / "step").mkdir(parents=True)
    (job / "memory.limit_in_bytes").write_text("5000000\n")
    (job / "memory.usage_in_bytes").write_text("3000000\n")
    (job / "memory.stat").write_text("total_active_file 400000\ntotal_inactive_file 600000\n")
    assert available_memory(proc, tmp_path / "cgroup") == 3_000_000


def test_engines_start_from_one_path(scratch: Path, memory: Path) -> None:
    checkpoints = TemporaryCheckpoints(scratch, memory)
    paths = set()
    for name in ("first", "second"):
        folder = scratch.with_name(name)
        folder.mkdir()
        path = checkpoints.at_one_path(folder)
        assert path.resolve() == folder.resolve()
        paths.add(path)
    checkpoints.remove()
    assert TemporaryCheckpoints(scratch, memory).at_one_path(scratch) in paths
    assert len(paths) == 1
