"""What is read as a forecast, and what came of it."""

import dataclasses
from pathlib import Path

import pytest
from handmade import record_run
from short_runs import carry_out, short

from mnist_exp import tracking
from mnist_exp.commands.cli import main
from mnist_exp.evidence import comparison
from mnist_exp.evidence.forecasts import Forecast, read_forecasts
from mnist_exp.notebook import entries, loading
from mnist_exp.notebook.entries import Entry
from mnist_exp.recipe import Target
from mnist_exp.reporting.forecasts import forecasts_of
from mnist_exp.reporting.page import write_page
from mnist_exp.runs import sweep


def read(text: str) -> list[tuple[bool, float, float, float | None]]:
    forecasts, unread = read_forecasts(text, 5)
    assert unread == ()
    return [(one.of_final, one.low, one.high, one.level) for one in forecasts]


@pytest.mark.parametrize(
    "text",
    [
        "worst of the last five 99.38 % to 99.50 %",
        "Worst of the last 5 epochs: 99.38 to 99.50 %.",
        "3 to 5 digits above model 9; worst of the last five between 99.38 % and 99.5 %, I hope",
        "worst of the last five 99.38–99.50 %",
    ],
)
def test_a_forecast_of_the_worst_epoch(text: str) -> None:
    assert read(text) == [(False, 0.9938, 0.995, None)]


@pytest.mark.parametrize(
    "end", [", an 80 % interval", "; an 80 % interval", " (an 80% interval)", " an 80 % interval."]
)
def test_it_may_say_how_sure_it_is(end: str) -> None:
    text = f"final 99.45 % to 99.55 %{end} and worst of the last five 99.3 % to 99.5 %"
    assert read(text) == [(True, 0.9945, 0.9955, 0.8), (False, 0.993, 0.995, None)]


def test_words_alone_are_no_forecast() -> None:
    for number in entries.numbers():
        assert read(entries.read_entry(number).sections["Expect"]) == []
    assert read("a gain of 3 to 5 digits, and a gap that narrows from 1 % to 0.5 %") == []
    assert read("final accuracy 0.03 to 0.08 % above model 9") == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("wosrt of the last five 99.38 % to 99.50 %", "99.38 % to 99.50 %"),
        ("99.38 % to 99.50 % in the end", "99.38 % to 99.50 %"),
        ("worst of the last four 99.38 % to 99.50 %", "last four"),
        ("worst of the last five 99.50 % to 99.38 %", "99.50 % to 99.38 %"),
        ("final 99.45 % to 109.55 %", "109.55 %"),
        ("worst of the last five at least 99.38 %", "at least 99.38 %"),
        ("final about 99.4 %, an 80 % interval", "an 80 % interval"),
        ("final 99.38 % to 99.50 %; mean 99.2 % to 99.3 %", "mean 99.2 % to 99.3 %"),
    ],
)
def test_what_looks_like_a_forecast_is_not_dropped(text: str, part: str) -> None:
    _, unread = read_forecasts(text, 5)
    (named,) = unread
    assert part in named


@pytest.fixture
def expecting(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """What iterations expect, by their numbers, in the place of what their files say."""
    expected: dict[int, str] = {}
    read_entry = entries.read_entry

    def changed(number: int, *folder: Path) -> Entry:
        entry = read_entry(number, *folder)
        text = expected.get(number, entry.sections["Expect"])
        return dataclasses.replace(entry, sections=entry.sections | {"Expect": text})

    monkeypatch.setattr(entries, "read_entry", changed)
    return expected


@pytest.mark.usefixtures("store")
def test_the_report_scores_them(expecting: dict[int, str], tmp_path: Path) -> None:
    expecting[5] = "worst of the last five 99.38 % to 99.50 %, an 80 % interval"
    expecting[6] = (
        "final 99.41 % to 99.50 %, an 80 % interval; worst of the last five 99.3 to 99.4 %"
    )
    expecting[7] = "final 99 % to 99.2 %"
    expecting[8] = "wosrt of the last five 99.38 % to 99.50 %"
    record_run(5, errors=[100] * 10 + [60, 50, 50, 50, 40])  # the worst is 99.40 %
    record_run(6, errors=[60] * 15)
    record_run(7, status="FAILED")
    record_run(8)
    part = forecasts_of(comparison.compare(), {number: f"model {number}" for number in range(9)})
    assert part is not None
    assert part.table["came"].tolist() == ["hit", "missed", "hit", "open"]
    assert part.table["measured"].tolist() == ["99.40 %", "99.40 %", "99.40 %", "–"]
    # Of two, one: the exact interval is wide.
    assert part.what == (
        "2 of 3 forecasts came. Intervals of 80 % held in 1 of 2 cases: such intervals hold in "
        "1 to 99 % (exact, 95 %)."
    )
    (sentence,) = part.unread
    assert sentence.startswith('Model 8: no forecast is read from "wosrt of the last five 99.38 %')
    page = write_page(comparison.compare(), tmp_path / "report.html")
    for text in (page.read_text(), (tmp_path / "report_files" / "report.md").read_text()):
        assert "2 of 3 forecasts came." in text
        assert "not scored" not in text


@pytest.mark.usefixtures("store", "few_digits")
def test_what_was_told_after_the_first_run_is_not_scored(
    expecting: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(test_accuracy=0.01, last_epochs=2, max_epochs=15, parameters_below=8_000)
    monkeypatch.setattr(loading, "load_target", lambda: target)
    carry_out(short())
    expecting[6] = "final 1 % to 100 %"
    (told,) = comparison.compare().forecasts.scored
    assert (told.told_late, told.came) == (True, None)
    assert told.measured is not None
    part = forecasts_of(comparison.compare(), {6: "model 6"})
    assert part is not None
    assert part.what == "No forecast can be scored yet."
    assert part.table["came"].tolist() == ["not scored: it was told after the first run"]
    carry_out(short())  # which takes the place of the first, and has it
    (told,) = comparison.compare().forecasts.scored
    assert told.told_late
    # A run that kept no source, as those that are imported, is believed.
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "source", lambda *_: None)
        (told,) = comparison.compare().forecasts.scored
        assert told.came


@pytest.mark.usefixtures("store", "few_digits")
def test_what_cannot_be_read_is_said_before_a_training(
    expecting: dict[int, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expecting[6] = "wosrt of the last five 99.38 % to 99.50 %"
    said = 'no forecast is read from "wosrt of the last five 99.38 % to 99.50 %": it reads as in'
    assert main(["run", "MODEL=6", "EPOCHS=1"]) == 0
    assert f"  take care: {said}" in capsys.readouterr().out
    monkeypatch.setattr(sweep, "train_missing", lambda *_, **__: [])
    assert main(["sweep", "MODELS=6", "SEEDS=2", "EPOCHS=1", "WORKERS=2"]) == 0
    assert f"take care: model 6: {said}" in capsys.readouterr().out


def test_bounds_are_included() -> None:
    forecast = Forecast("", True, 0.9938, 0.995, None)
    assert [forecast.holds(x) for x in (0.99379, 0.9938, 0.995, 0.99501)] == [
        False, True, True, False,
    ]  # fmt: skip
