"""Runs a master with its surroundings: journal, signals, status sockets, terminal."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable
from pathlib import Path

import zmq

from apbmm_common.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, UsageError
from apbmm_common.process.logs import logs_json
from apbmm_common.process.signals import StopRequests, handlers_restored
from apbmm_common.process.systemd import Supervisor
from apbmm_common.protocol.addresses import allow_ipv6, is_local
from apbmm_common.protocol.curve_keys import MasterKeys
from apbmm_common.run_file import RunSpec
from apbmm_master.followers.launch import NOTHING, Beside, Followers
from apbmm_master.followers.process import Ending
from apbmm_master.journal.costs.budget import limits
from apbmm_master.journal.events import FrontToConfirm
from apbmm_master.journal.run_start.learning import EarlierRun
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import NAME as JOURNAL
from apbmm_master.journal.storage.store import Journal
from apbmm_master.master import Master
from apbmm_master.status.console import RunConsole
from apbmm_master.status.event_pages import events_after
from apbmm_master.status.json_lines import JsonLines
from apbmm_master.status.snapshot import live_snapshot, present
from apbmm_master.status.sockets import StatusSocket
from apbmm_master.wire.authentication import Authenticator
from apbmm_master.wire.router import bind_hint, flush

MOST_OPEN_FILES = 65_536


def serve(  # noqa: PLR0913 - everything that a master runs with
    spec: RunSpec,
    run_dir: Path,
    bind: str,
    status_bind: str | None,
    authenticator: Authenticator,
    *,
    front: FrontToConfirm | None = None,
    earlier: EarlierRun | None = None,
    accepted: Callable[[RunState], None] = lambda _: None,
    beside: Beside = NOTHING,
    summary: bool = True,
) -> int:
    """Run or resume a search in ``run_dir``, or with ``front`` confirm one; returns the exit code.

    With ``earlier`` a new search learns from an earlier run.
    ``accepted`` is called once the run directory takes the run, before anything is recorded there;
    it may refuse by an `ApbmmError`. ``beside`` is served beside the master. With ``summary`` the
    terminal shows the workers' address at the start, and the front and the run directory at the
    end. Raises `UsageError`, `JournalError` and `RunChangedError` before it changes anything.
    """
    allow_open_files()
    if not _has_begun(run_dir):  # a refusal must leave nothing behind that looks like a run
        require_free(bind, status_bind)
    with (
        Followers(run_dir, spec, beside) as followers,
        handlers_restored(),
        Journal(run_dir) as journal,
    ):

        def begin() -> Master:
            master = Master(journal, spec, bind, authenticator, front, earlier)
            accepted(master.run_state)
            return master

        try:
            return asyncio.run(
                _serve(begin, run_dir, bind, status_bind, authenticator, followers, summary=summary)
            )
        except asyncio.CancelledError:  # by a second signal, while everything was being closed
            return EXIT_INTERRUPTED
        finally:
            flush()


def _has_begun(run_dir: Path) -> bool:
    try:
        return (run_dir / JOURNAL).exists()
    except OSError:  # a path that cannot be a folder; opening the journal says why
        return False


def require_free(bind: str, status_bind: str | None) -> None:
    """Raise `UsageError` for an address that cannot be bound now."""
    wanted = [("--bind", bind), ("--status-bind", status_bind)]
    with zmq.Context() as context:
        for flag, address in wanted:
            # Binding a Unix socket would take it from a process that listens there.
            if address is None or not address.startswith("tcp://"):
                continue
            with context.socket(zmq.ROUTER) as probe:
                allow_ipv6(probe, address)
                try:
                    probe.bind(address)
                except zmq.ZMQError as error:
                    raise UsageError(
                        f"cannot listen on {address}: {error}", bind_hint(error, flag)
                    ) from error


def allow_open_files() -> None:
    """Raise this process's limit of open files, of which every worker's connection is one.

    The usual limit of 1024 exists for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(
    begin: Callable[[], Master],
    run_dir: Path,
    bind: str,
    status_bind: str | None,
    authenticator: Authenticator,
    followers: Followers,
    *,
    summary: bool,
) -> int:
    master = begin()
    authenticator.open()
    status = StatusSocket(
        run_dir,
        lambda: live_snapshot(master),
        authenticator,
        status_bind,
        present=lambda: present(master),
        events=lambda after: events_after(master.journal, master.run_state, after),
    )
    terminal = terminal_of(master.run_state, run_dir)
    master.watchers += [status.publish, terminal.watch]
    supervisor = Supervisor()
    master.turned = lambda: supervisor.turn(_status_line(master), stopping=master.draining)
    stops = _handle_signals(master, terminal.draining if summary else lambda _: None)
    answering = asyncio.create_task(status.serve())
    end, ending = None, Ending("stopped")
    try:
        master.listen()  # before the terminal shows the address
        await followers.start(master.journal.seq)
        with terminal:
            if summary and not master.run_state.finished:
                terminal.begin(bind, followers.dashboard)
            end = await master.run()
        ending = Ending("over") if end is not None else ending
        await status.farewell()
    except asyncio.CancelledError:
        if not stops.at_once:
            raise
    except Exception as error:
        ending = Ending("error", str(error))
        raise
    finally:
        answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering
        status.close()
        await authenticator.close()
        await followers.end(ending)
        stops.ignore_more()
    if summary:
        terminal.conclude(master.run_state)
    if end is not None:
        return EXIT_FAILED if end.failed else EXIT_DONE
    return stops.exit_code


def terminal_of(run_state: RunState, run_dir: Path) -> RunConsole | JsonLines:
    """What prints the progress of a run, in the format of this process's log."""
    return (JsonLines if logs_json() else RunConsole)(run_state, run_dir)


def _status_line(master: Master) -> str:
    """One line about the run for ``systemctl status``."""
    run_state = master.run_state
    spent = ", ".join(limit.in_words for limit in limits(run_state))
    text = f"{spent}, {len(master.fleet.workers)} workers"
    trouble = master.trouble or master.standstill
    return f"{text}; {trouble}" if trouble else text


def _handle_signals(master: Master, tell: Callable[[RunState], None]) -> StopRequests:
    """Let the first request drain the master and call ``tell``, and the second cancel it."""
    stops, task = StopRequests(), asyncio.current_task()

    def stop(_: int) -> None:
        if not stops.at_once:
            tell(master.run_state)
            master.drain()
        elif len(stops.numbers) == 2 and task is not None:
            # What was acknowledged is committed. Further signals do not disturb the closing.
            task.cancel()

    stops.listen(stop)
    return stops


def open_authenticator(
    bind: str, status_bind: str | None, keys: MasterKeys | None, *, insecure: bool
) -> Authenticator:
    """The authenticator for a master at these addresses.

    Raises `UsageError` for an invalid address and, unless ``insecure``, for one that other hosts
    can reach while there are no keys.
    """
    binds = [("--bind", bind), ("--status-bind", status_bind)]
    reachable = [a for flag, a in binds if a is not None and not is_local(a, flag)]
    if reachable and keys is None and not insecure:
        raise UsageError(
            f"{reachable[0]} can be reached from other hosts, and there are no keys",
            "apbmm keys new-master makes them; --insecure goes without",
        )
    return Authenticator(keys, exposed=bool(reachable))
