"""Predictions by runs of ecg-phenotypes: those of evaluate.py, from the raw files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

import evaluate
import load_data
import predict
import training
from common.errors import UserError
from common.script import run_script
from datasets.ecg import LEADS
from learning.checkpoint import load_checkpoint, save_checkpoint
from systems.base.predictor import DISCLAIMER
from systems.ecg_cmr.sources.simulated import write_pairs

VIEWS = ["--frames", "4", "--size", "32", "--pixel-spacing", "4.4", "--seconds", "2", "--ecg-rate", "100"]
TINY = ["--preset", "small", "--width", "16", "--depth", "1", "--heads", "2", "--patch-seconds", "0.4"]
TINY += ["--epochs", "2", "--batch-size", "8", "--precision", "float32", "--device", "cpu", "--threads", "1"]
COVARIATES = ("age", "sex", "height", "weight")


class Workspace:
    """Simulated patients as files, their cache, and runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.raw = write_pairs(root / "raw", patients=40, long_axis=False)
        self.table = self.raw / "pairs.csv"
        self.truth = pd.read_csv(self.table).set_index("patient")
        self.places = ["--cache-dir", str(root / "cache")]
        load_data.main(["ecg-phenotypes", "--raw-dir", str(self.raw), "--jobs", "1", *VIEWS, *self.places])

    def train(self, name: str, *options: str) -> Path:
        places = ["--checkpoint-dir", str(self.root / "checkpoints"), "--log-dir", str(self.root / "runs")]
        return training.main(["ecg-phenotypes", *TINY, *self.places, *places, "--run-name", name, *options])

    def evaluated(self, run: Path) -> pd.DataFrame:
        places = ["--results-dir", str(self.root / "results"), "--bootstrap-draws", "10", "--threads", "1"]
        evaluate.main(["--checkpoint", str(run), "--compact", *self.places, *places])
        return pd.read_csv(self.root / "results" / run.name / "predictions.csv").set_index("recording")

    def ecg(self, patient: str) -> Path:
        return self.raw / "ecg" / patient

    def person(self, patient: str) -> list[str]:
        """Return the options that say who this patient is."""
        row = self.truth.loc[patient]
        sex = ["--sex", "female" if row["sex"] else "male"]
        return sex + [str(part) for name in ("age", "height", "weight") for part in (f"--{name}", row[name])]

    def samples(self, patient: str) -> np.ndarray:
        return wfdb.rdrecord(str(self.ecg(patient))).p_signal.T


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("phenotypes"))


@pytest.fixture(scope="module")
def run(workspace) -> Path:
    return workspace.train("two", "--folds", "0", "1", "--validation-share", "0.4")


@pytest.fixture(scope="module")
def answers(workspace, run) -> pd.DataFrame:
    return workspace.evaluated(run)


@pytest.fixture(scope="module")
def patient(answers) -> str:
    """Return a patient of the first fold's test part."""
    return answers.index[answers["fold"] == 0][0]


def call(*arguments: object) -> list[dict]:
    return predict.main([str(argument) for argument in (*arguments, "--threads", "1")])


def predicted(row: dict) -> dict[str, float]:
    """Return all numbers that are predicted in the metadata of an ECG."""
    values = {name: part["value"] for name, part in row["indicators"].items()}
    return values | {name: part["probability"] for name, part in row["diseases"].items()}


def reason(run: Path, *arguments: object) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments, "--checkpoint", run)
    return str(error.value)


# The very answers of evaluate.py ----------------------------------------------------------------------


def test_the_raw_file_of_a_patient_gives_what_evaluate_wrote(workspace, run, answers):
    """Of both folds, each model on its own test part: those trained on a patient are not asked about it."""
    for fold in (0, 1):
        names = answers.index[answers["fold"] == fold][:2]
        rows = call(*map(workspace.ecg, names), "--patients", workspace.table, "--checkpoint", run)
        for name, row in zip(names, rows, strict=True):
            found = predicted(row)
            assert len(found) == 19
            assert found == pytest.approx(answers.loc[name, list(found)].to_dict(), rel=1e-4)
            assert row["models"] == 1 and row["models_trained_on_it"] == 1


