"""Check the checkpoints of a run for everything that a resume or an evaluation would refuse.

    python -m dist_train.training.verification runs/digits [--trust-code]

prints each checkpoint with what would be refused. Exit codes: 0 all are undamaged; 1 one would be refused; 2 there are
none, or the run can't be read.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dist_train.checkpoint import resume, serialization
from dist_train.checkpoint.code_of_run import code_of_run
from dist_train.checkpoint.store import Store
from dist_train.data.identity import DataIdentity
from dist_train.distributed.world import World
from dist_train.errors import CheckpointError, UserError
from dist_train.execution.auto_settings import AutoSettings
from dist_train.execution.lazy_dynamo import defer_dynamo_import
from dist_train.models import build_model, give_shapes
from dist_train.run_arguments import TRUST_HELP
from dist_train.run_dir import RunDir
from dist_train.settings.loader import load_run_config
from dist_train.settings.schema import Config
from dist_train.system.escape import escape, escape_lines
from dist_train.system.exit import Parser, leave, run_guarded
from dist_train.training.state import TrainState


def verify(run: RunDir, trust_code: bool = False) -> Iterator[tuple[int, str | None]]:
    """Yield the step of each checkpoint, and why it would be refused; None if it would not.

    Raises:
        CheckpointError: the run has no checkpoints.
        ConfigError: its `config.yaml` can't be read, or its code belongs to another user and is not trusted.
    """
    store = Store(run.checkpoints)
    steps = store.list_steps()
    if not steps:
        raise CheckpointError(f"{escape(run.path)}: has no checkpoints; give the directory of a run, e.g. runs/digits")
    with code_of_run(load_run_config(run.config, []), run.path, trust_code) as config:
        for step in steps:
            yield step, find_fault(store.path(step), config)


def find_fault(checkpoint: Path, config: Config) -> str | None:
    """Describe why a resume or an evaluation would refuse a checkpoint, None if neither would.

    Args:
        config: settings of the run.
    """
    try:
        files = serialization.load(checkpoint).files
        resume.check_settings(files, config, checkpoint)
        auto_settings = AutoSettings.from_dict(files["training.pt"]["choices"])
        if data := resume.read_data_identity(files):  # earlier versions have not stored it
            _load(files, config, auto_settings, data, checkpoint)
    except UserError as error:
        return str(error)
    return None


def _load(
    files: serialization.Files, config: Config, auto_settings: AutoSettings, data: DataIdentity, checkpoint: Path
) -> None:
    """Load weights and optimizer as a resume does, and the average as an evaluation does; raises UserError."""
    network = build_model(config.model, data.shape, len(data.classes), config.run.seed, data.make_inputs())
    give_shapes(network, files["model.pt"])
    state = TrainState(config, network, auto_settings, World(), files)
    if "average.pt" in files:
        serialization.load_weights(state.network, files["average.pt"], str(checkpoint / "average.pt"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify the checkpoints of a run; return the exit code."""
    parser = Parser(prog="python -m dist_train.training.verification", description=main.__doc__)
    parser.add_argument("run", type=Path, help="the run's directory, e.g. runs/digits")
    defer_dynamo_import()
    parser.add_argument("--trust-code", action="store_true", help=TRUST_HELP)
    options = parser.parse_args(arguments)
    has_faults = False
    for step, fault in verify(RunDir(options.run), options.trust_code):
        has_faults |= fault is not None
        print(f"step {step:>9}  {escape_lines(fault) if fault else 'undamaged'}")
    sys.stdout.flush()
    return int(has_faults)


if __name__ == "__main__":
    leave(run_guarded(main))
