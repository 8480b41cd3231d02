"""How much memory there is."""

from pathlib import Path

from dist_train.data import memory


def test_memory_is_limited_by_control_groups(tmp_path: Path) -> None:
    assert 0 < memory.host_bytes() < 2**50
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "memory.max").write_text("12345\n")
    (tmp_path / "job" / "step" / "memory.max").write_text("max\n")
    assert memory._along(tmp_path, "/job/step", "memory.max") == [12345]
