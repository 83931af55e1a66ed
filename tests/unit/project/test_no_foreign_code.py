"""Nothing here runs code that came as data: no pickle, no eval, no shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import REPOSITORY

MODULES = sorted(
    path
    for folder in ("cli", "common", "master", "worker")
    for path in (REPOSITORY / folder).rglob("*.py")
)
LOADERS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {"os.system", "os.popen", "os.execlp", "torch.load", "numpy.load", "np.load",
         "subprocess.getoutput", "subprocess.getstatusoutput",
         "asyncio.create_subprocess_shell"}  # fmt: skip


def offences(tree: ast.AST) -> Iterator[str]:
    """What runs, or opens, data as code."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (n.name for n in names if n.name.split(".")[0] in LOADERS)
            case ast.ImportFrom(module="yaml", names=[ast.alias(name="safe_dump")]):
                pass  # it only writes
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in LOADERS:
                yield module
            case ast.Call(func=ast.Name(id=name)) if name in BUILTINS:
                yield name
            case ast.Call(func=ast.Attribute() as function) if ast.unparse(function) in CALLS:
                yield ast.unparse(function)
            case ast.keyword(arg="shell", value=value) if ast.unparse(value) != "False":
                yield "shell"
            # Known by its name: false unless run file and worker ask for it (test_remote_code).
            case ast.keyword(arg="trust_remote_code", value=value):
                if ast.unparse(value) not in {"False", "remote_code"}:
                    yield "trust_remote_code"


ALLOWED = {
    # A run's own adapters: only where run file and worker both ask for it (test_remote_code).
    "worker/apbmm_worker/evaluation/evalscope/own_adapters.py: compile",
    "worker/apbmm_worker/evaluation/evalscope/own_adapters.py: exec",
    # The name of the shell that gets a script; no shell runs.
    "cli/apbmm/completion.py: shell",
}


def test_nothing_runs_data_as_code() -> None:
    assert len(MODULES) > 50
    found = {
        f"{path.relative_to(REPOSITORY)}: {offence}"
        for path in MODULES
        for offence in offences(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import loads", "eval('1')", "os.system('x')", "torch.load(p)",
     "run(x, shell=True)", "f(trust_remote_code=flag)", "f(trust_remote_code=True)",
     "import yaml.loader", "exec(text)"],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert list(offences(ast.parse(code)))


@pytest.mark.parametrize("code", ["model.eval()", "re.compile('x')", "run(x, shell=False)"])
def test_the_search_takes_no_offence_at_the_rest(code: str) -> None:
    assert not list(offences(ast.parse(code)))


def test_modules_are_found_where_they_are() -> None:
    assert Path(REPOSITORY / "worker" / "apbmm_worker" / "child" / "main.py") in MODULES
