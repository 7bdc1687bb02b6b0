"""What the stages of the ECG-CMR chain share: samples, encoders, and what is taken from those before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common.errors import UserError
from datasets.cache import Cache
from learning.checkpoint import load_checkpoint
from learning.loop import FoldContext, unwrap
from models.ecg_cmr.cmr_encoder import CMREncoder
from models.ecg_cmr.ecg_encoder import ECGEncoder
from models.ecg_cmr.transformer import TokenEncoder
from systems.base.parents import describe_parent, find_parent, refuse_known
from systems.base.task import CARRIED, Task
from systems.ecg_cmr.augmentation import shift_in_time, vary_cine
from systems.ecg_cmr.samples import Pairs, read_pairs
from systems.ecg_cmr.settings import StageSettings
from systems.ecg_cmr.sources.pairs import MILLIVOLTS

_MODALITIES = {"ecg": "ECG", "cmr": "CMR", "long_axis": "long axis"}


class Stage(Task):
    """Answers that all stages of the chain have in common."""

    settings_class: ClassVar[type[StageSettings]]
    needs: ClassVar[tuple[str, ...]]
    labelled = False
    columns: ClassVar[tuple[str, ...]] = ()
    """Names of the columns that `step` predicts, where they do not depend on the data."""

    def samples(self, cache: Cache, device: torch.device) -> Pairs:
        """Return the patients who have what this stage reads."""
        return read_pairs(cache, self.reads(), device, getattr(self.settings, "axis", "short"))

    def reads(self) -> tuple[str, ...]:
        """Return what a patient must have."""
        return self.needs

    def inputs(self, samples: Pairs) -> dict[str, Any]:
        """Return the shape and the columns of the inputs, in plain types."""
        return samples.describe_inputs()

    def with_inputs(self, samples: Pairs, inputs: Mapping[str, Any]) -> Pairs:
        """Return the samples of another cache as a network of these inputs takes them."""
        return samples.with_inputs(inputs)

    def note(self) -> str:
        """Return which encoders could start from an earlier stage, and do not."""
        given = self.parents()
        fresh = [
            name for name in self.reads() if hasattr(self.settings, f"init_{name}") and name not in given
        ]
        if not fresh:
            return ""
        options = " and ".join(f"--init-{name} RUN" for name in fresh)
        names = " and ".join(f"the encoder of the {_MODALITIES[name]}" for name in fresh)
        starts = "starts" if len(fresh) == 1 else "start"
        return f"Note: {names} {starts} from random weights; {options} would start from an earlier stage."

    def parents(self) -> dict[str, Path]:
        """Return the runs that the encoders start from, by modality."""
        given = {modality: getattr(self.settings, f"init_{modality}", None) for modality in _MODALITIES}
        return {modality: path for modality, path in given.items() if path is not None}

    def describe_parents(self, fold: int) -> list[dict[str, Any]]:
        """Return what a checkpoint stores of its parents: run, hash, and patients they were trained on."""
        return [describe_parent(modality, find_parent(path)) for modality, path in self.parents().items()]

    def initialize(self, model: nn.Module, run: FoldContext) -> None:
        """Take encoders from the parents, and note whose patients they were trained on."""
        for modality, path in self.parents().items():
            encoder = self.encoder_of(unwrap(model), modality)
            if encoder is None:
                option = f"--init-{modality.replace('_', '-')}"
                raise UserError(f"This run reads no {_MODALITIES[modality]}: leave {option} away.")
            parent = find_parent(path)
            content = load_checkpoint(parent)
            refuse_known(content, parent, run)
            if modality == "ecg":
                refuse_other_ecgs(content, parent, run)
            take_encoder(encoder, content, self.read_as(modality), parent)

    def read_as(self, modality: str) -> str:
        """Return what is read where the model has ``cmr``: the long axis, with --axis long."""
        is_long = modality == "cmr" and getattr(self.settings, "axis", "short") == "long"
        return "long_axis" if is_long else modality

    def encoder_of(self, model: nn.Module, modality: str) -> TokenEncoder | None:
        """Return the part of a model that reads the ECG or the CMR; None if it has none."""
        found = getattr(model, f"{modality}_encoder", None)
        return found if isinstance(found, TokenEncoder) else None

    def predictions(self, samples: Pairs, rows: np.ndarray, probability: Tensor) -> pd.DataFrame:
        """Return who was predicted, and each predicted column."""
        table = samples.table.iloc[rows][list(CARRIED)].reset_index(drop=True)
        names = self.predicted(samples)
        values = probability.reshape(len(table), -1).double().numpy()
        return pd.concat([table, pd.DataFrame(values, columns=names)], axis=1)

    def predicted(self, samples: Pairs) -> list[str]:
        """Return the names of the columns that `step` predicts."""
        return list(self.columns)


def varied(batch: Mapping[str, Tensor], modality: str, vary: bool) -> Tensor:
    """Return the ``ecg``, the ``cmr`` or the ``long_axis`` of a batch, varied if ``vary``."""
    change = shift_in_time if modality == "ecg" else vary_cine
    return change(batch[modality]) if vary else batch[modality]


def ecg_encoder(settings: Any, inputs: Mapping[str, Any]) -> ECGEncoder:
    """Return a new ECG encoder of the settings' size."""
    size = settings.encoder
    return ECGEncoder(
        inputs["samples"],
        patch_length(size.patch_seconds, inputs),
        inputs["leads"],
        *size.shape,
    )


