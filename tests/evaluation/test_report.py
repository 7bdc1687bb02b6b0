import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from evaluation.report import (
    PROTOCOLS,
    ROWS,
    evaluate_predictions,
    format_table,
    json_safe,
    markdown_table,
    watermarked,
)
from evaluation.scores import SCORE_NAMES, binary_scores
from systems.base.results import write_binary_results


def simulated(split: str = "session") -> pd.DataFrame:
    random = np.random.default_rng(0)
    recording = np.repeat(np.arange(48), random.integers(4, 9, 48))
    label = np.array([0, 1, 1])[recording // 2 % 3]
    session = recording // 4
    score = label - 0.5 + random.standard_normal(48)[recording] + random.standard_normal(len(recording))
    fold = session % 3 if split == "session" else np.arange(len(recording)) % 3
    return pd.DataFrame(
        {
            "sample": np.arange(len(recording)),
            "recording": [f"a{number:04d}" for number in recording],
            "session": [f"C{number}" for number in session],
            "person": [f"C{number // 2}" + "ab"[number % 2] for number in recording // 2],
            "fold": fold,
            "label": label,
            "probability": 1 / (1 + np.exp(-score)),
            "threshold": np.array([0.4, 0.5, 0.6])[fold],
            "site": "LV",
        }
    )


def strict(text: str):
    def refuse(word: str):
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_scores_stand_for_beats_recordings_and_persons_at_both_thresholds():
    predictions = simulated()
    metrics = evaluate_predictions(predictions, protocol="session", draws=50)
    assert metrics["counts"] == {
        "beats": len(predictions),
        "recordings": 48,
        "persons": 24,
        "sessions": 12,
        "folds": 3,
    }
    for unit, count in (("beats", len(predictions)), ("recordings", 48), ("persons", 24)):
        for place in ("at_half", "at_validation_threshold"):
            part = metrics[unit][place]
            assert part["pooled"]["n"] == count
            assert set(part["mean"]) == set(part["standard_deviation"]) == set(SCORE_NAMES)
            assert [fold["fold"] for fold in part["per_fold"]] == [0, 1, 2]
            assert (
                part["intervals"]["auroc"]["low"]
                < part["pooled"]["auroc"]
                < part["intervals"]["auroc"]["high"]
            )
            assert part["intervals"]["macc"]["estimate"] == pytest.approx(part["pooled"]["macc"])
            assert part["intervals"]["auroc"]["clusters"] == 12
    for place, limit in (("at_half", 0.5), ("at_validation_threshold", predictions["threshold"])):
        expected = binary_scores(predictions["label"], predictions["probability"], limit)
        assert metrics["beats"][place]["pooled"] == pytest.approx(expected)


def test_beats_split_over_folds_are_put_together_within_each_fold_and_over_all():
    metrics = evaluate_predictions(simulated("beat"), protocol="beat", draws=20)
    part = metrics["recordings"]["at_half"]
    assert [fold["n"] for fold in part["per_fold"]] == [48, 48, 48]
    assert part["pooled"]["n"] == 48
    assert part["intervals"]["auroc"]["clusters"] == 12


def test_persons_are_left_out_with_a_reason_where_unknown():
    metrics = evaluate_predictions(simulated().assign(person=""), protocol="session", draws=0)
    assert metrics["persons"] is None
    assert "names a person" in metrics["notes"][0]
    assert "persons: n/a" in format_table(metrics)


def test_a_person_with_both_labels_counts_as_two():
    predictions = simulated()
    whole_sessions = predictions.assign(person=predictions["session"])
    mixed = int((predictions.groupby("session")["label"].nunique() > 1).sum())
    assert mixed > 0
    metrics = evaluate_predictions(whole_sessions, protocol="session", draws=0)
    assert metrics["persons"]["at_half"]["pooled"]["n"] == predictions["session"].nunique() + mixed


def test_one_prediction_a_recording_has_no_beats(tmp_path):
    predictions = simulated().drop_duplicates("recording")
    metrics = evaluate_predictions(predictions, protocol="session", draws=20)
    assert metrics["beats"] is None
    assert metrics["recordings"]["at_half"]["pooled"]["n"] == 48
    assert "beats" not in format_table(metrics)
    assert "beats" not in markdown_table(metrics)
    assert not [
        path for path in write_binary_results(tmp_path, predictions, metrics, {}) if "beats" in path.name
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "leave-one-out", "draws": 0}, "choose one of paper"),
        ({"protocol": "beat", "threshold": 0.5, "draws": 0}, "half or"),
    ],
)
def test_unknown_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate_predictions(simulated(), **settings)


def test_json_is_strict_even_with_undefined_scores(tmp_path):
    predictions = simulated()
    predictions = predictions[predictions["label"] == 1].assign(fold=0)
    metrics = evaluate_predictions(predictions, protocol="session", draws=20)
    write_binary_results(tmp_path, predictions, metrics, {})
    read = strict((tmp_path / "metrics.json").read_text())
    assert read == metrics
    assert read["beats"]["at_half"]["pooled"]["auroc"] is None
    assert "n/a" in format_table(metrics)
    assert json_safe({1: (np.float32(0.5), np.nan, np.int64(2), np.array([np.inf]))}) == {
        "1": [0.5, None, 2, [None]]
    }


