"""The two task families of the demo pair, and the ways in which its models may answer them.

`chain_arithmetic`: `calc 7 a +3 b *4 c -2` starts at 7 and applies steps a, b, c in order, modulo
10. `treasure_trail`: `trail C >F A >C ... from A hop c` lists the edges of one closed trail in any
order (4 to 8 edges; 3 to 10 in training) and asks where three hops (a, b, c) from A lead.

An answer walks from the start to the last step by *moves*, one chosen at each point:

- WRITE works out the next step in full: `a 7 +3 0 ;` or `a from A >C ;` (5 tokens);
- SKIP does two steps in the head and notes only the value there: `b 0` (2 tokens);
- FINISH does all remaining steps in the head and gives the answer: `# 8` (2 tokens).

A *policy* is a probability for each move that depends on the number of steps left, so a checkpoint
is trained towards few or many tokens without ever leaving the common language of answers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

MAX_STEPS: Final = 9
HELD_OUT_SHARE: Final = 8
"""One question in so many, by the hash of its text, is never trained on."""

LABELS: Final = "abcdefghi"
DIGITS: Final = "0123456789"
NODES: Final = "ABCDEFGHIJ"
OPERATIONS: Final = (
    *(f"+{digit}" for digit in range(1, 10)),
    *(f"-{digit}" for digit in range(1, 10)),
    *(f"*{digit}" for digit in (2, 3, 4, 6, 7, 8, 9)),
)
EDGES: Final = tuple(f">{node}" for node in NODES)
WORDS: Final = (
    *("calc", "trail", "from", "hop", "user", "assistant", ";", "#"),
    *LABELS,
    *DIGITS,
    *NODES,
    *OPERATIONS,
    *EDGES,
)
"""Every token of the language, special tokens aside."""


class Move(Enum):
    """One way to go on with an answer."""

    WRITE = "write"
    SKIP = "skip"
    FINISH = "finish"


Policy = Callable[[int], Mapping[Move, float]]
"""Probability of each move, given the number of steps left (at least 1)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with everything that its answers are made of.

    Attributes:
        family: `chain_arithmetic` or `treasure_trail`.
        question: the prompt's user message.
        written: for each step, the tokens of a WRITE after the label.
        noted: for each step, the token that a SKIP writes after the label.
        results: for each step, its value as a final answer.
    """

    family: str
    question: str
    written: tuple[str, ...]
    noted: tuple[str, ...]
    results: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The correct final answer."""
        return self.results[-1]

    @property
    def steps(self) -> int:
        """The number of steps of the problem."""
        return len(self.results)

    @property
    def held_out(self) -> bool:
        """Whether the problem belongs to the test side; decided by its text alone."""
        digest = hashlib.sha256(self.question.encode()).digest()
        return digest[0] % HELD_OUT_SHARE == 0


def apply_operation(value: int, operation: str) -> int:
    """One step of chain arithmetic, modulo 10."""
    operand = int(operation[1:])
    match operation[0]:
        case "+":
            return (value + operand) % 10
        case "-":
            return (value - operand) % 10
        case _:
            return (value * operand) % 10


def chain_arithmetic(rng: random.Random, steps: int, *, full: bool) -> Problem:
    """Draw an arithmetic problem with so many steps; `full` changes nothing here."""
    del full
    start = rng.randrange(10)
    operations = [rng.choice(OPERATIONS) for _ in range(steps)]
    values = [start]
    for operation in operations:
        values.append(apply_operation(values[-1], operation))
    listed = " ".join(f"{LABELS[i]} {operation}" for i, operation in enumerate(operations))
    results = tuple(str(value) for value in values[1:])
    return Problem(
        family="chain_arithmetic",
        question=f"calc {start} {listed}",
        written=tuple(f"{values[i]} {operations[i]} {values[i + 1]}" for i in range(steps)),
        noted=results,
        results=results,
    )


def treasure_trail(rng: random.Random, steps: int, *, full: bool) -> Problem:
    """Draw a trail problem with so many hops; a short trail is walked round and round."""
    length = rng.randint(4, 8) if full else rng.randint(3, len(NODES))
    trail = rng.sample(NODES, length)
    edges = [f"{node} >{trail[(i + 1) % length]}" for i, node in enumerate(trail)]
    reached = [trail[(i + 1) % length] for i in range(steps)]
    listed = " ".join(rng.sample(edges, len(edges)))
    return Problem(
        family="treasure_trail",
        question=f"trail {listed} from {trail[0]} hop {LABELS[steps - 1]}",
        written=tuple(f"from {edges[i % length]}" for i in range(steps)),
        noted=tuple(f">{node}" for node in reached),
        results=tuple(reached),
    )


class Drawing(Protocol):
    """Draws a problem of one family."""

    def __call__(self, rng: random.Random, steps: int, *, full: bool) -> Problem:
        """Draw a problem with so many steps; `full` asks for the benchmark's size."""
        ...


FAMILIES: Final[Mapping[str, Drawing]] = {
    "chain_arithmetic": chain_arithmetic,
    "treasure_trail": treasure_trail,
}


def draw(rng: random.Random, family: str, steps: int, *, held_out: bool) -> Problem:
    """Draw a problem of the benchmark's size from the test side, or any from the training side."""
    while True:
        problem = FAMILIES[family](rng, steps, full=held_out)
        if problem.held_out is held_out:
            return problem


def answer_words(problem: Problem, policy: Policy, rng: random.Random) -> list[str]:
    """Draw a correct answer to a problem, move by move, from a policy."""
    words: list[str] = []
    left = problem.steps
    while left > 0:
        move = choose(policy(left), left, rng)
        if move is Move.FINISH:
            break
        reached = problem.steps - left + (0 if move is Move.WRITE else 1)
        words.append(LABELS[reached])
        if move is Move.WRITE:
            words.extend(f"{problem.written[reached]} ;".split())
        else:
            words.append(problem.noted[reached])
        left = problem.steps - reached - 1
    return [*words, "#", problem.answer]


def choose(weights: Mapping[Move, float], left: int, rng: random.Random) -> Move:
    """Draw a move; a SKIP needs at least two steps left and falls back on FINISH."""
    moves = list(weights)
    move = rng.choices(moves, weights=[weights[each] for each in moves])[0]
    return Move.FINISH if move is Move.SKIP and left < 2 else move
