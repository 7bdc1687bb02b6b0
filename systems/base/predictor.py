"""Predictions for single recordings: what Predictor and Prediction of every task share, and their text.

A `Predictor` holds the trained models of one run. It finds recordings, makes a `Prediction` for each, and
formats their metadata as text. Of several models (folds) the mean is given; those that were trained on the
recording itself are left out.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.command_line import counted
from common.errors import UserError
from common.files import write_json
from config import PredictionSettings
from datasets.cache import SIMULATED, source_title
from datasets.signal_quality import NAMES, SignalWarning
from evaluation.calibration import shift_prior
from learning.checkpoint import Checkpoint, file_digest, load_checkpoint, must_fit
from learning.devices import choose_device
from learning.runs import find_checkpoints
from systems import registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]
Metadata = dict[str, Any]
SHIPPED = Path(__file__).parents[2] / "models" / "weights" / "ecg_pcg_linear.pt"
"""The small model that comes with the code, for an ECG with or without heart sound."""
SHIPPED_SOUND = SHIPPED.with_name("cycle_shape.pt")
"""That for a heart sound alone."""
PREDICTED, REFUSED = "judged", "refused"
"""Status of a recording in the JSON document."""
DISCLAIMER = "Research software, not a medical device: nothing here is a diagnosis."
BALANCED_PREVALENCE = 0.5
"""Share of abnormal that the probabilities of a model assume that was trained with class weights."""
_MOST_CERTAIN = 0.99
"""Highest probability that is shown: no model of a few hundred recordings can be surer."""
WIDEST, NARROWEST, COLUMN = 100, 30, 25
"""Characters of a line, and of the names at its beginning."""
_DRAWN_POINTS = 4000
"""Points to which a long signal is thinned, the lowest and the highest of each stretch kept."""
LONGEST_TITLE, LONGEST_BESIDE_WATERMARK = 60, 34
"""Characters of a title, alone and beside a watermark; of a longer one the end is shown."""


@dataclass(frozen=True)
class RecordingPath:
    """Where one recording is, and the name by which it is reported."""

    name: str
    path: Path


def distinct(found: Sequence[RecordingPath]) -> list[RecordingPath]:
    """Return recordings of which no two have the same name: equal ones get a number."""
    kept: list[RecordingPath] = []
    taken: set[str] = set()
    for one in found:
        numbered = (f"{one.name}-{number}" for number in range(2, len(found) + 2))
        name = one.name if one.name not in taken else next(name for name in numbered if name not in taken)
        taken.add(name)
        kept.append(RecordingPath(name, one.path))
    return kept


def safe_name(name: str) -> str:
    """Return a name from a table as one of a file: within its folder, whatever it holds."""
    return re.sub(r"[^\w .,+()-]", "_", name).strip(". ") or "_"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the models of a run predict for one recording.

    Attributes
    ----------
    name : str
    warnings : list of SignalWarning
        All that is doubtful.
    watermark : str
        What has to be printed on every figure.
    left_out : int
        Models that were not used, as they were trained on this very recording.
    assumed_prevalence, target_prevalence : float or None
        Share of abnormal that the probabilities assume, and another one to give them for.
    """

    name: str
    warnings: list[SignalWarning]
    watermark: str
    left_out: int
    assumed_prevalence: float | None = None
    target_prevalence: float | None = None

    def metadata(self) -> Metadata:
        """Return it in plain types, all numbers finite; at least ``warnings``."""
        raise NotImplementedError

    def figure(self) -> Figure:
        """Return its figure."""
        raise NotImplementedError

    def write(self, base: Path, metadata: Metadata) -> list[Path]:
        """Write figure and metadata to files whose names begin with ``base``, and return their paths."""
        from evaluation.figures import save_figure  # matplotlib: a second, and few predictions are drawn

        figure, table = (base.with_name(base.name + ending) for ending in (".png", ".json"))
        save_figure(self.figure(), figure)
        write_json(table, {"notice": DISCLAIMER} | metadata)
        return [figure, table]

    def at_target(self, probability: float | None) -> float | None:
        """Return a probability at the target prevalence; None where it is not known."""
        assumed, target = self.assumed_prevalence, self.target_prevalence
        if probability is None or assumed is None or target is None:
            return None
        return float(shift_prior(probability, assumed, target))

    def subtitle(self, probability: float) -> str:
        """Return the probability of abnormal as figures give it."""
        assumed, target = self.assumed_prevalence, self.target_prevalence
        text = f"probability of abnormal {rounded_probability(probability)}"
        text += "" if assumed is None else f" if a share of {assumed:.2g} is abnormal"
        if self.at_target(probability) is None:
            return text
        return f"{text}, {rounded_probability(probability, assumed, target)} if {target:.2g} is"


