"""What a rank on a GPU sets for its process, with torch's answers about the GPU given."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dist_train.errors import ConfigError
from dist_train.execution import gpu
from dist_train.execution.gpu import bind_to_near_cores, configure_gpu, describe_versions

GPU, CPU = torch.device("cuda", 1), torch.device("cpu")
ADDRESS = "0000:1b:00.0"


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.benchmark, products.allow_tf32
    yield
    cudnn.allow_tf32, cudnn.benchmark, products.allow_tf32 = before


@pytest.mark.parametrize("precision", ["tf32", "fp32", "bf16"])
def test_convolutions_and_products_drop_bits_in_tf32_alone(precision: str) -> None:
    configure_gpu(precision, deterministic=False, environ={})
    is_tf32 = precision == "tf32"
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == is_tf32
    assert (torch.backends.cuda.matmul.fp32_precision == "tf32") == is_tf32, "inductor reads this one"


@pytest.mark.parametrize("deterministic", [True, False])
def test_cudnn_times_its_kernels_where_bits_are_not_promised(deterministic: bool) -> None:
    environ: dict[str, str] = {}
    configure_gpu("fp32", deterministic=deterministic, environ=environ)
    assert torch.backends.cudnn.benchmark is not deterministic
    assert environ == ({"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if deterministic else {})


def test_a_workspace_that_is_not_deterministic_is_refused() -> None:
    for given in (":4096:8", ":16:8"):
        configure_gpu("fp32", deterministic=True, environ={"CUBLAS_WORKSPACE_CONFIG": given})
    other = {"CUBLAS_WORKSPACE_CONFIG": ":0:0"}
    with pytest.raises(ConfigError, match=r"CUBLAS_WORKSPACE_CONFIG is :0:0, .* set it to :4096:8 or :16:8, or unset"):
        configure_gpu("fp32", deterministic=True, environ=other)
    configure_gpu("fp32", deterministic=False, environ=other)


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two nodes of four cores; the GPU is on the second, and this process may use cores 1 to 6."""
    found = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x1B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", {GPU: found}.__getitem__)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 3, 4, 5, 6})
    for node, cores in enumerate(("0-3\n", "4-5,7,6\n")):
        (tmp_path / f"devices/system/node/node{node}").mkdir(parents=True)
        (tmp_path / f"devices/system/node/node{node}/cpulist").write_text(cores)
    (tmp_path / "bus/pci/devices" / ADDRESS).mkdir(parents=True)
    (tmp_path / "bus/pci/devices" / ADDRESS / "numa_node").write_text("1\n")
    return tmp_path


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """The sets of cores to which this process was bound."""
    found: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: found.append(cores))
    return found


def test_a_rank_runs_on_the_cores_near_its_gpu(sysfs: Path, bound: list[set[int]]) -> None:
    bind_to_near_cores(GPU, sysfs)
    assert bound == [{4, 5, 6}]


def test_nothing_is_bound_on_a_cpu(sysfs: Path, bound: list[set[int]]) -> None:
    bind_to_near_cores(CPU, sysfs)
    assert bound == []


@pytest.mark.parametrize("numa_node", ["-1\n", "", "5\n", None])
def test_nothing_is_bound_where_the_node_is_not_known(
    sysfs: Path, bound: list[set[int]], numa_node: str | None
) -> None:
    file = sysfs / "bus/pci/devices" / ADDRESS / "numa_node"
    file.unlink() if numa_node is None else file.write_text(numa_node)
    bind_to_near_cores(GPU, sysfs)
    assert bound == []


def test_a_launchers_binding_to_other_cores_stays(
    sysfs: Path, bound: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    bind_to_near_cores(GPU, sysfs)
    assert bound == []


def test_the_versions_on_which_a_gpus_bits_depend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 5))
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    assert describe_versions(GPU) == {"cudnn": "91002", "nccl": "2.27.5", "driver": "unknown"}
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 20\nGCC 12.2\n"
    )
    assert describe_versions(GPU)["driver"] == "580.65.06"
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: False)
    assert describe_versions(GPU)["nccl"] == "none"
    assert describe_versions(CPU) == {}
