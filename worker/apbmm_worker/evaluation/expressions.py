"""Whether two mathematical expressions are equal, as EvalScope compares them, within a deadline.

Some expressions keep the libraries busy for hours. EvalScope forks a process for every comparison
because of that. Here one process of its own serves all comparisons, and is replaced when it takes
too long. Started as a module, this file is that process: a JSON list of two texts a line on
standard input, `true` or `false` a line on standard output.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
from functools import lru_cache

DEADLINE_S = 10.0
"""Seconds for one comparison. An answer that takes longer is not equal."""
START_S = 120.0
"""Seconds for a new process to import its libraries."""
LONGEST = 500
"""Characters of an expression. A longer answer is not equal."""


class ExpressionComparer:
    """Compares expressions in a process that starts with the first comparison. Thread-safe."""

    def __init__(self, deadline: float = DEADLINE_S) -> None:
        self._deadline = deadline
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self.is_same = lru_cache(maxsize=4096)(self._is_same)

    def close(self) -> None:
        """End the process; the next comparison starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _is_same(self, answer: str, target: str) -> bool:
        if max(len(answer), len(target)) > LONGEST:
            return False
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            process.stdin.write(json.dumps([answer, target]) + "\n")
            process.stdin.flush()
            line = self._line(self._deadline)
            if not line:
                self.close()
            return line.strip() == "true"

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            if not self._line(START_S):
                self.close()
                raise RuntimeError("the process that compares expressions did not start")
        return self._process

    def _line(self, seconds: float) -> str:
        """The next line of the process; empty if it ended or took too long."""
        assert self._process is not None
        output = self._process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], seconds)
        return output.readline() if ready else ""


def serve() -> None:
    """Compare until standard input ends."""
    import logging
    import os

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    logging.disable(logging.CRITICAL)
    from evalscope.metrics.math.parser import compare_answers

    # The undecorated function: this process is the one that may be ended.
    compare = compare_answers.__wrapped__
    compare("1", "1")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        answer, target = json.loads(line)
        try:
            same = compare(answer, target, validate_reference=False).matched
        except Exception:  # noqa: BLE001 - what cannot be read as mathematics is not equal
            same = False
        print(json.dumps(bool(same)), file=answers, flush=True)


if __name__ == "__main__":
    serve()
