"""Help at the width of a usual terminal, and flags by either of two names."""

from __future__ import annotations

import pytest
from rich.console import Console

from apbmm.app import app
from apbmm.confirm.flags import ConfirmOptions
from apbmm.init.flags import InitFlags
from apbmm.run.flags import RunFlags

COMMANDS = [name for name in app if not name.startswith("-")]


def help_of(*command: str) -> str:
    console = Console(width=80, color_system=None, force_terminal=False)
    with console.capture() as captured:
        app.help_print(list(command), console=console)
    return captured.get()


@pytest.mark.parametrize("command", COMMANDS)
def test_usage_names_the_arguments(command: str) -> None:
    shown = help_of(command)
    assert shown.startswith(f"Usage: apbmm {command} ")
    assert "[ARGS" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_commands_are_grouped_from_the_first_to_the_last_that_a_user_needs() -> None:
    shown = help_of()
    assert "First: apbmm demo" in shown
    groups = ("Start", "Watch", "Results", "Hosts and keys", "More")
    places = [shown.index(f"─ {group} ─") for group in groups]
    assert places == sorted(places)
    assert "─ Commands ─" not in shown


def test_paragraphs_fill_the_width() -> None:
    paragraph = help_of("run").split("\n\n")[2]
    lines = [line.rstrip() for line in paragraph.splitlines()]
    assert lines[0].startswith("The same command goes on where it stopped")
    following = [line.split()[0] for line in lines[1:]]
    assert all(len(line) + 1 + len(word) > 80 for line, word in zip(lines, following, strict=False))


@pytest.mark.parametrize("flag", ["--gpu", "--gpus"])
def test_cards_are_named_by_either_flag(flag: str) -> None:
    for command, name, options in (
        (("run", "x.toml"), "flags", RunFlags),
        (("confirm",), "options", ConfirmOptions),
        (("init",), "flags", InitFlags),
    ):
        _, bound, _ = app.parse_args([*command, flag, "0"], exit_on_error=False)
        found = bound.arguments[name]
        assert isinstance(found, options)
        assert found.gpus == "0"
    for words in (("try", "x.toml"), ("measure", "--model", "m")):
        _, bound, _ = app.parse_args([*words, flag, "0"], exit_on_error=False)
        assert bound.arguments["gpu"] == "0"
