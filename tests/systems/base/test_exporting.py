"""Exported files say what their networks say, or are not written."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import systems.base.exporting as export
from common.errors import UserError
from systems.base.exporting import (
    TOLERANCE,
    Exportable,
    largest_difference,
    open_exported,
    read_metadata,
    require,
    write_export,
)

ROOT = Path(__file__).parents[3]
FACTS = {"outputs": "sum, product", "notice": "Größe > 0", "task": "toy"}
FORMATS = [
    pytest.param("torch", ".pt2", id="torch"),
    pytest.param(
        "onnx",
        ".onnx",
        id="onnx",
        marks=pytest.mark.skipif(
            any(importlib.util.find_spec(name) is None for name in export.ONNX_PACKAGES),
            reason="ONNX needs onnx, onnxscript and onnxruntime (requirements-cpu.txt)",
        ),
    ),
]


class Toy(nn.Module):
    """Two outputs of two inputs, one by a matrix of known weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return first @ self.weight + second, first.sum(dim=1) * second


class Branching(Toy):
    """A network whose way depends on values, which no graph can hold."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if float(first.sum()) > 0:
            return super().forward(first, second)
        return second, second


def draw(rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {
        "first": torch.randn(rows, 3, generator=generator),
        "second": torch.randn(rows, generator=generator),
    }


def toy(network: nn.Module | None = None) -> Exportable:
    return Exportable((network or Toy()).eval(), draw, ("sum", "product"), FACTS)


@pytest.mark.parametrize(("form", "ending"), FORMATS)
def test_a_file_computes_what_the_network_computes(form, ending, tmp_path):
    path = tmp_path / "deep" / f"toy{ending}"
    assert write_export(toy(), path, form) <= TOLERANCE
    run = open_exported(path)
    for rows in (1, 4):  # 1 + 2 + 3 = 6 times 2, and 10; 3 times 2 times 10
        found = run({"first": torch.full((rows, 3), 2.0), "second": torch.full((rows,), 10.0)})
        assert found["sum"].tolist() == [22.0] * rows
        assert found["product"].tolist() == [60.0] * rows
    assert read_metadata(path) == FACTS
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("form", "ending"), FORMATS)
def test_nothing_of_this_machine_is_in_a_file(form, ending, tmp_path):
    path = tmp_path / f"toy{ending}"
    write_export(toy(), path, form)
    content = path.read_bytes()
    assert b"weight" in content
    for place in (str(ROOT), str(tmp_path), str(Path(torch.__file__).parent), str(Path.home())):
        assert place.encode() not in content


@pytest.mark.parametrize(("form", "ending"), FORMATS)
def test_a_file_that_differs_is_not_written(form, ending, tmp_path, monkeypatch):
    """The network changes between writing and asking: what a fault of an exporter would look like."""
    exportable, honest = toy(), export.open_exported
    (weight,) = exportable.network.parameters()
    path = tmp_path / f"toy{ending}"
    path.write_bytes(b"what was there before")

    def perturb(written: Path) -> export.Run:
        with torch.no_grad():
            weight[1] += 0.001
        return honest(written)

    monkeypatch.setattr(export, "open_exported", perturb)
    with pytest.raises(UserError, match=r"differs from the network by 0\.00\d+, and 0\.0001 is allowed"):
        write_export(exportable, path, form)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"what was there before"


@pytest.mark.parametrize(
    ("change", "requested"),
    [
        (lambda found: found, 0.0),
        (lambda found: found | {"sum": found["sum"] + 0.25}, 0.25),
        (lambda found: found | {"product": found["product"][:, None]}, math.inf),
        (lambda found: found | {"product": found["product"] * math.nan}, math.inf),
    ],
)
def test_the_largest_difference_counts_every_output(change, requested):
    exportable = toy()

    def run(inputs):
        with torch.no_grad():
            first, second = exportable.network(**inputs)
        return change({"sum": first, "product": second})

    assert largest_difference(exportable, run) == pytest.approx(requested, rel=1e-5)


def test_a_network_that_is_no_graph_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot export this network"):
        write_export(toy(Branching()), tmp_path / "toy.pt2", "torch")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name)
    )
    require("torch")
    with pytest.raises(UserError, match="ONNX needs onnxscript, which is not installed: pip install onnx "):
        write_export(toy(), tmp_path / "toy.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_metadata_are_json_in_a_torch_program(tmp_path):
    """As docs/inference.md reads them."""
    write_export(toy(), tmp_path / "toy.pt2", "torch")
    extra = {"facts.json": ""}
    torch.export.load(tmp_path / "toy.pt2", extra_files=extra)
    assert json.loads(extra["facts.json"]) == FACTS
