"""Patients in predict.py: what evaluate.py says of them, whatever is given, and what is refused."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch

import evaluate
import load_data
import predict
import training
from common.command_line import to_plain
from common.errors import UserError
from datasets.cache import Cache
from datasets.patients import SUPERCLASSES
from learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from systems.base.predictor import DISCLAIMER
from systems.ecg_multimodal.settings import (
    ModalitySettings,
    MultimodalModelSettings,
    MultimodalTrainingSettings,
)
from systems.ecg_multimodal.sources.simulated import write_patient_folders
from systems.ecg_multimodal.task import EcgMultimodal, as_network

TASK = "ecg-multimodal"
VIEWS = ("image", "signal", "clinical")
WIDTH, RATE = 340, 50.0
NAMES = ("age", "sex", "height", "weight", "smoking")
TINY = ["--width", "8", "--epochs", "2", "--fold-count", "3", "--folds", "0", "1", "--preset", "small"]
TINY += ["--validation-share", "0.2", "--precision", "float32", "--device", "cpu", "--threads", "1"]


class Workspace:
    """A trained run of two folds of three, what evaluate.py says of its patients and of others."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = self.prepare("raw", 24, 0)
        places = ["--cache-dir", str(root / "cache-raw"), "--checkpoint-dir", str(root / "checkpoints")]
        logs = ["--log-dir", str(root / "runs"), "--run-name", "three-views"]
        self.run = training.main([TASK, *TINY, *places, *logs])
        self.others = self.prepare("others", 5, 7)

    def prepare(self, name: str, patients: int, seed: int) -> Cache:
        made = ["--simulate", "--simulation.patients", str(patients), "--simulation.seed", str(seed)]
        views = ["--image-width", str(WIDTH), "--signal-rate", str(RATE), "--jobs", "1"]
        places = ["--raw-dir", str(self.root / name), "--cache-dir", str(self.root / f"cache-{name}")]
        return Cache(load_data.main([TASK, *places, *views, *made]))

    def evaluated(self, *options: str) -> pd.DataFrame:
        words = ["--checkpoint", str(self.run), "--bootstrap-draws", "0", "--threads", "1", "--compact"]
        results = self.root / "results"
        shutil.rmtree(results, ignore_errors=True)
        evaluate.main([*words, "--results-dir", str(results), *options])
        (path,) = results.rglob("predictions.csv") if any(results.rglob("predictions.csv")) else (None,)
        path = path or next(results.rglob("recordings.csv"))
        return pd.read_csv(path, dtype={"recording": str}).set_index("recording")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """Return a folder of three simulated patients with CSV tables; not to be changed."""
    root = tmp_path_factory.mktemp("few") / "patients"
    return write_patient_folders(root, patients=3, seed=3, tables="csv", missing=0.0)


@pytest.fixture
def own(few, tmp_path) -> Path:
    """Return a folder of three patients of one's own, without labels, to be changed."""
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copytree(few / "images", folder / "images")
    for name in ("ecg_signals.csv", "clinical.csv"):
        shutil.copy(few / name, folder)
    return folder


@pytest.fixture
def made(tmp_path) -> Callable[..., Path]:
    """Return a function that writes the folder of a run with random weights."""

    def make(folds: int = 1, *, target: Any = "normal", leads: int = 1, **model: Any) -> Path:
        for fold in range(folds):
            content = checkpoint(fold, target, leads, **model)
            save_checkpoint(tmp_path / "made" / f"fold_{fold}" / "best.pt", content)
        return tmp_path / "made"

    return make


@pytest.fixture(scope="module")
def before(few, tmp_path_factory) -> dict[str, float]:
    """Return what a run with random weights says of the patients as they are."""
    path = tmp_path_factory.mktemp("before") / "best.pt"
    save_checkpoint(path, checkpoint(0, "normal", 1))
    return {row["recording"]: row["probability"] for row in call(few, "--checkpoint", path)}


