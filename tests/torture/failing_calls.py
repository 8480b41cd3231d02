"""Each system call of a short run made to fail, or the process killed before it; then the same command ends the run.

Three starts are tried: the first one of a run, one that resumes, and one that starts over.
"""

import errno
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.failing_calls import Fault as FailingCall
from tests.torture import runs
from tests.torture.bench import Bench
from tests.torture.cases import Case, Fault, judge

QUICK, USUAL, WORKERS = 3, 500, 2
RUN = "the-run"  # a part of the path of each call that may fail
STARTS = {
    "first start": runs.train_command(RUN),
    "resume": runs.train_command(RUN),
    "start over": runs.train_command(RUN, "run.resume=never"),
}
CHANGING = (
    -signal.SIGKILL,
    errno.ENOSPC,
    errno.EIO,
    errno.EACCES,
    errno.EROFS,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ESTALE,
)
READ = ("open", "read", "list", "stat")
READING = (-signal.SIGKILL, errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE, errno.ENOMEM)
_RANDOM = r"\.\d+$|tmp\w+$"  # a process's number, or what tempfile has drawn
ALWAYS = 10**6
"""Calls that fail one after the other, for an error that stays."""


def cases(bench: Bench, seed: int) -> Iterator[Case]:  # noqa: ARG001
    """Yield each call of each start, with each way to fail: once, and from there on."""
    for start in STARTS:
        numbers: Counter[str] = Counter()
        for call, name in _list_calls(bench, start):
            kind, ways = (call, READING) if call in READ else ("change", CHANGING)
            numbers[kind] += 1
            for way, count in (*((way, 1) for way in ways), *((way, ALWAYS) for way in ways[1:])):
                failing = FailingCall(at=numbers[kind], with_=way, call=kind, count=count)
                what = errno.errorcode[way] if way > 0 else signal.Signals(-way).name
                case = f"{start}: {what} at {kind} {numbers[kind]}, {call} {name}{', and on' if count > 1 else ''}"
                yield Case(case, partial(_fail, start=start, failing=failing))


def _list_calls(bench: Bench, start: str) -> list[tuple[str, str]]:
    """Kind of each call that an undisturbed start makes, in their order, and the name of the file."""
    with bench.folder() as folder:
        _prepare(bench, folder, start)
        log = folder / "calls"
        outcome = bench.run(*STARTS[start], cwd=folder, env=FailingCall(call="all").variables(Path(RUN), log))
        assert outcome.code == 0, outcome.output
        calls = [line.split(" ", 1) for line in log.read_text(errors="replace").splitlines()]
    return [(call, re.sub(_RANDOM, "", Path(path).name)) for call, path in calls]


def _prepare(bench: Bench, folder: Path, start: str) -> None:
    (folder / "a.yaml").write_text(runs.CONFIG, encoding="utf-8")
    if start != "first start":
        shutil.copytree(runs.failed_run(bench), folder / RUN, symlinks=True)


def _fail(bench: Bench, start: str, failing: FailingCall) -> Iterator[Fault]:
    with bench.folder() as folder:
        _prepare(bench, folder, start)
        run, undisturbed = folder / RUN, runs.reference(bench)
        first = bench.run(*STARTS[start], cwd=folder, env=failing.variables(Path(RUN)))
        if failing.with_ > 0 or first.code != failing.with_:
            yield from judge(first, {0, 1, 2})  # 1: the last checkpoint could not be saved
        if first.code == 0:
            yield from runs.check_done(run, undisturbed, first.tail)
        second = bench.run(*runs.train_command(RUN), cwd=folder)
        yield from judge(second, {0})
        if second.code == 0:
            yield from runs.check_done(run, undisturbed, f"{first.tail}\n{second.tail}")
        if (run / "checkpoints" / "quarantine").exists():
            yield Fault("loss", f"an undamaged checkpoint is in quarantine\n{first.tail}\n{second.tail}")
