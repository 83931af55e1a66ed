"""Entry point of the `apbmm-master` command. It imports nothing slow."""

from __future__ import annotations

from apbmm_common.process.command_line import run_command


def main() -> None:
    """Run the command: errors as one line with a hint, never a traceback."""
    run_command("apbmm_master.app")


if __name__ == "__main__":
    main()
