"""Model cards of runs made by hand."""

from pathlib import Path

import pytest
from handmade import add_evidence, record_run

from mnist_exp import tracking
from mnist_exp.evidence import comparison
from mnist_exp.reporting.cards import write_cards
from mnist_exp.tracking.networks import LONGEST, describe_registered


@pytest.mark.usefixtures("store")
def test_an_iteration_that_meets_the_target_has_a_card(tmp_path: Path) -> None:
    for seed in (1, 2):
        add_evidence(record_run(6, [60] * 15, seed=seed))
    record_run(5, [61] * 15)
    client, _ = tracking.open_store()
    client.create_registered_model("model-6")
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "model-4.md").touch()  # of an earlier report
    (file,) = write_cards(comparison.compare(), folder)
    assert [entry.name for entry in folder.iterdir()] == ["model-6.md"]
    text = file.read_text()
    assert text.startswith("# Model 6: ")
    assert "A network of 7,416 parameters, trained for 15 epochs" in text
    assert "| 2 | 99.40 % | 99.40 % |" in text
    # Of each digit, both seeds saw 5, and one 4 more was taken for a 9.
    assert "| 4 | 12 | 2 | 9 (2) |" in text
    assert "| 3 | 10 | 0 |  |" in text
    assert "After the last epoch: 99.40 ± 0.00 % over 2 seeds." in text
    assert "chance alone, seeds would scatter by 0.08 points" in text
    assert 'load_model("models:/model-6/latest")' in text
    assert client.get_registered_model("model-6").description == text
    describe_registered("model-6", "x" * 6000)  # of very many seeds
    assert len(client.get_registered_model("model-6").description) == LONGEST


@pytest.mark.usefixtures("store")
def test_a_card_says_when_no_run_holds_its_mistakes(tmp_path: Path) -> None:
    record_run(6, [60] * 15)
    (file,) = write_cards(comparison.compare(), tmp_path)
    assert "No run of it in this store holds its misclassified digits." in file.read_text()
