"""What a run of ``ecg-multimodal`` says of patients, in words for a terminal of any width."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from datasets.patients import SUPERCLASSES
from evaluation.figure_text import rounded_probability
from systems.base.predictor import Words, at_share

Metadata = dict[str, Any]
WIDEST, NARROWEST = 100, 30
"""Signs of a line."""
COLUMN = 25
"""Signs of the names before what is said."""
NAMES = {"image": "image", "signal": "signal", "clinical": "clinical values"}


def describe_model(model: Metadata) -> list[str]:
    """Return what the model is, what it learned from, and how its probabilities are to be read."""
    count, learned = len(model["checkpoints"]), model["trained_on"]
    share = learned["abnormal_share"]
    abnormal = "" if share is None else f", {share:.0%} of them abnormal"
    folds = f", mean of {count} folds" if count > 1 else ""
    lines = [
        f"Model: {model['model']} of run {model['run']}{folds}; its calibration is unknown.",
        f"Learned from {learned['recordings']} recordings of {learned['sessions']} patients (source: "
        f"{learned['source']}){abnormal}.",
        *(f"Note: {note}" for note in model["notes"]),
    ]
    return [part for line in lines for part in wrapped(line)]


def describe(row: Metadata) -> list[str]:
    """Return what is known of a judged patient, a line each."""
    found = [*_probabilities(row), ("made from", _views(row))]
    known = [name for name, value in row["clinical"].items() if value is not None]
    if row["clinical"]:
        missing = [name for name in row["clinical"] if name not in known]
        lacking = f"; missing: {', '.join(missing)}" if missing else ""
        found.append(("clinical values", f"{len(known)} of {len(row['clinical'])}{lacking}"))
    if row["spread_over_models"] is not None and row["probability"] is not None:
        (low,), (high,) = row["spread_over_models"].values()
        found.append((f"the {row['models']} models", f"{low:.2f} to {high:.2f}  (no confidence interval)"))
    if row["models_trained_on_it"]:
        found.append(("models", f"{row['models']}; others were trained on this patient"))
    return [line for name, said in found for line in wrapped(said, name)]


def describe_doubts(row: Metadata) -> list[str]:
    """Return what is doubtful about a judged patient, and the files written, a line each or more."""
    lines = [line for doubt in row["warnings"] for line in wrapped(f"warning: {doubt['text']}")]
    return lines + [f"written to {path}" for path in row["files"]]


def describe_shortly(row: Metadata) -> str:
    """Return the probability of abnormal, or those of all superclasses."""
    if row["probabilities"] is not None:
        return " ".join(f"{value:5.2f}" for value in row["probabilities"].values())
    return f"{rounded_probability(row['probability']):>10}"


def _probabilities(row: Metadata) -> list[tuple[str, str]]:
    """Return the names and the words of what is said of a patient."""
    if row["probabilities"] is not None:
        return [
            (f"probability of {name}", rounded_probability(p)) for name, p in row["probabilities"].items()
        ]
    said = rounded_probability(row["probability"]) + at_share(row["assumed_prevalence"])
    lines = [("probability of abnormal", said)]
    if row["probability_at_prevalence"] is not None:
        shifted = rounded_probability(row["probability_at_prevalence"])
        lines.append(("", shifted + at_share(row["prevalence"])))
    return lines


def _views(row: Metadata) -> str:
    """Return the views that a patient was judged by, and how much each counted."""
    shares = row["shares"]
    if shares is None or len(shares) == 1:
        return " and ".join(NAMES[view] for view in row["signals_used"])
    return ", ".join(f"{NAMES[view]} {share:.0%}" for view, share in shares.items()) + "  (weight of each)"


def table_lines(rows: Sequence[Metadata]) -> list[str]:
    """Return a table of all patients: probability, views and doubts, or why one was refused."""
    width = max(len("patient"), *(len(row["recording"]) for row in rows))
    classes = any(row["status"] == "judged" and row["probabilities"] is not None for row in rows)
    head = " ".join(f"{name:>5}" for name in SUPERCLASSES) if classes else f"{'abnormal':>10}"
    lines = [f"{'patient':{width}}  {head}  views, warnings"]
    for row in rows:
        if row["status"] == "refused":
            lines += wrapped(f"refused: {row['reason']}", row["recording"], width + 2)
            continue
        codes = dict.fromkeys(doubt["code"] for doubt in row["warnings"])
        said = f"{'+'.join(row['signals_used'])}{'; ' if codes else ''}{', '.join(codes)}"
        beside = f"{row['recording']:{width}}  {describe_shortly(row)}  "
        lines += wrapped(said, beside, len(beside))
    judged = sum(row["status"] == "judged" for row in rows)
    return [*lines, f"{judged} of {len(rows)} patients were judged."]


def wrapped(text: str, name: str | None = None, column: int = COLUMN) -> list[str]:
    """Return text in lines that fit the terminal, beside a name, or below it where there is no room.

    Parameters
    ----------
    text : str
    name : str, optional
        Written before it; empty: only its place is kept.
    column : int
        Signs of the name's place.
    """
    width = max(NARROWEST, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns - 2))
    beside, indent = ("", "  ") if name is None else (name.ljust(column), " " * column)
    if name is not None and width - column < NARROWEST:
        return [*([name] if name else []), *_filled(text, width, "  ", "  ")]
    return _filled(text, width, beside, indent)


def _filled(text: str, width: int, first: str, rest: str) -> list[str]:
    style: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest, **style)


WORDS = Words(describe_model, describe, "abnormal", describe_shortly, describe_doubts, table_lines)
