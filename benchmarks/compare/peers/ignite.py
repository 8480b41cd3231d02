"""PyTorch-Ignite, as its quick start and its distributed guide show it: https://pytorch-ignite.ai/how-to-guides"""

from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from torch.nn import functional

from benchmarks.compare import material
from benchmarks.compare.peers.order import Order, parse_order


def training(_: int, order: Order) -> None:
    device = idist.device() if order.ranks > 1 else torch.device(order.device)
    loader = idist.auto_dataloader(
        material.dataset(order.work), batch_size=order.work.batch, num_workers=order.workers, shuffle=True
    )
    model = idist.auto_model(material.network(order.work).to(device))
    optimizer = idist.auto_optim(material.optimizer(order.work, model.parameters()))
    trainer = create_supervised_trainer(model, optimizer, functional.cross_entropy, device=device)

    def tell(engine: Engine) -> None:
        if idist.get_rank() == 0 and order.is_read(engine.state.iteration):
            order.read_clock(engine.state.iteration, engine.state.output)

    trainer.add_event_handler(Events.ITERATION_COMPLETED, tell)
    trainer.run(loader, max_epochs=1, epoch_length=order.steps)
    idist.barrier()


def main() -> None:
    order = parse_order()
    backend: Any = None
    if order.ranks > 1:
        backend = "nccl" if order.device == "cuda" else "gloo"
    with idist.Parallel(backend=backend) as parallel:
        parallel.run(training, order)


if __name__ == "__main__":
    main()