def test_what_raised_a_prediction_is_told_and_drawn(workspace, run, tmp_path, capsys):
    options = ["--ecg", str(workspace.ecg("v00001")), "--checkpoint", str(run), "--threads", "1"]
    (plain,) = predict.main([*options, "--out", str(tmp_path / "plain")])
    assert plain["explained"] is None and len(plain["files"]) == 2
    name = next(iter(plain["diseases"]))
    found = {}
    for target in ("ejection_fraction", "lv_mass", name):
        capsys.readouterr()
        (row,) = predict.main([*options, "--explain", target, "--out", str(tmp_path / target)])
        explained = row["explained"]
        assert explained["target"] == target and explained["discard_ratio"] == 0.9
        shares = np.array(explained["share_of_stretch"])
        assert shares.shape == (12, 5) and explained["seconds_of_stretch"] == pytest.approx(0.4)
        assert shares.sum() == pytest.approx(1) and list(explained["share_of_lead"]) == list(LEADS)
        assert shares.sum(axis=1) == pytest.approx(list(explained["share_of_lead"].values()))
        assert Path(row["files"][2]).name.endswith("_relevance.png") and Path(row["files"][2]).is_file()
        assert "raised" in capsys.readouterr().out
        assert row["indicators"] == plain["indicators"]
        found[target] = shares
    assert not np.allclose(found["ejection_fraction"], found["lv_mass"], atol=1e-3)
    (all_kept,) = predict.main([*options, "--explain", "lv_mass", "--discard-ratio", "0"])
    shares = np.array(all_kept["explained"]["share_of_stretch"])
    assert (shares > 0).sum() > (found["lv_mass"] > 0).sum()
    with pytest.raises(
        UserError, match=r"no indicator and no disease .* Perhaps you meant ejection_fraction"
    ):
        predict.main([*options, "--explain", "ejection"])


def test_options_tell_the_same_as_the_table(workspace, run, patient):
    (one,) = call("--ecg", workspace.ecg(patient), *workspace.person(patient), "--checkpoint", run)
    (other,) = call(workspace.ecg(patient), "--patients", workspace.table, "--checkpoint", run)
    assert predicted(one) == predicted(other) and one["covariates"] == other["covariates"]
    assert one["covariates"]["age"] == workspace.truth.loc[patient, "age"]
    (alone,) = call("--ecg", workspace.ecg(patient), "--checkpoint", run)
    assert alone["covariates"] == {} and predicted(alone) != predicted(one)
    assert any("are not given" in warning["text"] for warning in alone["warnings"])


def test_predicting_alone_equals_predicting_among_others(workspace, run, patient, tmp_path):
    (alone,) = call(workspace.ecg(patient), "--patients", workspace.table, "--checkpoint", run)
    for name in workspace.truth.index[:5]:
        for ending in (".hea", ".dat"):
            shutil.copy(workspace.ecg(name).with_suffix(ending), tmp_path)
    rows = call(tmp_path, workspace.ecg(patient), "--patients", workspace.table, "--checkpoint", run)
    assert len(rows) == 6 and {row["status"] for row in rows} == {"judged"}
    assert predicted(rows[-1]) == predicted(alone)


def test_the_mean_of_the_folds_for_whom_none_was_trained_on(workspace, run, tmp_path):
    unknown = write_pairs(tmp_path / "new", patients=1, seed=9, long_axis=False) / "ecg" / "v00000"
    both = predicted(call(unknown, "--checkpoint", run)[0])
    each = [predicted(call(unknown, "--checkpoint", run / f"fold_{fold}")[0]) for fold in (0, 1)]
    assert each[0] != each[1]
    assert both == pytest.approx({name: (each[0][name] + each[1][name]) / 2 for name in both})


def test_one_who_was_trained_on_is_named(workspace, run, answers):
    parts = pd.read_csv(run / "splits.csv").set_index("recording")
    learned = parts.index[(parts["fold_0"] != "test") & (parts["fold_1"] != "test")][0]
    (row,) = call(workspace.ecg(learned), "--checkpoint", run)
    assert row["models"] == 2 and "seen" in {warning["code"] for warning in row["warnings"]}


# Other files of the same ECG --------------------------------------------------------------------------


def write_record(folder: Path, samples: np.ndarray, leads=LEADS, rate=500, unit="mV", gain=1000.0) -> Path:
    folder.mkdir(exist_ok=True)
    wfdb.wrsamp(
        "x",
        fs=rate,
        units=[unit] * len(leads),
        sig_name=list(leads),
        p_signal=samples.T,
        fmt=["16"] * len(leads),
        adc_gain=[gain] * len(leads),
        baseline=[0] * len(leads),
        write_dir=str(folder),
    )
    return folder / "x"


