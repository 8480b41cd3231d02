"""Settings of rows of numbers: what they need, and what they do not have."""

import pytest

from dist_train.settings.loader import to_yaml
from dist_train.settings.schema import LineData, TableData
from tests.unit.dist_train.settings.conftest import Load, complaint

LINE = "data: {name: line}\nmodel: {name: mlp}\ntask: regression\n"
TABLE = "data: {name: table, sklearn: diabetes}\nmodel: {name: mlp}\ntask: regression\n"


def test_rows_have_no_folder_and_no_cache(load: Load) -> None:
    line, table = load(LINE), load(TABLE, "data.augment.noise=0.5")
    assert isinstance(line.data, LineData)
    assert isinstance(table.data, TableData)
    assert table.data.augment.noise == 0.5
    assert load(to_yaml(line)) == line
    assert load(to_yaml(table)) == table


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (
            LINE,
            "task=classification",
            "task is classification, but data.name line has a number to predict: set regression",
        ),
        (TABLE, "task=multilabel", "task is multilabel, but data.name table has a number to predict"),
        (TABLE, "data.validation=split", "data.validation is split, but data.name table has no such split"),
        (TABLE, "data.file=a.csv", "data.file and data.sklearn are both set; set one of them"),
        (TABLE, "data.sklearn=null", "data.file and data.sklearn are both missing; set one of them"),
        (TABLE, "data.sklearn=boston", "data.sklearn is 'boston'; it must be diabetes, or null"),
        (TABLE, "data.scale=maxmin", "data.scale is 'maxmin'; allowed: none, minmax, standard"),
        (TABLE, "data.test=1", "data.test is 1; it must be a number of at least 0 and below 1"),
        (TABLE, "data.root=a", "data.root is not a setting of data.name table; table takes:"),
        (TABLE, "data.augment.flip=true", "data.augment.flip is not a setting"),
        (LINE, "data.noise=-1", "data.noise is -1; it must be a number of at least 0"),
        (LINE, "data.num_train=0", "data.num_train is 0"),
        (LINE, "model.hidden=16", "model.hidden is 16; it must be a list, each a whole number"),
        (LINE, "model.activation=relu6", "model.activation is 'relu6'; allowed: relu, tanh"),
        (LINE, "data.augment.noise=-0.1", "data.augment.noise is -0.1"),
        (LINE, "train.overfit_batches=0", "train.overfit_batches is 0; it must be a whole number of at least 1"),
        (LINE, "data.limit=last", "data.limit is 'last'; allowed: spaced, first"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(load: Load, text: str, override: str, message: str) -> None:
    assert message in complaint(load, text, override)
