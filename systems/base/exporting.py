"""Networks as files that run without this code: ONNX, and programs of ``torch.export``.

A file is written beside its place, opened again, and asked about inputs that the network is asked about too.
It takes its place only if both say the same.
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
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.files import replacing

Format = Literal["onnx", "torch"]
Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""What an opened file does: inputs by name to outputs by name."""

ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4
"""Largest difference from the network, in any output, with which a file is kept."""
CHECKED_BATCHES = (1, 2, 5, 32)
"""Sizes of the batches that file and network are both asked about."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
FACTS = "metadata.json"
NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class ExportError(UserError):
    """A network that cannot be exported, or an exported file that cannot be used."""


@dataclass(frozen=True)
class Exportable:
    """A network, and all that is needed to export and to check it.

    Attributes
    ----------
    network : torch.nn.Module
        On the CPU, in float32, out of training. Takes its inputs by name, returns a tuple of tensors.
    draw : callable
        Given a number of rows and a generator, returns random inputs by name; the rows come first in each.
    outputs : sequence of str
        Names of what the network returns.
    metadata : mapping of str to str
        What the file shall say of itself.
    """

    network: nn.Module
    draw: Callable[[int, torch.Generator], dict[str, Tensor]]
    outputs: Sequence[str]
    metadata: Mapping[str, str]


def write_export(exportable: Exportable, path: Path, form: Format) -> float:
    """Write a network to a file, whole and checked or not at all.

    Parameters
    ----------
    exportable : Exportable
    path : pathlib.Path
    form : {"onnx", "torch"}

    Returns
    -------
    float
        Largest absolute difference between what file and network say of random inputs.

    Raises
    ------
    ExportError
        If packages are missing, torch cannot export the network, or the file says something else.
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


def require(form: Format) -> None:
    """Refuse a format whose packages are not installed, saying how to install them."""
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
        inputs = exportable.draw(size, generator)
        with torch.inference_mode():
            wanted = dict(zip(exportable.outputs, exportable.network(**inputs), strict=True))
        found = run(inputs)
        largest = max(largest, *(_difference(found[name], wanted[name]) for name in wanted))
    return largest


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest absolute difference; infinite where shapes differ or one is not finite."""
    if found.shape != wanted.shape or not (found.isfinite().all() and wanted.isfinite().all()):
        return float("inf")
    return float((found.double() - wanted.double()).abs().max())


def open_exported(path: Path, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Run:
    """Open an exported file; its format is told by its ending.

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
    """Return what an exported file says of itself."""
    if path.suffix == ENDINGS["onnx"]:
        import onnx

        return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    return _load_program(path)[1]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what exporters say to their own developers."""
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
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
    inputs = exportable.draw(2, torch.Generator().manual_seed(0))
    rows = torch.export.Dim("batch", min=1)
    shapes = {name: {0: rows} for name in inputs}
    program = torch.export.export(exportable.network, (), kwargs=inputs, dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _write_torch(exportable: Exportable, program: torch.export.ExportedProgram, path: Path) -> None:
    content = io.BytesIO()  # a name would become part of the archive
    extra = {FACTS: json.dumps(dict(exportable.metadata), ensure_ascii=False)}
    torch.export.save(program, content, extra_files=extra)
    path.write_bytes(content.getvalue())


def _write_onnx(exportable: Exportable, program: torch.export.ExportedProgram, path: Path) -> None:
    inputs = exportable.draw(2, torch.Generator().manual_seed(0))
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
    extra: dict[str, Any] = {FACTS: ""}
    with quiet():
        program = torch.export.load(path, extra_files=extra)
    return program, dict(json.loads(extra[FACTS]))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
