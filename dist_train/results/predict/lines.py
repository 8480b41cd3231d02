"""Print answers: a line for people, a JSON object, or a row of CSV for each."""

import csv
import json
import sys
from collections.abc import Mapping
from typing import Any

from dist_train.eval_line import to_plain
from dist_train.system.escape import escape
from dist_train.tasks.answers import Answer


class AnswerLines:
    """Prints answers to standard output, one a line."""

    def __init__(self, as_json: bool, as_csv: bool) -> None:
        self._as_json = as_json
        self._table = csv.writer(sys.stdout, lineterminator="\n") if as_csv else None
        self.count = 0
        """Answers so far."""
        self._right = self._judged = 0

    def print(self, sample: Mapping[str, str | int], answer: Answer) -> None:
        """Print the prediction for one sample.

        Args:
            sample: its name: `file`, `index` or both.
        """
        if self._as_json:
            text = json.dumps({**sample, **_to_object(answer)})
            print(text.replace("\x7f", "\\u007f"))  # the only control character that JSON leaves
        elif self._table:
            if not self.count:
                self._table.writerow([*sample, "truth", *_name_columns(answer)])
            cells = [value for guess in answer.guesses for value in guess] or [answer.numbers]
            self._table.writerow([_to_cell(value) for value in (*sample.values(), answer.truth, *cells)])
        else:
            print(f"{escape(':'.join(map(str, sample.values())))}: {_format_answer(answer)}")
        self.count += 1
        self._judged += answer.is_wrong is not None
        self._right += answer.is_wrong is False

    def print_summary(self) -> None:
        """Print for people how many answers are right, if that is known."""
        if self._judged and not (self._as_json or self._table):
            print(f"{self._right} of {self._judged} right")


def format_value(value: Any) -> str:
    """Return a class name, several, or numbers, such as `3.25` and `[1, 2.5]`."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"[{', '.join(map(format_value, value))}]"
    return escape(value)


def _format_answer(answer: Answer) -> str:
    """`cat (98.8 %), dog (1.0 %); truth cat`, or `...; WRONG, truth dog`."""
    guesses = ", ".join(f"{escape(name)} ({100 * probability:.1f} %)" for name, probability in answer.guesses)
    prediction = guesses or format_value(answer.numbers)
    if answer.truth is None:
        return prediction
    return f"{prediction}; {'WRONG, ' if answer.is_wrong else ''}truth {format_value(answer.truth)}"


def _to_object(answer: Answer) -> dict[str, Any]:
    if not answer.guesses:
        return {"truth": answer.truth, "prediction": answer.numbers}
    guesses = [{"class": name, "probability": to_plain(probability)} for name, probability in answer.guesses]
    return {"truth": answer.truth, "predictions": guesses}


def _name_columns(answer: Answer) -> list[str]:
    places = range(1, len(answer.guesses) + 1)
    return [f"{what}_{place}" for place in places for what in ("class", "probability")] or ["prediction"]


def _to_cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value)
    return escape(value) if isinstance(value, str) else value