def test_paper_is_watermarked_in_every_output(tmp_path, monkeypatch):
    drawn: list[Figure] = []

    def draw(figure: Figure) -> bytes:
        drawn.append(figure)
        return b""

    monkeypatch.setattr("systems.base.results._png", draw)
    predictions = simulated("beat")
    metrics = evaluate_predictions(predictions, protocol="paper", draws=20, watermark="simulated data")
    write_binary_results(tmp_path, predictions, metrics, {"more": pd.DataFrame({"score": [0.5]})})
    expected = "simulated data; selected on test"
    assert len(drawn) == 9
    assert all(expected in [text.get_text() for text in figure.texts] for figure in drawn)
    assert strict((tmp_path / "metrics.json").read_text())["stamp"] == expected
    for name in ("predictions", "recordings", "persons", "more"):
        assert set(pd.read_csv(tmp_path / f"{name}.csv")["stamp"]) == {expected}
    assert expected in format_table(metrics)
    assert expected in (tmp_path / "report.md").read_text()


def test_watermarks_are_joined_once_each():
    assert watermarked("session") == ""
    assert watermarked("paper", "") == "selected on test"
    assert (
        watermarked("paper", "selected on test; simulated data", "simulated data")
        == "selected on test; simulated data"
    )


def test_written_tables_read_back_as_they_were(tmp_path):
    predictions = simulated()
    metrics = evaluate_predictions(predictions, protocol="session", draws=20)
    written = write_binary_results(tmp_path / "run", predictions, metrics, {})
    assert sorted(path for path in (tmp_path / "run").rglob("*.*")) == sorted(written)
    read = pd.read_csv(tmp_path / "run" / "predictions.csv")
    pd.testing.assert_frame_equal(read, predictions, check_dtype=False, check_exact=True)
    assert len(pd.read_csv(tmp_path / "run" / "recordings.csv")) == 48


def test_a_failing_write_leaves_no_partial_file(tmp_path, monkeypatch):
    predictions = simulated()
    metrics = evaluate_predictions(predictions, protocol="session", draws=0)

    def fail(table, path, **_):
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(OSError, match="disk full"):
        write_binary_results(tmp_path, predictions, metrics, {})
    assert not [path for path in tmp_path.rglob("*") if path.suffix != ".png" and path.is_file()]
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("draws", [0, 20])
def test_the_table_fits_the_terminal_and_holds_the_scores(protocol, draws):
    metrics = evaluate_predictions(simulated(), protocol=protocol, draws=draws, threshold="validation")
    text = format_table(metrics)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert all(line == line.rstrip() for line in text.splitlines())
    part = metrics["recordings"]["at_validation_threshold"]
    row = next(line for line in text.splitlines() if line.startswith(" AUROC"))
    assert f"{part['pooled']['auroc']:.3f}" in row
    assert f"{part['mean']['auroc']:.3f} ± {part['standard_deviation']['auroc']:.3f}" in row
    assert ("[" in row) == bool(draws)


def test_the_markdown_table_is_regular():
    metrics = evaluate_predictions(simulated(), protocol="session", draws=20)
    rows = [line for line in markdown_table(metrics).splitlines() if line.startswith("|")]
    assert len(rows) == len(ROWS) + 3
    assert {row.count("|") for row in rows} == {8}


def test_a_class_of_one_session_has_no_interval_in_any_output(tmp_path):
    predictions = simulated()
    normal = predictions["label"] == 0
    predictions.loc[normal, "session"] = "C0"
    metrics = evaluate_predictions(
        predictions.assign(fold=0), protocol="session", draws=50, scope="1 of 5 folds: 48 of 96 recordings"
    )
    reason = "all normal recordings come from 1 session"
    for name in ("auroc", "macc"):
        interval = metrics["recordings"]["at_half"]["intervals"][name]
        assert (interval["low"], interval["high"], interval["reason"]) == (None, None, reason)
    write_binary_results(tmp_path, predictions, metrics, {})
    texts = [format_table(metrics), *((tmp_path / f"report.{end}").read_text() for end in ("md", "html"))]
    for text in texts:
        assert "not estimable" in text
        assert reason in text
        assert "1 of 5 folds: 48 of 96 recordings" in text
    assert strict((tmp_path / "metrics.json").read_text()) == metrics


def test_under_patient_the_reason_speaks_of_patients():
    predictions = simulated()
    predictions.loc[predictions["label"] == 1, "session"] = "C1"
    metrics = evaluate_predictions(predictions, protocol="patient", draws=50)
    reason = metrics["recordings"]["at_half"]["intervals"]["auroc"]["reason"]
    assert reason == "all abnormal recordings come from 1 patient"


def test_persons_with_both_labels_are_counted_once_and_explained():
    predictions = simulated()
    predictions = predictions.assign(person=predictions["session"])
    both = int((predictions.groupby("session")["label"].nunique() > 1).sum())
    metrics = evaluate_predictions(predictions, protocol="session", draws=0)
    persons = predictions["session"].nunique()
    assert (metrics["counts"]["persons"], metrics["persons_with_both_labels"]) == (persons, both)
    said = f"{both} of the {persons} persons have recordings of both labels"
    for text in (" ".join(format_table(metrics).split()), markdown_table(metrics)):
        assert said in text
        assert f"which makes {persons + both}." in text


def test_the_thresholds_that_the_scores_use_are_shown():
    predictions = simulated()
    text = format_table(
        evaluate_predictions(predictions, protocol="session", draws=0, threshold="validation")
    )
    assert "threshold from the validation part of each fold: 0.400, 0.500, 0.600" in text
    assert "threshold 0.5\n" in format_table(evaluate_predictions(predictions, protocol="session", draws=0))