def test_order_unit_and_kind_of_file_do_not_matter(workspace, run, patient, tmp_path):
    samples = workspace.samples(patient)
    person = [*workspace.person(patient), "--checkpoint", run / "fold_0" / "best.pt"]
    known = predicted(call("--ecg", workspace.ecg(patient), *person)[0])
    turned = write_record(tmp_path / "turned", samples[::-1], LEADS[::-1])
    assert predicted(call("--ecg", turned, *person)[0]) == known
    micro = write_record(tmp_path / "micro", samples * 1000, unit="uV", gain=1.0)
    assert predicted(call("--ecg", micro, *person)[0]) == pytest.approx(known, rel=1e-4)
    np.save(tmp_path / "x.npy", samples)
    assert predicted(call("--ecg", tmp_path / "x.npy", "--ecg-rate", 500, *person)[0]) == known
    assert "--ecg-rate" in reason(run, "--ecg", tmp_path / "x.npy"), "an array does not know its rate"


def test_another_sampling_rate_gives_the_same_up_to_resampling(workspace, run, patient, tmp_path):
    samples = workspace.samples(patient)
    person = [*workspace.person(patient), "--checkpoint", run / "fold_0" / "best.pt"]
    known = predicted(call("--ecg", workspace.ecg(patient), *person)[0])
    seconds = np.arange(samples.shape[1]) / 500
    faster = np.arange(10_000) / 1000
    finer = np.stack([np.interp(faster, seconds, lead) for lead in samples])
    found = predicted(call("--ecg", write_record(tmp_path / "fine", finer, rate=1000), *person)[0])
    assert found == pytest.approx(known, rel=2e-3)
    wrong = predicted(call("--ecg", write_record(tmp_path / "wrong", samples, rate=400), *person)[0])
    assert wrong != pytest.approx(known, rel=2e-3), "a rate that is not accepted must show"


# What is refused, and warnings -----------------------------------------------------------------------


def test_what_cannot_be_predicted_is_refused_by_name_and_the_rest_predicted(
    workspace, run, patient, tmp_path, capsys
):
    samples = workspace.samples(patient)
    holes, flat = samples.copy(), samples.copy()
    holes[3, 100:2000] = np.nan
    flat[7] = 0.25
    rng = np.random.default_rng(0)
    cases: dict[str, tuple[np.ndarray, dict, str]] = {
        "lead": (samples[:11], {"leads": LEADS[:11]}, "It lacks V6"),
        "gaps": (holes, {}, r"More than 10% of aVR is missing"),
        "flat": (flat, {}, "No signal is in V2"),
        "short": (samples[:, :600], {}, "lasts 1.2 s, and at least 2 s"),
        "units": (samples, {"unit": "mmHg"}, "not in V, mV or uV, but in mmhg"),
        "large": (samples * 1000, {"gain": 1.0}, "its values are not in millivolts"),
        "small": (samples / 1000, {"gain": 1e6}, "its values are not in millivolts"),
        "noise": (rng.normal(size=(12, 5000)), {}, "No heart beat that repeats"),
    }
    for name, (content, options, _) in cases.items():
        write_record(tmp_path / name, content, **options)
    write_record(tmp_path / "sound", samples)
    with pytest.raises(SystemExit) as left:
        call(tmp_path, "--checkpoint", run, "--json")
    assert left.value.code == 1
    rows = {row["recording"]: row for row in json.loads(capsys.readouterr().out)["recordings"]}
    assert rows.pop("sound/x")["status"] == "judged"
    for name, (_, _, words) in cases.items():
        assert rows[f"{name}/x"]["status"] == "refused"
        assert words in rows[f"{name}/x"]["reason"]


def test_nothing_predicted_is_status_2(run, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((12, 5000)))
    words = [
        "--ecg",
        str(tmp_path / "x.npy"),
        "--ecg-rate",
        "500",
        "--checkpoint",
        str(run),
        "--threads",
        "1",
    ]
    with pytest.raises(SystemExit) as left:
        run_script(lambda: predict.main(words))
    assert left.value.code == 2
    assert "holds no signal" in " ".join(capsys.readouterr().err.split())