class Predictor:
    """The trained models of one run, ready for recordings.

    Parameters
    ----------
    checkpoints : mapping of pathlib.Path to dict
        Folds of one run, or one file.
    settings : PredictionSettings

    Raises
    ------
    UserError
        If an option has no meaning for these models.
    """

    noun, column, warning_heading = "recording", "abnormal", "warnings"
    """What one recording is called, and the headings of the table of several."""
    wraps = False
    """Whether text is broken into lines that fit the terminal."""
    identity = "recording"
    """Key of ``trained_on`` in a checkpoint that counts the recordings a model was trained on."""
    settings: Any
    assumed_prevalence: float | None = None
    sound_alone: Predictor | None = None
    """Predictor of heart sounds without ECG, where that is another model."""

    def __init__(self, checkpoints: Mapping[Path, Checkpoint], settings: PredictionSettings) -> None:
        self.settings = settings
        self.paths, self.checkpoints = list(checkpoints), list(checkpoints.values())
        self.device = choose_device(settings.device)
        self.cache: Metadata = self.checkpoints[0]["cache"]
        self.simulated = bool(self.cache["simulated"])
        self.trained_on = self._trained_on()
        self.task = registry.task_of(self.checkpoints[0])
        self.models: list[Any] = [
            self.task.load_model(content, self.device).eval() for content in self.checkpoints
        ]

    def given(self) -> tuple[Path, ...]:
        """Return the recordings and folders that the settings name, at least one."""
        if not self.settings.recordings:
            raise UserError("Name a recording: a WFDB record, a .wav file or a folder. --help has more.")
        return self.settings.recordings

    def find(self) -> list[RecordingPath]:
        """Return the recordings that there are in what the settings name."""
        raise NotImplementedError

    def predict(self, path: RecordingPath) -> Prediction:
        """Return the prediction for one recording, or say in a UserError why there is none."""
        raise NotImplementedError

    # Models -----------------------------------------------------------------------------------------------

    def unseen(self, digests: Iterable[str]) -> tuple[list[tuple[Checkpoint, Any]], bool]:
        """Return checkpoints and models that were not trained on a recording, known by its digests.

        All of them, and True, if all were trained on it.
        """
        pairs = list(zip(self.checkpoints, self.models, strict=True))
        found = [
            (content, model)
            for content, model in pairs
            if {*content["trained_on"]["content"], *content["trained_on"].get("signals", ())}.isdisjoint(
                digests
            )
        ]
        return found or pairs, not found

    def check_prevalence(self, target: float | None) -> None:
        """Refuse a prevalence that the probabilities cannot be brought to."""
        if target is None:
            return
        if self.assumed_prevalence is None:
            raise UserError("These checkpoints do not state the prevalence they assume: omit --prevalence.")

    def watermark(self, seen: bool) -> str:
        """Return what has to be printed on every figure, given whether all models were trained on it."""
        notes = {
            "trained on simulated data": self.simulated,
            "selected on test": self.checkpoints[0]["protocol"] == "paper",
            f"trained on this {self.noun}": seen,
        }
        return ", ".join(note for note, holds in notes.items() if holds)

    def warnings_of_models(self, seen: bool) -> list[SignalWarning]:
        """Return what is doubtful about the models themselves."""
        warnings = []
        if seen:
            text = f"The model was trained on this very {self.noun}: this is no estimate for new ones."
            warnings.append(SignalWarning("seen", "", text))
        if self.simulated:
            text = "The model was trained on simulated patients: its predictions do not hold for real ones."
            warnings.append(SignalWarning("simulated", "", text))
        return warnings

    # Metadata ---------------------------------------------------------------------------------------------

    def _trained_on(self) -> Metadata:
        """Return how many recordings of which source the models were trained on, all of them together."""
        parts = [content["trained_on"] for content in self.checkpoints]
        shares = [content.get("label_share") for content in self.checkpoints]
        known = [share for share in shares if share is not None]
        return {
            "source": self.cache["source"],
            "recordings": len({name for part in parts for name in part[self.identity]}),
            "sessions": len({name for part in parts for name in part.get("session", ())}),
            "abnormal_share": float(np.mean(known)) if known else None,
        }

    def about(self) -> Metadata:
        """Return what is particular to the models of this task."""
        calibrated = all(content.get("calibration") for content in self.checkpoints)
        return {
            "simulated": self.simulated,
            "trained_on": self.trained_on,
            "assumed_prevalence": self.assumed_prevalence,
            "calibrated": calibrated,
        }

    def model_name(self) -> str:
        """Return what the model is called."""
        return str(self.checkpoints[0]["task"])

    def metadata(self) -> Metadata:
        """Return what the models are, in plain types."""
        first = self.checkpoints[0]
        return {
            "task": first["task"],
            "model": self.model_name(),
            "run": first["run"],
            "protocol": first["protocol"],
            **self.about(),
            "checkpoints": {path.as_posix(): file_digest(path) for path in self.paths},
        }

    def row(self, path: RecordingPath) -> Metadata:
        """Predict for one recording, write its files, and return its metadata, or why there are none."""
        names: Metadata = {"recording": _printable(path.name), "path": _printable(str(path.path))}
        try:
            prediction = self.predict(path)
        except (UserError, OSError, MemoryError) as error:
            return names | {"status": REFUSED, "reason": _printable(str(error) or type(error).__name__)}
        metadata = names | {"status": PREDICTED} | prediction.metadata()
        out = self.settings.out
        written = [] if out is None else prediction.write(out / path.name, metadata)
        return metadata | {"files": [_printable(str(file)) for file in written]}

    def document(self, rows: Sequence[Metadata]) -> Metadata:
        """Return the JSON document of all recordings."""
        found = {"notice": DISCLAIMER, "model": self.metadata(), "recordings": rows}
        return found | ({"sound_alone": self.sound_alone.metadata()} if self.sound_alone else {})

    # Text -------------------------------------------------------------------------------------------------

    def text(self, rows: Sequence[Metadata]) -> list[str]:
        """Return lines: the model, each recording, a table if there are several, and the disclaimer."""
        simulated = [f"{SIMULATED} patients trained this model: it does not hold for real ones."]
        model = simulated * self.simulated + self.model_text(self.metadata())
        if self.sound_alone is not None:
            first, *more = self.sound_alone.model_text(self.sound_alone.metadata())
            model += [first.replace("Model:", "Heart sounds without ECG:"), *more]
        lines = [part for line in model for part in self.lines(line)]
        for row in rows:
            if row["status"] == PREDICTED:
                warnings = [f"warning: {warning['text']}" for warning in row["warnings"]]
                found = [*self.recording_text(row), *(part for line in warnings for part in self.lines(line))]
                found += [f"written to {path}" for path in row["files"]]
                lines += ["", row["recording"], *(f"  {line}" for line in found)]
        if len(rows) > 1:
            lines += ["", *self._table(rows)]
        return [*lines, "", DISCLAIMER]

    def model_text(self, model: Metadata) -> list[str]:
        """Return what the model is, what it was trained on, and how its probabilities are to be read."""
        count, data = len(model["checkpoints"]), model["trained_on"]
        sessions = f" of {counted(data['sessions'], 'session')}" if data["sessions"] else ""
        share = data["abnormal_share"]
        abnormal = "" if share is None else f", {share:.0%} of them abnormal"
        checked = "was measured on sessions kept apart" if model["calibrated"] else "is unknown"
        return [
            f"Model: {model['model']} of run {model['run']}{f', mean of {count} folds' * (count > 1)}; "
            f"its calibration {checked}.",
            f"Learned from {counted(data['recordings'], 'recording')}{sessions} of "
            f"{source_title(data['source'], self.simulated)}{abnormal}.",
        ]

    def recording_text(self, row: Metadata) -> list[str]:
        """Return the prediction for one recording, a line each."""
        return [line for name, text in self.details(row) for line in self.lines(text, name)]

    def details(self, row: Metadata) -> list[tuple[str, str]]:
        """Return names and texts of what is predicted for one recording."""
        found = self.probability_details(row)
        if row["spread_over_beats"] is not None:
            low, high = row["spread_over_beats"].values()
            spread = f"{low:.2f} to {high:.2f}  (10th to 90th percentile; no confidence interval)"
            found.append(("spread over beats", spread))
        signals = " and ".join(NAMES.get(name, name) for name in row["signals_used"])
        by = f", by {row['model']}" if self.sound_alone is not None else ""
        found.append(("made from", f"{signals}, {row['duration']:.1f} s{by}"))
        if row["beats"] is not None:
            found.append(("beats", f"{row['beats']}, by {row['beat_source']}"))
        return found + self.model_details(row)

    def probability_details(self, row: Metadata) -> list[tuple[str, str]]:
        """Return the probability of abnormal at the prevalences there are."""
        value, assumed, target = row["probability"], row["assumed_prevalence"], row["prevalence"]
        found = [("probability of abnormal", rounded_probability(value) + _at_share(assumed))]
        if row["probability_at_prevalence"] is not None:
            found.append(("", rounded_probability(value, assumed, target) + _at_share(target)))
        return found

    def model_details(self, row: Metadata) -> list[tuple[str, str]]:
        """Return how many models there are, where some were left out."""
        if not row["models_trained_on_it"]:
            return []
        return [("models", f"{row['models']}; others were trained on this {self.noun}")]

    def short_text(self, row: Metadata) -> str:
        """Return the prediction in a few characters, for the table of several recordings."""
        if row["probability_at_prevalence"] is None:
            return rounded_probability(row["probability"])
        return rounded_probability(row["probability"], row["assumed_prevalence"], row["prevalence"])

    def warning_text(self, row: Metadata) -> str:
        """Return the last column of that table: which warnings there are."""
        return ", ".join(dict.fromkeys(warning["code"] for warning in row["warnings"]))

    def _table(self, rows: Sequence[Metadata]) -> list[str]:
        """Return a table of all recordings: prediction and warnings of each, or why it was refused."""
        predicted = [row for row in rows if row["status"] == PREDICTED]
        width = max(len(self.noun), *(len(row["recording"]) for row in rows))
        target = getattr(self.settings, "prevalence", None)
        column = self.column if target is None else f"{self.column} at {target:.4g}"
        wide = max([10, len(column), *(len(self.short_text(row)) for row in predicted)])
        lines = [f"{self.noun:{width}}  {column:>{wide}}  {self.warning_heading}"]
        for row in rows:
            if row["status"] == REFUSED:
                lines += self.lines(f"refused: {row['reason']}", row["recording"], width + 2)
                continue
            beside = f"{row['recording']:{width}}  {self.short_text(row):>{wide}}  "
            lines += self.lines(self.warning_text(row), beside, len(beside))
        return [*lines, f"Predicted {len(predicted)} of {counted(len(rows), self.noun)}."]

    def lines(self, text: str, name: str | None = None, column: int = COLUMN) -> list[str]:
        """Return text in lines, beside a name in a column, or below it where the terminal has no room."""
        beside = "" if name is None else name.ljust(column)
        if not self.wraps:
            return [(beside + text).rstrip()]
        width = max(NARROWEST, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns - 2))
        if name is not None and width - column < NARROWEST:
            return [*([name] if name else []), *_filled(text, width, "  ", "  ")]
        return _filled(text, width, beside, "  " if name is None else " " * column)


