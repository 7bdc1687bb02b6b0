"""Speed of inference: one beat, one recording, many beats, in each available form.

`measure` returns rows for the table of speeds. The plain form is the network as it is, in float32, eager;
beside it are bfloat16 (where the device computes it natively), the exported program of ``torch.export``, and
onnxruntime (on CUDA only where its provider is installed). Times include the
network and the transfer of inputs and outputs; preparing a recording is timed elsewhere. Weights are random:
they change no speed.

Latency is the time of one call, 50th and 95th percentile; throughput that of batches of 256, on a CPU of 64,
which is faster there. All forms of a case take turns, so that a machine that is busy for a while slows all of
them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from config import ExportFormat
from learning.devices import autocast, choose_precision, rows_at_once
from learning.loop import predict
from models.layers.blocks import MODALITIES
from studies.speed.machine import speed_row
from systems.base.exporting import (
    ENDINGS,
    Exportable,
    ExportError,
    open_exported,
    require,
    write_export,
)
from systems.ecg_pcg.export import OUTPUTS, ExportedBeats, random_beats
from systems.ecg_pcg.settings import ModelSettings, TrainingSettings, defaults
from systems.ecg_pcg.task import Beats, EcgPcg

Preset = Literal["paper", "small"]
Ask = Callable[[], object]
"""One call, with its output on the CPU."""

row = partial(speed_row, "inference")
PLAIN = "eager float32"
BEATS = {"one beat": 1, "one recording of 36 beats": 36}
"""Cases of latency, and their beats: recordings of training-a have 36 in the median."""
BATCH = 256
WARM_UP = 2
FEWEST = 3


def measure(
    device: torch.device,
    presets: Sequence[Preset] = ("small", "paper"),
    *,
    repeats: int = 100,
    batch: int = BATCH,
    seconds: float = 20.0,
    sizes: Mapping[str, ModelSettings] | None = None,
) -> list[dict[str, Any]]:
    """Return rows ``part, case, quantity, value, unit, plain, ratio``; a ratio over 1 is better than plain.

    Parameters
    ----------
    device : torch.device
        As many CPU threads are used as torch is set to.
    presets : sequence of {"small", "paper"}
    repeats : int
        Calls of each form in each case, at most.
    batch : int
        Beats of a batch, for throughput; fewer on a CPU (`learning.devices.rows_at_once`).
    seconds : float
        Time after which a case is not repeated any more (each form at least three times).
    sizes : mapping, optional
        Model settings by preset in place of the preset's, for tests.
    """
    rows, batch = [], rows_at_once(batch, device)
    for preset in presets:
        model = (sizes or {}).get(preset, defaults(preset).model)
        torch.manual_seed(0)
        network = EcgPcg(TrainingSettings(model=model)).build().to(device).eval()
        with tempfile.TemporaryDirectory() as folder:
            forms = open_forms(network, model.points, device, Path(folder))
            for case, beats in BEATS.items():
                found = times(forms, random_inputs(beats, model.points), repeats, seconds)
                rows += latency_rows(f"{preset}, {case}", found)
            found = times(forms, random_inputs(batch, model.points), max(FEWEST, repeats // 10), seconds)
            rows += throughput_rows(f"{preset}, batches of {batch}", found, batch)
        rows += evaluation_rows(preset, network, model, device, batch)
    return rows


def random_inputs(beats: int, points: int) -> dict[str, Tensor]:
    """Return random beats on the CPU, where recordings come from."""
    return random_beats(MODALITIES, beats, points, torch.Generator().manual_seed(0))


def open_forms(
    network: nn.Module, points: int, device: torch.device, folder: Path
) -> dict[str, Callable[[dict[str, Tensor]], Any]]:
    """Return each form of a network that can be had here: beats on the CPU to probabilities on the CPU."""
    forms: dict[str, Callable[[dict[str, Tensor]], Any]] = {PLAIN: eager(network, device, torch.float32)}
    if choose_precision("auto", device) == torch.bfloat16:
        forms["eager bfloat16"] = eager(network, device, torch.bfloat16)
    exported = write(network, points, folder, device)
    if "torch" in exported:
        program = torch.export.load(exported["torch"]).module().to(device)
        forms["torch.export"] = lambda beats: probabilities(program, beats, device)
    if "onnx" in exported:
        forms["onnxruntime"] = open_exported(exported["onnx"], providers(device))
    return forms


def write(network: nn.Module, points: int, folder: Path, device: torch.device) -> dict[ExportFormat, Path]:
    """Export the network, from the CPU, to every format that can be had; it goes back to its device."""

    def sample(rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        return random_beats(MODALITIES, rows, points, generator)

    wrapped = ExportedBeats(network.cpu()).eval()
    made = Exportable(wrapped, sample, OUTPUTS, {"outputs": ", ".join(OUTPUTS)})
    written: dict[ExportFormat, Path] = {}
    formats: tuple[ExportFormat, ...] = ("torch", "onnx")
    for form in formats:
        if form == "onnx" and not (has_onnx() and providers(device)):
            continue
        path = folder / f"network{ENDINGS[form]}"
        write_export(made, path, form)
        written[form] = path
    network.to(device)
    return written


def has_onnx() -> bool:
    """Whether the packages of ONNX are installed."""
    try:
        require("onnx")
    except ExportError:
        return False
    return True


def providers(device: torch.device) -> list[str]:
    """Return what onnxruntime can use for a device; nothing if it cannot use it."""
    import onnxruntime

    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    return [provider] if provider in onnxruntime.get_available_providers() else []


def eager(
    network: nn.Module, device: torch.device, precision: torch.dtype
) -> Callable[[dict[str, Tensor]], Tensor]:
    """Return the network in a precision, as `learning.loop.predict` calls it."""
    wrapped = ExportedBeats(network).eval()

    def run(beats: dict[str, Tensor]) -> Tensor:
        with autocast(device, precision):
            return probabilities(wrapped, beats, device)

    return run


def probabilities(module: nn.Module, beats: dict[str, Tensor], device: torch.device) -> Tensor:
    """Return the probabilities on the CPU, and so wait for the device."""
    with torch.inference_mode():
        return module(**{name: signal.to(device) for name, signal in beats.items()})[1].cpu()


def times(
    forms: Mapping[str, Callable[[dict[str, Tensor]], Any]],
    beats: dict[str, Tensor],
    repeats: int,
    seconds: float,
) -> dict[str, np.ndarray]:
    """Return the seconds of each call of each form; the forms take turns."""
    for run in forms.values():
        for _ in range(WARM_UP):
            run(beats)
    taken: dict[str, list[float]] = {name: [] for name in forms}
    began = time.perf_counter()
    for count in range(repeats):
        if count >= FEWEST and time.perf_counter() - began > seconds:
            break
        for name, run in forms.items():
            started = time.perf_counter()
            run(beats)
            taken[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in taken.items()}


def latency_rows(case: str, found: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the percentiles of a case in milliseconds."""
    rows = []
    for quantity, percent in (("p50", 50), ("p95", 95)):
        values = {name: float(np.percentile(taken, percent)) * 1000 for name, taken in found.items()}
        plain = values[PLAIN]
        rows += [
            row(f"{case}, {name}", quantity, value, "ms", plain, plain / value)
            for name, value in values.items()
        ]
    return rows


