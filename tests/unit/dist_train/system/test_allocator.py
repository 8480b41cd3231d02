"""Memory that glibc keeps after it was freed; results do not depend on it."""

import json
import os
from pathlib import Path

import pytest

from dist_train.system.allocator import keep_freed_memory
from tests.conftest import Python, weights_hash

HAS_GLIBC = "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "") if "CS_GNU_LIBC_VERSION" in os.confstr_names else False
PAGES = """
import resource, sys
from dist_train.system.allocator import keep_freed_memory
print(keep_freed_memory({}) if sys.argv[1] == "auto" else "system")
def step(): blocks = [b"x" * (24 * 2**20 + number) for number in range(3)]
step(); step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not HAS_GLIBC, reason="the C library is not glibc")
@pytest.mark.parametrize(("allocator", "expected"), [("auto", "glibc, keeps freed memory"), ("system", "system")])
def test_freed_memory_is_used_again_without_a_fault(interpreter: Python, allocator: str, expected: str) -> None:
    done = interpreter("-c", PAGES, allocator)
    assert (done.returncode, done.stderr) == (0, "")
    found, faults = done.stdout.splitlines()
    assert found == expected
    assert (int(faults) < 200) is (allocator == "auto")  # of 92,160 pages of 4 KiB


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LD_PRELOAD": "/usr/lib/a.so:/usr/lib/libjemalloc.so.2"}, "system (jemalloc is preloaded)"),
        ({"LD_PRELOAD": "libtcmalloc.so"}, "system (tcmalloc is preloaded)"),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}, "system (GLIBC_TUNABLES set)"),
        ({"MALLOC_TOP_PAD_": "1"}, "system (MALLOC_TOP_PAD_ set)"),
    ],
)
def test_what_a_user_has_chosen_is_left_alone(environ: dict[str, str], expected: str) -> None:
    assert keep_freed_memory(environ) == expected


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_train.system.allocator.ctypes.CDLL", lambda _: object())
    assert keep_freed_memory({}) == "system (not glibc)"


@pytest.mark.slow
def test_the_bits_do_not_depend_on_the_allocator(tmp_path: Path, interpreter: Python) -> None:
    settings = (
        *("data.limit_train=200", "data.limit_test=20", "train.epochs=1", "log.tensorboard=false"),
        *("log.weights_every_steps=1", "distributed.threads=1"),
    )
    hashes = []
    for choice in ("auto", "system"):
        run = tmp_path / choice
        allocator = f"distributed.allocator={choice}"
        done = interpreter("-m", "dist_train", "configs/digits.yaml", f"run.dir={run}", *settings, allocator)
        assert done.returncode == 0, done.stderr
        hashes.append(weights_hash(run))
        assert json.loads((run / "env.json").read_text())["host"]["allocator"].startswith(
            "glibc" if choice == "auto" and HAS_GLIBC else "system"
        )
    assert hashes[0] == hashes[1]
