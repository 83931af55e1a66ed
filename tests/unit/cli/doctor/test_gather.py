"""How `apbmm doctor` finds out its facts, on real files, locks and sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from apbmm.doctor import gather
from apbmm.doctor.facts import Cards
from apbmm_common.protocol import curve_keys
from apbmm_master.journal.storage import run_directory
from commands import free_address

NVIDIA_SMI = "#!/bin/sh\n{}\n"


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a fake nvidia-smi, a shell script, into PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def put(script: str) -> None:
        file = tmp_path / "nvidia-smi"
        file.write_text(NVIDIA_SMI.format(script), encoding="utf-8")
        file.chmod(0o755)

    return put


def test_cards_as_nvidia_smi_lists_them(nvidia_smi: Callable[[str], None]) -> None:
    row = "NVIDIA H200, 143771, 570.86"
    nvidia_smi(f"echo '0, {row}, 143000'; echo '1, {row}, 5'")
    found = gather.cards()
    assert found.names == ("0: NVIDIA H200 (140 GiB)", "1: NVIDIA H200 (140 GiB)")
    assert (found.driver, found.trouble) == ("570.86", "")
    assert found.free == (143000 << 20, 5 << 20)


def test_a_card_without_memory_of_its_own() -> None:
    found = gather.read_cards("0, NVIDIA GB10, [N/A], 580.95, [N/A]\n", (13, 0))
    assert found.names == ("0: NVIDIA GB10",)
    assert found.memories == found.free == (0,)
    assert found.cuda == (13, 0)


def test_what_nvidia_smi_says_of_a_broken_driver(nvidia_smi: Callable[[str], None]) -> None:
    nvidia_smi("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    assert gather.cards().trouble.endswith("Driver/library version mismatch")
    nvidia_smi("exit 9")
    assert gather.cards().trouble == "exit status 9"


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 2), ("0", 1), ("0,1", 2), ("", 0), ("-1", 0), ("GPU-1f", 1)]
)
def test_cards_that_a_process_may_use(visible: str | None, count: int) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert gather.visible_cards(Cards(("0: a", "1: b")), environment) == count


def test_the_probe_of_the_installed_pytorch() -> None:
    """The process that asks PyTorch ends well; the CPU build sees no cards."""
    assert not gather.probe_cards().faults


FAKE_TORCH = """
class cuda:
    device_count = lambda: 2
class Ones:
    sum = lambda self: self
    item = lambda self: 2.0
def ones(count, device):
    if device == "cuda:1":
        raise RuntimeError("CUDA error: no kernel image is available\\nmore")
    return Ones()
"""


def test_a_card_that_computes_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a fake PyTorch that has two cards, of which the second is too old for it."""
    (tmp_path / "torch.py").write_text(FAKE_TORCH, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = gather.probe_cards()
    assert found.seen == 2
    assert found.faults == ("card 1: CUDA error: no kernel image is available",)


def test_a_pytorch_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (fault,) = gather.probe_cards().faults
    assert fault == "PyTorch cannot be used: ImportError: libcudart.so.13"


def test_space_and_locks_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    assert gather.space(folder, 7).free > 0
    found = gather.locks(folder)
    assert (found.folder, found.trouble) == (tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    found = gather.locks(file)
    assert found.trouble is not None
    assert "it is a file" in found.trouble.message


def test_a_network_file_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "file_system", lambda _: "nfs4")
    found = gather.locks(tmp_path)
    assert found.trouble is not None
    assert "a network file system (nfs4)" in found.trouble.message


def test_locks_that_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems that are mounted without locks."""
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    found = gather.locks(tmp_path)
    assert found.trouble is not None
    assert "keeps nobody out" in found.trouble.message


def test_shared_memory(tmp_path: Path) -> None:
    assert gather.shared_memory(tmp_path).writable
    assert gather.shared_memory(tmp_path / "none").size == 0


def test_a_port_in_use() -> None:
    address = free_address()
    assert gather.port(address).trouble is None
    with zmq.Context() as context, context.socket(zmq.ROUTER) as taken:
        taken.bind(address)
        trouble = gather.port(address).trouble
    assert trouble is not None
    assert "another master" in trouble.hint


def test_addresses_are_none_of_the_loopback() -> None:
    assert not any(each.startswith(("127.", "[::1]")) for each in gather.reachable_addresses())


def test_keys_and_who_can_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert gather.keys(None).folder is None
    assert gather.keys("none").folder is None
    master = curve_keys.new_master(curve_keys.default_folder())
    secret = curve_keys.new_worker(master, "gpu-1")
    found = gather.keys(None)
    assert (found.master, found.allowed, found.workers, found.troubles) == (
        True,
        1,
        ("gpu-1",),
        (),
    )
    secret.chmod(0o644)
    (trouble,) = gather.keys(str(master.folder)).troubles
    assert trouble.hint == f"chmod 600 {secret}"
    master.folder.chmod(0o755)
    (trouble,) = gather.keys(None).troubles
    assert trouble.hint == f"chmod 700 {master.folder}"


def test_a_folder_of_keys_that_is_not_there(tmp_path: Path) -> None:
    (trouble,) = gather.keys(str(tmp_path / "none")).troubles
    assert "no such folder" in trouble.message


@contextmanager
def telling(text: bytes) -> Iterator[str]:
    """A server that sends ``text`` to the first who connects, and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            link, _ = server.accept()
            with link:
                link.sendall(text)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_what_answers_at_an_address() -> None:
    address = free_address()
    assert "refused" in gather.reach(address).trouble
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(address)
        assert gather.reach(address).is_zmq
    with telling(b"SSH-2.0-OpenSSH_9.9\r\n") as other:
        assert not gather.reach(other).is_zmq
