"""Locks that end with their process and name who holds them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from apbmm_common.process.locks import LockHeldError, lock_file, lock_folder


def test_the_holder_is_named_until_the_lock_is_released(tmp_path: Path) -> None:
    lock = lock_file(tmp_path / "lock")
    with pytest.raises(LockHeldError) as caught:
        lock_file(tmp_path / "lock")
    assert caught.value.holder == f"process {os.getpid()} on {socket.gethostname()}"
    lock.release()
    lock_file(tmp_path / "lock").release()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path;"
        "from apbmm_common.process.locks import lock_file;"
        "lock = lock_file(Path(sys.argv[1])); print('locked', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "lock"], stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(LockHeldError, match=f"process {process.pid} on "):
            lock_file(tmp_path / "lock")
        process.send_signal(signal.SIGKILL)
        process.wait()
    lock_file(tmp_path / "lock").release()


def test_a_folder_is_locked_itself(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path)
    with pytest.raises(LockHeldError, match="another process"):
        lock_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    assert not lock.is_in_place
    lock.release()


def test_a_file_that_is_replaced_while_it_is_waited_for_is_locked_anew(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = lock_file(path)
    found = []
    waiting = threading.Thread(target=lambda: found.append(lock_file(path, wait=True)))
    waiting.start()
    path.unlink()
    first.release()
    waiting.join(timeout=60)
    (second,) = found
    assert second.is_in_place
    with pytest.raises(LockHeldError):
        lock_file(path)
    second.release()


def test_a_file_that_is_not_there_may_be_left_unmade(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock_file(tmp_path / "lock", create=False)
    assert list(tmp_path.iterdir()) == []
