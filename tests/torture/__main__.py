"""Run generators and print what they have found; exit code 1 if that is anything."""

import argparse
import random
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

from tests.torture.bench import Bench
from tests.torture.cases import KINDS, Case, Fault

GENERATORS = ("settings", "values", "run_dirs", "checkpoints", "failing_calls", "kills", "races")
SHOWN = 3  # cases of one cause


def choose(generator: str, bench: Bench, seed: int, limit: int | None, name: str | None = None) -> list[Case]:
    """Return the cases of a generator: all, `limit` of them that the seed chooses, or the one with that name."""
    found = list(import_module(f"tests.torture.{generator}").cases(bench, seed))
    if name is not None:
        return [case for case in found if case.name == name]
    if limit is None or limit >= len(found):
        return found
    return random.Random(seed).sample(found, limit)  # noqa: S311


def find_faults(cases: Sequence[Case], bench: Bench, workers: int) -> Iterator[tuple[Case, list[Fault]]]:
    """Run cases side by side; yields each that has faults, with these."""
    if workers == 1:
        results = ((case, list(case.run(bench))) for case in cases)
        yield from (result for result in results if result[1])
        return
    with ThreadPoolExecutor(workers) as pool:
        for case, faults in zip(cases, pool.map(lambda case: list(case.run(bench)), cases), strict=True):
            if faults:
                yield case, faults


def torture(generator: str, bench: Bench, seed: int, limit: int | None, name: str | None = None) -> int:
    """Run a generator and print each cause with its first cases, and the counts; returns the number of faults."""
    begun, workers = time.monotonic(), getattr(import_module(f"tests.torture.{generator}"), "WORKERS", 1)
    counts: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    cases = choose(generator, bench, seed, limit, name)
    for case, faults in find_faults(cases, bench, workers):
        for fault in faults:
            counts[fault.kind] += 1
            causes[fault.signature] += 1
            if causes[fault.signature] <= SHOWN:
                command = ["python", "-m", "tests.torture", generator, "--seed", str(seed), "--case", case.name]
                print(
                    f"\n{fault.kind}: {generator}: {case.name}\n{fault.text}\nto repeat: {shlex.join(command)}",
                    flush=True,
                )
    for cause, number in causes.most_common():
        print(f"{number:>6} times {cause}")
    found = ", ".join(f"{counts[kind]} {plural}" for kind, plural in KINDS.items())
    print(f"{generator} {len(cases):,}: {found}; {time.monotonic() - begun:.0f} s, seed {seed}", flush=True)
    return counts.total()


def main() -> int:
    """Run the generators that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=sys.modules["tests.torture"].__doc__)
    parser.add_argument("generators", nargs="*", metavar="GENERATOR", help=f"of {', '.join(GENERATORS)}; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, help="cases of each generator; 0: all; default: as many as take 8 minutes")
    parser.add_argument("--quick", action="store_true", help="a few cases of each, in about a minute")
    parser.add_argument("--case", metavar="NAME", help="only this one")
    options = parser.parse_args()
    chosen = options.generators or GENERATORS
    if unknown := set(chosen) - set(GENERATORS):
        parser.error(f"no generator {', '.join(unknown)}; choose from {', '.join(GENERATORS)}")
    with Bench() as bench:
        faults = [
            torture(name, bench, options.seed, _limit(name, options.limit, options.quick), options.case)
            for name in chosen
        ]
    return 1 if any(faults) else 0


def _limit(generator: str, given: int | None, is_quick: bool) -> int | None:
    """The number of cases; None for all."""
    if given is not None:
        return given or None
    module = import_module(f"tests.torture.{generator}")
    limit: int = module.QUICK if is_quick else module.USUAL
    return limit


if __name__ == "__main__":
    sys.exit(main())
