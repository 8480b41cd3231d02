"""What a rank settles with its machine: who keeps freed memory, and which cores; the bits know nothing of it."""

import json
import os
import threading
from pathlib import Path

import pytest

from dist_train.settings.schema import Distributed
from dist_train.system import cpu
from dist_train.system.cpu import Host, settle
from tests.conftest import Python

SYSTEM = Distributed(allocator="system")
HAS_GLIBC = "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "") if "CS_GNU_LIBC_VERSION" in os.confstr_names else False
PAGES = """
import resource, sys
from dist_train.settings.schema import Distributed
from dist_train.system.cpu import settle
print(settle(Distributed(allocator=sys.argv[1]), 0, 1, on_cpu=True, environ={}).allocator)
def step(): blocks = [b"x" * (24 * 2**20 + number) for number in range(3)]
step(); step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not HAS_GLIBC, reason="the C library is not glibc")
@pytest.mark.parametrize(("allocator", "said"), [("auto", "glibc, keeps freed memory"), ("system", "system")])
def test_freed_memory_is_used_again_without_a_fault(python: Python, allocator: str, said: str) -> None:
    done = python("-c", PAGES, allocator)
    assert (done.returncode, done.stderr) == (0, "")
    told, faults = done.stdout.splitlines()
    assert told == said
    assert (int(faults) < 200) is (allocator == "auto")  # of 92,160 pages of 4 KiB


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"LD_PRELOAD": "/usr/lib/a.so:/usr/lib/libjemalloc.so.2"}, "system (jemalloc is preloaded)"),
        ({"LD_PRELOAD": "libtcmalloc.so"}, "system (tcmalloc is preloaded)"),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}, "system (GLIBC_TUNABLES set)"),
        ({"MALLOC_TOP_PAD_": "1"}, "system (MALLOC_TOP_PAD_ set)"),
    ],
)
def test_what_a_user_has_chosen_is_left_alone(environ: dict[str, str], said: str) -> None:
    assert settle(Distributed(), 0, 1, on_cpu=True, environ=environ).allocator == said


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_train.system.cpu.ctypes.CDLL", lambda _: object())
    assert settle(Distributed(), 0, 1, on_cpu=True, environ={}).allocator == "system (not glibc)"


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of two NUMA nodes of four cores, hyperthreads among them, all for this process."""
    for number, cores in ((0, "0-1,4-5"), (1, "2-3,6-7"), (2, "")):  # a node of memory alone has no cores
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "cpulist").write_text(f"{cores}\n")
    monkeypatch.setattr(cpu, "NODES", tmp_path)
    given(monkeypatch, set(range(8)))


def given(monkeypatch: pytest.MonkeyPatch, cores: set[int]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)


def near(local_rank: int, local_size: int) -> tuple[int, ...] | None:
    return settle(SYSTEM, local_rank, local_size, on_cpu=True, environ={}).cores


@pytest.mark.usefixtures("two_nodes")
class TestBinding:
    def test_ranks_are_dealt_out_to_the_nodes_in_order(self) -> None:
        first, second = (0, 1, 4, 5), (2, 3, 6, 7)
        assert [near(rank, 2) for rank in range(2)] == [first, second]
        assert [near(rank, 4) for rank in range(4)] == [first, first, second, second]

    def test_a_rank_alone_has_all_cores_and_so_have_ranks_that_nodes_do_not_divide(self) -> None:
        assert near(0, 1) is None
        assert near(0, 3) is None

    @pytest.mark.parametrize(("cores", "expected"), [({0, 1, 4}, None), ({0, 1, 2}, None), ({0, 4, 2, 6}, (0, 4))])
    def test_only_cores_that_were_given_count(
        self, monkeypatch: pytest.MonkeyPatch, cores: set[int], expected: tuple[int, ...] | None
    ) -> None:
        given(monkeypatch, cores)
        assert near(0, 2) == expected

    @pytest.mark.parametrize("name", ["OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "SLURM_CPU_BIND"])
    def test_who_is_bound_already_is_left_alone(self, name: str) -> None:
        assert settle(SYSTEM, 0, 2, on_cpu=True, environ={name: "x"}).cores is None

    def test_it_can_be_switched_off_and_is_for_ranks_on_the_cpu(self) -> None:
        off = Distributed(allocator="system", binding="off")
        assert settle(off, 0, 2, on_cpu=True, environ={}).cores is None
        assert settle(SYSTEM, 0, 2, on_cpu=False, environ={}).cores is None


def test_all_threads_move(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: dict[int, object] = {}
    monkeypatch.setattr(os, "sched_setaffinity", moved.__setitem__, raising=False)
    Host("system", None).bind()
    assert moved == {}
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    Host("system", (1, 3)).bind()
    end.set()
    thread.join()
    assert moved[os.getpid()] == moved[thread.native_id or 0] == (1, 3)


def test_the_line_of_the_log() -> None:
    assert str(Host("glibc, keeps freed memory", None)) == "memory: glibc, keeps freed memory; not bound"
    assert str(Host("system", (0, 1, 2, 5, 7, 8))) == "memory: system; cores 0-2,5,7-8"


@pytest.mark.slow
def test_the_bits_do_not_depend_on_the_allocator(tmp_path: Path, python: Python) -> None:
    settings = (
        *("data.limit_train=200", "data.limit_test=20", "train.epochs=1", "log.tensorboard=false"),
        *("log.weights_every_steps=1", "distributed.threads=1"),
    )
    hashes = []
    for choice in ("auto", "system"):
        run = tmp_path / choice
        allocator = f"distributed.allocator={choice}"
        done = python("-m", "dist_train", "configs/digits.yaml", f"run.dir={run}", *settings, allocator)
        assert done.returncode == 0, done.stderr
        hashes.append(json.loads((run / "checkpoints/latest/manifest.json").read_text())["weights_sha256"])
        assert json.loads((run / "env.json").read_text())["host"]["allocator"].startswith(
            "glibc" if choice == "auto" and HAS_GLIBC else "system"
        )
    assert hashes[0] == hashes[1]
