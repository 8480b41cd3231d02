"""The generated reference of settings."""

from dist_train.settings.documentation import format_documentation
from dist_train.settings.loading.messages import get_last_part
from dist_train.settings.schema import Config, list_keys


def test_reference_names_every_setting_once_and_its_default() -> None:
    reference = format_documentation()
    for key in list_keys((Config,)):
        assert f"`{key}`" in reference or f"`{get_last_part(key)}` " in reference, key
    for section in Config.model_fields:
        assert f"\n## {section}\n" in reference
    lines = reference.splitlines()
    allowed = "a whole number of at least 1 and at most 1000000000"
    assert f"- `data.global_batch`: {allowed}. Default: `64`. Samples per optimizer step" in reference
    assert "- with `optim.name` rprop, by default: `lr` 0.01, `etas` [0.5, 1.2], `step_sizes` [1.0e-06, 50.0]" in lines
    for losses, argument in (
        ("cross_entropy, nll", "weight"),
        ("cross_entropy", "label_smoothing"),
        ("huber", "delta"),
    ):
        assert f"- `loss.args.{argument}` (with `loss.name` {losses}): " in reference
    assert len({line for line in lines if line}) == len([line for line in lines if line])
