"""`apbmm merge` as a user runs it: what it writes, what it prints, and what it refuses."""

from __future__ import annotations

import json
import math
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import transformers

from commands import called, run
from small_disk import small_disk
from tiny_checkpoints import (
    load_tensors,
    rounding_error,
    rounding_error_of_sum,
    save_tensors,
    write_json,
    write_related,
    write_tiny_qwen3,
)

pytestmark = pytest.mark.slow

LAYERS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources a, b and c, fine-tunes of base; each says in its template who it is."""
    root = tmp_path_factory.mktemp("sources")
    write_tiny_qwen3(root / "base", seed=0, layers=LAYERS, hidden=32, dtype=torch.bfloat16)
    for seed, name in enumerate(("a", "b", "c"), start=1):
        write_related(root / "base", root / name, seed=seed)
    for name in ("base", "a", "b", "c"):
        (root / name / "chat_template.jinja").write_text(name)
    write_json(root / "short.json", [0.5])
    write_json(root / "beyond.json", [0.5, 1.5])
    return root


def merge(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, run beside the sources; its digests are kept there, too."""
    return called("merge", *arguments, cwd=folder, env={"XDG_CACHE_HOME": str(folder / "cache")})


def test_a_linear_merge_by_layer(folder: Path, tmp_path: Path) -> None:
    write_json(
        tmp_path / "w.json", {"layers": [0.25, 0.9], "outside": {"norm": 1, "embeddings": 0}}
    )
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is as good as none

    shown = merge(
        folder, "--source", "a", "--source", "second=b", "--weights", tmp_path / "w.json",
        "--template-from", "second", "--out", out,
    )  # fmt: skip

    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    (line,) = shown.stdout.splitlines()
    names = f"1={folder / 'a'}, second={folder / 'b'}"
    assert line.startswith(f"{out}: linear merge of {names}; 0.000 GB in ")
    assert line.endswith("tokenizer and templates of second")
    one, two, result = (load_tensors(place) for place in (folder / "a", folder / "b", out))
    for name, tensor in result.items():
        weight = {"model.norm.weight": 1.0, "model.embed_tokens.weight": 0.0}.get(name)
        if weight is None:
            weight = (0.25, 0.9)[int(name.split(".")[2])]
        assert rounding_error(tensor, one[name], two[name], weight).max() <= 1
    assert torch.equal(result["model.norm.weight"], one["model.norm.weight"])
    assert (out / "chat_template.jinja").read_text() == "b"
    recipe = json.loads((out / "apbmm_merge.json").read_text())
    assert recipe["weights"]["layers"] == [[0.25, 0.75], [0.9, 1 - 0.9]]
    assert recipe["sources"]["second"] == str(folder / "b")
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert bool(model(torch.arange(5)[None]).logits.isfinite().all())


