"""Task ``ecg-to-cmr``: generate a cine of the beating heart from an ECG.

Data     pairs: ``ecg`` (B, 12, T), ``cmr`` (B, frames, H, W): short axis, or with --axis long the long one
Model    a U-Net over the latents of a cine that attends to the tokens of an ECG
         (`models.ecg_cmr.cine_generator`); ECG encoder from ``--init-ecg``, autoencoder from
         ``--init-autoencoder``, both as they are
Loss     squared error of the noise, or of the velocity of diffusion or flow
Scores   that error; evaluate.py generates cines and measures them (`systems.ecg_cmr.generation.evaluate`)
Figures  true and generated cines of some patients of the validation part, every ``--show-every`` epochs

The latents and the tokens of all patients are made once, before the first epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from common.errors import UserError
from datasets.splits import Fold
from learning.checkpoint import LAST, load_checkpoint
from learning.loop import FoldContext, Progress, fit, unwrap
from learning.tracking import Tracker
from models.ecg_cmr.cine_generator import EARLIEST, CineGenerator, noise_for
from models.ecg_cmr.cmr_encoder import CMREncoder
from models.ecg_cmr.transformer import TokenEncoder
from systems.base.parents import find_parent, refuse_known
from systems.ecg_cmr.autoencoder.task import build_autoencoder
from systems.ecg_cmr.contrast.task import shuffled_pairs
from systems.ecg_cmr.figures import cines_figure
from systems.ecg_cmr.samples import Pairs
from systems.ecg_cmr.settings import EcgToCmrSettings
from systems.ecg_cmr.stage import Stage, cmr_encoder, ecg_encoder, refuse_other_ecgs, take_encoder

_AT_ONCE = 64
"""Patients that are encoded together."""
_FITTED_ON = 512
"""Training patients, at most, that the scales of latents and tokens are taken from."""
_NOISE_SEED = 30_000
"""Seed of the noise in validation: that of a patient is the same in every epoch."""
_GOLDEN = 0.618_034
"""Step from the diffusion time of one patient in validation to that of the next, modulo 1."""
_SHOWN, _SHOWN_STEPS = 3, 10
"""Patients whose generated cines TensorBoard shows while the run trains, and steps in which they are made."""
_NEEDED = {"ecg": "a run of ecg-cmr-contrast", "autoencoder": "a run of cine-autoencoder"}
_NEEDED_FOR_LONG_AXIS = {"cmr": "a run of cmr-mae --axis long, whose features the evaluation reads"}


@dataclasses.dataclass(frozen=True)
class EncodedPairs(Pairs):
    """Patients with what the two frozen networks make of them.

    Attributes
    ----------
    data : torch.Tensor, shape (N, K * C, h, w)
        Standardized latents.
    condition : torch.Tensor, shape (N, tokens, width)
    """

    data: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    condition: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return row, data and condition of these rows."""
        here = rows.to(self.data.device)
        return {"row": here, "data": self.data[here], "condition": self.condition[here]}


