"""Studies: which parts there are, what is run and what is not run again, and the tables made of scores."""

import json

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from models import MODELS, NETWORKS
from studies import ecg_multimodal, runner
from studies.physionet2016 import benchmark as physionet2016
from studies.physionet2016.tables import comparisons, markdown, over_seeds, story_figure, write_tables
from studies.runner import Part, choose_parts, is_done, list_parts, run_parts


def leave_scores(root, name, auroc, *, beats=True, sessions=10):
    """Leave what evaluate.py leaves: metrics and recordings whose scores separate the labels by ``auroc``."""
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    pooled = {"auroc": auroc, "macc": 0.6, "brier": 0.2}
    part = {"at_half": {"pooled": pooled, "intervals": {"auroc": {"low": auroc - 0.1, "high": auroc + 0.1}}}}
    metrics = {"counts": {"folds": 5}, "recordings": part, "beats": part if beats else None}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    label = np.arange(4 * sessions) % 2
    noise = np.random.default_rng(len(name)).normal(size=len(label))
    table = pd.DataFrame(
        {
            "recording": [f"a{row:04d}" for row in range(len(label))],
            "session": [f"C{row // 4}" for row in range(len(label))],
            "person": [f"C{row // 4}P{row % 2}" for row in range(len(label))],
            "label": label,
            "probability": 1 / (1 + np.exp(-(4 * auroc - 2) * label - noise)),
        }
    )
    table.to_csv(folder / "recordings.csv", index=False)


