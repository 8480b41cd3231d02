"""The small run that the generators damage: how it is made, and what its files have to say when it is done."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.torture.bench import Bench
from tests.torture.cases import Fault, Outcome

STEPS = 6
SAVED = 4
"""The step of the newest checkpoint of the run that failed."""
CONFIG = f"""
data: {{name: synthetic, num_train: 24, num_test: 8, global_batch: 8, shape: [1, 8, 8], augment: {{flip: true}}}}
model: {{name: mnist_cnn, dropout: 0.2}}
optim: {{name: adam, lr: 0.01}}
train: {{max_steps: {STEPS}, ema_decay: 0.9}}
distributed: {{threads: 1}}
checkpoint: {{every_steps: 2, keep_last: 3}}
log: {{every_steps: 1, weights_every_steps: 1}}
"""
"""Has a tensor, a hash or a number of every kind that a run stores."""
WITHOUT_CURVES = "log.tensorboard=false"  # its import takes half of the time of such a run


def train_command(run: Path | str, *overrides: str) -> tuple[str, ...]:
    """The arguments of a start of the run in `run`, given from the folder that has its settings, `a.yaml`."""
    return ("-m", "dist_train", "a.yaml", f"run.dir={run}", WITHOUT_CURVES, *overrides)


def train(bench: Bench, folder: Path, *command: str, **env: str) -> Outcome:
    """Give a command that trains in the new directory `folder`, which gets the settings."""
    folder.mkdir()
    (folder / "a.yaml").write_text(CONFIG, encoding="utf-8")
    return bench.run(*command, cwd=folder, env=env)


def reference(bench: Bench) -> Path:
    """The directory of the run that was not disturbed."""
    with bench.lock("reference"):
        folder = bench.path / "reference"
        if not folder.exists():
            outcome = train(bench, folder, *train_command("run"))
            assert outcome.code == 0, outcome.output
    return folder / "run"


def failed_run(bench: Bench) -> Path:
    """The directory of a run that has saved steps 2 and 4 and failed in step 5, with a job and curves."""
    from tests.unit.launch.run_files import leave_job, leave_start

    with bench.lock("failed"):
        run = bench.path / "failed" / "run"
        if not run.parent.exists():
            with_curves = ("-m", "dist_train", "a.yaml", "run.dir=run")
            outcome = train(bench, run.parent, *with_curves, DIST_TRAIN_NAN_STEP="5")
            assert outcome.code == 4, outcome.output
            for curves in (run / "tb").iterdir():
                curves.rename(curves.with_name("events.out.tfevents.1.host.1.0"))  # a name that does not change
            leave_job(run, 1, "12", tasks=(0, 1))
            leave_start(run, "12")
    return run


def weights(run: Path) -> tuple[int, str]:
    """Step and hash of the weights of the newest checkpoint."""
    manifest = json.loads((run / "checkpoints" / "latest" / "manifest.json").read_text())
    return manifest["step"], manifest["weights_sha256"]


def check_done(run: Path, undisturbed: Path, output: str) -> Iterator[Fault]:
    """Yield what the files of a run that exited with 0 lack; what its last screen names is no false claim."""
    try:
        found, state = weights(run), json.loads((run / "status.json").read_text())["state"]
    except (OSError, ValueError, KeyError) as error:
        yield Fault("false claim", f"exit code 0, but {error!r}\n{output}")
        return
    if found != weights(undisturbed):
        yield Fault("false claim", f"exit code 0 with other weights: {found}, not {weights(undisturbed)}\n{output}")
    if state != "done" and "status.json" not in output:
        yield Fault("false claim", f"exit code 0, but status.json says {state}\n{output}")
    for name, kind in (("ledger.jsonl", None), ("metrics.jsonl", "train")):
        steps = [line.get("step") for line in lines(run / name) if line.get("kind") == kind]
        if steps != list(range(1, STEPS + 1)) and name not in output:
            yield Fault("loss", f"{name} has the steps {steps}\n{output}")


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON objects; none where it can't be read."""
    if not path.is_file():
        return []
    found = []
    for text in path.read_bytes().split(b"\n")[:-1]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        found += [line] if isinstance(line, dict) else []
    return found