def throughput_rows(case: str, found: Mapping[str, np.ndarray], beats: int) -> list[dict[str, Any]]:
    """Return beats a second, by the median call."""
    values = {name: beats / float(np.median(taken)) for name, taken in found.items()}
    plain = values[PLAIN]
    return [
        row(f"{case}, {name}", "samples/s", value, "beats/s", plain, value / plain)
        for name, value in values.items()
    ]


def evaluation_rows(
    preset: str, network: nn.Module, model: ModelSettings, device: torch.device, batch: int
) -> list[dict[str, Any]]:
    """Return recordings a second through the loop that evaluate.py uses, by precision."""
    samples = recordings(4 * batch, model.points, device)
    taken = {}
    for name, precision in precisions(device).items():
        rows = torch.arange(len(samples))
        for part in (rows[:batch], rows):  # the first warms up
            started = time.perf_counter()
            predict(EcgPcg(), network, samples, part, batch_size=batch, device=device, precision=precision)
            taken[name] = time.perf_counter() - started
    each = len(samples) / BEATS["one recording of 36 beats"]
    values = {name: each / seconds for name, seconds in taken.items()}
    plain = values[PLAIN]
    return [
        row(f"{preset}, judging, {name}", "recordings/s", value, "recordings/s", plain, value / plain)
        for name, value in values.items()
    ]


def precisions(device: torch.device) -> dict[str, torch.dtype]:
    """Return the precisions that are of use on a device."""
    native = {"eager bfloat16": torch.bfloat16} if choose_precision("auto", device) == torch.bfloat16 else {}
    return {PLAIN: torch.float32} | native


def recordings(beats: int, points: int, device: torch.device) -> Beats:
    """Return random beats on the device, as a cache gives them."""
    signals = {modality: values.to(device) for modality, values in random_inputs(beats, points).items()}
    label, present = torch.zeros(beats, dtype=torch.int64), torch.ones(beats, dtype=torch.bool)
    table = pd.DataFrame({"recording": ["random"] * beats})
    label, weight, present = (values.to(device) for values in (label, torch.ones(beats), present))
    return Beats(table, signals["ecg"], signals["pcg"], label, weight, present, present)
