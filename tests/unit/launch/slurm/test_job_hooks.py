"""The hooks of a job: from what a start resumes, and whether the job is requeued."""

import json
from pathlib import Path

import pytest

from dist_train.checkpoint.store import Store
from dist_train.errors import CheckpointError, ConfigError
from dist_train.run_dir import RunDir, write_atomically
from dist_train.settings.loader import load_config
from launch.runs.history import read_starts
from launch.slurm.job_hooks import begin, end, has_lost_rank

CONFIG = "data: {name: digits}\nmodel: {name: mnist_cnn}\n"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(CONFIG)
    return tmp_path


def run() -> RunDir:
    return RunDir("runs/x")


def begun(restart: int, *overrides: str, job: str = "7") -> str:
    return begin(load_config("x.yaml", overrides), environ(restart, job))


def environ(restart: int, job: str = "7", **more: str) -> dict[str, str]:
    count = {"SLURM_RESTART_COUNT": str(restart)} if restart else {}  # Slurm does not set it at first
    return {"SLURM_JOB_ID": job, **count, **more}


def trained(step: int, state: str = "preempted", *, resumable: bool = True, job: str = "7") -> None:
    """Leave the files of a training that saved at `step`."""
    if step:
        Store(run().checkpoints).save(step, {"model.pt": b"weights", "training.pt": b"state"}, "ab" * 32)
    attempt = 1 + (run().read_status() or {}).get("attempt", 0)
    status = {"state": state, "step": step, "job_id": job, "resumable": resumable, "host": "another"}
    status["attempt"] = attempt
    write_atomically(run().status, json.dumps(status))


def test_a_job_that_is_preempted_goes_on_to_its_end() -> None:
    assert begun(0) == "auto"
    trained(10)
    assert end(run(), environ(0)) == (75, "preempted after step 10; it can resume from step 10")
    assert begun(1) == "runs/x"
    trained(20, "done", resumable=False)
    assert end(run(), environ(1)) == (0, "done after step 20")
    assert [(start.job_id, start.restart, start.step) for start in read_starts(run())] == [("7", 0, 0), ("7", 1, 10)]


def test_a_restart_that_saved_nothing_new_is_the_last() -> None:
    begun(0)
    trained(10)
    begun(1)
    trained(10)
    code, why = end(run(), environ(1))
    assert (code, "restart 1 made no progress beyond step 10" in why) == (1, True)
    with pytest.raises(ConfigError, match="job 7: restart 1 made no progress beyond step 10"):  # where Slurm starts it
        begun(2)


def test_one_restart_may_not_come_to_training() -> None:
    begun(0)
    trained(10)
    begun(1)
    assert end(run(), environ(1))[0] == 75
    begun(2)
    code, why = end(run(), environ(2))
    assert (code, "restart 2 made no progress beyond step 10" in why) == (1, True)


def test_a_first_start_may_be_preempted_before_it_saves() -> None:
    begun(0, "run.resume=runs/other")
    trained(0)
    assert end(run(), environ(0))[0] == 75
    assert begun(1, "run.resume=runs/other") == "runs/other"


def test_a_job_has_a_last_restart() -> None:
    begun(0)
    for restart in range(2):
        trained(10 * (restart + 1))
        if restart:
            begun(restart)
    few = {"DIST_TRAIN_MAX_RESTARTS": "1"}
    trained(30)
    code, why = end(run(), environ(1, **few))
    assert (code, "it has started 2 times, and DIST_TRAIN_MAX_RESTARTS allows 1 restarts" in why) == (1, True)
    with pytest.raises(ConfigError, match="DIST_TRAIN_MAX_RESTARTS allows 1"):
        begin(load_config("x.yaml"), environ(2, **few))


def test_what_can_t_resume_is_not_requeued() -> None:
    begun(0)
    trained(10, "failed", resumable=False)
    code, why = end(run(), environ(0))
    assert (code, why) == (1, "failed after step 10: the job is not requeued. See its output above for the reason")
    trained(10, "failed")
    assert end(run(), environ(0))[0] == 75


def test_the_status_of_another_job_says_nothing() -> None:
    begun(0)
    trained(10, job="6")
    code, why = end(run(), environ(0))
    assert (code, why.startswith("this start did not reach the training")) == (1, True)
    assert end(run(), environ(0, DIST_TRAIN_PREEMPTED="2026-11-21T14:00:00"))[0] == 75


def test_a_restart_without_its_checkpoints_does_not_begin_at_zero() -> None:
    with pytest.raises(CheckpointError, match=r"runs/x: has no checkpoint on host .* that all nodes share"):
        begun(1)  # a disk on which the job has not begun
    begun(0, job="8")
    trained(10, job="8")
    begun(1, job="8")
    for step in Store(run().checkpoints).steps():
        Store(run().checkpoints).quarantine(step, "removed")
    with pytest.raises(CheckpointError, match="though this job has started before"):
        begun(2, job="8")


def test_a_job_that_was_lost_before_its_first_start_begins() -> None:
    """`dist-train submit` has written `job.json` on this disk."""
    submitted = {"job_id": "7", "submitted": "2026-11-21T12:00:00+00:00", "command": "dist-train submit x.yaml"}
    (run().jobs / "1").mkdir(parents=True)
    write_atomically(run().jobs / "1" / "job.json", json.dumps(submitted))
    assert begun(1) == "auto"


def test_an_invalid_limit_of_restarts_is_refused_at_the_first_start() -> None:
    with pytest.raises(ConfigError, match="DIST_TRAIN_MAX_RESTARTS is 'many'; it must be a number from 0 up"):
        begin(load_config("x.yaml"), environ(0, DIST_TRAIN_MAX_RESTARTS="many"))


def test_a_job_with_resume_never_moves_the_run_aside_once() -> None:
    begun(0, job="6")
    trained(10, "done", resumable=False, job="6")
    assert begun(0, "run.resume=never") == "auto"
    assert Path("runs/x.old-1/status.json").exists()
    assert begun(1, "run.resume=never") == "auto"
    trained(10)
    assert begun(1, "run.resume=never") == "runs/x"
    assert not Path("runs/x.old-2").exists()


def test_starts_that_are_cut_short_are_left_out() -> None:
    begun(0)
    path = run().jobs / "starts.jsonl"
    path.write_text(path.read_text() + '{"job_id": "7", "rest')
    assert [start.restart for start in read_starts(run())] == [0]


def test_outside_of_a_job_it_says_so() -> None:
    with pytest.raises(ConfigError, match="SLURM_JOB_ID is not set"):
        begin(load_config("x.yaml"), {})


@pytest.mark.parametrize(
    ("state", "resumable", "job", "expected"),
    [
        ("failed", True, "7", True),  # a rank was lost, or raised an exception
        ("running", True, "7", True),  # rank 0 was killed
        ("failed", False, "7", False),  # a setting is wrong, or the loss is not finite
        ("preempted", True, "7", False),
        ("done", False, "7", False),
        ("failed", True, "6", False),  # of an earlier job
    ],
)
def test_ranks_start_again_in_place_after_a_loss(state: str, resumable: bool, job: str, expected: bool) -> None:
    begun(0)
    trained(10, state, resumable=resumable, job=job)
    assert has_lost_rank(run(), environ(0)) is expected


def test_ranks_that_did_not_reach_the_training_do_not_start_again() -> None:
    begun(0)
    assert not has_lost_rank(run(), environ(0))
    trained(10, "running")
    begun(1)  # the node was lost, and this start refused
    assert not has_lost_rank(run(), environ(1))
