"""The results of a drill: one row per round."""

from dataclasses import dataclass, replace

_ROW = "{:>5}  {:<18} {:>8}  {:<14} {:>6} {:>13} {:>15}  {}"
HEADING = _ROW.format(
    "round", "fault", "moment", "recovered from", "starts", "seconds lost", "steps repeated", "verdict"
)


@dataclass(frozen=True)
class RoundResult:
    """The result of one round, as it is written to `drill.json`."""

    number: int
    fault: str
    moment: int
    """Finished steps when the fault was injected."""
    recovered_from: int | None
    """Step of the checkpoint from which the last start, by hand or in place, resumed; None: there was one start."""
    starts: int
    seconds_lost: float
    """Compared with the run without a fault."""
    steps_repeated: int
    verdict: str
    passed: bool

    def merge(self, other: "RoundResult") -> "RoundResult":
        """Combine an elastic round with the same round under `bitwise`."""
        verdict = f"{self.verdict}; under bitwise {other.verdict}"
        return replace(
            self,
            starts=self.starts + other.starts,
            seconds_lost=round(self.seconds_lost + other.seconds_lost, 1),
            verdict=verdict,
            passed=self.passed and other.passed,
        )

    def format_row(self) -> str:
        """Format the round as a line of the table."""
        verdict = self.verdict if self.passed else f"FAILED: {self.verdict}"
        source = "no restart" if self.recovered_from is None else f"step {self.recovered_from}"
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
