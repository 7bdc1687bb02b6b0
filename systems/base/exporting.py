"""Networks as files that run without this code: ONNX, and programs of ``torch.export``.

A file is written under a temporary name, opened again, and given inputs that the network is given too.
It gets its name only if the outputs of both agree.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.files import replacing
from config import ExportFormat, ExportSettings
from learning.checkpoint import BEST, file_digest, load_checkpoint, must_fit
from learning.runs import find_checkpoints, newest_run
from systems import registry

Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""What an opened file does: inputs by name to outputs by name."""

ENDINGS: dict[ExportFormat, str] = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4
"""Largest difference from the network, in any output, with which a file is kept."""
CHECKED_BATCHES = (1, 2, 5, 32)
"""Sizes of the batches that file and network are both given."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_METADATA = "facts.json"
_NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class ExportError(UserError):
    """A network that cannot be exported, or an exported file that cannot be used."""


@dataclass(frozen=True)
class Exportable:
    """A network, and all that is needed to export and to check it.

    Attributes
    ----------
    network : torch.nn.Module
        On the CPU, in float32, out of training. Takes its inputs by name, returns a tuple of tensors.
    random_inputs : callable
        Given a number of rows and a generator, returns random inputs by name; the rows come first in each.
    outputs : sequence of str
        Names of what the network returns.
    metadata : mapping of str to str
        What the file holds about itself.
    """

    network: nn.Module
    random_inputs: Callable[[int, torch.Generator], dict[str, Tensor]]
    outputs: Sequence[str]
    metadata: Mapping[str, str]


def choose_checkpoint(settings: ExportSettings) -> Path:
    """Return the one checkpoint that the settings mean.

    Raises
    ------
    UserError
        If there is none, or several and no fold is named.
    """
    given = settings.checkpoint
    if given is not None and given.is_file():
        if settings.fold is not None:
            raise UserError(f"--fold chooses in the folder of a run, and {given} is one file: leave it away.")
        return given
    folder = given or newest_run(settings.checkpoint_dir)
    final = folder / "fold_all" / BEST
    if settings.fold is None and final.is_file():
        return final
    found = find_checkpoints(folder, settings.checkpoint_dir, "best")
    by_fold = {path.parent.name: path for path in found if path.parent != folder}
    if settings.fold is not None:
        name = f"fold_{settings.fold}"
        if name not in by_fold:
            raise UserError(f"There is no trained {name} in {folder}, only {', '.join(by_fold) or 'a file'}.")
        return by_fold[name]
    if len(found) > 1:
        raise UserError(
            f"{folder} holds {', '.join(by_fold)}, each a network of its own: choose one with --fold, "
            "or train a final fit on everything with training.py --folds none."
        )
    return found[0]


def choose_file(settings: ExportSettings, checkpoint: Path) -> tuple[Path, ExportFormat]:
    """Return the file to write and its format.

    Raises
    ------
    UserError
        If the ending of ``--out`` is not that of the format.
    """
    out = settings.out
    if out is None:
        form: ExportFormat = settings.format or "onnx"
        return checkpoint.with_suffix(ENDINGS[form]), form
    by_ending: dict[str, ExportFormat] = {ending: form for form, ending in ENDINGS.items()}
    form = settings.format or by_ending.get(out.suffix, "onnx")
    if out.suffix != ENDINGS[form]:
        raise UserError(
            f"--out {out} must end with {ENDINGS[form]} for --format {form} "
            f"({', '.join(f'{name}: {ending}' for name, ending in ENDINGS.items())})."
        )
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file in it.")
    return out, form


def open_exportable(path: Path) -> Exportable:
    """Return the network of a checkpoint, ready for export, as its task makes it.

    Raises
    ------
    UserError
        If the checkpoint cannot be read, or networks of its task or model cannot be exported.
    """
    content = load_checkpoint(path)
    task = str(content.get("task"))
    make = registry.exporter(task) if task in registry.TASKS else None
    if make is None:
        raise UserError(
            f"{path} is a checkpoint of task {task}, whose networks cannot be exported yet: "
            f"export.py takes checkpoints of {', '.join(registry.tasks_with('export'))}."
        )
    with must_fit(path):
        exportable: Exportable = make(content, file_digest(path))
        return exportable


def write_export(exportable: Exportable, path: Path, form: ExportFormat) -> float:
    """Write a network to a file, whole and checked or not at all.

    Parameters
    ----------
    exportable : Exportable
    path : pathlib.Path
    form : {"onnx", "torch"}

    Returns
    -------
    float
        Largest absolute difference between the outputs of file and network for random inputs.

    Raises
    ------
    ExportError
        If packages are missing, torch cannot export the network, or the file has other outputs.
    """
    require(form)
    write = {"onnx": _write_onnx, "torch": _write_torch}[form]
    with replacing(path) as temporary:
        try:
            with quiet(), torch.no_grad():
                write(exportable, _traced(exportable), temporary)
        except OSError:
            raise
        except Exception as error:  # torch raises many kinds for what it cannot trace
            raise ExportError(
                f"torch {torch.__version__} cannot export this network ({_first_line(error)}): "
                "use it by predict.py."
            ) from error
        difference = largest_difference(exportable, open_exported(temporary))
        if not difference <= TOLERANCE:
            raise ExportError(
                f"The exported file differs from the network by {difference:.2g}, and {TOLERANCE:g} is "
                f"allowed: {path} is not written. Try the other --format, or another version of torch."
            )
    return difference


def require(form: ExportFormat) -> None:
    """Refuse a format whose packages are not installed, and state how to install them."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if form == "onnx" and missing:
        raise ExportError(
            f"ONNX needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"pip install {' '.join(ONNX_PACKAGES)}, or choose --format torch."
        )


