"""Checkpoints: each leaf of `training.pt`, `model.pt` and `manifest.json` changed, under a matching manifest.

Every one is loaded by a resume, by an evaluation, and verified: what `ckpt verify` calls undamaged must load.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_train.checkpoint.serialization import decode, encode, weights_sha256
from tests.torture import runs
from tests.torture.bench import Bench
from tests.torture.cases import Case, Fault, judge
from tests.torture.mutations import HOSTILE, VALUES, damaged, mutations

QUICK, USUAL, WORKERS = 3, 450, 2
NEWEST = "step_00000004"
RANDOM_COPIES = 40  # of each file
COMMANDS = {
    "resume": runs.train_command("run"),
    "evaluate": ("-m", "dist_train.evaluate", "run"),
    "verify": ("-m", "dist_train.training.verification", "run"),  # what `ckpt verify` starts
}
TENSORS: dict[str, Any] = {
    "a scalar": torch.tensor(1.0),
    "empty": torch.empty(0),
    "of integers": torch.tensor([1, 2]),
    "of four dimensions": torch.zeros(2, 2, 2, 2),
    "a huge view": torch.zeros(1).expand(2**40),
    "of bytes": b"\x00\xff",
    "a complex number": 1j,
    "a set": {1, 2},
    "a dtype": torch.float32,
    "on no device": torch.empty(3, device="meta"),
}
OTHER_DATA = "data: the run was trained on other"
"""A refusal that `ckpt verify` leaves to the others: it opens no data."""
DTYPES = ("float64", "float16", "bfloat16", "int8", "uint8", "int64", "bool", "complex64", "float8_e4m3fn")


def cases(bench: Bench, seed: int) -> Iterator[Case]:
    """Yield each changed checkpoint."""
    folder = runs.failed_run(bench) / "checkpoints" / NEWEST
    for file in ("model.pt", "average.pt", "training.pt"):
        content = (folder / file).read_bytes()
        tree = decode(content, file)
        values = {**VALUES, **TENSORS} if file == "training.pt" else {**TENSORS, "null": None, "hostile": HOSTILE}
        for what, changed in (*mutations(tree, values), *_of_other_types(tree)):
            yield Case(f"{file}: {what}", partial(_load, file=file, tree=changed))
        for number in range(RANDOM_COPIES):
            what, changed = damaged(content, random.Random(f"{seed} {file} {number}"))  # noqa: S311
            for is_known in (False, True):
                name = f"{file} {number}: {what}{', known to the manifest' if is_known else ''}"
                yield Case(name, partial(_load, file=file, content=changed, is_known=is_known))
    text = (folder / "manifest.json").read_bytes()
    for what, tree in mutations(json.loads(text)):
        content = json.dumps(tree).encode()
        yield Case(f"manifest.json: {what}", partial(_load, file="manifest.json", content=content, is_known=False))


def _of_other_types(tree: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """The tree with one tensor of another dtype, with values that are not finite, or on other axes."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        for what, changed in (
            _other_tensors(value) if isinstance(value, Tensor) else _of_other_types(value, f"{where}{key}.")
        ):
            yield (f"{where}{key} {what}" if isinstance(value, Tensor) else what), {**tree, key: changed}


def _other_tensors(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    for dtype in DTYPES:
        yield f"is {dtype}", tensor.to(getattr(torch, dtype))
    yield "is all nan", torch.full_like(tensor, torch.nan)
    yield "is one longer", torch.cat([tensor.reshape(-1), tensor.reshape(-1)[:1]])
    yield "is sparse", tensor.to_sparse()
    if tensor.dim() > 1:
        yield "is transposed", tensor.mT


def _load(
    bench: Bench, file: str, tree: Any = None, content: bytes | None = None, is_known: bool = True
) -> Iterator[Fault]:
    if content is None:
        try:
            content = encode(tree)
        except Exception:  # what can't be written can't be found
            return
    with bench.folder() as folder:
        run = folder / "run"
        shutil.copytree(runs.failed_run(bench), run, symlinks=True)
        shutil.rmtree(run / "checkpoints" / "step_00000002")  # or it would be used in the place of a damaged one
        (folder / "a.yaml").write_text(runs.CONFIG, encoding="utf-8")
        checkpoint = run / "checkpoints" / NEWEST
        (checkpoint / file).write_bytes(content)
        if is_known:
            _describe(checkpoint, file, content, tree)
        history = [(run / name).read_bytes() for name in ("ledger.jsonl", "metrics.jsonl")]
        refused, claims = {}, {}
        for name in ("verify", "evaluate", "resume"):
            outcome = bench.run(*COMMANDS[name], cwd=folder)
            yield from judge(outcome, {0, 1, 2} if name == "verify" else {0, 2}, ["run"])
            refused[name] = outcome.code != 0
            claims[name] = not refused[name] or OTHER_DATA in outcome.output
        if claims["verify"] and not all(claims.values()):
            yield Fault("false claim", f"ckpt verify finds nothing, but refused by {refused}\n{outcome.tail}")
        if refused["resume"] and history != [(run / name).read_bytes() for name in ("ledger.jsonl", "metrics.jsonl")]:
            yield Fault("loss", f"a refused resume has changed the history\n{outcome.tail}")


def _describe(checkpoint: Path, file: str, content: bytes, tree: Any) -> None:
    """Write a manifest that fits the changed file."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][file] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    if file == "model.pt" and tree is not None:
        try:
            manifest["weights_sha256"] = weights_sha256(tree)
        except Exception:  # it has no weights to hash
            manifest["weights_sha256"] = "0" * 64
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
