"""SIGKILL at random moments of runs with one and two ranks, again and again; `tests/ranks` has how they are judged."""

import random
from collections.abc import Iterator
from functools import partial

from dist_train.diagnostics.heartbeat import PHASES
from tests.ranks.failures.killed import EVERY_RANK, LAUNCHER, Kill, Schedule, Start, Tally
from tests.ranks.failures.test_kills import Runs, carry_out, up_to_the_launcher
from tests.torture.bench import Bench
from tests.torture.cases import Case, Fault

QUICK, USUAL = 0, 10  # tests/ranks/failures/test_kills.py has the quick ones
PLANS = 60
MOMENTS = ("start", "step", "step", "save", "save", "end")


def cases(bench: Bench, seed: int) -> Iterator[Case]:
    """Yield runs of which each is killed once or twice, started again, killed again, and left to end."""
    runs = Runs(bench.path, bench.server)
    for number in range(PLANS):
        draw = random.Random(f"{seed} {number}")  # noqa: S311
        ranks, mode = draw.choice((1, 2)), draw.choice(("elastic", "bitwise"))
        starts = [Start(ranks, _draw_kills(draw)) for _ in range(2)]
        plan = Schedule(mode, (*starts, Start(ranks)))
        yield Case(f"{number}: {mode}, {ranks} ranks", partial(_carry_out, plan=plan, runs=runs))


def _draw_kills(draw: random.Random) -> tuple[Kill, ...]:
    return up_to_the_launcher([_kill(draw) for _ in range(draw.choice((1, 1, 2)))])


def _kill(draw: random.Random) -> Kill:
    whom = draw.choice((0, 1, EVERY_RANK, LAUNCHER))
    return Kill(draw.choice(MOMENTS), draw.randrange(21), draw.choice(PHASES[1:]), whom)


def _carry_out(bench: Bench, plan: Schedule, runs: Runs) -> Iterator[Fault]:  # noqa: ARG001
    try:
        carry_out(plan, runs, Tally())
    except AssertionError as error:
        text = f"{plan}\n{error}"
        yield Fault("hang" if " s ranks " in text else "traceback" if "Traceback" in text else "loss", text)
