"""What a report consists of, before it is laid out as a page or written as files."""

from __future__ import annotations

from dataclasses import dataclass

from apbmm.report.charts.drawing import ReportFigure


@dataclass(frozen=True)
class ReportTable:
    """Rows of text below headings; columns after the first ``words`` hold numbers."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    words: int = 1


@dataclass(frozen=True)
class ReportSection:
    """A heading with paragraphs, figures and tables; empty parts are left out.

    ``has_leads``: each paragraph begins with a word and a colon that say what it is about.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    figures: tuple[ReportFigure, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    has_leads: bool = False


@dataclass(frozen=True)
class Document:
    """A whole report. ``about`` is one line below the title; ``rehearsal`` marks every part."""

    title: str
    about: str
    sections: tuple[ReportSection, ...]
    rehearsal: bool

    @property
    def figures(self) -> tuple[ReportFigure, ...]:
        """All figures in their order."""
        return tuple(figure for section in self.sections for figure in section.figures)