def _filled(text: str, width: int, first: str, rest: str) -> list[str]:
    style: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest, **style)


def _printable(text: str) -> str:
    """Return text without characters that a terminal or a file cannot take."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _at_share(share: float | None) -> str:
    """Return the words for a probability that holds at a prevalence."""
    return "" if share is None else f"  if {share:.4g} of those measured are abnormal"


def rounded_probability(probability: float, assumed: float | None = None, target: float | None = None) -> str:
    """Return a probability with no more digits than a model can be sure of.

    With both shares of abnormal the certainty ends where it does at the one the model assumes, and what is
    left is brought to the target.
    """
    high, low = _MOST_CERTAIN, 1 - _MOST_CERTAIN
    beyond = "above " if probability > high else "below " if probability < low else ""
    value = min(max(probability, low), high)
    if assumed is not None and target is not None:
        value = float(shift_prior(value, assumed, target))
    if value > high and not beyond.startswith("below"):
        beyond, value = "above ", high
    if value < low and not beyond.startswith("above"):
        beyond, value = "below ", low
    return f"{beyond}{value:.2f}" if value >= low else f"{beyond}{value:.2g}"


# Checkpoints -------------------------------------------------------------------------------------------


def open_predictor(settings: PredictionSettings) -> Predictor:
    """Return the predictor for the checkpoints that the settings name.

    Of a run's folder this is the final fit, or else all folds.

    Raises
    ------
    UserError
        If there are none, they cannot be read, or belong to several runs.
    """
    checkpoints = {path: load_checkpoint(path) for path in _checkpoint_files(settings.checkpoint)}
    (path, first), *others = checkpoints.items()
    for other, content in others:
        if content.get("run") != first.get("run"):
            raise UserError(f"{other} belongs to run {content.get('run')}, {path} to {first.get('run')}.")
    with must_fit(path):
        predictor: Predictor = registry.predictor(first["task"])(checkpoints, settings)
    if settings.checkpoint is None and SHIPPED_SOUND.is_file():
        content = load_checkpoint(SHIPPED_SOUND)
        predictor.sound_alone = registry.predictor(content["task"])({SHIPPED_SOUND: content}, settings)
    return predictor


def _checkpoint_files(given: Path | None) -> list[Path]:
    if given is None:
        if not SHIPPED.is_file():
            raise UserError(
                f"The model that comes with the code is not at {SHIPPED.parent.name}/{SHIPPED.name}. Name "
                "another with --checkpoint: a run's folder under checkpoints/, or one file."
            )
        return [SHIPPED]
    final = given / "fold_all" / "best.pt"
    return [final] if final.is_file() else find_checkpoints(given, given.parent, "best")


def assumed_prevalence(checkpoints: Sequence[Checkpoint]) -> float | None:
    """Return the share of abnormal that the probabilities of a run assume; None if it is not known.

    A loss that weights both classes the same makes it one half, else it is that of the training parts.
    """
    if registry.task_of(checkpoints[0]).balanced:
        return BALANCED_PREVALENCE
    shares = [share for content in checkpoints if (share := content.get("label_share")) is not None]
    return float(np.mean(shares)) if len(shares) == len(checkpoints) else None


# Figures -----------------------------------------------------------------------------------------------


def thin(samples: Array, sampling_rate: float, points: int = _DRAWN_POINTS) -> tuple[Array, Array]:
    """Return times (seconds) and values of at most so many points that look like the whole signal.

    Each stretch of samples gives its lowest and its highest value, so no peak is lost.
    """
    step = int(np.ceil(2 * len(samples) / points))
    if step <= 2:
        return np.arange(len(samples)) / sampling_rate, samples
    count = len(samples) // step
    rows = samples[: count * step].reshape(count, step)
    gaps = np.isnan(rows)
    low, high = np.where(gaps, np.inf, rows).min(axis=1), np.where(gaps, -np.inf, rows).max(axis=1)
    values = np.stack([low, high], axis=1).ravel()
    times = (np.repeat(np.arange(count), 2) + np.tile([0.25, 0.75], count)) * step / sampling_rate
    return times, np.where(np.isfinite(values), values, np.nan)


def sized_figure(height: float, title: str, subtitle: str, watermark: str) -> Figure:
    """Return an empty figure of a height in inches; of a long title the end is shown."""
    from evaluation.figures import new_figure

    longest = LONGEST_BESIDE_WATERMARK if watermark else LONGEST_TITLE
    shown = title if len(title) <= longest else f"…{title[1 - longest :]}"
    figure = new_figure(shown, subtitle, "", watermark)
    figure.set_figheight(height)
    for text in figure.texts[-1:] if watermark else []:
        text.set_y(1 - 0.06 / height)  # beside the title, as the second line is as wide as the figure
    return figure