def test_a_model_level_merge_with_every_knob(folder: Path, tmp_path: Path) -> None:
    def made(name: str, *more: object) -> dict[str, torch.Tensor]:
        shown = merge(
            folder, "--source", "a", "--source", "b", "--base", "base", "--method", "della",
            "--weight", 0.7, "--density", 0.6, *more, "--out", tmp_path / name,
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr
        return load_tensors(tmp_path / name)

    plain = made("plain")
    knobs = made("knobs", "--seed", 3, "--epsilon", 0.3)
    name = "model.layers.1.mlp.up_proj.weight"
    assert not torch.equal(plain[name], load_tensors(folder / "base")[name])
    assert not torch.equal(plain[name], knobs[name])
    recipe = json.loads((tmp_path / "knobs" / "apbmm_merge.json").read_text())
    assert recipe["task_vectors"] == {
        "method": "della", "weight": 0.7, "density": 0.6, "epsilon": 0.3, "seed": 3,
    }  # fmt: skip
    assert (tmp_path / "plain" / "chat_template.jinja").read_text() == "a"


TRIO = ("--source", "a", "--source", "b", "--source", "c=c")
# By layer, then outside the layers: the mean unless the file says otherwise.
ROWS = [[0.2, 0.3, 0.5], [0.6, 0.0, 0.4], [0.4, 0.15, 0.45]]
STICKS = [[0.19, 0.25], [0.75, 1.0]]  # shares 1 - sqrt(1 - v), and then the number itself
BROKEN = [[0.1, 0.225, 0.675], [0.5, 0.5, 0.0], [0.3, 0.3625, 0.3375]]


@pytest.mark.parametrize(
    ("more", "value", "rows"),
    [
        (TRIO, ROWS[:2], ROWS),
        (TRIO, {"blocks": [ROWS[0]], "outside": "c"}, [ROWS[0], ROWS[0], [0.0, 0.0, 1.0]]),
        (TRIO, {"sticks": [*STICKS[0], *STICKS[1]]}, BROKEN),
        (
            (*TRIO, "--base", "base", "--method", "task_arithmetic"),
            {"layers": [[1.5, -0.5, 0.25], [0, 1, 2]], "outside": {"norm": [0.5, 0.5, 0.5]}},
            [[1.5, -0.5, 0.25], [0, 1, 2], [0.75, 0.25, 1.125]],
        ),
    ],
    ids=["layers", "blocks", "sticks", "task_arithmetic"],
)
def test_three_sources_have_the_numbers_that_torch_has(
    folder: Path, tmp_path: Path, more: tuple[str, ...], value: object, rows: list[list[float]]
) -> None:
    write_json(tmp_path / "w.json", value)
    shown = merge(folder, *more, "--weights", tmp_path / "w.json", "--out", tmp_path / "out")
    assert shown.returncode == 0, shown.stderr
    sources = [load_tensors(folder / name) for name in ("base", "a", "b", "c")]
    result = load_tensors(tmp_path / "out")
    for name, tensor in result.items():
        parts = name.split(".")
        row = rows[int(parts[2])] if parts[1] == "layers" else rows[2]
        if name == "model.norm.weight" and "--base" in more:
            row = [0.5, 0.5, 0.5]
        weights = (1.0 - math.fsum(row), *row)
        tensors = [source[name] for source in sources]
        assert rounding_error_of_sum(tensor, tensors, weights).max() <= 1, name


PAIR = ("--source", "a", "--source", "b")
VECTORS = (*PAIR, "--base", "base", "--method")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (PAIR, "give either --weight or --weights"),
        ((*PAIR, "--weight", 0.5, "--weights", "w.json"), "give either --weight or --weights"),
        (("--source", "a", "--weight", 0.5), "at least two --source"),
        ((*PAIR, "--source", "base", "--weight", 0.5), "3 sources need --weights"),
        ((*PAIR, "--weight", 0.5, "--base", "base"), "so the base cancels"),
        ((*PAIR, "--weight", 0.5, "--density", 0.8), "--density has no effect on linear"),
        ((*PAIR, "--weight", 0.5, "--seed", 1), "--seed has no effect on linear"),
        ((*PAIR, "--weight", 0.5, "--template-from", "z"), "--template-from z: no such source"),
        ((*PAIR, "--weight", 0.5, "--outside-layers", "z"), "--outside-layers z: no such source"),
        (("--source", "x=a", "--source", "x=b", "--weight", 0.5), "two sources are called x"),
        (("--source", "base=a", "--source", "b", "--weight", 0.5), "cannot be called base"),
        ((*PAIR, "--method", "ties", "--weight", 0.5), "ties needs --base"),
        ((*VECTORS, "ties", "--weights", "w.json"), "ties takes one --weight"),
        ((*VECTORS, "ties", "--weight", 0.5, "--seed", 1), "--seed has no effect on ties"),
        ((*VECTORS, "ties", "--weight", 0.5, "--gamma", 0.1), "--gamma has no effect on ties"),
        ((*VECTORS, "dare", "--weight", 0.5, "--epsilon", 0.1), "--epsilon has no effect on dare"),
        ((*PAIR, "--method", "slerp", "--weight", 0.5), "slerp"),
        ((*PAIR, "--weight", "nan"), "--weight: nan is not a number in [0, 1]"),
        ((*PAIR, "--weight", 1.5), "--weight: 1.5 is not a number in [0, 1]"),
        ((*PAIR, "--weights", "none.json"), "none.json: no such file of weights"),
        ((*PAIR, "--weights", "short.json"), "short.json: 1 entries, the sources have 2 layers"),
        ((*PAIR, "--weights", "beyond.json"), "layer 1: 1.5 is not a number in [0, 1]"),
        ((*VECTORS, "ties", "--weight", "inf"), "--weight is inf, not a finite number"),
        ((*VECTORS, "ties", "--weight", 1, "--density", 0), "--density is 0.0, outside (0, 1]"),
        ((*VECTORS, "ties", "--weight", 1, "--density", 1.5), "--density is 1.5, outside"),
        ((*VECTORS, "della", "--weight", 1, "--epsilon", 3), "--epsilon is 3.0, outside [0, 1]"),
        ((*VECTORS, "breadcrumbs", "--weight", 1, "--gamma", 1), "--gamma is 1.0, outside [0, 1)"),
        (("--source", "~nobody-at-all/a", "--source", "b", "--weight", 0.5), "no such home folder"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_does_not_belong_together_is_refused_at_once(
    folder: Path, tmp_path: Path, arguments: tuple[object, ...], words: str
) -> None:
    shown = merge(folder, *arguments, "--out", tmp_path / "out")
    assert shown.returncode == 2
    assert words in shown.stderr
    assert "Traceback" not in shown.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_anything_in_it_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "apbmm_merge.json").write_text("{}")  # not even an earlier merge
    shown = merge(folder, *PAIR, "--weight", 0.5, "--out", tmp_path)
    assert shown.returncode == 2
    assert shown.stderr.startswith(f"error: --out {tmp_path}: exists and is not an empty folder")
    assert [path.name for path in tmp_path.iterdir()] == ["apbmm_merge.json"]


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("apbmm_merge.json/out", "no folder can be made there: Not a directory"),
        ("o" * 250, "no folder can be made there: File name too long"),
        ("circle", "no folder can be made there"),
        ("~nobody-at-all/x", "no such home folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_sources_are_read(
    folder: Path, tmp_path: Path, out: str, words: str
) -> None:
    (tmp_path / "apbmm_merge.json").touch()
    (tmp_path / "circle").symlink_to("circle")
    cache = tmp_path / "cache"
    arguments = ("--source", folder / "a", "--source", folder / "b", "--weight", 0.5, "--out", out)
    shown = called("merge", *arguments, cwd=tmp_path, env={"XDG_CACHE_HOME": str(cache)})
    assert shown.returncode == 2, shown.stderr
    assert shown.stderr.startswith(f"error: --out {out}: ")
    assert words in shown.stderr
    assert shown.stderr.count("\n") <= 2
    assert not cache.exists()


@pytest.mark.parametrize("out", [".", "link", "~/x/y"])
def test_an_output_is_written_where_its_path_leads(folder: Path, tmp_path: Path, out: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    before = here.stat().st_ino
    (tmp_path / "link").symlink_to(here)
    shown = called(
        "merge", "--source", folder / "a", "--source", folder / "b", "--weight", 0.5,
        "--out", out, cwd=here if out == "." else tmp_path,
        env={"XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    written = tmp_path / "x" / "y" if out == "~/x/y" else here
    assert shown.stdout.startswith(f"{written}: linear merge")
    assert {"config.json", "model.safetensors"} <= {path.name for path in written.iterdir()}
    # Whoever stands in the folder sees what was written.
    assert here.stat().st_ino == before
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "link", "x"}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -15), (signal.SIGHUP, -1), (signal.SIGINT, 130)]
)
def test_a_merge_that_is_ended_leaves_nothing_behind(
    folder: Path, tmp_path: Path, number: int, code: int
) -> None:
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(
        "import os, signal\n"
        "def allocate(*_):\n"
        f"    open({str(tmp_path / 'begun')!r}, 'w').close()\n"
        f"    signal.raise_signal({int(number)})\n"
        "os.posix_fallocate = allocate\n"
    )
    shown = run(
        "apbmm", "merge", *PAIR, "--weight", 0.5, "--out", tmp_path / "out", cwd=folder,
        env={"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(tmp_path / "python")},
    )  # fmt: skip
    assert shown.returncode == code
    assert "Traceback" not in shown.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"python", "begun"}


