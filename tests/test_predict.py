"""predict.py from the command line: what it prints, writes and refuses, and how it ends."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

import predict
from common.command_line import to_plain
from common.errors import UserError
from common.script import run_script
from datasets.beats import read_heart_states
from learning.checkpoint import save_checkpoint
from models.linear import PhaseGridLinear
from systems.base import predictor
from systems.base.predictor import DISCLAIMER
from systems.ecg_pcg.settings import ModelSettings, PreparationSettings, TrainingSettings

ONSETS = "annotations/hand_corrected/training-a_StateAns"
SETTINGS = TrainingSettings(model=ModelSettings(model="linear"))


def linear(seed: int = 0, **changes) -> dict:
    """Return the checkpoint of a linear model with random weights."""
    torch.manual_seed(seed)
    model = PhaseGridLinear()
    for part, spread in ((model.pcg, 0.02), (model.ecg, 0.2)):
        part.fitted.fill_(True)
        torch.nn.init.normal_(part.weight, std=spread)
    preparation = to_plain(PreparationSettings())
    metadata = {"identity": "0" * 64, "source": "physionet2016", "simulated": False, "settings": preparation}
    return {
        "task": "ecg-pcg",
        "run": "made",
        "fold": 0,
        "protocol": "session",
        "settings": to_plain(SETTINGS),
        "model": model.state_dict(),
        "trained_on": {"content": []},
        "cache": metadata,
    } | changes


@pytest.fixture
def run(tmp_path) -> Path:
    """Return the folder of a run of two folds."""
    for number in range(2):
        save_checkpoint(tmp_path / "made" / f"fold_{number}" / "best.pt", linear(number))
    return tmp_path / "made"


@pytest.fixture
def records(simulated_raw, tmp_path) -> Path:
    """Return a folder of three simulated recordings that last long enough, with their onsets."""
    folder = tmp_path / "records"
    folder.mkdir()
    for name in sorted(path.stem for path in (simulated_raw / "training-a").glob("*.dat")):
        if (simulated_raw / "training-a" / f"{name}.dat").stat().st_size < 2 * 2000 * 5.5:
            continue
        for ending in ("hea", "dat", "wav"):
            shutil.copy(simulated_raw / "training-a" / f"{name}.{ending}", folder)
        shutil.copy(simulated_raw / ONSETS / f"{name}_StateAns.mat", folder)
        if len(list(folder.glob("*.hea"))) == 3:
            return folder
    raise AssertionError("The simulated cohort has too few recordings that are long enough.")


def strict(text: str) -> dict:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON that strict readers take")

    return json.loads(text, parse_constant=refuse)


def call(*arguments: object) -> list[dict]:
    return predict.main([str(argument) for argument in (*arguments, "--threads", "1")])


# What is printed and written ------------------------------------------------------------------------------


def test_one_recording_is_reported_in_words(run, records, capsys):
    first = min(records.glob("*.hea"))
    (row,) = call(first, "--checkpoint", run, "--prevalence", "0.1")
    said = capsys.readouterr().out
    for words in (
        f"probability of abnormal  {row['probability']:.2f}  if 0.5 of those measured are abnormal",
        f"{row['probability_at_prevalence']:.2f}  if 0.1 of those measured are abnormal",
        "made from                ECG and heart sound",
        "by annotation",
        "mean of 2 folds; its calibration is unknown",
        DISCLAIMER,
    ):
        assert words in said
    assert "confidence" not in said, "the linear model takes no beats"
    assert not list(records.glob("*.png"))


def test_the_document_is_all_that_is_printed(run, records, capsys):
    rows = call(records, "--checkpoint", run, "--json")
    document = strict(capsys.readouterr().out)
    assert document["recordings"] == rows
    assert document["notice"] == DISCLAIMER
    assert document["model"]["run"] == "made"
    assert [len(digest) for digest in document["model"]["checkpoints"].values()] == [64, 64]
    assert [row["status"] for row in rows] == ["judged"] * 3
    assert [row["recording"] for row in rows] == sorted(path.stem for path in records.glob("*.hea"))


def test_files_are_written_where_they_are_wanted(run, records, tmp_path, capsys):
    deep = records / "deep"
    deep.mkdir()
    first = min(records.glob("*.hea")).stem
    for path in list(records.glob(f"{first}*")):
        shutil.move(path, deep)
    (row,) = call(deep / first, "--checkpoint", run, "--out", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{first}.png", f"{first}.json"}
    kept = strict((tmp_path / "out" / f"{first}.json").read_text(encoding="utf-8"))
    assert kept["probability"] == row["probability"]
    assert (tmp_path / "out" / f"{first}.png").read_bytes().startswith(b"\x89PNG")
    assert f"written to {tmp_path / 'out' / first}.png" in capsys.readouterr().out


def test_the_mean_of_folds_and_the_final_fit_where_there_is_one(run, records):
    first = min(records.glob("*.hea"))
    folds = [call(first, "--checkpoint", run / f"fold_{number}" / "best.pt") for number in range(2)]
    single = [rows[0]["probability"] for rows in folds]
    assert abs(single[0] - single[1]) > 1e-6
    assert call(first, "--checkpoint", run)[0]["probability"] == pytest.approx(np.mean(single))
    save_checkpoint(run / "fold_all" / "best.pt", linear(7))
    final = call(first, "--checkpoint", run / "fold_all" / "best.pt")[0]["probability"]
    assert call(first, "--checkpoint", run)[0]["probability"] == final
    assert final not in single


def test_a_sound_with_its_ecg_is_predicted_as_the_record(run, records, tmp_path, monkeypatch):
    name = min(records.glob("*.hea")).stem
    (whole,) = call(records / name, "--checkpoint", run)
    ecg = np.fromfile(records / f"{name}.dat", dtype="<i2")
    np.save(tmp_path / "ecg.npy", ecg)
    options = ["--ecg", tmp_path / "ecg.npy", "--ecg-rate", 2000, "--annotations", records]
    shutil.copy(records / f"{name}.wav", tmp_path)
    (apart,) = call(tmp_path / f"{name}.wav", *options, "--checkpoint", run)
    assert apart["probability"] == pytest.approx(whole["probability"], abs=1e-6)
    assert apart["signals_used"] == ["ecg", "pcg"]


def test_the_table_of_several_holds_for_the_prevalence_that_is_asked_for(run, records, capsys):
    rows = call(records, "--checkpoint", run, "--prevalence", "0.05")
    said = capsys.readouterr().out
    table = said[said.index("abnormal at 0.05") :].splitlines()[1 : 1 + len(rows)]
    asked = [
        predictor.rounded_probability(row["probability"], row["assumed_prevalence"], 0.05) for row in rows
    ]
    assert len(rows) == 3
    assert all(probability in line for probability, line in zip(asked, table, strict=True))


# What is refused ------------------------------------------------------------------------------------------


def test_one_bad_recording_does_not_stop_the_rest(run, records, capsys):
    (records / "bad.wav").write_bytes(b"no sound")
    with pytest.raises(SystemExit) as left:
        call(records, "--checkpoint", run)
    assert left.value.code == 1
    said = capsys.readouterr().out
    assert "bad        refused: bad.wav cannot be read as a .wav file" in said
    assert "Predicted 3 of 4 recordings." in said


def test_refusals_are_in_the_document_too(run, records, capsys):
    (records / "bad.wav").write_bytes(b"no sound")
    with pytest.raises(SystemExit):
        call(records / "bad.wav", min(records.glob("*.hea")), records / "gone", "--checkpoint", run, "--json")
    rows = strict(capsys.readouterr().out)["recordings"]
    assert [row["status"] for row in rows] == ["refused", "judged", "refused"]
    assert "does not exist" in rows[2]["reason"]


def test_nothing_predicted_is_an_error(run, tmp_path, capsys):
    wavfile.write(tmp_path / "a.wav", 2000, np.zeros(20_000, np.int16))
    with pytest.raises(UserError, match=r"^No prediction for a: a\.wav is constant"):
        call(tmp_path / "a.wav", "--checkpoint", run)
    capsys.readouterr()
    arguments = [str(tmp_path / "a.wav"), "--checkpoint", str(run), "--json", "--threads", "1"]
    with pytest.raises(SystemExit) as left:
        run_script(lambda: predict.main(arguments))
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert strict(printed.out)["recordings"][0]["status"] == "refused"
    assert "is constant" in " ".join(printed.err.split())


def test_names_cannot_play_with_the_terminal(run, tmp_path, capsys):
    (tmp_path / "a\x1b[31m.wav").write_bytes(b"no sound")
    with pytest.raises(UserError, match=r"a\?\[31m"):
        call(tmp_path / "a\x1b[31m.wav", "--checkpoint", run)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name a recording"),
        (["X", "--prevalence", "1.5"], "--prevalence must lie between 0 and 1"),
        (["X", "--prevalence", "nan"], "--prevalence must lie between 0 and 1"),
        (["X", "--batch-size", "0"], "--batch-size must be 1 or more"),
        (["X", "--annotations", "nowhere"], "--annotations nowhere is no folder"),
        (["X", "Y", "--ecg", "e.csv"], "--ecg belongs to one recording, and 2 were given"),
        (["X", "--device", "tpu"], "no device 'tpu'"),
        (["X", "--age=4"], "--age is for runs of ecg-phenotypes, and this one is of ecg-pcg"),
    ],
)
def test_commands_without_a_meaning_are_refused(run, arguments, said):
    with pytest.raises(UserError, match=said):
        call(*arguments, "--checkpoint", run)


# Checkpoints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"task": "cmr-mae"},
            "of task cmr-mae, which has no prediction for single recordings",
        ),
        ({"settings": {}}, "does not fit this version of the code"),
        ({"trained_on": {"recording": []}}, "does not fit this version of the code"),
        ({"cache": {}}, "does not fit this version of the code"),
        ({"model": {}}, "does not fit this version of the code"),
        ({"model": None}, "does not fit this version of the code"),
        ({"settings": {"model": "pacfnet"}}, "does not fit this version of the code"),
    ],
)
def test_checkpoints_that_cannot_be_used_are_refused(records, tmp_path, changes, said):
    save_checkpoint(tmp_path / "a.pt", linear(**changes))
    with pytest.raises(UserError, match=said):
        call(min(records.glob("*.hea")), "--checkpoint", tmp_path / "a.pt")


def test_files_that_are_no_checkpoint_are_refused(records, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"weights")
    first = min(records.glob("*.hea"))
    with pytest.raises(UserError, match="cannot be read"):
        call(first, "--checkpoint", tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"There is no best\.pt in .*nowhere"):
        call(first, "--checkpoint", tmp_path / "nowhere")


def test_folds_of_different_runs_are_refused(run, records):
    save_checkpoint(run / "fold_1" / "best.pt", linear(run="other"))
    with pytest.raises(UserError, match="belongs to run other"):
        call(min(records.glob("*.hea")), "--checkpoint", run)


def test_the_model_that_comes_with_the_code_is_the_default(records, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "SHIPPED", tmp_path / "weights" / "shipped.pt")
    first = min(records.glob("*.hea"))
    with pytest.raises(UserError, match=r"not at weights/shipped\.pt\. Name another with --checkpoint"):
        call(first)
    save_checkpoint(tmp_path / "weights" / "shipped.pt", linear(3, run="shipped"))
    assert call(first)[0]["status"] == "judged"


def test_the_small_model_predicts_recordings_that_nobody_annotated(records, tmp_path, capsys):
    """As it comes with the code: small, learned from all of training-a, with heart states it finds itself."""
    assert predictor.SHIPPED.stat().st_size < 5_000_000
    for path in records.glob("*_StateAns.mat"):
        path.unlink()
    name = min(records.glob("*.hea")).stem
    call(records / name, "--json")
    document = strict(capsys.readouterr().out)
    model, (row,) = document["model"], document["recordings"]
    metadata = {name: model["trained_on"][name] for name in ("source", "recordings", "sessions")}
    assert metadata == {"source": "physionet2016", "recordings": 388, "sessions": 58}
    assert model["trained_on"]["abnormal_share"] == pytest.approx(272 / 388)
    assert (model["model"], model["calibrated"], model["simulated"]) == ("linear", True, False)
    assert model["assumed_prevalence"] == 0.5
    assert row["beat_source"] == "automatic segmentation"
    assert "calibration" in row["log_odds"]
    assert "seen" not in [warning["code"] for warning in row["warnings"]]
    (sound,) = call(records / f"{name}.wav")
    assert sound["signals_used"] == ["pcg"]


def test_recordings_of_training_a_are_no_test_of_the_small_model(real_data, tmp_path, capsys):
    shutil.copy(real_data / "training-a" / "a0007.wav", tmp_path / "mine.wav")
    for place in (real_data / "training-a" / "a0007", tmp_path / "mine.wav"):
        (row,) = call(place)
        assert "seen" in [warning["code"] for warning in row["warnings"]]
        assert "was trained on this very recording" in capsys.readouterr().out


# Bad input ------------------------------------------------------------------------------------------------


def mutations(content: bytes, rng: np.random.Generator, count: int) -> list[bytes]:
    """Return damaged copies of a file: cut short, bytes changed, a piece twice or taken out."""
    made = []
    for number in range(count):
        first, last = sorted(int(place) for place in rng.integers(0, max(len(content), 1), 2))
        changed = bytearray(content)
        for place in rng.integers(0, len(content), 1 + number % 8):
            changed[place] = int(rng.integers(256))
        kinds = [
            content[:first],
            bytes(changed),
            content[:last] + content[first:],
            content[:first] + content[last:],
        ]
        made.append(kinds[number % 4])
    return made


@pytest.mark.parametrize("ending", ["hea", "wav", "dat"])
def test_damaged_files_are_predicted_or_refused_and_never_end_in_a_traceback(run, records, ending, capsys):
    rng = np.random.default_rng(5)
    name = min(records.glob("*.hea")).stem
    # the first bytes of a .wav are its header, where damage matters most
    whole = (records / f"{name}.{ending}").read_bytes()
    head, rest = (whole[:64], whole[64:]) if ending == "wav" else (whole, b"")
    for number, content in enumerate(mutations(head, rng, 8)):
        for other in ("hea", "wav", "dat"):
            shutil.copy(records / f"{name}.{other}", records / f"{number}.{other}")
        text = (records / f"{name}.hea").read_bytes().replace(name.encode(), str(number).encode())
        (records / f"{number}.hea").write_bytes(text)
        damaged = content.replace(name.encode(), str(number).encode()) + rest
        (records / f"{number}.{ending}").write_bytes(damaged)
        paths = [records / f"{number}.hea", records / f"{number}.wav"]
        with contextlib.suppress(SystemExit, UserError):
            call(*paths, "--annotations", records, "--checkpoint", run, "--json")
        rows = strict(capsys.readouterr().out)["recordings"]
        assert len(rows) == 2
        for row in rows:
            assert row["status"] == "refused" or 0 <= row["probability"] <= 1


def test_a_real_recording_is_predicted(real_data, run, tmp_path):
    (row,) = call(
        real_data / "training-a" / "a0007", "--annotations", real_data / ONSETS, "--checkpoint", run
    )
    assert row["status"] == "judged"
    assert row["duration"] == pytest.approx(35.7, abs=1)
    assert row["sound_delay"] == pytest.approx(0.035, abs=0.03)
    assert row["quality"]["pcg"]["agreement"] > 0.7
    states = read_heart_states(real_data / ONSETS / "a0007_StateAns.mat", 2000.0)
    assert abs(row["beats"] - (states.state == "S1").sum()) <= 2


def test_the_script_runs_and_helps():
    done = subprocess.run(
        [sys.executable, "predict.py", "--help"],
        cwd=Path(predict.__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    for words in ("Exit", "--prevalence", "not a medical device"):
        assert words in done.stdout
