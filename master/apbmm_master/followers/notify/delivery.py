"""Hands a notice to a command and to a webhook."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from apbmm_common.run_file.sections.reporting import NotifySection
from apbmm_master.followers.notify.notices import Notice
from apbmm_master.followers.process import Followed

COMMAND_SECONDS = 60.0
WEBHOOK_SECONDS = 10.0
PAUSES, LAST_PAUSES = (1.0, 5.0), (1.0,)
"""Seconds between attempts to reach a webhook; the last ones once the master has ended."""


class DeliveryError(Exception):
    """A notice could not be handed over."""


def deliver(notice: Notice, section: NotifySection, run_dir: Path, master: Followed) -> None:
    """Hand a notice to everyone that is named. The master is told of whom it does not reach."""
    try:
        if section.command:
            run_command(notice, section.command, run_dir)
    except DeliveryError as error:
        master.say(f"the command of [notify] failed: {error}")
    try:
        if section.webhook:
            pauses = LAST_PAUSES if master.ended.is_set() else PAUSES
            post(notice, os.path.expandvars(section.webhook), pauses)
    except DeliveryError as error:
        master.say(f"the webhook of [notify] was not reached: {error}")


def run_command(notice: Notice, command: Sequence[str], run_dir: Path) -> None:
    """Run a command with the notice on its standard input. Raises `DeliveryError`."""
    told = {"APBMM_NOTICE": notice.happened, "APBMM_TEXT": notice.text}
    try:
        ran = subprocess.run(
            command,
            input=json.dumps(notice.as_json()).encode(),
            env={**os.environ, **told},
            cwd=run_dir,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, ValueError) as error:
        raise DeliveryError(f"{command[0]}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise DeliveryError(f"{command[0]} took more than {COMMAND_SECONDS:g} s") from error
    if ran.returncode:
        raise DeliveryError(f"{command[0]} ended with exit code {ran.returncode}")


def post(notice: Notice, url: str, pauses: Sequence[float]) -> None:
    """Post a notice, again after each of ``pauses`` seconds where it may help.

    Raises `DeliveryError`, which does not show the URL: that may be a secret.
    """
    if not url.startswith(("http://", "https://")):
        raise DeliveryError("it is no URL; is the variable of the environment set for the master?")
    for pause in (*pauses, None):
        try:
            _post_once(notice, url)
        except urllib.error.HTTPError as error:
            failure = f"it answered {error.code} {error.reason}"
            error.close()
            if error.code < 500 and error.code != http.client.TOO_MANY_REQUESTS:
                raise DeliveryError(failure) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            failure = str(getattr(error, "reason", "") or error)
        else:
            return
        if pause is None:
            raise DeliveryError(failure)
        time.sleep(pause)


def _post_once(notice: Notice, url: str) -> None:
    request = urllib.request.Request(  # noqa: S310 - the caller has looked at its beginning
        url,
        data=json.dumps(notice.as_json()).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "apbmm"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS) as answer:  # noqa: S310
        answer.read(4096)