def largest_difference(exportable: Exportable, run: Run, seed: int = 0) -> float:
    """Return the largest absolute difference between a file and its network over random batches."""
    generator = torch.Generator().manual_seed(seed)
    largest = 0.0
    for size in CHECKED_BATCHES:
        inputs = exportable.random_inputs(size, generator)
        with torch.inference_mode():
            expected = dict(zip(exportable.outputs, exportable.network(**inputs), strict=True))
        found = run(inputs)
        largest = max(largest, *(_difference(found[name], expected[name]) for name in expected))
    return largest


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference; infinite where shapes differ or one is not finite."""
    if found.shape != expected.shape or not (found.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    return float((found.double() - expected.double()).abs().max())


def open_exported(path: Path, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Run:
    """Open an exported file; its ending gives its format.

    Parameters
    ----------
    path : pathlib.Path
    providers : sequence of str
        Of onnxruntime, the first that works is used; on the CPU it takes as many threads as torch.

    Returns
    -------
    callable
        Maps inputs by name to outputs by name, on the CPU.
    """
    return _open_onnx(path, providers) if path.suffix == ENDINGS["onnx"] else _open_torch(path)


def read_metadata(path: Path) -> dict[str, str]:
    """Return what an exported file holds about itself."""
    if path.suffix == ENDINGS["onnx"]:
        import onnx

        return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    return _load_program(path)[1]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters print for their own developers."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _traced(exportable: Exportable) -> torch.export.ExportedProgram:
    """Return the network as a program for any number of rows, without the paths of its source files."""
    inputs = exportable.random_inputs(2, torch.Generator().manual_seed(0))
    rows = torch.export.Dim("batch", min=1)
    shapes = {name: {0: rows} for name in inputs}
    program = torch.export.export(exportable.network, (), kwargs=inputs, dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _write_torch(exportable: Exportable, program: torch.export.ExportedProgram, path: Path) -> None:
    content = io.BytesIO()  # a name would become part of the archive
    extra = {_METADATA: json.dumps(dict(exportable.metadata), ensure_ascii=False)}
    torch.export.save(program, content, extra_files=extra)
    path.write_bytes(content.getvalue())


def _write_onnx(exportable: Exportable, program: torch.export.ExportedProgram, path: Path) -> None:
    inputs = exportable.random_inputs(2, torch.Generator().manual_seed(0))
    exported = torch.onnx.export(
        program,
        (),
        kwargs=inputs,
        dynamic_shapes={name: {0: "batch"} for name in inputs},
        input_names=list(inputs),
        output_names=list(exportable.outputs),
        dynamo=True,
        verbose=False,
    )
    assert exported is not None  # it is None without dynamo
    graph: Any = exported.model.graph
    for node in graph:
        node.metadata_props.clear()
    exported.model.metadata_props.update(exportable.metadata)
    exported.save(path, external_data=False)


def _open_onnx(path: Path, providers: Sequence[str]) -> Run:
    require("onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = session.run(names, {name: value.numpy(force=True) for name, value in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    return run


def _open_torch(path: Path) -> Run:
    program, metadata = _load_program(path)
    module, names = program.module(), metadata["outputs"].split(", ")

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(zip(names, module(**inputs), strict=True))

    return run


def _load_program(path: Path) -> tuple[torch.export.ExportedProgram, dict[str, str]]:
    extra: dict[str, Any] = {_METADATA: ""}
    with quiet():
        program = torch.export.load(path, extra_files=extra)
    return program, dict(json.loads(extra[_METADATA]))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
