"""Hugging Face's accelerate, as its quick tour shows it: https://huggingface.co/docs/accelerate/quicktour"""

from accelerate import Accelerator
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks.compare import material
from benchmarks.compare.peers.order import parse_order


def main() -> None:
    order = parse_order()
    accelerator = Accelerator(cpu=order.device == "cpu", mixed_precision=order.autocast)
    model = material.network(order.work)
    optimizer = material.optimizer(order.work, model.parameters())
    loader = DataLoader(material.dataset(order.work), order.batch, shuffle=True, num_workers=order.workers)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    step = 0
    while step < order.steps:
        for inputs, targets in loader:
            optimizer.zero_grad()
            with accelerator.autocast():
                loss = functional.cross_entropy(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            step += 1
            if accelerator.is_main_process and order.is_read(step):
                order.read_clock(step, loss.item())
            if step == order.steps:
                break
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
