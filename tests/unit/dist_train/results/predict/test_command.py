"""`dist-train predict`: a run on a split and on pictures of every kind, and what it refuses."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dist_train import evaluate, load_config, load_model, train
from dist_train.data.datasets.picture import decode
from dist_train.errors import DataError
from dist_train.results.predictions import open_predictions
from launch import cli
from tests.conftest import ROOT
from tests.unit.launch.command import run_command

Capture = pytest.CaptureFixture[str]


def predict(capsys: Capture, *arguments: object) -> list[str]:
    """Run the command, which succeeds; return the lines of its standard output."""
    code = cli.main(["predict", *map(str, arguments)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out.splitlines()


def predict_json(capsys: Capture, *arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in predict(capsys, *arguments, "--json")]


@pytest.fixture(scope="module")
def pictures(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five pictures of the run's test split, in order."""
    folder = tmp_path_factory.mktemp("pictures")
    with open_predictions(digits_run) as predictions:
        samples = predictions.opened.samples
    ((images, _),) = samples.read(torch.arange(5), 0)
    for number, image in enumerate(images[:, 0]):
        Image.fromarray(image.numpy()).save(folder / f"{number}.png")
    return folder


class TestSplit:
    def test_all_samples_are_right_and_wrong_as_the_evaluation_says(self, digits_run: Path, capsys: Capture) -> None:
        *lines, summary = predict(capsys, digits_run, "--limit", 1000, "--top", 2)
        correct = evaluate(digits_run).to_dict()["correct"]
        assert (len(lines), summary) == (40, f"{correct} of 40 right")
        assert sum("; WRONG, truth" in line for line in lines) == 40 - correct
        assert all(line.count("%)") == 2 for line in lines)

    def test_json_has_an_object_a_line_with_the_truth_and_the_classes(self, digits_run: Path, capsys: Capture) -> None:
        found = predict_json(capsys, digits_run, "--split", "train", "--checkpoint", "best", "--top", 10)
        assert len(found) == 20
        for each in found:
            assert set(each) == {"index", "truth", "predictions"}
            assert {guess["class"] for guess in each["predictions"]} == {str(digit) for digit in range(10)}
            assert sum(guess["probability"] for guess in each["predictions"]) == pytest.approx(1, abs=1e-5)
        assert found == predict_json(capsys, digits_run, "--split=train", "--checkpoint=best", "--top=10")

    def test_csv_is_a_table_with_names(self, digits_run: Path, capsys: Capture) -> None:
        rows = list(csv.DictReader(predict(capsys, digits_run, "--csv", "--limit", 3, "--top", 1)))
        assert [list(row) for row in rows] == [["index", "truth", "class_1", "probability_1"]] * 3

    def test_a_grid_is_drawn(self, digits_run: Path, pictures: Path, tmp_path: Path, capsys: Capture) -> None:
        for number, inputs in enumerate([[], [pictures]]):
            path = tmp_path / f"{number}.png"
            predict(capsys, digits_run, *inputs, "-o", path)
            with Image.open(path) as drawn:
                assert drawn.width > 100

    def test_matplotlib_is_asked_for_before_anything_is_predicted(
        self, digits_run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        code, printed = run_command(capsys, "predict", digits_run, "-o", tmp_path / "grid.png")
        assert (code, "pip install 'dist-train[plot]'" in printed, "truth" in printed) == (2, True, False), printed


class TestFiles:
    def test_files_and_folders_are_predicted_as_the_split(
        self, digits_run: Path, pictures: Path, capsys: Capture
    ) -> None:
        split = predict_json(capsys, digits_run, "--limit", 5)
        files = predict_json(capsys, digits_run, pictures / "0.png", pictures)
        assert [Path(each["file"]).name for each in files] == ["0.png", "0.png", "1.png", "2.png", "3.png", "4.png"]
        for one, other in zip(split, files[1:], strict=True):
            assert other["truth"] is None
            assert [guess["class"] for guess in one["predictions"]] == [g["class"] for g in other["predictions"]]
            probabilities = [[g["probability"] for g in each["predictions"]] for each in (one, other)]
            assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-4)
        assert predict_json(capsys, digits_run, pictures, "--limit", 2) == files[1:3]

    def test_many_files_come_in_order(self, digits_run: Path, pictures: Path, tmp_path: Path, capsys: Capture) -> None:
        for number in range(600):
            os.link(pictures / f"{number % 5}.png", tmp_path / f"{number:04}.png")
        found = predict_json(capsys, digits_run, tmp_path, "--top", 1)
        assert [Path(each["file"]).name for each in found] == [f"{number:04}.png" for number in range(600)]
        classes = [each["predictions"][0]["class"] for each in found]
        assert classes == classes[:5] * 120

    def test_pictures_of_every_kind_are_read_as_in_training(
        self, digits_run: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        kinds = {}
        for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "RGBX"):
            for ending in ("png", "jpg", "tif", "gif", "webp", "bmp", "jp2"):
                path = tmp_path / f"{mode.replace(';', '_')}.{ending}"
                try:
                    Image.new(mode, (37, 23)).save(path)
                except (OSError, KeyError, ValueError):
                    path.unlink(missing_ok=True)
                    continue
                try:
                    decode(str(path), None)
                    kinds[path.name] = True
                except DataError:
                    kinds[path.name] = False
        assert len(set(kinds.values())) == 2
        code, printed = run_command(capsys, "predict", digits_run, tmp_path, "--top", 1)
        assert code == 1
        for name, is_read in kinds.items():
            assert f"{name}: " in printed
            assert (f"{name}: has" not in printed) == is_read, name

    def test_what_cannot_be_read_is_named_and_the_rest_goes_on(
        self, digits_run: Path, pictures: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        bad = {
            name: tmp_path / name for name in ("empty.png", "cut.png", "text.jpg", "pipe.png", "link.png", "none.png")
        }
        bad["empty.png"].touch()
        bad["cut.png"].write_bytes((pictures / "0.png").read_bytes()[:60])
        bad["text.jpg"].write_text("no picture")
        os.mkfifo(bad["pipe.png"])
        bad["link.png"].symlink_to("nowhere.png")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "notes.txt").touch()
        code, printed = run_command(
            capsys,
            "predict",
            digits_run,
            "",
            *bad.values(),
            pictures / "0.png",
            tmp_path / "folder",
            pictures / "1.png",
        )
        assert code == 1
        assert "8 of 10 could not be read" in printed
        for path in bad.values():
            assert f"{path}: " in printed
        assert "'': is an empty name" in printed
        assert f"{tmp_path / 'folder'}: holds no picture" in printed
        assert "but 1 .txt" in printed
        assert printed.count("%") == 10
        assert run_command(capsys, "predict", digits_run, bad["text.jpg"], tmp_path / "folder")[0] == 2

    def test_a_name_with_control_characters_is_escaped(
        self, digits_run: Path, pictures: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        shutil.copy(pictures / "0.png", tmp_path / "a\x1b[31m\n\udcff.png")
        for form in ([], ["--csv"], ["--json"]):
            lines = predict(capsys, digits_run, tmp_path, *form)
            assert len(lines) == 1 + (form == ["--csv"])
            assert not {"\x1b", "\udcff"} & set("".join(lines))

    @pytest.mark.parametrize(
        "command",
        [
            "evaluate {}",
            "evaluate {} --checkpoint 9",
            "predict {}/x",
            "plot {} -o {}.png",
            "show {} --limit 1 -o {}.png",
            "export {} --format state_dict -o {}.pt",
        ],
    )
    def test_a_run_with_control_characters_in_its_name_is_escaped(
        self, command: str, digits_run: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        name = tmp_path / "a\x1b[31m\nb"
        name.symlink_to(digits_run)
        code, printed = run_command(capsys, *(word.format(name) for word in command.split()))
        assert code in (0, 2)
        assert "a\\x1b[31m\\nb" in printed
        assert not {"a\n", "\nb", "\x1b"} & {printed[at : at + 2] for at in range(len(printed))}


REFUSED = {
    "no run": (["{folder}"], "is not a run: it has no config.yaml"),
    "split beside files": (["{run}", "x.png", "--split", "test"], "--split test: beside files"),
    "weights of a run": (["{run}", "--weights", "x.pt"], "--weights x.pt: {run} is a run"),
    "no such split": (["{run}", "--split", "validation"], "--split validation: this run has none"),
    "no such checkpoint": (["{run}", "--checkpoint", "7"], "step_00000007"),
    "another network": (["{run}", "model.name=lenet"], "is of another network"),
    "an unknown setting": (["{run}", "data.rot=x"], "data.rot"),
    "both forms": (["{run}", "--json", "--csv"], "not allowed with"),
    "an ending of no picture": (["{run}", "-o", "x.txt"], ".png"),
    "a network without pictures": (["torchvision/resnet18"], "name pictures"),
    "settings of no run": (["torchvision/resnet18", "x.png", "data.root=x"], "data.root=x: is for a run"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_arguments_that_do_not_fit_are_refused(kind: str, digits_run: Path, tmp_path: Path, capsys: Capture) -> None:
    names = {"folder": str(tmp_path), "run": str(digits_run)}
    arguments, message = REFUSED[kind]
    code, printed = run_command(capsys, "predict", *(each.format(**names) for each in arguments))
    assert (code, message.format(**names) in printed) == (2, True), printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("lost", ["config.yaml", "checkpoints", "model.pt", "manifest.json", "latest"])
def test_a_half_deleted_run_is_refused_or_its_checkpoint_found(
    lost: str, digits_run: Path, pictures: Path, tmp_path: Path, capsys: Capture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run, symlinks=True)
    for path in [*run.glob(lost), *run.glob(f"checkpoints/{lost}"), *run.glob(f"checkpoints/step_*/{lost}")]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for inputs in ([], [pictures / "0.png"]):
        code, printed = run_command(capsys, "predict", run, *inputs)
        assert code == (0 if lost == "latest" else 2), printed
        assert "Traceback" not in printed
        assert code == 0 or str(run) in printed
        assert f"dist-train ckpt verify {run}" in printed or lost not in ("model.pt", "manifest.json")


def test_a_run_of_an_old_version_says_that_it_has_no_class_names(pictures: Path, capsys: Capture) -> None:
    run = ROOT / "tests" / "fixtures" / "run_before_packages"
    code, printed = run_command(capsys, "predict", run, pictures / "0.png")
    assert (code, "resume the run once" in printed) == (2, True), printed


def test_a_picture_is_scaled_and_cut_to_what_the_network_takes(digits_run: Path, tmp_path: Path) -> None:
    model = load_model(digits_run)
    pixels = np.zeros((60, 100, 3), dtype=np.uint8)
    pixels[:, 20:80] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = model.read_picture(tmp_path / "wide.png")
    assert found.shape == model.data.shape
    assert found[..., 1:-1].min() == 255


@pytest.fixture(scope="module")
def table_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned y = a + 2 b on a table with the columns a, b and y."""
    folder = tmp_path_factory.mktemp("table")
    rows = [f"{number},{number % 7},{number + 2 * (number % 7)}" for number in range(60)]
    (folder / "rows.csv").write_text("\n".join(["a,b,y", *rows]))
    (folder / "table.yaml").write_text(
        f"data: {{name: table, file: {folder / 'rows.csv'}, scale: standard, test: 0.2, global_batch: 48}}\n"
        "model: {name: mlp, hidden: []}\ntask: regression\noptim: {name: adam, lr: 1.0}\ntrain: {max_steps: 60}\n"
    )
    train(load_config(folder / "table.yaml", [f"run.dir={folder / 'run'}"]))
    return folder / "run"


class TestTables:
    def test_a_split_and_a_file_are_numbers_beside_the_truth(
        self, table_run: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        split = predict_json(capsys, table_run)
        assert [set(each) for each in split] == [{"index", "truth", "prediction"}] * 12
        (tmp_path / "new.csv").write_text("b,y,a\n3,16,10\n5,30,20\n")  # columns are found by their names
        (tmp_path / "no_truth.csv").write_text("b,a\n3,10\n")
        found = predict_json(capsys, table_run, tmp_path / "new.csv", tmp_path / "no_truth.csv")
        assert [each["truth"] for each in found] == [16, 30, None]
        assert [(Path(each["file"]).name, each["index"]) for each in found] == [
            ("new.csv", 0), ("new.csv", 1), ("no_truth.csv", 0),
        ]  # fmt: skip
        assert found[0]["prediction"] == pytest.approx(found[2]["prediction"]) == pytest.approx(16, abs=3)
        assert len(predict(capsys, table_run, tmp_path / "new.csv", "--limit", 1)) == 1
        header, *rows = predict(capsys, table_run, tmp_path / "new.csv", "--csv")
        assert (header, len(rows)) == ("file,index,truth,prediction", 2)

    def test_tables_that_do_not_fit_are_named_and_the_rest_goes_on(
        self, table_run: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        contents = {
            "text": "a,b\n1,two\n",
            "empty": "a,b\n1,\n",
            "one": "a\n1\n",
            "others": "a,b,c\n1,2,3\n",
            "nothing": "",
            "picture": "\x89PNG",
        }
        for name, content in contents.items():
            (tmp_path / f"{name}.csv").write_text(content)
        (tmp_path / "good.csv").write_text("a,b\n1,2\n")
        code, printed = run_command(capsys, "predict", table_run, *sorted(tmp_path.iterdir()), tmp_path / "none.csv")
        assert (code, "7 of 8 could not be read" in printed) == (1, True), printed
        assert all(f"{tmp_path / name}.csv" in printed for name in (*contents, "none", "good"))
        assert run_command(capsys, "predict", table_run, tmp_path / "text.csv")[0] == 2

    def test_pictures_are_no_rows_and_rows_no_pictures(
        self, table_run: Path, digits_run: Path, pictures: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
        for run, file in ((table_run, pictures / "0.png"), (digits_run, tmp_path / "rows.csv")):
            code, printed = run_command(capsys, "predict", run, file)
            assert (code, str(file) in printed, "Traceback" in printed) == (2, True, False), printed
        for inputs in ([], [tmp_path / "rows.csv"]):
            code, printed = run_command(capsys, "predict", table_run, *inputs, "-o", tmp_path / "grid.png")
            assert (code, "no pictures" in printed, "truth" in printed) == (2, True, False), printed


def test_a_data_set_and_a_task_of_the_users_own_show_the_output_and_take_no_pictures(
    pictures: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own.yaml").write_text(
        "data: {name: 'own.py:Pairs', global_batch: 4}\nmodel: {name: 'own.py:Net'}\ntask: 'own.py:Near'\n"
        "optim: {name: sgd, lr: 0.1}\ntrain: {max_steps: 2}\n"
    )
    monkeypatch.chdir(tmp_path)
    train(load_config("own.yaml", ["run.dir=run"]))
    capsys.readouterr()
    found = predict_json(capsys, "run", "--limit", 2)
    assert [set(each) for each in found] == [{"index", "truth", "prediction"}] * 2
    assert [each["truth"] for each in found] == [[0, 1], [1, 2]]
    assert all(len(each["prediction"]) == 2 for each in found)
    code, printed = run_command(capsys, "predict", "run", pictures / "0.png")
    assert (code, "own.py:Pairs, which prepares its samples by itself" in printed) == (2, True), printed


OWN = """
import torch
from torch import nn

class Pairs(torch.utils.data.Dataset):
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return 8

    def __getitem__(self, number):
        return torch.full((3,), float(number)), torch.tensor([number, number + 1.0])

class Net(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

class Near:
    def loss(self, output, target):
        return (output - target).square().mean(dim=1)
"""