def checkpoint(fold: int, target: Any, leads: int, **model: Any) -> dict[str, Any]:
    """Return a checkpoint of a network with random weights, its scalers fitted on made patients."""
    chosen = MultimodalModelSettings(**{"width": 8, "modality_dropout": 0.3, **model})
    settings = MultimodalTrainingSettings(target=target, model=chosen)
    inputs = {"leads": leads, "image_size": [WIDTH // 10, WIDTH], "clinical": list(NAMES)}
    torch.manual_seed(fold)
    network = as_network(EcgMultimodal(settings).build(inputs))
    rng = np.random.default_rng(fold)
    table = np.stack([rng.normal(60, 10, 50), rng.integers(0, 2, 50), *rng.normal(100, 30, (3, 50))], axis=1)
    signal = torch.tensor(rng.normal(size=(4, leads, 100)), dtype=torch.float32)
    network.fit(signal, torch.tensor(table, dtype=torch.float32))
    views = dataclasses.asdict(ModalitySettings(signal_rate=RATE, image_width=WIDTH))
    cache = {"identity": "0" * 64, "source": "patients", "simulated": False, "settings": views}
    return {
        "task": TASK,
        "run": "made",
        "fold": fold,
        "protocol": "patient",
        "settings": to_plain(settings),
        "inputs": inputs,
        "label_share": 0.4,
        "model": network.state_dict(),
        "trained_on": {"session": ["a"], "recording": ["a", "b"], "content": []},
        "cache": cache,
    }


def call(*arguments: object) -> list[dict[str, Any]]:
    return predict.main([str(argument) for argument in (*arguments, "--threads", "1")])


def some_refused(capsys, *arguments: object) -> dict[str, dict[str, Any]]:
    """Return the rows, by patient, of a call that leaves with 1."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        call(*arguments, "--json")
    assert left.value.code == 1
    return {row["recording"]: row for row in json.loads(capsys.readouterr().out)["recordings"]}


def codes(row: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in row["warnings"]]


def texts(row: dict[str, Any]) -> str:
    return " ".join(warning["text"] for warning in row["warnings"])


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def save(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def keep(folder: Path, name: str, views: tuple[str, ...] = VIEWS) -> None:
    """Leave nothing in a folder but some views of one patient."""
    for path in list((folder / "images").iterdir()):
        if path.name != name or "image" not in views:
            shutil.rmtree(path)
    signals = rows_of(folder / "ecg_signals.csv")
    save(folder / "ecg_signals.csv", [row for row in signals if row[0] == name and "signal" in views])
    head, *clinical = rows_of(folder / "clinical.csv")
    save(
        folder / "clinical.csv", [head, *(row for row in clinical if row[0] == name and "clinical" in views)]
    )


def unlabelled(raw: Path, folder: Path) -> Path:
    """Copy patients without their labels, and without the word that they are simulated."""
    shutil.copytree(raw, folder, ignore=shutil.ignore_patterns("labels.*", "truth.csv", "simulation.json"))
    return folder


# What evaluate.py says ------------------------------------------------------------------------------------


def test_a_patient_is_predicted_as_evaluate_predicts_it(workspace, tmp_path):
    """Each by the fold that has it in its test part; the others know it, and are left out."""
    expected = workspace.evaluated("--cache-dir", str(workspace.root / "cache-raw"))
    rows = call(unlabelled(workspace.root / "raw", tmp_path / "own"), "--checkpoint", workspace.run)
    found = {row["recording"]: row for row in rows}
    assert len(expected) > 10
    assert set(expected.index) < set(found)
    for name, row in expected.iterrows():
        assert found[name]["probability"] == pytest.approx(row["probability"], abs=1e-5)
        assert (found[name]["models"], found[name]["models_trained_on_it"]) == (1, 1)
        assert "seen" not in codes(found[name])
    learned = [content["trained_on"]["recording"] for content in checkpoints(workspace.run)]
    for name in set(learned[0]) & set(learned[1]):
        assert "seen" in codes(found[name])
        assert (found[name]["models"], found[name]["models_trained_on_it"]) == (2, 0)


def checkpoints(run: Path) -> list[Checkpoint]:
    return [load_checkpoint(run / f"fold_{fold}" / "best.pt") for fold in range(2)]


def test_patients_nobody_knows_are_predicted_by_all_folds_and_each_alone_as_among_the_others(
    workspace, tmp_path
):
    expected = workspace.evaluated("--cache", str(workspace.others.path))
    own = unlabelled(workspace.root / "others", tmp_path / "own")
    rows = {row["recording"]: row for row in call(own, "--checkpoint", workspace.run)}
    spread = expected["probability"].max() - expected["probability"].min()
    assert spread > 1e-3, "all alike: nothing would be shown"
    for name, row in expected.iterrows():
        assert rows[name]["probability"] == pytest.approx(row["probability"], abs=1e-5)
        assert rows[name]["models"] == 2
        low, high = rows[name]["spread_over_models"].values()
        assert (low[0] + high[0]) / 2 == pytest.approx(row["probability"], abs=1e-5)
    name = str(expected.index[0])
    table = pd.read_excel(own / "clinical.xlsx")
    table[table["IDX"].astype(str) == name].to_csv(own / "clinical.csv", index=False)
    (own / "clinical.xlsx").unlink()
    for path in (own / "images").iterdir():
        if path.name != name:
            shutil.rmtree(path)
    save(own / "ecg_signals.csv", [row for row in rows_of(own / "ecg_signals.csv") if row[0] == name])
    (alone,) = call(own, "--checkpoint", workspace.run)
    assert alone["probability"] == pytest.approx(rows[name]["probability"], abs=1e-9)


@pytest.mark.parametrize(
    "views",
    [
        ("image",),
        ("signal",),
        ("clinical",),
        ("image", "signal"),
        ("image", "clinical"),
        ("signal", "clinical"),
    ],
)
def test_what_is_absent_counts_as_absent(workspace, tmp_path, views):
    """The same as the network says of what was prepared for learning, given these views and no others."""
    samples, clinical = workspace.others.table("samples"), workspace.others.table("clinical", missing=("",))
    name, place = samples["recording"][2], 2
    own = unlabelled(workspace.root / "others", tmp_path / "own")
    table = pd.read_excel(own / "clinical.xlsx")
    table.to_csv(own / "clinical.csv", index=False)
    (own / "clinical.xlsx").unlink()
    keep(own, name, views)
    (row,) = call(own, "--checkpoint", workspace.run)
    arrays = {
        "image": torch.tensor(workspace.others.array("images")[place][None, None]),
        "signal": torch.tensor(workspace.others.array("signals")[place][None]),
        "clinical": torch.tensor(clinical.drop(columns="recording").to_numpy(np.float32)[place][None]),
    }
    said, gates = [], []
    for content in checkpoints(workspace.run):
        settings = MultimodalTrainingSettings(model=MultimodalModelSettings(width=8))
        network = as_network(EcgMultimodal(settings).build(content["inputs"])).eval()
        network.load_state_dict(content["model"])
        with torch.no_grad():
            logits, _, gate = network(**{view: arrays[view] for view in views}, with_branches=True)
        said.append(float(logits.sigmoid()))
        gates.append({view: float(gate[0, VIEWS.index(view)]) for view in views})
    assert row["probability"] == pytest.approx(np.mean(said), abs=1e-5)
    assert row["signals_used"] == list(views)
    assert row["shares"] == pytest.approx(
        {view: np.mean([g[view] for g in gates]) for view in views}, abs=1e-5
    )
    assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-6)


def test_the_values_of_others_change_nothing(own, made, before):
    head, *rows = rows_of(own / "clinical.csv")
    for row in rows[1:]:
        row[head.index("age")] = "99"
        row[head.index("height")] = ""
    save(own / "clinical.csv", [head, *rows])
    after = {row["recording"]: row["probability"] for row in call(own, "--checkpoint", made())}
    assert after["1"] == before["1"]
    assert after["2"] != before["2"]


def test_simulated_patients_tell_nothing_of_real_ones(workspace, own):
    rows = call(own, "--checkpoint", workspace.run)
    assert all("simulated" in codes(row) for row in rows)


# What is said ---------------------------------------------------------------------------------------------


def test_prevalence_multiplies_the_odds(own, made):
    run = made()
    for row in call(own, "--checkpoint", run, "--prevalence", 0.05):
        assert row["assumed_prevalence"] == 0.5
        odds = row["probability"] / (1 - row["probability"]) / 19
        assert row["probability_at_prevalence"] == pytest.approx(odds / (1 + odds))


def test_what_the_views_add_is_the_whole_verdict(own, made):
    for row in call(own, "--checkpoint", made(2)):
        assert set(row["log_odds"]) == {"start", *VIEWS}
        verdict = np.log(row["probability"] / (1 - row["probability"]))
        assert sum(row["log_odds"].values()) == pytest.approx(verdict, abs=1e-6)


def test_a_fusion_without_weights_tells_none(own, made):
    for row in call(own, "--checkpoint", made(fusion="concatenation")):
        assert row["shares"] is None


@pytest.mark.parametrize("columns", [44, 60, 100])
def test_words_fit_the_terminal(own, made, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    run = made(2)
    (own / "images" / "3" / "003ECG_lead2.jpg").unlink()
    with pytest.raises(SystemExit):
        call(own, "--checkpoint", run, "--prevalence", "0.05")
    said = capsys.readouterr().out
    text = said.replace(DISCLAIMER, "")
    assert max(len(line) for line in text.splitlines()) <= columns
    plain = " ".join(said.split())
    for words in (
        "Model: image+signal+clinical, gate of run made, mean of 2 folds; its calibration is unknown.",
        "Learned from 2 recordings of 1 patient (source: your own patients), 40% of them abnormal.",
        "if 0.5 of those measured are abnormal",
        "if 0.05 of those measured are abnormal",
        "5 of 5",
        "Predicted 2 of 3 patients.",
        "refused: images/3 holds no picture where 003ECG_lead2.jpg is expected.",
        DISCLAIMER,
    ):
        assert words in plain


def test_files_are_written_within_the_folder_that_was_named(own, made, tmp_path):
    head, first, *others = rows_of(own / "clinical.csv")
    save(own / "clinical.csv", [head, ["../../outside", *first[1:]], *others])
    rows = call(own, "--checkpoint", made(), "--out", tmp_path / "predicted")
    names = {path.name for path in (tmp_path / "predicted").iterdir()}
    assert names == {f"{row['recording']}{ending}" for row in rows for ending in (".png", ".json")}
    assert len(names) == 8, "the renamed row is a fourth patient"
    row = next(row for row in rows if row["recording"] == "2")
    kept = json.loads((tmp_path / "predicted" / "2.json").read_text(encoding="utf-8"))
    assert kept["notice"] == DISCLAIMER
    assert kept["probability"] == row["probability"]
    assert (tmp_path / "predicted" / "2.png").read_bytes().startswith(b"\x89PNG")


def test_five_superclasses_have_a_probability_each(own, made, capsys, tmp_path):
    run = made(target="superclasses")
    rows = call(own, "--checkpoint", run, "--out", tmp_path / "predicted")
    said = capsys.readouterr().out
    for row in rows:
        assert list(row["probabilities"]) == list(SUPERCLASSES)
        assert row["probability"] is None
        assert all(0 < p < 1 for p in row["probabilities"].values())
    assert f"probability of MI        {rows[0]['probabilities']['MI']:.2f}" in said
    assert (tmp_path / "predicted" / "1.png").exists()
    with pytest.raises(UserError, match="--prevalence is one of abnormal"):
        call(own, "--checkpoint", run, "--prevalence", "0.1")


# Warnings -------------------------------------------------------------------------------------------------


def test_values_unlike_those_of_training_are_warned_of(own, made):
    head, *rows = rows_of(own / "clinical.csv")
    for row, age in zip(rows, ("60", "118", ""), strict=True):
        row[head.index("age")] = age
        row[head.index("height")] = row[head.index("weight")] = row[head.index("smoking")] = "100"
    save(own / "clinical.csv", [head, *rows])
    usual, old, unknown = call(own, "--checkpoint", made())
    assert codes(usual) == []
    assert codes(old) == ["unlike-training"]
    assert "The age is 118: far from those of training" in texts(old)
    assert codes(unknown) == []
    assert unknown["clinical"]["age"] is None


def test_an_impossible_value_counts_as_missing_and_is_named(own, made):
    head, *rows = rows_of(own / "clinical.csv")
    rows[1][head.index("height")] = "17"
    save(own / "clinical.csv", [head, *rows])
    row = call(own, "--checkpoint", made())[1]
    assert row["clinical"]["height"] is None
    assert "The height 17 is not possible" in texts(row)


def test_views_that_the_run_does_not_read_are_left_aside_with_a_warning(own, made):
    (own / "images" / "3" / "003ECG_lead2.jpg").write_bytes(b"no picture")
    run = made(views=("signal", "clinical"))
    rows = call(own, "--checkpoint", run)
    for row in rows:
        assert row["signals_used"] == ["signal", "clinical"]
        assert "The image was not used: the run reads signal and clinical." in texts(row)
    shutil.rmtree(own / "images")
    for before, row in zip(rows, call(own, "--checkpoint", run), strict=True):
        assert row["probability"] == before["probability"]
        assert "ignored" not in codes(row)


def test_leads_that_the_run_does_not_read_are_left_aside(own, made):
    for row in call(own, "--checkpoint", made(leads=12)):
        assert row["signals_used"] == ["image", "clinical"]
        assert "the run reads 12 leads, and there is 1" in texts(row)


# What is refused ------------------------------------------------------------------------------------------


def spoil(cells: list[str], first: int, last: int, cell: str) -> list[str]:
    return [*cells[:first], *[cell] * (last - first), *cells[last:]]


FAULTS = {
    "picture": (
        lambda own: (own / "images/2/002ECG_lead2.jpg").write_bytes(b"\xff\xd8 cut short"),
        "The picture 002ECG_lead2.jpg cannot be read",
    ),
    "absent": (
        lambda own: (own / "images/2/002ECG_lead2.jpg").unlink(),
        "images/2 holds no picture where 002ECG_lead2.jpg is expected.",
    ),
    "no number": (lambda own: change_signal(own, 5, 6, "high"), "'high' in column 6 is no number"),
    "missing": (lambda own: change_signal(own, 1, 2000, "nan"), "of its samples are missing"),
    "constant": (lambda own: change_signal(own, 1, None, "0.25"), "Lead II of its signal holds nothing"),
    "twice": (lambda own: repeat(own), "The patient occurs 2 times in clinical.csv"),
    "noise": (lambda own: make_noise(own), "No heart beat that repeats is found in its signal"),
}


def change_signal(own: Path, first: int, last: int | None, cell: str) -> None:
    rows = rows_of(own / "ecg_signals.csv")
    rows[1] = spoil(rows[1], first, last or len(rows[1]), cell)
    save(own / "ecg_signals.csv", rows)


def repeat(own: Path) -> None:
    rows = rows_of(own / "clinical.csv")
    save(own / "clinical.csv", [*rows, rows[2]])


def make_noise(own: Path) -> None:
    rows = rows_of(own / "ecg_signals.csv")
    noise = np.random.default_rng(0).normal(size=len(rows[1]) - 1)
    rows[1] = [rows[1][0], *(f"{value:.4f}" for value in noise)]
    save(own / "ecg_signals.csv", rows)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_bad_patient_is_refused_by_name_and_the_others_are_predicted(own, made, before, capsys, fault):
    spoil_it, said = FAULTS[fault]
    spoil_it(own)
    rows = some_refused(capsys, own, "--checkpoint", made())
    assert [row["status"] for row in rows.values()] == ["judged", "refused", "judged"]
    assert said in rows["2"]["reason"]
    assert "It is used without" not in rows["2"]["reason"]
    for name in ("1", "3"):
        assert rows[name]["probability"] == before[name]


def test_who_has_nothing_that_the_run_reads_is_refused(own, made, capsys):
    shutil.rmtree(own / "images" / "2")
    rows = some_refused(capsys, own, "--checkpoint", made(views=("image",)))
    assert "The run reads image, and there is signal, clinical." in rows["2"]["reason"]


def test_a_network_that_needs_all_views_is_not_asked_without_one(own, made, capsys):
    shutil.rmtree(own / "images" / "2")
    rows = some_refused(capsys, own, "--checkpoint", made(modality_dropout=0.0))
    assert "There is no image, and the run cannot do without" in rows["2"]["reason"]
    assert rows["1"]["log_odds"] is None


def test_a_rate_that_no_recorder_has_is_refused(own, made):
    for rate, said in ((20, "Its sampling rate is 20 Hz"), (10_000, "are less than 1 s")):
        with pytest.raises(UserError, match=said):
            call(own, "--checkpoint", made(), "--ecg-rate", rate)


def test_a_rate_that_makes_no_heart_is_refused_or_warned_of(own, made, capsys):
    run = made()
    with pytest.raises(UserError, match=r"Fewer than 3 heart beats are found in the 1\.2 s"):
        call(own, "--checkpoint", run, "--ecg-rate", 2000)
    rows = some_refused(capsys, own, "--checkpoint", run, "--ecg-rate", 90)
    assert "heart-rate" in codes(rows["2"])
    assert "times a minute, as no heart does" in rows["1"]["reason"]


def test_the_rate_of_the_table_travels_with_the_run(own, made):
    (path,) = made().rglob("best.pt")
    first = call(own, "--checkpoint", path)
    content = load_checkpoint(path)
    content["cache"]["choices"] = {"signal_rate": "200"}
    save_checkpoint(path, content)
    second = call(own, "--checkpoint", path)
    assert second[0]["duration"] == pytest.approx(first[0]["duration"] * 250 / 200)
    third = call(own, "--checkpoint", path, "--ecg-rate", "250")
    assert third[0]["probability"] == first[0]["probability"] != second[0]["probability"]


def test_cells_that_name_nobody_are_not_passed_over(own, made, capsys):
    book = openpyxl.Workbook()
    sheet: Any = book.active
    for row in [*rows_of(own / "clinical.csv"), ["", "44"]]:
        sheet.append(row)
    book.save(own / "clinical.xlsx")
    (own / "clinical.csv").unlink()
    rows = some_refused(capsys, own, "--checkpoint", made())
    assert rows["clinical.xlsx, row 5"]["reason"] == "The row names no patient."


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--ecg", "ecg.csv"],
            "--ecg is for runs of ecg-pcg, ecg-phenotypes, ecg-to-cmr, and this one is of ecg-multimodal",
        ),
        (["--pcg-channel", "X"], "--pcg-channel is for runs of ecg-pcg"),
        (["--age", "50"], "--age is for runs of ecg-phenotypes"),
    ],
)
def test_options_without_a_meaning_are_refused(own, made, options, said):
    with pytest.raises(UserError, match=said):
        call(own, "--checkpoint", made(), *options)


def test_what_is_no_folder_of_patients_is_refused(tmp_path, made):
    with pytest.raises(UserError, match="There is no folder"):
        call(tmp_path / "nowhere", "--checkpoint", made())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no patients: none of images/, ecg_signals.csv"):
        call(tmp_path / "empty", "--checkpoint", made())


@pytest.mark.parametrize("part", ["settings", "inputs", "cache", "model", "trained_on"])
def test_checkpoints_that_do_not_fit_are_refused(own, made, part):
    (path,) = made().rglob("best.pt")
    save_checkpoint(path, load_checkpoint(path) | {part: {}})
    with pytest.raises(UserError, match="does not fit this version of the code"):
        call(own, "--checkpoint", path)


# PTB-XL ---------------------------------------------------------------------------------------------------


def write_ptbxl(root: Path, nan_lead: int) -> Path:
    """Write two records of beating hearts in the layout of PTB-XL, undiagnosed; the second lacks a lead."""
    names = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    (root / "records100").mkdir(parents=True)
    table = []
    for number in (1, 2):
        time = np.arange(1000) / 100
        beats = np.exp(-(((time % 0.8) - 0.4) ** 2) / (2 * 0.02**2))
        noise = np.random.default_rng(number).normal(0, 5, (1000, 12))
        counts = (1000 * beats[:, None] + noise).astype("<i2")
        if number == 2:
            counts[:, nan_lead] = -32768
        path = root / "records100" / f"{number:05d}_lr"
        path.with_suffix(".dat").write_bytes(counts.tobytes())
        lines = [
            f"{path.name} 12 100 1000",
            *(f"{path.name}.dat 16 1000.0(0)/mV 16 0 0 0 0 {n}" for n in names),
        ]
        path.with_suffix(".hea").write_text("\n".join(lines) + "\n")
        row = {"ecg_id": number, "age": 50, "sex": 1, "height": "", "weight": 70}
        table.append(row | {"filename_lr": f"records100/{path.name}", "filename_hr": ""})
    pd.DataFrame(table).to_csv(root / "ptbxl_database.csv", index=False)
    return root


def test_records_of_ptbxl_are_predicted_without_diagnoses_and_one_missing_lead_is_named(
    tmp_path, made, capsys
):
    root = write_ptbxl(tmp_path / "ptbxl", nan_lead=8)
    rows = some_refused(capsys, root, "--checkpoint", made(leads=12))
    assert rows["1"]["signals_used"] == list(VIEWS)
    assert rows["1"]["clinical"] == {"age": 50, "sex": 1, "height": None, "weight": 70, "smoking": None}
    assert "Lead V3 of its signal holds nothing" in rows["2"]["reason"]


# Tables as others write them ------------------------------------------------------------------------------


def test_letter_case_of_files_and_folders_changes_nothing(own, made, before):
    for name, other in (
        ("images", "Images"),
        ("ecg_signals.csv", "ECG_Signals.csv"),
        ("clinical.csv", "Clinical.CSV"),
    ):
        (own / name).rename(own / other)
    rows = call(own, "--checkpoint", made())
    assert {row["recording"]: row["probability"] for row in rows} == before
    assert all(row["signals_used"] == list(VIEWS) for row in rows)


def test_a_folder_with_a_table_that_is_not_read_is_refused_and_the_others_are_predicted(
    own, made, before, tmp_path, capsys
):
    other = Path(shutil.copytree(own, tmp_path / "other"))
    (other / "clinical.csv").rename(other / "clinical.xls")
    rows = some_refused(capsys, other, own, "--checkpoint", made())
    assert "clinical.xls is not read: save it as" in rows["other"]["reason"]
    assert {name: row["probability"] for name, row in rows.items() if name != "other"} == before
    with pytest.raises(UserError, match=r"clinical\.xls is not read"):
        call(other, "--checkpoint", made())


def test_a_picture_outside_of_folders_is_not_passed_over(own, made, capsys):
    (own / "images/2/002ECG_lead2.jpg").rename(own / "images/2.jpg")
    (own / "images/2").rmdir()
    rows = some_refused(capsys, own, "--checkpoint", made())
    assert "2.jpg lies in no patient's folder. Mend the image, or remove it" in rows["2"]["reason"]
    assert rows["1"]["signals_used"] == list(VIEWS)


def test_a_number_that_may_be_two_counts_as_missing_with_a_warning(own, made):
    head, *rows = rows_of(own / "clinical.csv")
    rows[0][head.index("weight")] = "3,250"
    save(own / "clinical.csv", [head, *rows])
    row = call(own, "--checkpoint", made())[0]
    assert row["clinical"]["weight"] is None
    assert "weight '3,250' may be 3.25 or 3250: write one of them" in texts(row)
