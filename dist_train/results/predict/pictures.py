"""Draw pictures with the network's predictions."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_train.results import import_extra
from dist_train.results.figure import check_destination
from dist_train.results.grid import draw_grid
from dist_train.results.predict.lines import format_value
from dist_train.tasks.answers import Answer

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 100
"""Pictures in a grid."""


class AnswerGrid:
    """Collects pictures with their answers, and draws them."""

    def __init__(self, path: Path | None) -> None:
        """
        Args:
            path: file to write the grid to; None: nothing is drawn.

        Raises:
            ConfigError: it can't be written there, or matplotlib is missing.
        """
        if path is not None:
            check_destination(path)
            import_extra("matplotlib", "plot")  # before anything is computed
        self._path = path
        self._pictures: list[NDArray[Any]] = []
        self._captions: list[list[str]] = []
        self._wrong: list[bool] = []

    @property
    def has_room(self) -> bool:
        """Whether more pictures are drawn."""
        return self._path is not None and len(self._pictures) < MOST

    def add(self, pictures: "Iterable[NDArray[Any]]", answers: Iterable[Answer], names: Iterable[str]) -> None:
        """Add pictures, uint8 [H, W] or [H, W, 3] of any size, with their predictions and names."""
        for picture, answer, name in zip(pictures, answers, names, strict=True):
            if self.has_room:
                self._pictures.append(picture)
                self._captions.append(caption(answer, name))
                self._wrong.append(bool(answer.is_wrong))

    def draw(self) -> None:
        """Write the picture, unless there is nothing to draw."""
        if self._path is not None and self._pictures:
            draw_grid(self._pictures, self._captions, self._path, self._wrong)


def caption(answer: Answer, name: str) -> list[str]:
    """Return the lines below a picture: the prediction, the truth, and the name of the sample."""
    lines = []
    if answer.guesses:
        chosen = (f"{guess.name} ({100 * guess.probability:.0f} %)" for guess in answer.chosen())
        lines.append(", ".join(chosen) or "none")
    elif answer.numbers is not None:
        lines.append(format_value(answer.numbers))
    if answer.truth is not None:
        lines.append(f"truth {format_value(answer.truth)}")
    return [*lines, name]