def test_what_is_doubtful_is_a_warning(workspace, run, patient, tmp_path):
    samples = workspace.samples(patient)
    swapped = samples[[1, 0, *range(2, 12)]]
    loud = samples.copy()
    loud[9] = np.clip(loud[9], -0.1, 0.1)
    loud[10] += np.random.default_rng(0).normal(0, 2, loud.shape[1])
    rows = call(
        write_record(tmp_path / "a", swapped), write_record(tmp_path / "b", loud), "--checkpoint", run
    )
    warnings = [{warning["code"]: warning["text"] for warning in row["warnings"]} for row in rows]
    assert "Lead II is not the sum of I and III" in warnings[0]["lead-order"]
    assert "lead-order" not in warnings[1]
    assert warnings[1]["clipped"].startswith("Lead V4") and "V5" in warnings[1]["noisy"]
    for named in warnings:
        assert "do not hold for real ones" in named["simulated"] and "first 2 s" in named["long"]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--prevalence", "0.1"], "--prevalence is for runs of ecg-pcg, ecg-multimodal, and this one is of"),
        (["--annotations", "."], "--annotations is for runs of ecg-pcg, and this one is of ecg-phenotypes"),
        (["--ecg", "other.npy"], "--ecg has no meaning"),
        (["--age", "300"], "--age 300 is not possible"),
        (["--patients", "nowhere.csv"], "There is no table nowhere.csv"),
    ],
)
def test_options_without_a_meaning_are_refused(workspace, run, patient, words, answer):
    assert answer in reason(run, workspace.ecg(patient), *words)


def test_one_age_is_not_that_of_several(workspace, run, answers):
    names = map(workspace.ecg, answers.index[:2])
    assert "--age belong to one person, and 2 ECGs were given" in reason(run, *names, "--age", 50)


def test_a_table_may_lack_a_patient_or_hold_a_wrong_cell(workspace, run, patient, tmp_path):
    table = pd.read_csv(workspace.table, dtype=str)[["patient", "age", "sex"]]
    table.loc[table["patient"] == patient, "age"] = "old"
    table.to_csv(tmp_path / "t.csv", index=False)
    shutil.copy(workspace.ecg(patient).with_suffix(".dat"), tmp_path)
    for name in (patient, "stranger"):
        header = workspace.ecg(patient).with_suffix(".hea").read_text().replace(f"{patient} 12", f"{name} 12")
        (tmp_path / f"{name}.hea").write_text(header)
    rows = call(
        tmp_path / patient, tmp_path / "stranger", "--patients", tmp_path / "t.csv", "--checkpoint", run
    )
    texts = [" ".join(warning["text"] for warning in row["warnings"]) for row in rows]
    assert "'old' is no number" in texts[0] and list(rows[0]["covariates"]) == ["sex"]
    assert "t.csv has no row for stranger" in texts[1] and rows[1]["covariates"] == {}


def test_a_run_that_reads_cines_is_refused(workspace, patient):
    cine = workspace.train("cine", "--reads", "cmr", "--epochs", "1")
    assert "reads cines" in reason(cine, "--ecg", workspace.ecg(patient))


def test_a_run_on_z_scores_is_given_no_millivolts(workspace, run, patient, tmp_path):
    content = load_checkpoint(run / "fold_0" / "best.pt")
    content["inputs"]["ecg_unit"] = "z-score"
    save_checkpoint(tmp_path / "z.pt", content)
    assert "learned from ECGs in z-score" in reason(tmp_path / "z.pt", "--ecg", workspace.ecg(patient))


def test_a_run_without_covariates_is_reported_none(workspace, patient):
    plain = workspace.train("plain", "--no-covariates")
    answers = workspace.evaluated(plain)
    name = answers.index[0]
    (row,) = call("--ecg", workspace.ecg(name), "--checkpoint", plain)
    assert predicted(row) == pytest.approx(answers.loc[name, list(predicted(row))].to_dict(), rel=1e-4)
    assert "person" not in {warning["code"] for warning in row["warnings"]}
    assert "trained without age" in reason(plain, "--ecg", workspace.ecg(name), "--age", 50)


# How far off it may be --------------------------------------------------------------------------------


