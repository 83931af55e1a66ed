"""`[track]` and `[notify]`: who is told of evaluations and of the run's end."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from apbmm_common.run_file.sections.section import Name, Section


class TrackSection(Section):
    """A tracker of experiments that every evaluation is sent to.

    A process beside the master sends it, after the journal: a tracker that fails or hangs costs the
    run nothing, and gets the rest later. All keys may be changed when a run is resumed.
    """

    tracker: Literal["trackio", "wandb", "mlflow"] | None = None
    """Which tracker: Trackio, Weights & Biases or MLflow. Its package has to be installed beside
    apbmm's (`pip install '.[mlflow]'`, say). Without this key nothing is sent. Keys and tokens
    are taken from the variables of the environment that the tracker knows."""
    project: Name = "apbmm"
    """The project, or MLflow's experiment, that the run is part of."""
    address: str = ""
    """Where the tracker is: MLflow's tracking URI, the URL of a W&B server, the URL of a Trackio
    server or the id of a Space. Without it the tracker's own settings hold, and a local store where
    there are none."""


Happening = Literal["end", "failure", "front"]


class NotifySection(Section):
    """Who is told when the run is over or fails.

    A process beside the master tells it; a command or webhook that fails costs the run nothing. All
    keys may be changed when a run is resumed.
    """

    command: tuple[str, ...] = ()
    """Program and arguments, run on the master's host in the run directory, by no shell. The notice
    is a JSON object on its standard input; `APBMM_NOTICE` has what happened, `APBMM_TEXT` a line
    that says it."""
    webhook: str = ""
    """URL that the notice is posted to, as a JSON object whose `text` and `content` are that line.
    `$VARIABLES` are replaced by the master's environment when a notice is sent, so that a URL that
    is a secret need not be written here."""
    on: tuple[Happening, ...] = ("end", "failure")
    """What is told: `end` of the run; `failure` of the run, and of its master by an error or a
    kill; `front`, a merge that is new on the front."""

    @field_validator("command")
    @classmethod
    def _names_a_program(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if command and not command[0].strip():
            raise ValueError("the first text is to name a program")
        return command

    @field_validator("webhook")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://", "$")):
            raise ValueError(f"{url!r} is no URL: it begins with neither http:// nor https://")
        return url