# The runner -----------------------------------------------------------------------------------------


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Record the commands of a study instead of running them; evaluation leaves its scores."""
    seen = []

    class Done:
        returncode = 0

    def run(command, **_):
        words = [str(word) for word in command[1:]]
        seen.append(words)
        if words[0] == "evaluate.py":
            name = words[words.index("--checkpoint") + 1].removeprefix("checkpoints/")
            if words[-1] != "ecg":
                (tmp_path / "runs" / name).mkdir(parents=True)
                (tmp_path / "runs" / name / "metrics.json").write_text("{}")
        return Done()

    monkeypatch.setattr(runner.subprocess, "run", run)
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(runner.torch.cuda, "is_available", lambda: False)
    return seen


def test_parts_are_trained_then_evaluated_and_what_marks_them_done_comes_last(commands, tmp_path):
    part = Part("one", ("--model", "x"), (("--without", "nothing"), ("--without", "ecg")))
    run_parts([part], tmp_path, workers=1)
    assert [words[0] for words in commands] == ["training.py", "evaluate.py", "evaluate.py"]
    assert commands[0][1:5] == ["--model", "x", "--run-name", "one"]
    assert "--resume" in commands[0]
    assert [words[-1] for words in commands[1:]] == ["ecg", "nothing"]
    assert is_done(part, tmp_path)


def test_what_is_done_is_not_run_again(commands, tmp_path):
    parts = [Part("one", ()), Part("two", ())]
    run_parts(parts[:1], tmp_path, workers=1)
    run_parts(parts, tmp_path, workers=2)
    trained = [words[words.index("--run-name") + 1] for words in commands if words[0] == "training.py"]
    assert trained == ["one", "two"]
    assert list_parts(parts, tmp_path) == "done  one\ndone  two"


def test_a_failed_part_is_named_and_does_not_stop_the_others(commands, monkeypatch, tmp_path, capsys):
    class Failed:
        returncode = 1

    original = runner.subprocess.run
    monkeypatch.setattr(
        runner.subprocess, "run", lambda command, **_: Failed() if "bad" in command else original(command)
    )
    run_parts([Part("bad", ()), Part("good", ())], tmp_path, workers=1)
    said = capsys.readouterr().out
    assert "bad: failed, see" in said
    assert "good: done" in said


def test_an_unknown_part_is_refused():
    with pytest.raises(UserError, match="no part three; --list names them"):
        choose_parts([Part("one", ())], ["three"])


# The benchmark --------------------------------------------------------------------------------------


def test_every_network_is_measured_under_session_and_beat():
    names = {part.name for part in physionet2016.parts()}
    assert {f"{model}-{protocol}-seed0" for model in NETWORKS for protocol in ("session", "beat")} <= names
    assert {f"linear-session-seed{seed}" for seed in range(5)} <= names
    assert {f"pacfnet-session-seed{seed}" for seed in range(3)} <= names


def test_folds_follow_the_protocol():
    for part in physionet2016.parts():
        folds = part.train[part.train.index("--folds") + 1]
        assert folds == ("all" if "-session-" in part.name else "0")


def test_tables_from_scores(tmp_path):
    for seed, auroc in enumerate((0.88, 0.92)):
        leave_scores(tmp_path, f"linear-session-seed{seed}", auroc, beats=False)
    leave_scores(tmp_path, "pacfnet-session-seed0", 0.6)
    leave_scores(tmp_path, "pacfnet-beat-seed0", 0.99)
    leave_scores(tmp_path, "something else", 0.5)
    text = write_tables(tmp_path, list(MODELS))
    lines = text.splitlines()
    assert lines[0] == "| model | beat | session |"
    assert "| pacfnet | 0.990 [0.890, 1.090] | 0.600 [0.500, 0.700] |" in lines
    assert "| linear | n/a | 0.900 [0.800, 1.000], 2 seeds |" in lines
    assert (tmp_path / "auroc_by_protocol.png").stat().st_size > 10_000
    parts = pd.read_csv(tmp_path / "parts.csv")
    assert len(parts) == 4
    assert over_seeds(parts).set_index(["model", "protocol"]).loc[("linear", "session"), "seeds"] == 2


def test_every_model_is_compared_with_each_reference(tmp_path):
    for name in ("linear-session-seed0", "pacfnet-session-seed0", "early-fusion-session-seed0"):
        leave_scores(tmp_path, name, {"linear": 0.95, "pacfnet": 0.6, "early-f": 0.6}[name[:7].rstrip("-s")])
    table = comparisons(tmp_path, draws=50)
    assert set(zip(table["reference"], table["row"], strict=True)) == {
        *(("linear", "pacfnet"), ("linear", "early-fusion")),
        *(("pacfnet", "linear"), ("pacfnet", "early-fusion")),
    }
    assert (table["p_holm"] >= table["p"]).all()


def test_figure_shows_models_and_no_variants():
    rows = [
        ("pacfnet", "beat"),
        ("pacfnet", "session"),
        ("early-fusion", "session"),
        ("pacfnet-dropout", "session"),
    ]
    table = pd.DataFrame(
        [(*row, 0.6, 0.5, 0.7) for row in rows], columns=["model", "protocol", "auroc", "low", "high"]
    )
    axes = story_figure(table, list(MODELS)).axes[0]
    assert {label.get_text() for label in axes.get_yticklabels()} == {"pacfnet", "early-fusion"}
    drawn = [points for points in axes.collections if not str(points.get_label()).startswith("_")]
    assert [len(np.asarray(points.get_offsets())) for points in drawn] == [1, 2]
    straight = [len(np.unique(np.asarray(line.get_xdata()))) == 1 for line in axes.lines]
    assert all(straight), "no line between two points"
    assert [text.get_text() for text in axes.texts] == ["0.60", "0.60", "chance"]


def test_a_protocol_without_run_has_a_dash():
    table = pd.DataFrame(
        [("pacfnet", "beat", 0.6, 0.5, 0.7, 1)],
        columns=["model", "protocol", "auroc", "low", "high", "seeds"],
    )
    assert "| pacfnet | 0.600 [0.500, 0.700] |" in markdown(table, list(MODELS))


# The study of three views ---------------------------------------------------------------------------


def test_multimodal_study_uses_the_cache_it_names():
    caches = {
        "ptbxl": "P",
        "ptbxl-mixed": "M",
        **{f"only-{view}": view for view in ecg_multimodal.MODALITIES},
    }
    parts = {
        part.name: part for part in ecg_multimodal.parts(ecg_multimodal.MultimodalStudySettings(), caches)
    }
    used = {name: part.train[part.train.index("--cache") + 1] for name, part in parts.items()}
    assert used["all"] == "P"
    assert used["superclasses"] == "M"
    assert used["simulated-clinical"] == "clinical"
    assert all(used[name] == "P" for name in parts if name.startswith("all"))
    assert all(part.evaluations[0][-1] == used[name] for name, part in parts.items())


def test_branches_that_a_fusion_starts_from_are_trained_where_they_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(ecg_multimodal, "ROOT", tmp_path)
    everything = ecg_multimodal.parts(ecg_multimodal.MultimodalStudySettings(), {})
    (tmp_path / "checkpoints" / "signal").mkdir(parents=True)
    first = choose_parts(everything, ["all-branches-first"])
    needed = ecg_multimodal.branches_to_train(first, everything, tmp_path)
    assert [part.name for part in needed] == ["image", "clinical"]
    assert not ecg_multimodal.branches_to_train(choose_parts(everything, ["all"]), everything, tmp_path)
    leave_scores(tmp_path, "all-branches-first", 0.9)
    assert not ecg_multimodal.branches_to_train(first, everything, tmp_path)


def test_the_committed_table_of_the_multimodal_study_is_that_of_its_runs():
    folder = runner.ROOT / "results" / "ecg-multimodal"
    runs = {path.parent.name: path.parent for path in sorted(folder.glob("runs/*/metrics.json"))}
    assert len(runs) >= 13
    committed = pd.read_csv(folder / "table.csv")
    pd.testing.assert_frame_equal(ecg_multimodal.scores_table(runs), committed, atol=5e-5)
