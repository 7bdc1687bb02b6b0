"""Judge recordings of one's own with a trained model: probability of abnormal, warnings, figure.

    python predict.py RECORDING                                # the small model that comes with the code
    python predict.py RECORDING --checkpoint checkpoints/<run> # a run: its final fit, or all its folds
    python predict.py sound.wav --ecg ecg.csv --ecg-rate 500   # a heart sound and the ECG recorded with it
    python predict.py FOLDER --out judged                      # all in it, with a figure and metadata of each
    python predict.py RECORDING --prevalence 0.05 --json       # for programs
    python predict.py FOLDER --checkpoint checkpoints/<run of ecg-multimodal>    # patients
    python predict.py --ecg ECG --checkpoint checkpoints/<run of ecg-to-cmr> --out drawn    # cines, drawn
    python predict.py --ecg ECG --checkpoint checkpoints/<run of ecg-phenotypes> --age 61 --sex female
    python predict.py ECGS --checkpoint checkpoints/<run of ecg-phenotypes> --patients pairs.csv --out judged

RECORDING is a WFDB record with ECG, heart sound (PCG) or both, a .wav heart sound, or a folder of these; for
a run of ecg-multimodal a folder of patients as load_data.py ecg-multimodal takes it, without labels.
The probability is one for a share of abnormal that the model assumes; --prevalence brings it to yours.
Runs of ecg-phenotypes judge twelve-lead ECGs (WFDB records, .npy in millivolts, folders of these): what a
cardiac MRI would show, with intervals in which the truth lay for 90 in 100 patients of the validation part.
What cannot be judged is refused, with the reason. Exit status: 0 all were judged, 1 some were not, 2 none
was (or the command is wrong). Research software, not a medical device: nothing it prints is a diagnosis.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from common.command_line import read_settings
from common.errors import UserError
from common.files import write_json
from common.script import run_script
from datasets.recording_paths import Place
from evaluation.figure_text import DISCLAIMER, rounded_probability
from evaluation.figures import save_figure
from learning.devices import set_threads
from systems import registry
from systems.base.prediction_settings import PredictionSettings
from systems.base.predictor import Prediction, Predictor, Words, at_share, open_predictor, task_of

Metadata = dict[str, Any]
NAMES = {"ecg": "ECG", "pcg": "heart sound"}


def main(arguments: Sequence[str] | None = None) -> list[Metadata]:
    """Judge what the command line names; return the metadata of each recording."""
    settings = read_settings(PredictionSettings, sys.argv[1:] if arguments is None else arguments, __doc__)
    set_threads(settings.threads)
    if not settings.recordings and settings.ecg is not None and settings.checkpoint is not None:
        if task_of(settings) != "ecg-phenotypes":
            return [draw(settings)]
        settings = replace(settings, recordings=(settings.ecg,), ecg=None)
    check(settings)
    with quiet_output(settings.json):
        predictor = open_predictor(settings)
        places = predictor.find(settings.recordings)
        if settings.ecg is not None and len(places) > 1:
            raise UserError(f"--ecg belongs to one recording, and {len(places)} were given.")
        rows = [judge(predictor, place, settings) for place in follow(places)]
    model = predictor.metadata()
    if settings.json:
        document = {"notice": DISCLAIMER, "model": model, "recordings": rows}
        print(json.dumps(document, indent=2, allow_nan=False))
    else:
        report(model, rows, getattr(registry.module_of(model["task"], "text"), "WORDS", PROBABILITY))
    leave(rows)
    return rows


def draw(settings: PredictionSettings) -> Metadata:
    """Draw from an ECG alone, by a model that does; print and return what is measured in what it drew."""
    task = task_of(settings)
    if task != "ecg-to-cmr":
        raise UserError(
            f"{settings.checkpoint} is a run of {task}, which draws nothing: name a recording to judge, "
            "or a run of ecg-to-cmr."
        )
    with quiet_output(settings.json):
        metadata = registry.module_of(task, "predict").draw(settings)
    if settings.json:
        print(json.dumps(metadata, indent=2, allow_nan=False))
        return metadata
    print(metadata["notice"])
    if metadata["trained_on_simulated"]:
        print("The run knows simulated patients only: what it draws of a real ECG cannot be believed.")
    print(f"Measured in {metadata['samples']} cines drawn from {metadata['ecg']}:")
    for name, row in metadata["indicators"].items():
        low, high = row["low"], row["high"]
        value = "n/a" if low is None else f"{row['mean']:.1f} {row['unit']} ({low:.1f} to {high:.1f})"
        print(f"  {name.replace('_', ' '):20} {value}")
    print(f"Written to {settings.out}: {', '.join(metadata['files'])}.")
    return metadata


def check(settings: PredictionSettings) -> None:
    """Refuse settings without a meaning."""
    if not settings.recordings:
        raise UserError("Name a recording: a WFDB record, a .wav file or a folder. --help says more.")
    if settings.prevalence is not None and not 0 < settings.prevalence < 1:
        raise UserError(f"--prevalence must lie between 0 and 1, and is {settings.prevalence}.")
    if settings.batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more, and is {settings.batch_size}.")
    if settings.annotations is not None and not settings.annotations.is_dir():
        raise UserError(f"--annotations {settings.annotations} is no folder.")


@contextlib.contextmanager
def quiet_output(quiet: bool) -> Iterator[None]:
    """Keep whatever is printed meanwhile off the output, if that is to be one document."""
    with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext():
        yield


def follow(places: Sequence[Place]) -> Iterator[Place]:
    """Yield the recordings, with a bar if there are several."""
    yield from tqdm(places, desc="Judging", unit="recording", leave=False, disable=len(places) < 2)


def judge(predictor: Predictor, place: Place, settings: PredictionSettings) -> Metadata:
    """Judge one recording, write its files, and return its metadata; or why it was refused."""
    named: Metadata = {"recording": printable(place.name), "path": printable(str(place.path))}
    try:
        prediction = predictor.predict(place)
    except (UserError, OSError, MemoryError) as error:
        reason = printable(str(error) or type(error).__name__)
        return named | {"status": "refused", "reason": reason}
    metadata = named | {"status": "judged"} | prediction.metadata()
    return metadata | {"files": write(prediction, metadata, place, settings)}


def write(
    prediction: Prediction, metadata: Metadata, place: Place, settings: PredictionSettings
) -> list[str]:
    """Write figure and metadata of a recording, if files are wanted; return their paths."""
    if settings.out is None:
        return []
    base = settings.out / place.name
    figure, table = (base.with_name(base.name + ending) for ending in (".png", ".json"))
    save_figure(prediction.figure(), figure)
    write_json(table, {"notice": DISCLAIMER} | metadata)
    return [printable(str(path)) for path in (figure, table)]


def report(model: Metadata, rows: Sequence[Metadata], words: Words) -> None:
    """Print each recording, and a table if there are several."""
    print("\n".join(words.model(model)))
    for row in rows:
        if row["status"] == "judged":
            lines = [*words.recording(row), *(words.doubts or describe_doubts)(row)]
            print("\n".join(["", row["recording"], *(f"  {line}" for line in lines)]))
    if len(rows) > 1:
        table = words.table(rows) if words.table else table_lines(rows, words)
        print("\n" + "\n".join(table))
    print(f"\n{DISCLAIMER}")


def describe_model(model: Metadata) -> list[str]:
    """Return what the model is, what it learned from, and how its probabilities are to be read."""
    count, learned, share = (
        len(model["checkpoints"]),
        model["trained_on"],
        model["trained_on"]["abnormal_share"],
    )
    sessions = f" of {learned['sessions']} sessions" if learned["sessions"] else ""
    abnormal = "" if share is None else f", {share:.0%} of them abnormal"
    checked = "was measured on sessions kept apart" if model["calibrated"] else "is unknown"
    return [
        f"Model: {model['model']} of run {model['run']}{f', mean of {count} folds' * (count > 1)}; "
        f"its calibration {checked}.",
        f"Learned from {learned['recordings']} recordings{sessions} of {learned['source']}{abnormal}.",
    ]


def describe(row: Metadata) -> list[str]:
    """Return what is known of a judged recording, a line each."""
    assumed, wanted = row["assumed_prevalence"], row["prevalence"]
    lines = [f"probability of abnormal  {rounded_probability(row['probability'])}" + at_share(assumed)]
    if wanted is not None:
        lines.append(
            f"                         {rounded_probability(row['probability_at_prevalence'])}"
            + at_share(wanted)
        )
    if row["spread_over_beats"] is not None:
        low, high = row["spread_over_beats"].values()
        spread = f"spread over beats        {low:.2f} to {high:.2f}"
        lines.append(f"{spread}  (10th to 90th percentile; no confidence interval)")
    signals = " and ".join(NAMES.get(name, name) for name in row["signals_used"])
    lines.append(f"made from                {signals}, {row['duration']:.1f} s")
    if row["beats"] is not None:
        lines.append(f"beats                    {row['beats']}, by {row['beat_source']}")
    if row["models_trained_on_it"]:
        lines.append(f"models                   {row['models']}; others were trained on this recording")
    return lines


def describe_doubts(row: Metadata) -> list[str]:
    """Return what is doubtful about a judged recording, and the files written, a line each."""
    lines = [f"warning: {doubt['text']}" for doubt in row["warnings"]]
    return lines + [f"written to {path}" for path in row["files"]]


PROBABILITY = Words(describe_model, describe, "abnormal", lambda row: rounded_probability(row["probability"]))
"""How the metadata of a task are told that says how probably a recording is abnormal."""


def table_lines(rows: Sequence[Metadata], words: Words) -> list[str]:
    """Return a table of all recordings: what is said of each, and which warnings, or why it was refused."""
    width = max(len("recording"), *(len(row["recording"]) for row in rows))
    told = [words.short(row) for row in rows if row["status"] == "judged"]
    wide = max([10, len(words.column), *map(len, told)])
    lines = [f"{'recording':{width}}  {words.column:>{wide}}  warnings"]
    for row in rows:
        if row["status"] == "refused":
            lines.append(f"{row['recording']:{width}}  refused: {row['reason']}")
            continue
        codes = dict.fromkeys(doubt["code"] for doubt in row["warnings"])
        lines.append(f"{row['recording']:{width}}  {words.short(row):>{wide}}  {', '.join(codes)}".rstrip())
    judged = sum(row["status"] == "judged" for row in rows)
    return [*lines, f"{judged} of {len(rows)} recordings were judged."]


def printable(text: str) -> str:
    """Return text without signs that a terminal or a file cannot take."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def leave(rows: Sequence[Metadata]) -> None:
    """Leave with status 1 if some recordings were refused; with an error, and so status 2, if all were."""
    refused = [row for row in rows if row["status"] == "refused"]
    if len(refused) == len(rows):
        first = refused[0]
        others = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise UserError(f"{first['recording']} cannot be judged{others}: {first['reason']}")
    if refused:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