def patch_length(seconds: float, inputs: Mapping[str, Any]) -> int:
    """Return the points of a patch of the ECG; they must divide the points of a lead."""
    length = round(seconds * inputs["ecg_rate"])
    if length < 1 or inputs["samples"] % length:
        raise UserError(
            f"--patch-seconds {seconds:g} are {length} points at {inputs['ecg_rate']:g} Hz, which do not "
            f"divide the {inputs['samples']} points of a lead: choose another."
        )
    return length


def cmr_encoder(settings: Any, inputs: Mapping[str, Any]) -> CMREncoder:
    """Return a new CMR encoder of the settings' size."""
    size = settings.encoder
    patch = (inputs["frames"], size.patch_pixels, size.patch_pixels)
    return CMREncoder(inputs["frames"], inputs["size"], patch, *size.shape)


def encoders_in(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the modalities that a checkpoint has an encoder of, with the prefix of its weights."""
    task, settings = content["task"], content["settings"]
    axis = settings.get("axis", "short")
    cine = "long_axis" if axis == "long" else "cmr"
    if task == "ecg-cmr-contrast":
        both = {"long_axis": "long_axis_encoder."} if axis == "both" else {}
        return {"ecg": "ecg_encoder.", cine: "cmr_encoder."} | both
    reads = {"ecg-mae": "ecg", "cmr-mae": cine, "ecg-phenotypes": settings.get("reads", "ecg")}
    return {reads[task]: "encoder."} if task in reads else {}


def refuse_other_ecgs(parent: Mapping[str, Any], path: Path, run: FoldContext) -> None:
    """Refuse a parent to whose encoder the ECGs of this run would mean something else.

    Raises
    ------
    UserError
        If rate or unit differ.
    """
    before, now = parent["inputs"], run.metadata["inputs"]
    for name, usual, unit in (("ecg_rate", 0.0, " Hz"), ("ecg_unit", MILLIVOLTS, "")):
        if before.get(name, usual) != now.get(name, usual):
            raise UserError(
                f"{path} learned from ECGs in {before.get(name, usual)}{unit}, and this run has "
                f"{now.get(name, usual)}{unit}: use data prepared alike."
            )


def take_encoder(encoder: TokenEncoder, content: Mapping[str, Any], modality: str, path: Path) -> None:
    """Load the encoder of a parent into this one.

    Raises
    ------
    UserError
        If the parent has none, or one of another size.
    """
    weights, prefix = content["model"], encoders_in(content).get(modality)
    if prefix is None:
        raise UserError(
            f"{path} is a run of {content['task']}, which has no encoder of the {_MODALITIES[modality]}."
        )
    part = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    try:
        encoder.load_state_dict(part)
    except RuntimeError:
        raise UserError(
            f"The encoder of {path} has another size: give the same --encoder-size, --width, --depth, "
            "--heads, --patch-seconds and --patch-pixels, and data prepared alike."
        ) from None
