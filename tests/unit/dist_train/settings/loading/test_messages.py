"""Keys that are no settings: words of other programs are answered with what they are called here."""

from collections.abc import Callable

import pytest

from dist_train.settings.loading.renames import FOREIGN_SECTIONS, FOREIGN_WORDS, RENAMED_KEYS
from dist_train.settings.schema import Config, list_keys
from tests.unit.dist_train.settings.conftest import LEAST, Load, complaint

KEYS = {*list_keys((Config,)), *Config.model_fields, *RENAMED_KEYS.values(), "loss.args.weight"}
PARTS = [list(FOREIGN_WORDS)[start : start + 40] for start in range(0, len(FOREIGN_WORDS), 40)]
"""The words, few enough for one message."""
SECTIONS = [(word, name) for name, words in FOREIGN_SECTIONS.items() for word in words.split()]


def setting_of(meaning: str) -> str:
    return meaning.partition(":")[0].partition(",")[0]


def test_each_word_means_a_setting_that_there_is() -> None:
    for word, meaning in FOREIGN_WORDS.items():
        assert setting_of(meaning) in KEYS or meaning.startswith("no setting: "), word
        assert word not in Config.model_fields
    assert set(FOREIGN_SECTIONS) <= set(Config.model_fields)


@pytest.mark.parametrize("head", ["", "  "])
@pytest.mark.parametrize("spell", [str, str.upper, lambda word: word.replace("_", "-")])
def test_a_word_in_a_file_is_answered(load: Load, head: str, spell: Callable[[str], str]) -> None:
    """At the top, and in a section that is none here."""
    section, prefix = ("hyperparameters:\n", "hyperparameters.") if head else ("", "")
    for words in PARTS:
        text = complaint(load, LEAST + section + "".join(f"{head}{spell(word)}: 1\n" for word in words))
        for word in words:
            assert f"{prefix}{spell(word)} is not a setting; here it is {FOREIGN_WORDS[word]}\n" in f"{text}\n"


@pytest.mark.parametrize("head", ["", "trainer.", "model.", "a.b."])
def test_a_word_on_the_command_line_is_answered(load: Load, head: str) -> None:
    for words in PARTS:
        wrong = [word for word in words if f"{head}{word}" not in KEYS]
        lines = complaint(load, LEAST, *(f"{head}{word}=1" for word in wrong)).splitlines()
        for word, line in zip(wrong, lines, strict=True):
            meaning = FOREIGN_WORDS[word]
            own = f"{head}{setting_of(meaning).rpartition('.')[2]}"  # model.dropout_rate is model.dropout
            expected = own if head and own in KEYS - {setting_of(meaning)} else meaning
            assert line == f"command line: {head}{word}=1: {head}{word} is not a setting; here it is {expected}"


@pytest.mark.parametrize(("word", "name"), SECTIONS)
def test_a_section_of_another_name_is_answered(load: Load, word: str, name: str) -> None:
    text = complaint(load, LEAST + f"{word}:\n  zzz: 1\n  max_epochs: 3")
    assert text == (
        f"a.yaml:3: {word} is not a setting; here it is the section {name}\n"
        f"a.yaml:5: {word}.max_epochs is not a setting; here it is train.epochs"
    )


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("lr=1", "Did you mean optim.lr?"),
        ("epochs=1", "Did you mean train.epochs?"),
        ("weight_decay=1", "Did you mean optim.weight_decay"),
        ("seed=1", "Did you mean run.seed?"),
        ("precision=1", "Did you mean train.precision?"),
        ("trainer.precision=bf16", "Did you mean train.precision?"),
        ("optim.learning_rate=1", "here it is optim.lr"),
        ("optim.rest.learning_rate=1", "here it is optim.rest.lr"),
        ("learning-rate=1", "here it is optim.lr"),
        ("data.batch_size=1", "here it is data.global_batch: the samples of one step"),
    ],
)
def test_names_that_are_the_same_lead_to_their_section(load: Load, override: str, answer: str) -> None:
    assert answer in complaint(load, LEAST, override)
