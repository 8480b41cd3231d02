"""The table of a drill: a row for each round."""

from dataclasses import dataclass, replace

_ROW = "{:>5}  {:<18} {:>8}  {:<14} {:>6} {:>13} {:>15}  {}"
HEADING = _ROW.format(
    "round", "fault", "moment", "recovered from", "starts", "seconds lost", "steps repeated", "verdict"
)


@dataclass(frozen=True)
class RoundResult:
    """One run that was struck, and how it ended."""

    number: int
    fault: str
    moment: int
    """Steps that were finished when the fault struck."""
    recovered_from: int | None
    """Step of the checkpoint that the last start, by hand or in place, went on from; None: the first start went on."""
    starts: int
    seconds_lost: float
    steps_repeated: int
    verdict: str
    passed: bool

    def merge(self, other: "RoundResult") -> "RoundResult":
        """This elastic round and the same under `bitwise` as one."""
        verdict = f"{self.verdict}; under bitwise {other.verdict}"
        return replace(
            self,
            starts=self.starts + other.starts,
            seconds_lost=round(self.seconds_lost + other.seconds_lost, 1),
            verdict=verdict,
            passed=self.passed and other.passed,
        )

    def format_row(self) -> str:
        """Its line of the table."""
        verdict = self.verdict if self.passed else f"FAILED: {self.verdict}"
        source = "it went on" if self.recovered_from is None else f"step {self.recovered_from}"
        return _ROW.format(
            self.number,
            self.fault,
            self.moment,
            source,
            self.starts,
            f"{self.seconds_lost:.1f}",
            self.steps_repeated,
            verdict,
        )
