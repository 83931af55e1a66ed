"""Follows a run and hands its notices over, each once."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from apbmm_common.process.whole_files import write_whole
from apbmm_master.followers.following import followed
from apbmm_master.followers.notify.delivery import deliver
from apbmm_master.followers.notify.notices import Notice, Watch
from apbmm_master.followers.process import Followed

POSITION = "notified.json"
"""In the run directory: the number of an event. Those up to it have been told, or are not to be."""


def tell_of(run_dir: Path, master: Followed, begin: int) -> None:
    """Tell what happens in a run until its master has ended.

    ``begin``: the journal's last event when the run was first to be told of; later events are told.
    """
    watch, told = Watch(), _position(run_dir, begin)

    def tell(notice: Notice) -> None:
        assert watch.run_state.spec is not None
        section = watch.run_state.spec.notify
        if notice.happened in section.on:
            deliver(notice, section, run_dir, master)

    for records in followed(run_dir, master):
        for record in records:
            notices = watch.take(record)
            if notices and record.seq > told:
                for notice in notices:
                    tell(notice)
                _remember(run_dir, record.seq)
    if (last := watch.ended(master.ending)) is not None:
        tell(last)


def _position(run_dir: Path, begin: int) -> int:
    """The event up to which nothing is told, which is ``begin`` where none is remembered."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return int(json.loads((run_dir / POSITION).read_bytes())["seq"])
    _remember(run_dir, begin)
    return begin


def _remember(run_dir: Path, seq: int) -> None:
    with contextlib.suppress(OSError):  # a full disk; a notice may then be told again
        write_whole(run_dir / POSITION, json.dumps({"seq": seq}).encode())