class EcgToCmr(Stage):
    """What is particular to generating cines."""

    name = "ecg-to-cmr"
    settings_class = EcgToCmrSettings
    settings: EcgToCmrSettings
    needs = ("ecg", "cmr")
    columns = ("error",)

    def for_fold(self, samples: Pairs, fold: Fold) -> Pairs:
        """Return the samples; with ``--shuffle-pairs`` each training ECG beside another patient's cine."""
        return shuffled_pairs(samples, fold) if self.settings.shuffle_pairs else samples

    def note(self) -> str:
        """Return nothing: without the runs that it needs a run is refused."""
        return ""

    def parents(self) -> dict[str, Path]:
        """Return the runs that this one stands on."""
        given = {part: getattr(self.settings, f"init_{part}") for part in ("ecg", "autoencoder", "cmr")}
        needed = _NEEDED | (_NEEDED_FOR_LONG_AXIS if self.settings.axis == "long" else {})
        lacking = [part for part in needed if given[part] is None]
        if lacking:
            raise UserError(f"ecg-to-cmr needs --init-{lacking[0]} PATH: {needed[lacking[0]]}.")
        return {part: path for part, path in given.items() if path is not None}

    def build(self, inputs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return the model for inputs as `inputs` describes them."""
        settings = self.settings
        assert inputs is not None
        size = settings.generator
        try:
            model = CineGenerator(
                ecg_encoder(settings, inputs),
                build_autoencoder(settings.autoencoder, inputs),
                inputs["frames"],
                size.harmonics,
                size.channels,
                size.blocks,
                size.objective,
                size.tokens,
                size.condition_dropout,
                size.average_decay,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        if settings.init_cmr is not None:
            model.add_feature_encoder(cmr_encoder(settings, inputs))
        return model

    def initialize(self, model: nn.Module, run: FoldContext) -> None:
        """Take the networks of the parents, and the scales of latents and tokens from the training part."""
        network = generator(model)
        for part, path in self.parents().items():
            file = find_parent(path)
            content = load_checkpoint(file)
            refuse_known(content, file, run)
            if part == "autoencoder":
                _take_autoencoder(network.autoencoder, content, file, self.settings.axis)
            else:
                encoder = network.encoder if part == "ecg" else network.feature_encoder
                assert isinstance(encoder, TokenEncoder)
                if part == "ecg":
                    refuse_other_ecgs(content, file, run)
                take_encoder(encoder, content, self.read_as(part), file)
        network.eval()
        rows = run.train[torch.linspace(0, len(run.train) - 1, min(_FITTED_ON, len(run.train))).long()]
        batches = [run.samples.batch(chunk) for chunk in rows.split(_AT_ONCE)]
        network.fit_latents(torch.cat([network.autoencoder.encode(batch["cmr"]) for batch in batches]))
        network.fit_tokens(
            torch.cat([network.condition(batch["ecg"], batch["lead_present"]) for batch in batches])
        )

    def fit(self, run: FoldContext, model: nn.Module, tracker: Tracker, *, resume: bool = False) -> Progress:
        """Encode all patients once, then train in the shared loop."""
        last = run.folder / LAST
        if resume and last.exists():  # the networks that the run began with, whatever became of the parents
            model.load_state_dict(load_checkpoint(last)["model"])
        rows = torch.cat([run.train, run.validation])
        run = dataclasses.replace(run, samples=encoded_pairs(run.samples, generator(model), rows))
        return fit(run, model, tracker, resume=resume)

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the loss of a batch, and each patient's error."""
        network = generator(model)
        if "data" not in batch:
            batch = batch | encoded(network, batch)
        data = batch["data"]
        if model.training:
            network.update_ema()
            time = torch.rand(len(data), device=data.device).clamp(min=EARLIEST)
            noise = torch.randn_like(data)
        else:
            time = (batch["row"] * _GOLDEN % 1).clamp(min=EARLIEST).to(data.dtype)
            rows = batch["row"].tolist()  # waits for the device: in validation
            noise = noise_for([_NOISE_SEED + row for row in rows], network.shape)
            noise = noise.to(data.device)
        errors = model(data, batch["condition"], time, noise)
        return {"loss": errors.mean()}, errors

    def score(self, samples: Pairs, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return the mean error, for the curves: 1 is what knowing nothing gives (flow: 2)."""
        return {"error": float(predictions.mean())}

    def epoch_figures(self, model: nn.Module, run: FoldContext, epoch: int) -> Mapping[str, Figure]:
        """Return cines generated for the first patients of the validation part, each below the true one."""
        every, last = self.settings.show_every, run.optimization.epochs
        if not every or (epoch % every and epoch != last):
            return {}
        network = generator(model).eval()
        rows = (run.validation if len(run.validation) else run.train)[:_SHOWN]
        seeds = [_NOISE_SEED + row for row in rows.tolist()]
        condition = run.samples.batch(rows)["condition"]
        cines = network.sample(condition, seeds, _SHOWN_STEPS, precision=run.precision).cpu()
        true = Pairs.batch(run.samples, rows)["cmr"].cpu()
        names = run.samples.table["recording"].iloc[rows.numpy()]
        strips: list[tuple[str, Tensor]] = []
        for name, own, found in zip(names, true, cines, strict=True):
            strips += [(f"{name}, true", own), ("generated", found)]
        part = "validation" if len(run.validation) else "training"
        title = f"Cines generated from ECGs of the {part} part, epoch {epoch}"
        watermark = "simulated data" if run.metadata["cache"]["simulated"] else ""
        return {"val/generated": cines_figure(strips, title=title, watermark=watermark)}


def generator(model: nn.Module) -> CineGenerator:
    """Return the generator within what may be wrapped for several processes."""
    network = unwrap(model)
    assert isinstance(network, CineGenerator)
    return network


@torch.no_grad()
def encoded(network: CineGenerator, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the standardized latents of a batch's cines and the tokens of its ECGs."""
    latents = network.autoencoder.encode(batch["cmr"])
    condition = network.condition(batch["ecg"], batch["lead_present"])
    return {"data": network.standardized(latents), "condition": condition}


def encoded_pairs(samples: Pairs, network: CineGenerator, rows: Tensor) -> EncodedPairs:
    """Return the samples with latents and tokens of these rows; those of all others are zero."""
    network.eval()
    made: dict[str, Tensor] = {}
    for chunk in rows.split(_AT_ONCE):
        for name, values in encoded(network, samples.batch(chunk)).items():
            if name not in made:
                made[name] = values.new_zeros(len(samples), *values.shape[1:])
            made[name][chunk.to(values.device)] = values
    known: dict[str, Any] = {item.name: getattr(samples, item.name) for item in dataclasses.fields(Pairs)}
    return EncodedPairs(**(known | made))


def _take_autoencoder(
    autoencoder: nn.Module, content: Mapping[str, Any], path: Path, axis: str = "short"
) -> None:
    """Load the autoencoder of a parent into this one.

    Raises
    ------
    UserError
        If the parent has none, or one of another size.
    """
    if content["task"] != "cine-autoencoder":
        raise UserError(f"{path} is a run of {content['task']}: --init-autoencoder takes cine-autoencoder.")
    learned = content["settings"].get("axis", "short")
    if learned != axis:
        raise UserError(f"{path} is of the {learned} axis, this run of the {axis} one: give both one --axis.")
    try:
        autoencoder.load_state_dict(content["model"])
    except RuntimeError:
        raise UserError(
            f"The autoencoder of {path} has another size: give the same --autoencoder.channels, "
            "--autoencoder.latent-channels and --autoencoder.fold, and data prepared alike."
        ) from None


def frechet_encoder(network: CineGenerator) -> CMREncoder | None:
    """Return the CMR encoder whose features the Frechet distance compares, if the run has one."""
    encoder = network.feature_encoder
    return encoder if isinstance(encoder, CMREncoder) else None
