"""Lightning, as its "Lightning in 15 minutes" shows it: https://lightning.ai/docs/pytorch/stable/starter/introduction.html

`--quiet` turns off its logger, checkpoints, progress bar and model summary.
"""

import tempfile
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks.compare import builders
from benchmarks.compare.peers.options import Options, parse_options

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Classifier(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        self.network = builders.build_network(options.workload)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        inputs, targets = batch
        loss = functional.cross_entropy(self.network(inputs), targets)
        if not self.options.quiet:
            self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return builders.build_optimizer(self.options.workload, self.parameters())


class Clock(lightning.Callback):  # type: ignore[misc]
    def __init__(self, options: Options) -> None:
        self.options = options

    def on_train_batch_end(self, trainer: lightning.Trainer, _: Any, outputs: Any, *__: Any) -> None:
        if trainer.is_global_zero and self.options.is_logged(trainer.global_step):
            self.options.log_step(trainer.global_step, outputs["loss"].item())


def main() -> None:
    options = parse_options()
    loader = DataLoader(
        builders.open_dataset(options.workload), options.batch, shuffle=True, num_workers=options.workers
    )
    with tempfile.TemporaryDirectory() as directory:
        trainer = lightning.Trainer(
            accelerator=options.device,
            devices=options.ranks,
            strategy="ddp" if options.ranks > 1 else "auto",
            precision="bf16-mixed" if options.autocast == "bf16" else "32-true",
            max_steps=options.steps,
            callbacks=[Clock(options)],
            default_root_dir=directory,
            **(QUIET if options.quiet else {}),
        )
        trainer.fit(Classifier(options), loader)


if __name__ == "__main__":
    main()
