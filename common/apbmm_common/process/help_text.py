"""Help of the commands, whose paragraphs fill the terminal's width."""

from __future__ import annotations

import re
from typing import Any

from cyclopts.help import HelpPanel, InlineText
from cyclopts.help.formatters import DefaultFormatter
from rich.console import Console, ConsoleOptions
from rich.text import Text

_LINE_END = re.compile(r"(?<!\n)\n(?!\n| )")
"""The end of a line within a paragraph of a docstring."""


class FlowingHelp(DefaultFormatter):
    """cyclopts' own form, but a paragraph is broken where the terminal ends, not the source."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print the panel of commands or parameters."""
        for entry in panel.entries:
            _flow(entry.description)
        super().__call__(console, options, panel)

    def render_description(
        self, console: Console, options: ConsoleOptions, description: Any
    ) -> None:
        """Print what the command does."""
        _flow(description)
        super().render_description(console, options, description)


def _flow(description: Any) -> None:
    """Join the lines of each paragraph of a plain text."""
    if isinstance(description, InlineText) and isinstance(description.primary_renderable, Text):
        plain = description.primary_renderable.plain
        description.primary_renderable = Text(_LINE_END.sub(" ", plain))
