"""`apbmm --install-completion`: shell completion of all three commands, as cyclopts writes it."""

from __future__ import annotations

import sys
from typing import Literal

from cyclopts import App
from cyclopts.completion.detect import ShellDetectionError, detect_shell

from apbmm_common.errors import EXIT_DONE, UsageError
from apbmm_common.process.home import home
from apbmm_master.app import app as master_app
from apbmm_worker.app import app as worker_app

Shell = Literal["bash", "zsh", "fish", "powershell"]


def install(app: App, shell: Shell | None) -> int:
    """Write the completion of ``app`` and of master and worker; returns the exit code.

    Raises `UsageError` where the shell is not known, or a file cannot be written.
    """
    home()  # where the scripts go
    try:
        shell = shell or detect_shell()
        paths = [each.install_completion(shell=shell) for each in (app, master_app, worker_app)]
    except ShellDetectionError:
        raise UsageError("the shell is not known", "name it: --shell bash") from None
    except OSError as error:
        raise UsageError(
            f"{error.filename}: cannot be written: {error.strerror}", "may this user write to it?"
        ) from error
    sys.stdout.write("".join(f"{path}\n" for path in paths))
    sys.stdout.write(f"completion is there in the next {shell}\n")
    return EXIT_DONE