def test_sources_without_a_tokenizer_are_merged_with_a_warning(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("bare", "bare2"):
        write_related(folder / "base", tmp_path / name, seed=4)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name / file).unlink()
    bare = tmp_path / "bare"
    shown = merge(
        folder, "--source", bare, "--source", "a", "--template-from", 2, "--weight", 0.5,
        "--out", tmp_path / "one",
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    warning = f"warning: {bare}: no tokenizer, so the vocabulary of 1 was not compared"
    assert shown.stderr.splitlines() == [warning]
    assert (tmp_path / "one" / "tokenizer.json").exists()
    shown = merge(
        folder, "--source", bare, "--source", tmp_path / "bare2", "--weight", 0.5,
        "--out", tmp_path / "two",
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr.splitlines()[0] == warning
    assert "the merge gets no tokenizer: 1 has none" in shown.stderr.splitlines()[2]
    assert load_tensors(tmp_path / "two").keys() == load_tensors(tmp_path / "one").keys()


def test_a_nan_in_a_source_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    write_related(folder / "base", tmp_path / "bad", seed=3)
    tensors = load_tensors(tmp_path / "bad")
    tensors["model.norm.weight"][7] = float("nan")
    save_tensors(tmp_path / "bad", tensors)
    shown = merge(
        folder, "--source", "a", "--source", tmp_path / "bad", "--weight", 0.5,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert shown.returncode == 2
    (line, _) = shown.stderr.splitlines()
    assert line.endswith("model.safetensors: tensor model.norm.weight holds a NaN or an infinity")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=32) as disk:
        shown = merge(folder, *PAIR, "--weight", 0.5, "--out", disk / "out")
        assert shown.returncode == 1
        assert "the merge could not be written: No space left on device" in shown.stderr
        assert "--out" in shown.stderr
        assert "Traceback" not in shown.stderr
        assert list(disk.iterdir()) == []
        itself = merge(folder, *PAIR, "--weight", 0.5, "--out", disk)
        assert itself.returncode == 2
        assert itself.stderr.startswith(f"error: --out {disk}: a file system's root")
