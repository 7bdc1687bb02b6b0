"""Predictions for one recording, by models of beats and the linear one: as evaluate.py has them, or none."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wfdb
from scipy.io import wavfile
from scipy.special import expit, logit

import export as export_command
import predict as predict_command
from common.command_line import to_plain
from common.errors import UserError
from config import EvaluationSettings, OptimizationSettings
from datasets.beats import HeartStates, read_heart_states
from datasets.sources import DataError
from datasets.splits import make_folds
from evaluation.scores import aggregate
from learning.checkpoint import save_checkpoint
from models import FITTED_MODELS, MODELS, TAKES_ABSENCE
from models.cycle_shape import CycleShape
from models.linear import PhaseGridLinear
from models.phase_fusion import PhaseFusion
from systems.base.evaluation_run import EvaluationRun, predict_folds
from systems.base.predictor import RecordingPath, assumed_prevalence, rounded_probability
from systems.ecg_pcg import predict as module
from systems.ecg_pcg.export import input_names
from systems.ecg_pcg.features.ecg_cycle_grid import cycle_grids
from systems.ecg_pcg.features.phase_grid import phase_grid
from systems.ecg_pcg.predict import Predictor, check_heart_rate
from systems.ecg_pcg.segmentation.automatic import automatic_states
from systems.ecg_pcg.segmentation.segment import Segmentation
from systems.ecg_pcg.settings import (
    EcgPcgPredictionSettings,
    ModelSettings,
    PreparationSettings,
    TrainingSettings,
)
from systems.ecg_pcg.sources.simulated import write_record
from systems.ecg_pcg.sources.user_recording import read_user_recording, signal_digest
from systems.ecg_pcg.task import EcgPcg, signals_of
from tests.exported_checkpoint import WITHOUT_LEVELS

NETWORK = TrainingSettings(model=ModelSettings(width=8, points=100), precision="float32", device="cpu")
EITHER = dataclasses.replace(NETWORK, model=dataclasses.replace(NETWORK.model, modality_dropout=0.5))
LINEAR = TrainingSettings(model=ModelSettings(model="linear"), device="cpu")
PHASE_FUSION = TrainingSettings(model=ModelSettings(model="phase-fusion"), device="cpu")
ONSETS = "annotations/hand_corrected/training-a_StateAns"
FOLDS = 2


@pytest.fixture(scope="module")
def cache(simulated_cache):
    phase_grid(simulated_cache, 1, progress=False)  # in this process; kept beside the cache
    cycle_grids(simulated_cache, 1, progress=False)
    return simulated_cache


def made_model(settings: TrainingSettings, seed: int):
    """Return a model with random weights whose answers differ between recordings, without training."""
    torch.manual_seed(seed)
    model = EcgPcg.create(settings).build().eval()
    if isinstance(model, PhaseGridLinear):
        for part, weight in ((model.pcg, 0.02), (model.ecg, 0.2)):
            part.fitted.fill_(True)
            torch.nn.init.normal_(part.weight, std=weight)
            part.mean.fill_(-0.7)
    if isinstance(model, CycleShape):
        model.pcg.fitted.fill_(True)
        torch.nn.init.normal_(model.pcg.weight, std=0.02)
    if isinstance(model, PhaseFusion):
        model.fitted.fill_(True)
        model.share.fill_(0.5)
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, std=0.02 if name.startswith("evidence") else 0.1)
    return model


def checkpoint(cache, settings: TrainingSettings, fold: int = 0, **changes) -> Any:
    """Return what training would leave of one fold, with weights that were never trained."""
    task = EcgPcg.create(settings)
    table = task.samples(cache, torch.device("cpu")).table
    parts = make_folds(table, "session", FOLDS, 0.0, 1)[fold]
    recordings = cache.table("recordings")
    learned = recordings["recording"].isin(table.iloc[parts.train]["recording"])
    return {
        "task": "ecg-pcg",
        "run": "made",
        "fold": fold,
        "protocol": "session",
        "settings": to_plain(settings),
        "model": made_model(settings, fold).state_dict(),
        "parts": torch.from_numpy(parts.parts(len(table))),
        "trained_on": {"content": recordings.loc[learned, "sha256"].tolist()},
        "cache": {name: cache.manifest[name] for name in ("identity", "source", "simulated", "settings")},
        "label_share": 0.25 + fold / 2,
    } | changes


def predictor(checkpoints: list[Any], raw: Path | None = None, segment=None, **options) -> Predictor:
    settings = EcgPcgPredictionSettings(annotations=raw / ONSETS if raw else None, **options)
    named = {Path(f"fold_{number}.pt"): content for number, content in enumerate(checkpoints)}
    return Predictor(named, settings, segment or refuse_to_segment)


def refuse_to_segment(recording):
    raise DataError("The stand-in finds no heart states.")


def place(raw: Path, name: str) -> RecordingPath:
    return RecordingPath(name, raw / "training-a" / name)


def evaluated(checkpoints, cache, **options):
    predictions = predict_folds(
        EvaluationRun(checkpoints, cache, EvaluationSettings(device="cpu", **options))
    )
    return aggregate(predictions, "recording").set_index("recording")["probability"]


def long_enough(cache) -> list[str]:
    table = cache.table("recordings")
    table = table[
        (table["duration"] >= 5) & (table["ecg_length"] > 0) & (table["beat_source"] == "annotation")
    ]
    return table["recording"].tolist()


# As evaluate.py -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [NETWORK, EITHER, LINEAR, PHASE_FUSION], ids=lambda run: run.variant())
def test_a_recording_gets_the_probability_that_evaluation_gives_it(settings, cache, simulated_raw):
    """Each recording is predicted by the fold that was not trained on it, as in evaluation."""
    folds = [checkpoint(cache, settings, fold) for fold in range(FOLDS)]
    expected = evaluated(folds, cache)
    model = predictor(folds, simulated_raw)
    names = long_enough(cache)[:6]
    found = [model.predict(place(simulated_raw, name)) for name in names]
    assert [answer.probability for answer in found] == pytest.approx(expected[names].tolist(), abs=1e-6)
    assert expected[names].nunique() == len(names), "else the test tells nothing"
    for answer in found:
        metadata = answer.metadata()
        assert (metadata["models"], metadata["models_trained_on_it"]) == (1, 1)
        assert metadata["beat_source"] == "annotation"
        assert metadata["signals_used"] == ["ecg", "pcg"]
        if metadata["log_odds"]:
            log_odds = np.log(answer.probability / (1 - answer.probability))
            assert sum(metadata["log_odds"].values()) == pytest.approx(log_odds, abs=1e-5)
        json.dumps(metadata, allow_nan=False)
    found[0].figure()


@pytest.mark.parametrize("settings", [LINEAR, PHASE_FUSION], ids=lambda run: run.variant())
@pytest.mark.parametrize("modality", ["ecg", "pcg"])
def test_a_fitted_model_takes_either_signal_alone(settings, modality, cache, simulated_raw, monkeypatch):
    """As evaluation has it without the other signal."""
    folds = [checkpoint(cache, settings, fold) for fold in range(FOLDS)]
    expected = evaluated(folds, cache, without={"ecg": "pcg", "pcg": "ecg"}[modality])
    name = long_enough(cache)[0]
    read = module.read_user_recording

    def without_the_other(path, options):
        user = read(path, options)
        absent: dict[str, Any] = {{"ecg": "pcg", "pcg": "ecg"}[modality]: None}
        return dataclasses.replace(user, recording=dataclasses.replace(user.recording, **absent))

    monkeypatch.setattr(module, "read_user_recording", without_the_other)
    answer = predictor(folds, simulated_raw).predict(place(simulated_raw, name))
    assert answer.prepared.used == (modality,)
    assert answer.probability == pytest.approx(expected[name], abs=1e-6)
    answer.figure()


EVERY = [
    *((ModelSettings(model=name), name) for name in MODELS),
    *((ModelSettings(model=name, modality_dropout=0.5), f"{name}-subsets") for name in TAKES_ABSENCE),
    (ModelSettings(zeroed="ecg"), "pacfnet-no-ecg"),
    (ModelSettings(zeroed="pcg"), "pacfnet-no-pcg"),
]
"""Every model, in each way in which it may lack a signal."""
SUBSETS = [("ecg", "pcg"), ("ecg",), ("pcg",)]


@pytest.fixture(scope="module")
def subsets(cache, simulated_raw, tmp_path_factory) -> dict[tuple[str, ...], Path]:
    """Return a WFDB record of one recording for each subset of its signals, and its onsets beside it."""
    name, root = long_enough(cache)[0], tmp_path_factory.mktemp("subsets")
    row = cache.table("recordings").set_index("recording").loc[name]
    found = {}
    for subset in SUBSETS:
        folder = root / "-".join(subset)
        folder.mkdir()
        signals = {
            modality: np.array(
                cache.waveforms(modality)[row[f"{modality}_offset"] :][: row[f"{modality}_length"]]
            )
            for modality in subset
        }
        wfdb.wrsamp(
            name,
            fs=2000,
            units=[{"ecg": "mV", "pcg": "NU"}[modality] for modality in subset],
            sig_name=[modality.upper() for modality in subset],
            p_signal=np.stack(list(signals.values()), axis=1).astype(np.float64),
            fmt=["16"] * len(subset),
            write_dir=str(folder),
        )
        shutil.copy(simulated_raw / ONSETS / f"{name}_StateAns.mat", folder)
        found[subset] = folder / name
    return found


@pytest.mark.parametrize("chosen", [pytest.param(model, id=name) for model, name in EVERY])
def test_every_model_takes_what_it_says_in_predict_and_export(chosen, cache, subsets, tmp_path):
    """And refuses the rest in one sentence, at the command line."""
    fitted = chosen.model in FITTED_MODELS
    levels = None if fitted or chosen.model in WITHOUT_LEVELS else 2
    model = dataclasses.replace(chosen, width=8, points=100, levels=levels)
    settings = dataclasses.replace(NETWORK, model=model)
    metadata: Any = {"provenance": {"torch": "2", "commit": "0"}}
    path = tmp_path / "best.pt"
    save_checkpoint(path, checkpoint(cache, settings, threshold=0.5) | metadata)
    takes = signals_of(settings.model)
    for subset, record in subsets.items():
        given = tuple(modality for modality in takes.modalities if modality in subset)
        command = [str(record), "--checkpoint", str(path), "--threads", "1"]
        if given == takes.modalities or (given and takes.any_subset):
            files = ["--out", str(tmp_path)] if given == subset else []
            (row,) = predict_command.main([*command, *files])
            assert row["signals_used"] == list(given), subset
            assert 0 < row["probability"] < 1
            assert len(row["files"]) == len(files)
        else:
            with pytest.raises(UserError, match=r"^No prediction for \w+: There is no [^.]*\.$"):
                predict_command.main(command)
    if fitted:
        with pytest.raises(UserError, match=r"reads features that only this code computes"):
            export_command.main(["--checkpoint", str(path), "--format", "torch"])
        return
    file = export_command.main(
        ["--checkpoint", str(path), "--format", "torch", "--out", str(tmp_path / "a.pt2"), "--threads", "1"]
    )
    assert file.stat().st_size > 1000, "written only if it agrees with the network"
    masks = ("has_ecg", "has_pcg") if takes.any_subset else ()
    assert input_names(settings.model) == takes.modalities + masks


def test_a_network_that_takes_either_signal_predicts_a_sound_alone(cache, simulated_raw, tmp_path):
    """A .wav without its record is a recording never seen: both folds predict it, and hide nothing else."""
    folds = [checkpoint(cache, EITHER, fold) for fold in range(FOLDS)]
    name = long_enough(cache)[0]
    shutil.copy(simulated_raw / "training-a" / f"{name}.wav", tmp_path)
    found = predictor(folds, simulated_raw).predict(RecordingPath(name, tmp_path / f"{name}.wav"))
    everywhere = [content | {"parts": torch.full_like(content["parts"], 2)} for content in folds]
    alone = [
        evaluated([content | {"protocol": "beat"}], cache, without="ecg")[name] for content in everywhere
    ]
    assert found.probability == pytest.approx(np.mean(alone), abs=1e-6)
    assert found.metadata()["signals_used"] == ["pcg"]
    assert found.metadata()["models"] == 2


def test_all_models_speak_when_all_were_trained_on_the_recording_and_it_is_said(cache, simulated_raw):
    name = long_enough(cache)[0]
    digest = cache.table("recordings").set_index("recording").loc[name, "sha256"]
    folds = [
        checkpoint(cache, LINEAR, fold, trained_on={"content": [digest]}) | {"cache": _real(cache)}
        for fold in range(FOLDS)
    ]
    metadata = predictor(folds, simulated_raw).predict(place(simulated_raw, name)).metadata()
    assert (metadata["models"], metadata["models_trained_on_it"]) == (2, 0)
    assert "seen" in codes(metadata)
    assert "simulated" not in codes(metadata)


def _real(cache) -> dict:
    return {name: cache.manifest[name] for name in ("identity", "source", "settings")} | {"simulated": False}


def codes(metadata: dict) -> list[str]:
    return [warning["code"] for warning in metadata["warnings"]]


@pytest.mark.parametrize("modality", ["pcg", "ecg"])
def test_one_signal_of_a_recording_that_was_learned_from_is_known_again(
    cache, simulated_raw, tmp_path, modality
):
    """A copy of the sound or the ECG alone, under another name, is no fair test either."""
    name = long_enough(cache)[0]
    row = cache.table("recordings").set_index("recording").loc[name]
    offset, length = row[f"{modality}_offset"], row[f"{modality}_length"]
    learned = signal_digest(np.array(cache.waveforms(modality)[offset:][:length]))
    own = simulated_raw / "training-a" / name
    if modality == "pcg":
        shutil.copy(own.with_suffix(".wav"), tmp_path / "mine.wav")
        path = tmp_path / "mine.wav"
    else:
        record = wfdb.rdrecord(str(own), channel_names=["ECG"], physical=False)
        record.record_name = "mine"
        record.set_d_features()
        record.file_name = ["mine.dat"]
        record.wrsamp(write_dir=str(tmp_path))
        path = tmp_path / "mine.hea"
    segmented = true_states(simulated_raw, name)
    for signals, expected in ([], False), ([learned], True):
        content = checkpoint(cache, LINEAR, trained_on={"content": [], "signals": signals})
        answer = predictor([content], segment=segmented).predict(RecordingPath("mine", path))
        assert ("seen" in codes(answer.metadata())) == expected
        assert ("trained on this recording" in answer.watermark) == expected


def test_a_calibration_is_applied_for_the_signals_that_are_there(cache, simulated_raw, tmp_path):
    name = long_enough(cache)[0]
    plain = checkpoint(cache, LINEAR)
    lines: dict[str, list[float]] = {
        "ecg+pcg annotated": [-0.5, 0.8],
        "pcg annotated": [0.25, 0.5],
        "ecg+pcg automatic": [1, 2],
    }
    shutil.copy(simulated_raw / "training-a" / f"{name}.wav", tmp_path)
    whole, sound = place(simulated_raw, name), RecordingPath(name, tmp_path / f"{name}.wav")
    for own, raw, line in (
        (whole, simulated_raw, "ecg+pcg annotated"),
        (sound, simulated_raw, "pcg annotated"),
        (whole, None, "ecg+pcg automatic"),
    ):
        intercept, slope = lines[line]
        segmented = true_states(simulated_raw, name)
        before = predictor([plain], raw, segmented).predict(own)
        calibrated = predictor([plain | {"calibration": lines}], raw, segmented)
        after = calibrated.predict(own)
        assert logit(after.probability) == pytest.approx(
            intercept + slope * logit(before.probability), abs=1e-4
        )
        parts = after.metadata()["log_odds"]
        assert sum(parts.values()) == pytest.approx(logit(after.probability), abs=1e-4)
        assert parts["calibration"] == pytest.approx(intercept)
        assert (calibrated.about()["calibrated"], predictor([plain]).about()["calibrated"]) == (True, False)
        bias = slope * float(plain["model"]["pcg.bias"])
        grid = after.contributions().grid
        assert grid is not None
        assert grid.sum() + bias == pytest.approx(parts["pcg"], abs=1e-6)


def test_a_model_of_simulated_patients_says_so(cache, simulated_raw):
    model = predictor([checkpoint(cache, LINEAR)], simulated_raw)
    answer = model.predict(place(simulated_raw, long_enough(cache)[0]))
    assert "simulated" in codes(answer.metadata())
    assert answer.watermark.startswith("trained on simulated data")


# Beats and heart states -----------------------------------------------------------------------------------


def true_states(raw: Path, name: str, quality: float = 0.6, agreement: float = 1.0):
    return lambda recording: Segmentation(
        read_heart_states(raw / ONSETS / f"{name}_StateAns.mat", recording.header_rate),
        quality,
        60.0,
        agreement,
    )


def test_the_linear_model_takes_automatic_heart_states_where_none_are_annotated(cache, simulated_raw):
    name = long_enough(cache)[1]
    content = checkpoint(cache, LINEAR)
    annotated = predictor([content], simulated_raw).predict(place(simulated_raw, name))
    automatic = predictor([content], segment=true_states(simulated_raw, name)).predict(
        place(simulated_raw, name)
    )
    assert automatic.probability == pytest.approx(annotated.probability, abs=1e-9)
    assert automatic.metadata()["beat_source"] == "automatic segmentation"
    assert automatic.metadata()["beats"] == annotated.metadata()["beats"] > 3
    assert not {"apart", "segmentation"} & set(codes(automatic.metadata()))
    doubtful = predictor([content], segment=true_states(simulated_raw, name, quality=0.4, agreement=0.4))
    found = codes(doubtful.predict(place(simulated_raw, name)).metadata())
    assert "apart" in found
    assert "segmentation" not in found, "with an ECG a low certainty foretells little"


def test_without_heart_states_the_linear_model_speaks_of_the_ecg_alone(cache, simulated_raw):
    name = long_enough(cache)[1]
    content = checkpoint(cache, LINEAR)
    both = predictor([content], simulated_raw).predict(place(simulated_raw, name)).metadata()
    alone = predictor([content]).predict(place(simulated_raw, name)).metadata()
    assert alone["signals_used"] == ["ecg"]
    assert alone["log_odds"] == {"ecg": pytest.approx(both["log_odds"]["ecg"], abs=1e-9)}
    assert "no-beats" in codes(alone)
    assert alone["probability"] == pytest.approx(float(expit(alone["log_odds"]["ecg"])), abs=1e-6)
    assert logit(both["probability"]) == pytest.approx(sum(both["log_odds"].values()), abs=1e-4)


def test_networks_cut_beats_as_those_of_their_training(cache, simulated_raw):
    """At S1, by segmentation where nothing is annotated; at R-peaks if nothing is found, or learned so."""
    name = long_enough(cache)[2]
    segmented = true_states(simulated_raw, name, quality=0.4)
    content = checkpoint(cache, NETWORK)
    annotated = predictor([content], simulated_raw).predict(place(simulated_raw, name))
    automatic = predictor([content], segment=segmented).predict(place(simulated_raw, name))
    assert automatic.metadata()["beat_source"] == "automatic segmentation"
    assert automatic.probability == pytest.approx(annotated.probability, abs=1e-9)
    assert "beats" not in codes(automatic.metadata())
    fallen_back = predictor([content]).predict(place(simulated_raw, name)).metadata()
    assert fallen_back["beat_source"] == "R-peaks of the ECG"
    assert "beats" in codes(fallen_back), "the model learned beats from S1 to S1"
    learned = checkpoint(cache, NETWORK)
    learned["cache"] |= {"settings": dataclasses.asdict(PreparationSettings(onsets="ecg"))}
    same = predictor([learned], simulated_raw, segmented).predict(place(simulated_raw, name)).metadata()
    assert same["beat_source"] == "R-peaks of the ECG", "annotations are not what it learned from"
    assert "beats" not in codes(same)


S1, R_PEAKS, NOTED = "automatic segmentation", "R-peaks of the ECG", "annotation"


@pytest.mark.parametrize(
    ("learned", "annotated", "heard", "source", "warned"),
    [
        ({"annotation": 3}, False, True, S1, False),
        ({"automatic": 2, "ecg": 1}, False, True, S1, False),
        ({"automatic": 2, "ecg": 1}, False, False, R_PEAKS, False),
        ({"automatic": 3}, False, False, R_PEAKS, True),
        ({"ecg": 2, "automatic": 1}, False, True, R_PEAKS, False),
        ({"ecg": 2, "automatic": 1}, True, True, NOTED, False),
        ({"ecg": 3}, True, True, NOTED, True),
        (None, False, True, R_PEAKS, False),  # an older checkpoint of a cohort
    ],
)
def test_the_checkpoint_says_how_beats_are_cut(
    cache, simulated_raw, learned, annotated, heard, source, warned
):
    """By what its training recordings were cut, whatever their source is."""
    name = long_enough(cache)[2]
    own = checkpoint(cache, NETWORK)
    own["cache"] |= {"source": "cohort"} | ({"beat_source": learned} if learned else {})
    model = predictor(
        [own], simulated_raw if annotated else None, true_states(simulated_raw, name) if heard else None
    )
    found = model.predict(place(simulated_raw, name)).metadata()
    assert found["beat_source"] == source
    assert ("beats" in codes(found)) == warned


def test_doubts_about_a_segmentation_that_is_not_used_are_not_told(cache, simulated_raw):
    """It finds too few beats, so R-peaks are taken."""
    name = long_enough(cache)[2]
    states = true_states(simulated_raw, name, agreement=0.1)(
        read_user_recording(place(simulated_raw, name), EcgPcgPredictionSettings()).recording
    )
    few = HeartStates(states.states.time[:5], states.states.state[:5])
    found = predictor(
        [checkpoint(cache, NETWORK)], segment=lambda _: dataclasses.replace(states, states=few)
    ).predict(place(simulated_raw, name))
    assert found.metadata()["beat_source"] == "R-peaks of the ECG"
    assert "apart" not in codes(found.metadata())


def test_a_sound_without_ecg_or_onsets_is_segmented_for_a_network(cache, simulated_raw, tmp_path):
    name = long_enough(cache)[2]
    sound = tmp_path / f"{name}.wav"
    shutil.copy(simulated_raw / "training-a" / sound.name, sound)
    content = checkpoint(cache, EITHER)
    found = predictor([content], segment=true_states(simulated_raw, name)).predict(RecordingPath(name, sound))
    annotated = predictor([content], simulated_raw).predict(RecordingPath(name, sound))
    assert found.probability == pytest.approx(annotated.probability, abs=1e-9)
    assert found.metadata()["beat_source"] == "automatic segmentation"
    assert "segmentation" not in codes(found.metadata())
    doubtful = predictor([content], segment=true_states(simulated_raw, name, quality=0.45))
    assert "segmentation" in codes(doubtful.predict(RecordingPath(name, sound)).metadata())
    with pytest.raises(DataError, match=r"No beats are found\. The stand-in finds no heart states"):
        predictor([content]).predict(RecordingPath(name, sound))


def test_a_broken_annotation_is_said_and_done_without(cache, simulated_raw, tmp_path):
    name = long_enough(cache)[0]
    for path in (simulated_raw / "training-a").glob(f"{name}.*"):
        shutil.copy(path, tmp_path)
    (tmp_path / f"{name}_StateAns.mat").write_bytes(b"no table")
    metadata = (
        predictor([checkpoint(cache, NETWORK)]).predict(RecordingPath(name, tmp_path / name)).metadata()
    )
    assert metadata["beat_source"] == "R-peaks of the ECG"
    assert "annotation" in codes(metadata)


# Refusals -------------------------------------------------------------------------------------------------


def test_a_network_of_both_signals_refuses_one(cache, simulated_raw, tmp_path):
    name = long_enough(cache)[0]
    shutil.copy(simulated_raw / "training-a" / f"{name}.wav", tmp_path)
    with pytest.raises(DataError, match=r"There is no ECG, which pacfnet needs.*--modality-dropout"):
        predictor([checkpoint(cache, NETWORK)], simulated_raw).predict(
            RecordingPath(name, tmp_path / f"{name}.wav")
        )


def test_what_is_too_short_is_refused(cache, tmp_path):
    wavfile.write(tmp_path / "a.wav", 2000, np.random.default_rng(0).normal(0, 999, 9000).astype(np.int16))
    with pytest.raises(DataError, match=r"lasts 4\.5 s, and at least 5 s are needed"):
        predictor([checkpoint(cache, LINEAR)]).predict(RecordingPath("a", tmp_path / "a.wav"))


@pytest.mark.parametrize("settings", [NETWORK, LINEAR], ids=["network", "linear"])
def test_noise_is_refused_whatever_the_model_would_say(settings, cache, simulated_raw, tmp_path):
    rng = np.random.default_rng(0)
    pcg, ecg = rng.normal(0, 3000, (2, 60_000)).astype(np.int16)
    write_record(tmp_path, "noise", 0, pcg, ecg)
    model = predictor(
        [checkpoint(cache, settings)], segment=true_states(simulated_raw, long_enough(cache)[0])
    )
    with pytest.raises(DataError, match=r"No heart beat that repeats is found|No beats are found"):
        model.predict(RecordingPath("noise", tmp_path / "noise"))


def test_hum_is_refused(cache, tmp_path):
    """It repeats, but not as a heart does."""
    time = np.arange(40_000) / 2000
    wavfile.write(tmp_path / "hum.wav", 2000, (8000 * np.sin(2 * np.pi * 50 * time)).astype(np.int16))
    with pytest.raises(DataError, match="as no heart does: it is too noisy"):
        predictor([checkpoint(cache, LINEAR)], segment=automatic_states).predict(
            RecordingPath("hum", tmp_path / "hum.wav")
        )


@pytest.mark.parametrize(("cycle", "said"), [(0.25, "240 times a minute"), (3.0, "20 times a minute")])
def test_heart_rates_that_no_heart_has_are_refused(cycle, said):
    starts = np.arange(5) * cycle
    with pytest.raises(DataError, match=said):
        check_heart_rate(np.stack([starts, starts + cycle], axis=1))
    check_heart_rate(np.array([[0.0, 0.8]]))


def test_sounds_sampled_too_slowly_are_left_out_by_the_linear_model(cache, simulated_raw, tmp_path):
    """At 1000 Hz nothing is above 500 Hz, and the grid reaches up to 950 Hz."""
    name = long_enough(cache)[0]
    rate, sound = wavfile.read(simulated_raw / "training-a" / f"{name}.wav")
    wavfile.write(tmp_path / "slow.wav", rate // 2, sound[::2])
    with pytest.raises(DataError, match=r"sampled at 1000 Hz.*1900 Hz are needed"):
        predictor([checkpoint(cache, LINEAR)]).predict(RecordingPath("slow", tmp_path / "slow.wav"))


def test_an_answer_that_is_no_number_is_refused(cache, simulated_raw):
    content = checkpoint(cache, LINEAR)
    content["model"]["pcg.weight"][5] = float("nan")
    with pytest.raises(DataError, match="is not a number"):
        predictor([content], simulated_raw).predict(place(simulated_raw, long_enough(cache)[0]))


def test_recordings_far_from_those_of_the_training_are_named(cache, simulated_raw):
    content = checkpoint(cache, LINEAR)
    usual = predictor([content], simulated_raw).predict(place(simulated_raw, long_enough(cache)[0]))
    assert "unlike" not in codes(usual.metadata())
    content["model"]["pcg.mean"] += 50.0
    strange = predictor([content], simulated_raw).predict(place(simulated_raw, long_enough(cache)[0]))
    warnings = [
        warning["signal"] for warning in strange.metadata()["warnings"] if warning["code"] == "unlike"
    ]
    assert warnings == ["pcg"]


# Prevalence -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "shares", "expected"),
    [
        (NETWORK, [0.7], 0.5),
        (LINEAR, [0.7], 0.5),
        (
            dataclasses.replace(NETWORK, optimization=OptimizationSettings(class_weights=False)),
            [0.6, 0.8],
            0.7,
        ),
        (dataclasses.replace(NETWORK, optimization=OptimizationSettings(class_weights=False)), [None], None),
    ],
    ids=["weighted", "linear", "unweighted", "unknown"],
)
def test_the_prevalence_a_model_assumes(settings, shares, expected):
    known: dict[str, Any] = {"task": "ecg-pcg", "settings": to_plain(settings)}
    checkpoints: Any = [known | ({} if share is None else {"label_share": share}) for share in shares]
    assert assumed_prevalence(checkpoints) == (None if expected is None else pytest.approx(expected))


def test_both_prevalences_are_said(cache, simulated_raw):
    """Odds p / (1 - p) at one half become a ninth of that at one tenth."""
    model = predictor([checkpoint(cache, NETWORK)], simulated_raw, prevalence=0.1)
    metadata = model.predict(place(simulated_raw, long_enough(cache)[0])).metadata()
    assert (metadata["assumed_prevalence"], metadata["prevalence"]) == (0.5, 0.1)
    odds = metadata["probability"] / (1 - metadata["probability"]) / 9
    assert metadata["probability_at_prevalence"] == pytest.approx(odds / (1 + odds))


@pytest.mark.parametrize(
    ("probability", "target", "text"),
    [
        (0.9, None, "0.90"),
        (0.9999, None, "above 0.99"),
        (0.0001, None, "below 0.01"),
        (0.9, 0.1, "0.50"),
        (0.9999, 0.1, "above 0.92"),  # odds 99 become 11
        (0.0001, 0.9, "below 0.08"),  # odds 1 / 99 become 1 / 11
        (0.9999, 0.9, "above 0.99"),
        (0.95, 0.9, "above 0.99"),
        (0.05, 0.1, "below 0.01"),
        (0.9999, 0.0001, "above 0.0098"),
    ],
)
def test_no_certainty_is_gained_by_another_prevalence(probability, target, text):
    """What is above 0.99 at one half may be anything there, and so at another prevalence."""
    assert rounded_probability(probability, 0.5, target) == text


def test_the_screen_and_the_figure_limit_certainty_before_the_prevalence(cache, simulated_raw):
    content = checkpoint(cache, LINEAR)
    content["model"]["pcg.bias"] += 50.0
    model = predictor([content], simulated_raw, prevalence=0.1)
    answer = model.predict(place(simulated_raw, long_enough(cache)[0]))
    text = "\n".join(model.recording_text(answer.metadata()))
    assert "above 0.99  if 0.5 of" in text and "above 0.92  if 0.1 of" in text
    assert "above 0.92 if 0.1 is" in answer.subtitle(answer.probability)


def test_a_prevalence_cannot_be_changed_where_none_is_known(cache):
    settings = dataclasses.replace(NETWORK, optimization=OptimizationSettings(class_weights=False))
    with pytest.raises(UserError, match="omit --prevalence"):
        predictor([checkpoint(cache, settings, label_share=None)], prevalence=0.1)


# Figures --------------------------------------------------------------------------------------------------


def test_the_spread_is_over_beats_and_the_figure_shows_each(cache, simulated_raw):
    answer = predictor([checkpoint(cache, NETWORK)], simulated_raw).predict(
        place(simulated_raw, long_enough(cache)[0])
    )
    metadata = answer.metadata()
    each = [beat["probability"] for beat in metadata["each_beat"]]
    assert len(each) == metadata["beats"]
    assert metadata["probability"] == pytest.approx(np.mean(each))
    assert list(metadata["spread_over_beats"].values()) == pytest.approx(
        np.percentile(each, [10, 90]).tolist()
    )
    figure = answer.figure()
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert "each beat" in labels
    assert "mean attention" in labels


def test_the_map_of_contributions_adds_up_to_the_answer(cache, simulated_raw):
    content = checkpoint(cache, LINEAR)
    answer = predictor([content], simulated_raw).predict(place(simulated_raw, long_enough(cache)[0]))
    found = answer.contributions()
    bias = float(content["model"]["pcg.bias"])
    assert found.grid is not None
    assert found.grid.sum() + bias == pytest.approx(found.parts["heart sound"], abs=1e-6)
    assert found.grid.shape == (22, 34)
    assert (found.band_edges[0], found.band_edges[-1]) == (pytest.approx(23.4375), pytest.approx(953.125))
    assert answer.metadata()["spread_over_beats"] is None
