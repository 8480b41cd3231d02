"""`dist-train status`, `logs` and `cancel`: on directories as runs leave them, without Slurm, and on a real run."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_train.diagnostics.heartbeat import HeartbeatFile, RankProcess
from dist_train.distributed.world import World
from dist_train.run_dir import RunDir
from dist_train.system.process import state_and_start
from launch import cli
from launch.runs import output as run_output
from launch.runs import snapshot
from launch.runs.history import History
from tests.conftest import Python
from tests.unit.launch.commands.test_ckpt import asked

WHEN = "2030-01-01T10:00:00+00:00"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with an empty `runs/`, on a machine without Slurm."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def leave_run(path: str | Path, state: str = "done", step: int = 7, accuracy: float | None = None, **more: Any) -> Path:
    """A directory as a run of 10 steps leaves it that has logged its step 8."""
    run = RunDir(path)
    run.logs.mkdir(parents=True)
    run.lock.touch()
    status = {
        "state": state, "step": step, "total_steps": 10, "epoch": 1, "updated": WHEN, "host": "elsewhere", "pid": 1,
        "job_id": None, "attempt": 1, "launcher": None, "restarts": 0, "resumable": state != "done", **more,
    }  # fmt: skip
    run.status.write_text(json.dumps(status))
    lines = [metrics(step), metrics(8)] + ([evaluation(accuracy)] if accuracy is not None else [])
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.config.write_text("data: {global_batch: 64}\n")
    (run.logs / "rank_0.log").write_text("".join(f"line {number}\n" for number in range(30)))
    return run.path


def metrics(step: int) -> dict[str, Any]:
    return {
        "kind": "train", "step": step, "epoch": 0, "loss": 1.0, "lr": 0.1, "samples_per_second": 1280.0, "time": 1.0,
    }  # fmt: skip


def evaluation(accuracy: float, split: str = "test", step: int = 8) -> dict[str, Any]:
    values = {"accuracy": accuracy, "correct": 1, "count": 1, "loss": 1.0, "time": 1.0, "per_class": {"a": {}}}
    return {"kind": "eval", "split": split, "step": step, "epoch": 0, **values}


def leave_job(run: Path, number: int, job_id: str, when: str = WHEN, tasks: tuple[int, ...] = ()) -> None:
    submission = RunDir(run).jobs / str(number)
    (submission / "trials").mkdir(parents=True)
    for task in tasks:
        (submission / "trials" / str(task)).touch()
    (submission / "job.json").write_text(
        json.dumps({"job_id": job_id, "submitted": when, "command": "dist-train submit a.yaml"})
    )


def leave_start(run: Path, job_id: str, output: Path | None = None, restart: int = 0, when: str = WHEN) -> None:
    jobs = RunDir(run).jobs
    jobs.mkdir(exist_ok=True)
    start = {"job_id": job_id, "restart": restart, "step": 0, "host": "n1", "time": when}
    with (jobs / "starts.jsonl").open("a") as file:
        file.write(json.dumps({**start, "output": str(output) if output else None}) + "\n")


def leave_sweep(path: str, *learning_rates: float) -> Path:
    sweep = Path(path)
    sweep.mkdir()
    trials = [
        {"number": number, "overrides": [f"optim.lr={lr}"], "dir": f"{path}/{number}-lr"}
        for number, lr in enumerate(learning_rates)
    ]
    (sweep / "sweep.json").write_text(json.dumps({"trials": trials}))
    return sweep


class TestStatus:
    @pytest.mark.parametrize(
        ("state", "more", "said"),
        [
            ("running", {}, "running at step 8 of 10 (1,280 samples/s, ETA 0:00:00)"),
            ("running", {"total_steps": 200_008}, "ETA 2:46:40)"),
            ("done", {}, "done at step 8 of 10 (test accuracy 97.25 %)"),
            ("preempted", {}, "preempted at step 8 of 10, and can go on"),
            ("failed", {"resumable": False}, "failed at step 8 of 10\n"),
            ("failed", {}, "dist-train postmortem runs/a"),
            ("running", {"restarts": 2}, "restarts   2 in place"),
            ("running", {"host": socket.gethostname()}, "dead at step 8 of 10: it has ended without a word"),
            ("preempted", {"total_steps": None}, "preempted at step 8, and"),
        ],
    )
    def test_a_run(self, capsys: pytest.CaptureFixture[str], state: str, more: dict[str, Any], said: str) -> None:
        leave_run("runs/a", state, accuracy=0.9725, **more)
        code, output = asked(capsys, "status", "runs/a")
        assert code == 0
        assert output.startswith("runs/a: ")
        assert said in output

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        leave_run("runs/a", "running", accuracy=0.5)
        code, output = asked(capsys, "status", "runs/a", "--json")
        found = json.loads(output)
        assert (code, found["state"], found["step"], found["total_steps"]) == (0, "running", 8, 10)
        assert (found["samples_per_second"], found["seconds_left"], found["score"]) == (1280.0, 0.1, 0.5)
        assert found["evaluation"]["split"] == "test"
        assert "per_class" not in found["evaluation"]
        leave_run("runs/b")
        assert [run["run"] for run in json.loads(asked(capsys, "status", "--json")[1])] == ["runs/a", "runs/b"]

    def test_all_runs_the_newest_first(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert asked(capsys, "status") == (0, "no runs below runs/ here\n")
        leave_run("runs/old", updated="2029-01-01T10:00:00+00:00")
        leave_run("runs/new", "running", accuracy=0.5)
        leave_run(leave_sweep("runs/x.sweep", 0.1) / "0-lr", updated="2028-01-01T10:00:00+00:00")
        Path("runs/none").mkdir()
        code, output = asked(capsys, "status")
        rows = output.splitlines()
        assert code == 0
        assert rows[0].split() == ["RUN", "STATE", "STEP", "SAMPLES/S", "ETA", "SCORE", "UPDATED"]
        assert [row.split()[0] for row in rows[1:]] == ["runs/new", "runs/old", "runs/x.sweep/0-lr"]
        assert rows[1].split()[1:7] == ["running", "8", "of", "10", "1,280", "0:00:00"]

    def test_a_sweep_by_its_scores(self, capsys: pytest.CaptureFixture[str]) -> None:
        sweep = leave_sweep("runs/x.sweep", 0.1, 0.2, 0.3, 0.4)
        leave_run(sweep / "0-lr", accuracy=0.8)
        leave_run(sweep / "1-lr", "failed")
        leave_run(sweep / "2-lr", "running", accuracy=0.9)
        code, output = asked(capsys, "status", sweep)
        rows = [row.split() for row in output.splitlines()]
        assert code == 0
        assert rows[0] == ["TRIAL", "SETTINGS", "STATE", "STEP", "SCORE", "RUN"]
        assert [row[0] for row in rows[1:]] == ["2", "0", "1", "3"]
        assert rows[1][1:] == ["optim.lr=0.3", "running", "8", "of", "10", "90.00", "%", "runs/x.sweep/2-lr"]
        assert rows[4] == ["3", "optim.lr=0.4", "not", "begun", "runs/x.sweep/3-lr"]
        trials = json.loads(asked(capsys, "status", sweep, "--json")[1])["trials"]
        assert [(trial["number"], trial["score"]) for trial in trials] == [(2, 0.9), (0, 0.8), (1, None), (3, None)]
        (sweep / "sweep.json").write_text("{}")
        code, output = asked(capsys, "status", sweep)
        assert (code, "is no list of trials" in output) == (2, True)

    def test_the_score_is_the_best_that_runs_are_chosen_by(self) -> None:
        path = leave_run("runs/a", accuracy=0.99)
        with RunDir(path).metrics.open("a") as file:
            for accuracy in (0.7, 0.8, 0.6):
                file.write(json.dumps(evaluation(accuracy, "validation")) + "\n")
        assert snapshot.read(path).score == 0.8

    @pytest.mark.parametrize("what", ["runs/none", "nothing", "runs"])
    def test_what_is_no_run_is_refused(self, capsys: pytest.CaptureFixture[str], what: str) -> None:
        Path("runs/none").mkdir()
        for command in ("status", "logs", "cancel"):
            code, said = asked(capsys, command, what)
            assert (code, f"{what}: is no run" in said) == (2, True)

    def test_a_name_is_told_from_a_directory(self, capsys: pytest.CaptureFixture[str]) -> None:
        leave_run("runs/a")
        assert "Did you mean runs/a?" in asked(capsys, "status", "a")[1]

    @pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"state": 3, "step": 4}', '{"state": "done", "step": "x"}'])
    def test_a_damaged_status_is_none(self, capsys: pytest.CaptureFixture[str], damaged: str) -> None:
        RunDir(leave_run("runs/a")).status.write_text(damaged)
        code, said = asked(capsys, "status", "runs/a")
        assert (code, "unknown at step 8: its status.json can't be read" in said) == (0, True)


class TestJobs:
    def test_the_run_of_a_job(self, capsys: pytest.CaptureFixture[str]) -> None:
        leave_job(leave_run("runs/a"), 1, "11")
        leave_start(leave_run("runs/b", job_id="12"), "12", restart=1)
        leave_run("runs/c", job_id="13")
        for job, run in (("11", "runs/a"), ("12", "runs/b"), ("13", "runs/c")):
            code, said = asked(capsys, "status", job)
            assert (code, said.startswith(f"{run}: ")) == (0, True)
        assert "1 of the job" in asked(capsys, "status", "12")[1]

    def test_a_job_array_is_a_sweep_and_its_tasks_are_trials(self, capsys: pytest.CaptureFixture[str]) -> None:
        sweep = leave_sweep("runs/x.sweep", 0.1, 0.2)
        leave_job(sweep, 1, "20", tasks=(0, 1))
        leave_job(sweep, 2, "21", tasks=(0,))
        leave_run(sweep / "1-lr")
        assert asked(capsys, "status", "20")[1].startswith("TRIAL")
        assert asked(capsys, "status", "20_1")[1].startswith("runs/x.sweep/1-lr: done")
        assert asked(capsys, "status", "20_0")[0] == 0
        assert History.of(sweep / "0-lr").job_ids == ["20_0", "21_0"]
        assert History.of(sweep / "1-lr").job_ids == ["20_1"]

    def test_a_job_that_nobody_knows_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        for job in ("99", "99_1"):
            code, said = asked(capsys, "status", job)
            assert (code, f"job {job}: no run below runs/ knows it, and there is no Slurm here" in said) == (2, True)

    def test_a_submitted_job_of_which_nothing_is_known(self, capsys: pytest.CaptureFixture[str]) -> None:
        leave_job(Path("runs/a"), 1, "11")
        code, said = asked(capsys, "status", "runs/a")
        assert (code, "unknown at step 0: Slurm can't be asked of its job here" in said) == (0, True)

    def test_what_goes_on_is_the_submission_where_a_job_came_last(self) -> None:
        path = leave_run("runs/a", "preempted", job_id="12")
        leave_job(path, 1, "11", "2029-01-01T10:00:00+00:00")
        leave_job(path, 2, "12", "2029-01-02T10:00:00+00:00")
        assert snapshot.read(path).go_on == "dist-train submit a.yaml"
        beats = HeartbeatFile(RunDir(path).diagnostics, RankProcess.current(World(), 1, "dist-train train x.yaml"))
        beats.close()
        status = json.loads(RunDir(path).status.read_text())
        RunDir(path).status.write_text(json.dumps({**status, "job_id": None}))
        assert snapshot.read(path).go_on == "dist-train train x.yaml"

    def test_damaged_lines_are_left_out(self) -> None:
        path = leave_run("runs/a")
        leave_job(path, 1, "11")
        leave_start(path, "12")
        with (RunDir(path).jobs / "starts.jsonl").open("a") as file:
            file.write('[]\n{"job_id": "13"}\n{"job_id": "1')
        (RunDir(path).jobs / "2").mkdir()
        (RunDir(path).jobs / "2" / "job.json").write_text('{"job_id": "14", "submitted": "yesterday"}')
        assert History.of(path).job_ids == ["11", "12"]


class TestLogs:
    def test_rank_0_of_a_local_run(self, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
        leave_run("runs/a")
        assert cli.main(["logs", "runs/a"]) == 0
        assert capsysbinary.readouterr().out == b"".join(b"line %d\n" % number for number in range(30))

    @pytest.mark.parametrize(("text", "expected"), [("a\nb\nc\n", "b\nc\n"), ("a\nb\nc", "b\nc"), ("a", "a"), ("", "")])
    def test_the_last_lines(self, capfd: pytest.CaptureFixture[str], text: str, expected: str) -> None:
        (leave_run("runs/a") / "logs" / "rank_0.log").write_text(text)
        assert asked(capfd, "logs", "runs/a", "--lines", 2) == (0, expected)
        assert asked(capfd, "logs", "runs/a", "--lines", 0) == (0, "")

    def test_a_rank_that_is_not_there(self, capfd: pytest.CaptureFixture[str]) -> None:
        run = leave_run("runs/a")
        (run / "logs" / "rank_10.log").write_text("of ten\n")
        assert asked(capfd, "logs", run, "--rank", 10) == (0, "of ten\n")
        for more in ([], ["-f"]):
            code, said = asked(capfd, "logs", run, "--rank", 3, *more)
            assert (code, "rank 3 has no log; there are the ranks 0, 10" in said) == (2, True)

    def test_the_output_of_the_newest_job(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        run = leave_run("runs/a", job_id="12")
        leave_start(run, "12", tmp_path / "by hand.out")
        code, said = asked(capfd, "logs", run)
        assert (code, "by hand.out: is not there. The run is done" in said) == (2, True)
        (tmp_path / "by hand.out").write_text("by hand\n")
        assert asked(capfd, "logs", run) == (0, "by hand\n")
        assert asked(capfd, "logs", run, "--rank", 0, "--lines", 1) == (0, "line 29\n")
        leave_start(run, "13")
        (run / "jobs" / "slurm-13.out").write_text("submitted\n")
        assert asked(capfd, "logs", run) == (0, "submitted\n")

    def test_a_local_start_after_a_job_counts(self, capfd: pytest.CaptureFixture[str]) -> None:
        run = leave_run("runs/a")
        leave_start(run, "12", when="2029-01-01T10:00:00+00:00")
        assert asked(capfd, "logs", run, "--lines", 1) == (0, "line 29\n")

    def test_following_a_run_that_is_over_ends(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, said = asked(capfd, "logs", leave_run("runs/a"), "-f")
        assert (code, said.splitlines()) == (0, [f"line {number}" for number in range(10, 30)])

    def test_following_goes_on_where_the_next_job_prints(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """What happens meanwhile happens in the pauses."""
        run = leave_run("runs/a", "running", job_id="12")
        leave_job(run, 1, "12", when="2029-01-01T10:00:00+00:00")
        output, other = run / "jobs" / "slurm-12.out", run / "jobs" / "slurm-13.out"
        later = "2031-01-01T10:00:00+00:00"

        def begin() -> None:
            output.write_text("first\n")
            leave_start(run, "12", output.absolute())

        def begin_next() -> None:
            with output.open("a") as file:
                file.write("last\n")
            leave_start(run, "13", when="2030-06-01T10:00:00+00:00")
            other.write_text("next\n")
            set_status(run, job_id="13", updated=later)

        happen(monkeypatch, begin, begin_next, lambda: set_status(run, state="done"))
        code, said = asked(capfd, "logs", run, "-f")
        assert (code, said.splitlines()[:3]) == (0, ["first", "last", "next"])
        assert "nothing is printed yet" in said


def set_status(run: Path, **values: Any) -> None:
    status = RunDir(run).status
    status.write_text(json.dumps({**json.loads(status.read_text()), **values}))


def happen(monkeypatch: pytest.MonkeyPatch, *events: Callable[[], None]) -> None:
    """One event in each pause of `logs -f`, and a look at the state after each."""
    left = list(events)
    monkeypatch.setattr(run_output, "LOOK", run_output.POLL / 2)
    monkeypatch.setattr(run_output, "ASK", run_output.POLL / 2)
    sleep = time.sleep

    def pause(seconds: float) -> None:
        sleep(seconds)
        if left:
            left.pop(0)()

    monkeypatch.setattr(time, "sleep", pause)


class TestCancel:
    @pytest.mark.parametrize("state", ["done", "preempted", "failed"])
    def test_a_run_that_is_over(self, capsys: pytest.CaptureFixture[str], state: str) -> None:
        code, said = asked(capsys, "cancel", leave_run("runs/a", state), "--wait")
        assert (code, f"runs/a: is over: {state} at step 8" in said) == (0, True)

    def test_a_run_that_is_elsewhere(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, said = asked(capsys, "cancel", leave_run("runs/a", "running"))
        assert (code, "trains on host elsewhere" in said, "give this command there" in said) == (2, True, True)
        code, said = asked(capsys, "cancel", leave_run("runs/b", "running", job_id="12"))
        assert (code, "`scancel 12` on a login node" in said) == (2, True)

    def test_a_sweep_that_is_over(self, capsys: pytest.CaptureFixture[str]) -> None:
        sweep = leave_sweep("runs/x.sweep", 0.1, 0.2)
        leave_run(sweep / "0-lr")
        assert asked(capsys, "cancel", sweep) == (0, "runs/x.sweep: none of its trials waits or trains\n")

    def test_only_the_very_launcher_is_asked(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A process that has got the launcher's number since is left alone."""
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
            stat = state_and_start(process.pid)
            assert stat is not None
            launcher = f"a run {socket.gethostname()} {process.pid}"
            here = socket.gethostname()
            leave_run("runs/other", "failed", host=here, launcher=f"{launcher} {stat[1] + 1}")
            code, said = asked(capsys, "cancel", "runs/other")
            assert (code, "is over: failed" in said, process.poll()) == (0, True, None)
            leave_run("runs/it", "failed", host=here, launcher=f"{launcher} {stat[1]}")
            assert snapshot.read(Path("runs/it")).state == "ending"
            code, said = asked(capsys, "cancel", "runs/it")
            assert (code, f"process {process.pid} is asked to stop" in said) == (0, True)
            assert process.wait(30) == -signal.SIGTERM


