"""Where ranks meet: who is waited for, what is compared, and which address the store listens on."""

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from dist_train.distributed import rendezvous
from dist_train.distributed.launcher import LauncherVariables
from dist_train.distributed.rendezvous import Rendezvous, describe_start, open_rendezvous
from dist_train.errors import RefusedElsewhereError, UserError, WorldError
from dist_train.settings.loader import load_config
from dist_train.settings.schema import flatten
from tests.conftest import ROOT

SIZE = 3
Together = Callable[..., list[UserError | None]]


def launched(rank: int, size: int = SIZE, address: str = "127.0.0.1", port: int = 29500) -> LauncherVariables:
    """Rank `rank`, of which two share a machine."""
    return LauncherVariables(rank, size, rank % 2, 2, address, port)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Together:
    """Let each rank, in a thread, compare its `about`; None is a rank that does not come. Returns what each raised."""

    monkeypatch.setattr(rendezvous, "_LONGEST_POLL", 0.002)

    def run(*abouts: Any, timeout: float = 20) -> list[UserError | None]:
        raised: list[UserError | None] = [None] * len(abouts)
        store = HashStore()

        def meet(rank: int) -> None:
            try:
                Rendezvous(store, launched(rank, len(abouts)), timeout).check_equal("settings", abouts[rank])
            except UserError as error:
                raised[rank] = error

        threads = [threading.Thread(target=meet, args=(rank,)) for rank, each in enumerate(abouts) if each is not None]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return raised

    return run


def test_a_later_comparison_does_not_see_an_earlier_one() -> None:
    """Processes that train several times keep their store."""
    store = HashStore()
    ranks = [Rendezvous(store, launched(rank, 2), 20) for rank in range(2)]
    raised: list[list[bool]] = [[], []]

    def meet(rank: int) -> None:
        for values in ((1, 1), (2, 2), (3, 4), (5, 5)):
            try:
                ranks[rank].check_equal("data", {"count": values[rank]})
            except UserError:
                raised[rank].append(True)
            else:
                raised[rank].append(False)

    threads = [threading.Thread(target=meet, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == [[False, False, True, False]] * 2


def test_equal_ranks_meet(together: Together) -> None:
    assert together({"a": 1}, {"a": 1}, {"a": 1}) == [None] * 3


CONFIG = load_config(ROOT / "configs" / "digits.yaml")
SHARED = sorted(describe_start(CONFIG))


def other(value: Any) -> Any:
    """A value of another host for a setting or version."""
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else f"{value}x"


@pytest.mark.parametrize("key", SHARED)
def test_every_difference_is_named_with_both_values_on_every_rank(together: Together, key: str) -> None:
    about = describe_start(CONFIG)
    raised = together(about, about, {**about, key: other(about[key])})
    values = json.dumps(about[key]), json.dumps(other(about[key]))
    host = socket.gethostname()
    line = f"  {key}: {values[0]} on rank 0(3) (host {host}), {values[1]} on rank 2(3) (host {host})"
    assert [type(error) for error in raised] == [WorldError, RefusedElsewhereError, WorldError]
    assert all(line in str(error).splitlines() for error in raised)


def test_a_key_that_one_rank_lacks_is_named(together: Together) -> None:
    assert "  b: not set on rank 0(2)" in str(together({}, {"b": "\x1b[2J"})[1])
    assert "\x1b" not in str(together({}, {"b": "\x1b[2J"})[1])


def test_paths_may_differ_and_nothing_else() -> None:
    kept_out = set(flatten(CONFIG.model_dump())) - set(SHARED)
    assert kept_out == {"run.dir", "run.resume", "data.root", "data.cache", "data.download", "data.workers"}


def test_a_rank_that_does_not_come_is_named_with_the_variables(
    together: Together, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "PATIENCE", 0.1)
    raised = together({}, {}, None, {}, timeout=0.5)
    text = "waits for rank 2(4): RANK=0, WORLD_SIZE=4, MASTER_ADDR=127.0.0.1 and MASTER_PORT=29500 say that there are"
    assert text in str(raised[0])
    assert str(raised[0]).startswith("gave up after 0 s: ")
    assert text in capsys.readouterr().err


class TestListening:
    def port(self) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return int(free.getsockname()[1])

    @pytest.mark.parametrize(
        ("address", "size", "local_size", "expected"),
        [
            ("127.0.0.1", 2, 2, "127.0.0.1"),
            ("localhost", 2, 2, "127.0.0.1"),
            ("127.0.0.1", 2, 1, "::"),  # the host's own name leads to loopback: the others must reach it all the same
            ("192.0.2.1", 2, 1, "::"),  # an address of a gateway
        ],
    )
    def test_the_store_binds_the_address_of_the_job(
        self, address: str, size: int, local_size: int, expected: str
    ) -> None:
        place = LauncherVariables(0, size, 0, local_size, address, self.port())
        with rendezvous._listen(place) as listening:
            assert listening.getsockname()[0] in (expected, "::1" if address == "localhost" else expected)

    @pytest.mark.parametrize("address", ["192.0.2.1", "0.0.0.1", "1"])
    def test_rank_0_reaches_its_own_store_where_the_address_is_not_its_own(self, address: str) -> None:
        opened = open_rendezvous(LauncherVariables(0, 1, 0, 1, address, self.port()), {}, 5)
        opened.check_equal("settings", {"a": 1})

    def test_a_port_in_use_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as used:
            port = used.getsockname()[1]
            with pytest.raises(WorldError, match=f"MASTER_PORT is {port}: rank 0 can't listen there: .*choose another"):
                open_rendezvous(LauncherVariables(0, 2, 0, 2, "127.0.0.1", port), {}, 1)

    @pytest.mark.parametrize("address", ["nowhere.invalid", "a" * 5000, "\x1b[2J", "a..b", "null", "-1"])
    def test_a_name_that_leads_nowhere_is_named(self, address: str) -> None:
        for rank in (0, 1):
            with pytest.raises(WorldError, match="MASTER_ADDR") as raised:
                open_rendezvous(LauncherVariables(rank, 2, rank, 2, address, 29500), {}, 0.5)
            assert len(str(raised.value)) < 1000
            assert "\x1b" not in str(raised.value)

    def test_a_rank_to_which_nothing_answers_says_for_whom_it_waits(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(rendezvous, "PATIENCE", 0.2)
        with pytest.raises(WorldError, match=r"rank 1\(2\) on host .* waits for rank 0\(2\)"):
            open_rendezvous(LauncherVariables(1, 2, 0, 1, "127.0.0.1", self.port()), {}, 1)
        assert "waits for rank 0(2)" in capfd.readouterr().err
