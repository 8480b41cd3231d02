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

from benchmarks.compare import material
from benchmarks.compare.peers.order import Order, parse_order

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Classifier(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order
        self.network = material.network(order.work)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        inputs, targets = batch
        loss = functional.cross_entropy(self.network(inputs), targets)
        if not self.order.quiet:
            self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return material.optimizer(self.order.work, self.parameters())


class Clock(lightning.Callback):  # type: ignore[misc]
    def __init__(self, order: Order) -> None:
        self.order = order

    def on_train_batch_end(self, trainer: lightning.Trainer, _: Any, outputs: Any, *__: Any) -> None:
        if trainer.is_global_zero and self.order.is_read(trainer.global_step):
            self.order.read_clock(trainer.global_step, outputs["loss"].item())


def main() -> None:
    order = parse_order()
    loader = DataLoader(material.dataset(order.work), order.batch, shuffle=True, num_workers=order.workers)
    with tempfile.TemporaryDirectory() as directory:
        trainer = lightning.Trainer(
            accelerator=order.device,
            devices=order.ranks,
            strategy="ddp" if order.ranks > 1 else "auto",
            precision="bf16-mixed" if order.autocast == "bf16" else "32-true",
            max_steps=order.steps,
            callbacks=[Clock(order)],
            default_root_dir=directory,
            **(QUIET if order.quiet else {}),
        )
        trainer.fit(Classifier(order), loader)


if __name__ == "__main__":
    main()
