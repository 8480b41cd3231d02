"""Write the files of runs, jobs and sweeps without training."""

import json
from pathlib import Path
from typing import Any

from dist_train.monitoring.ledger import float_to_hex
from dist_train.run_dir import RunDir

WHEN = "2030-01-01T10:00:00+00:00"


def leave_run(path: str | Path, state: str = "done", step: int = 7, accuracy: float | None = None, **more: Any) -> Path:
    """Write the directory of a run of 10 steps that has logged step 8."""
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


def set_status(run: Path, **values: Any) -> None:
    status = RunDir(run).status
    status.write_text(json.dumps({**json.loads(status.read_text()), **values}))


def leave_sweep(path: str, *learning_rates: float) -> Path:
    sweep = Path(path)
    sweep.mkdir()
    trials = [
        {"number": number, "overrides": [f"optim.lr={lr}"], "dir": f"{path}/{number}-lr"}
        for number, lr in enumerate(learning_rates)
    ]
    (sweep / "sweep.json").write_text(json.dumps({"trials": trials}))
    return sweep


def leave_ledger(run: Path, steps: int = 3, loss: float = 1.0, lr: float = 0.1) -> Path:
    run.mkdir()
    line = {"samples": "0" * 16, "loss": float_to_hex(loss), "grad_norm": float_to_hex(0.5), "lr": lr}
    texts = [json.dumps({"step": step, **line}) + "\n" for step in range(1, steps + 1)]
    (run / "ledger.jsonl").write_text("".join(texts))
    return run
