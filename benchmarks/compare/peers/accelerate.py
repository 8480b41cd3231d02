"""Hugging Face's accelerate, as its quick tour shows it: https://huggingface.co/docs/accelerate/quicktour"""

from accelerate import Accelerator
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks.compare import builders
from benchmarks.compare.peers.options import parse_options


def main() -> None:
    options = parse_options()
    accelerator = Accelerator(cpu=options.device == "cpu", mixed_precision=options.autocast)
    model = builders.build_network(options.workload)
    optimizer = builders.build_optimizer(options.workload, model.parameters())
    loader = DataLoader(
        builders.open_dataset(options.workload), options.batch, shuffle=True, num_workers=options.workers
    )
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    step = 0
    while step < options.steps:
        for inputs, targets in loader:
            optimizer.zero_grad()
            with accelerator.autocast():
                loss = functional.cross_entropy(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            step += 1
            if accelerator.is_main_process and options.is_logged(step):
                options.log_step(step, loss.item())
            if step == options.steps:
                break
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
