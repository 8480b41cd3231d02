"""PyTorch-Ignite, as its quick start and its distributed guide show it: https://pytorch-ignite.ai/how-to-guides"""

from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from torch.nn import functional

from benchmarks.compare import builders
from benchmarks.compare.peers.options import Options, parse_options


def training(_: int, options: Options) -> None:
    device = idist.device() if options.ranks > 1 else torch.device(options.device)
    loader = idist.auto_dataloader(
        builders.open_dataset(options.workload),
        batch_size=options.workload.batch,
        num_workers=options.workers,
        shuffle=True,
    )
    model = idist.auto_model(builders.build_network(options.workload).to(device))
    optimizer = idist.auto_optim(builders.build_optimizer(options.workload, model.parameters()))
    trainer = create_supervised_trainer(model, optimizer, functional.cross_entropy, device=device)

    def log(engine: Engine) -> None:
        if idist.get_rank() == 0 and options.is_logged(engine.state.iteration):
            options.log_step(engine.state.iteration, engine.state.output)

    trainer.add_event_handler(Events.ITERATION_COMPLETED, log)
    trainer.run(loader, max_epochs=1, epoch_length=options.steps)
    idist.barrier()


def main() -> None:
    options = parse_options()
    backend: Any = None
    if options.ranks > 1:
        backend = "nccl" if options.device == "cuda" else "gloo"
    with idist.Parallel(backend=backend) as parallel:
        parallel.run(training, options)


if __name__ == "__main__":
    main()