SMALL = """
data: {name: synthetic, num_train: 4096, num_test: 40, global_batch: 16}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.01}
train: {epochs: 1000}
log: {every_steps: 2, tensorboard: false}
distributed: {backend: gloo}
"""


@pytest.mark.slow
def test_a_run_is_watched_and_stopped(place: Path, python: Python) -> None:
    (place / "small.yaml").write_text(SMALL)
    train = ("train", "small.yaml", "--nproc", "2", "run.dir=runs/a")
    done: dict[str, subprocess.CompletedProcess[str]] = {}

    def start(name: str, *arguments: str) -> threading.Thread:
        def work() -> None:
            done[name] = python("-m", "launch", *arguments, cwd=place)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def status() -> dict[str, Any]:
        told = python("-m", "launch", "status", "runs/a", "--json", cwd=place)
        return json.loads(told.stdout) if told.returncode == 0 else {}

    training = start("train", *train)
    try:
        wait_until(lambda: status().get("step", 0) > 2)
        following = start("logs", "logs", "runs/a", "-f")
        now = status()
        assert (now["state"], now["total_steps"], now["resumable"]) == ("running", 256_000, True)
        assert now["seconds_left"] > 0
        busy = python("-m", "launch", "status", cwd=place)
        assert "runs/a" in busy.stdout
    finally:
        cancelled = python("-m", "launch", "cancel", "runs/a", "--wait", cwd=place)
        training.join()
    following.join()
    assert cancelled.returncode == 0, cancelled.stderr
    assert "saves and leaves" in cancelled.stdout
    assert "Go on later: dist-train train small.yaml run.dir=runs/a --nproc 2" in cancelled.stdout
    assert "runs/a: preempted at step" in cancelled.stdout
    assert done["train"].returncode == 75, done["train"].stderr
    assert done["logs"].returncode == 0
    assert "samples/s" in done["logs"].stdout
    assert "rank 0(2) leaves: stopped by SIGTERM" in done["logs"].stdout
    after = status()
    assert (after["state"], after["go_on"]) == ("preempted", "dist-train train small.yaml run.dir=runs/a --nproc 2")
    other = python("-m", "launch", "logs", "runs/a", "--rank", "1", cwd=place)
    assert "rank 1(2) starts at step 0 on cpu" in other.stdout
    assert "rank 1(2) leaves: stopped by" in other.stdout


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