@pytest.mark.parametrize("person", [True, False])
def test_intervals_are_those_of_the_validation_part(workspace, run, person):
    """Nine tenths of the validation patients, rounded up, lie within them, of their own model."""
    file = run / "fold_0" / "best.pt"
    parts = pd.read_csv(run / "splits.csv").set_index("recording")["fold_0"]
    names = parts.index[parts == "validation"]
    table = ["--patients", workspace.table] if person else []
    rows = call(*map(workspace.ecg, names), *table, "--checkpoint", file)
    count = len(names)
    needed = int(np.ceil((count + 1) * 0.9))
    assert 9 <= needed <= count
    for name in ("ejection_fraction", "lv_mass"):
        held = [
            row["indicators"][name]["low"] - 1e-3
            <= workspace.truth.loc[patient, name]
            <= row["indicators"][name]["high"] + 1e-3
            for patient, row in zip(names, rows, strict=True)
        ]
        assert sum(held) == needed
        errors = [
            row["indicators"][name]["value"] - workspace.truth.loc[patient, name]
            for patient, row in zip(names, rows, strict=True)
        ]
        deviation = rows[0]["indicators"][name]["deviation"]
        assert deviation == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-3)


def test_what_is_not_reported_has_errors_of_its_own(workspace, run, patient):
    known = load_checkpoint(run / "fold_0" / "best.pt")["validation"]["errors"]
    assert len(known) == 16
    file = run / "fold_0" / "best.pt"
    (row,) = call("--ecg", workspace.ecg(patient), "--age", 50, "--weight", 70, "--checkpoint", file)
    found = row["indicators"]["lv_mass"]
    assert found["deviation"] == known["age+weight"]["indicators"]["lv_mass"]["deviation"]
    assert found["high"] - found["value"] == pytest.approx(
        known["age+weight"]["indicators"]["lv_mass"]["bound"]
    )


def test_older_checkpoints_and_final_fits_say_that_it_is_unknown(workspace, run, patient, tmp_path, capsys):
    content = load_checkpoint(run / "fold_0" / "best.pt")
    known = predicted(call(workspace.ecg(patient), "--checkpoint", run / "fold_0" / "best.pt")[0])
    del content["validation"]
    save_checkpoint(tmp_path / "old.pt", content)
    (row,) = call(workspace.ecg(patient), "--checkpoint", tmp_path / "old.pt")
    assert predicted(row) == known
    assert {part["low"] for part in row["indicators"].values()} == {None}
    assert "trained before that was kept" in capsys.readouterr().out
    final = workspace.train("final", "--folds", "none", "--epochs", "1")
    call(workspace.ecg(patient), "--checkpoint", final)
    assert "a final fit on everything keeps no patients apart" in capsys.readouterr().out


# What is printed and written --------------------------------------------------------------------------


def test_it_is_reported_in_words_and_drawn(workspace, run, patient, tmp_path, capsys):
    words = [
        "--ecg",
        workspace.ecg(patient),
        *workspace.person(patient),
        "--checkpoint",
        run,
        "--out",
        tmp_path,
    ]
    (row,) = call(*words)
    printed = capsys.readouterr().out
    fraction = row["indicators"]["ejection_fraction"]
    for text in (
        "mean of 2 folds",
        "simulated patients of pairs",
        f"{fraction['value']:.1f} %",
        "pulmonary hypertension",
        "12-lead ECG, 10.0 s at 500 Hz",
        "1; others were trained on this recording",
        "not shown to beat",
        DISCLAIMER,
    ):
        assert text in printed
    assert (tmp_path / f"{patient}.png").read_bytes().startswith(b"\x89PNG")
    kept = json.loads((tmp_path / f"{patient}.json").read_text(encoding="utf-8"))
    assert predicted(kept) == predicted(row) and kept["interval_coverage"] == 0.9


def test_the_document_is_all_that_is_printed(workspace, run, answers, capsys):
    rows = call(
        *map(workspace.ecg, answers.index[:2]), "--patients", workspace.table, "--checkpoint", run, "--json"
    )
    document = json.loads(capsys.readouterr().out)
    assert document["recordings"] == rows and document["model"]["task"] == "ecg-phenotypes"
    assert document["model"]["covariates"] == list(COVARIATES)
    call(*map(workspace.ecg, answers.index[:3]), "--patients", workspace.table, "--checkpoint", run)
    printed = capsys.readouterr().out
    assert "Predicted 3 of 3 recordings." in printed and "in short" in printed
