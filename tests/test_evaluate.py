"""evaluate.py from the command line: --compare, and the options that only some tasks have."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import evaluate
from common.errors import UserError
from common.files import write_json


def results(root, name, noise, seed):
    """Leave the recordings of a run: 40 of 10 sessions, label plus noise as score; return its AUROC."""
    label = np.arange(40) % 2
    score = label + noise * np.random.default_rng(seed).normal(size=40)
    table = pd.DataFrame(
        {
            "recording": [f"a{row:04d}" for row in range(40)],
            "session": [f"C{row // 4}" for row in range(40)],
            "person": [f"C{row // 4}P{row % 2}" for row in range(40)],
            "label": label,
            "probability": 1 / (1 + np.exp(-score)),
        }
    )
    (root / name).mkdir(parents=True)
    table.to_csv(root / name / "recordings.csv", index=False)
    return roc_auc_score(label, score)


def compare(tmp_path, first, second):
    """Run the comparison and return the table that it wrote."""
    places = [str(tmp_path / "runs" / name) for name in (first, second)]
    evaluate.main(["--compare", *places, "--results-dir", str(tmp_path / "out"), "--bootstrap-draws", "100"])
    (path,) = (tmp_path / "out" / "comparisons").iterdir()
    return path.name, pd.read_csv(path).iloc[0]


def test_a_star_takes_all_seeds_and_scores_them_by_their_mean(tmp_path, capsys):
    better = [results(tmp_path / "runs", f"good-seed{seed}", 0.5, seed) for seed in range(3)]
    worse = [results(tmp_path / "runs", f"bad-seed{seed}", 4.0, seed + 9) for seed in range(2)]
    name, row = compare(tmp_path, "good-seed*", "bad-seed*")
    assert name == "good-seedall--bad-seedall.csv"
    assert row["first"] == pytest.approx(np.mean(better), abs=1e-5)
    assert row["second"] == pytest.approx(np.mean(worse), abs=1e-5)
    assert (row["seeds_first"], row["seeds_second"]) == (3, 2)
    assert row["low"] < row["difference"] < row["high"]
    assert "seeds 3 and 2 (mean of their AUROCs)" in capsys.readouterr().out


@pytest.mark.parametrize("other", ["-without-ecg", "-last", "-last-on-elsewhere"])
def test_a_star_takes_no_other_evaluation_of_a_run_for_a_seed_of_it(tmp_path, other):
    whole = results(tmp_path / "runs", "a-seed1", 0.5, 1)
    hidden = results(tmp_path / "runs", f"a-seed1{other}", 9.0, 2)
    for name in ("a-seed1", f"a-seed1{other}"):
        write_json(tmp_path / "runs" / name / "metrics.json", {"run": {"run": "a-seed1", "task": "ecg-pcg"}})
    _, row = compare(tmp_path, "a-seed*", f"a-seed*{other}")
    assert (row["seeds_first"], row["seeds_second"]) == (1, 1)
    assert (row["first"], row["second"]) == pytest.approx((whole, hidden), abs=1e-5)


def test_recordings_may_have_names_that_tables_use_for_nothing(tmp_path):
    """A recording "NA" of which a run says nothing else would be left out, or the session that it is of."""
    for name, noise in (("one", 0.5), ("other", 4.0)):
        results(tmp_path / "runs", name, noise, 1)
    _, expected = compare(tmp_path, "one", "other")
    for name in ("one", "other"):
        path = tmp_path / "runs" / name / "recordings.csv"
        path.write_text(path.read_text().replace("a0000", "NA").replace("C3,", "null,"))
    shutil.rmtree(tmp_path / "out")
    _, found = compare(tmp_path, "one", "other")
    assert found[["recordings", "first", "difference"]].equals(
        expected[["recordings", "first", "difference"]]
    )


def test_runs_on_other_labels_are_refused_with_a_sentence(tmp_path):
    results(tmp_path / "runs", "one", 1.0, 0)
    results(tmp_path / "runs", "two", 1.0, 0)
    changed = tmp_path / "runs" / "two" / "recordings.csv"
    table = pd.read_csv(changed)
    table.assign(label=1 - table["label"]).to_csv(changed, index=False)
    with pytest.raises(UserError, match=r"cannot be compared.*another label"):
        compare(tmp_path, "one", "two")


def test_recordings_of_no_database_are_compared_beside_the_others(tmp_path):
    results(tmp_path / "runs", "one", 1.0, 0)
    path = tmp_path / "runs" / "one" / "recordings.csv"
    pd.read_csv(path).assign(database=["north"] * 20 + [""] * 20).to_csv(path, index=False)
    _, row = compare(tmp_path, "one", "one")
    assert row["row"] == "mean of 2 databases"


def test_one_run_with_itself_has_no_difference(tmp_path):
    results(tmp_path / "runs", "one", 1.0, 0)
    _, row = compare(tmp_path, "one", "one")
    assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)


@pytest.mark.parametrize("absent", ["nowhere", "nowhere-seed*"])
def test_a_run_that_was_not_evaluated_is_named(tmp_path, absent):
    results(tmp_path / "runs", "one", 1.0, 0)
    with pytest.raises(UserError, match=r"There is no .*nowhere.*recordings\.csv: evaluate that run first"):
        compare(tmp_path, "one", absent)


# Options of the task -------------------------------------------------------------------------------


def trained(root, name, task, time):
    """Leave what tells the task of a run, trained at some time; return its folder."""
    best = root / name / "fold_0" / "best.pt"
    best.parent.mkdir(parents=True)
    best.touch()
    os.utime(best, (time, time))
    write_json(root / name / "settings.json", {"task": task})
    return root / name


def test_the_task_is_that_of_the_checkpoint_the_word_or_the_newest_run(tmp_path):
    older, newer = trained(tmp_path, "a", "ecg-pcg", 1), trained(tmp_path, "b", "ecg-to-cmr", 2)
    place = ("--checkpoint-dir", str(tmp_path))
    for path in (older, older / "fold_0", older / "fold_0" / "best.pt"):
        assert evaluate.choose_task("", [*place, f"--checkpoint={path}"]) == "ecg-pcg"
    assert evaluate.choose_task("", place) == "ecg-to-cmr"
    assert evaluate.choose_task("ecg-to-cmr", [*place, "--checkpoint", str(newer)]) == "ecg-to-cmr"
    assert evaluate.choose_task("ecg-multimodal", place) == "ecg-multimodal"
    for options in (["--audit"], ["--compare", "a", "b"]):
        assert evaluate.choose_task("", [*place, *options]) == "ecg-pcg", "no run is meant"
    assert evaluate.choose_task("", ["--checkpoint-dir", str(tmp_path / "nowhere")]) == "ecg-pcg"
    with pytest.raises(UserError, match="is a run of ecg-pcg: write ecg-pcg in place of ecg-to-cmr"):
        evaluate.choose_task("ecg-to-cmr", [*place, "--checkpoint", str(older)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ecg-multimodal", "--audit"), "--audit is for runs of ecg-pcg, and this one is of ecg-multimodal"),
        (("ecg-mae", "--prevalence=0.1"), "--prevalence is for runs of ecg-pcg, and this one is of ecg-mae"),
        (("ecg-pcg", "--guidance", "2"), "--guidance is for runs of ecg-to-cmr, and this one is of ecg-pcg"),
        *(
            (("ecg-pcg", option, "2"), "for runs of cine-autoencoder, ecg-to-cmr, and this one is of ecg-pcg")
            for option in ("--max-patients", "--patients")
        ),
    ],
)
def test_an_option_of_another_task_is_refused_and_the_task_named(arguments, said):
    with pytest.raises(UserError, match=said):
        evaluate.main(arguments)


def test_a_task_word_takes_the_newest_run_of_that_task(tmp_path):
    trained(tmp_path, "a", "ecg-pcg", 1)
    with pytest.raises(UserError, match="no trained run of ecg-multimodal in"):
        evaluate.main(["ecg-multimodal", "--checkpoint-dir", str(tmp_path)])
