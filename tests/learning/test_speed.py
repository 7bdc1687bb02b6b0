"""What makes training faster changes no curve and no checkpoint, and says what it needs."""

import importlib.util
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_learner import ToyLearner, toy_run, untimed

import training
from common.errors import UserError
from datasets.cache import Cache
from learning import loop
from learning.checkpoint import load_checkpoint
from learning.loop import COMPILERS, FoldContext, compiled, fit, unwrap
from learning.tracking import Tracker
from models.layers.layout import Convolution, set_layout
from models.pacfnet import PACFNet

CPU = torch.device("cpu")


@dataclass
class Beats:
    """Beats of the simulated cohort, 100 points of each."""

    ecg: Tensor
    pcg: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        return {"ecg": self.ecg[rows], "pcg": self.pcg[rows], "label": self.label[rows]}

    def describe(self, rows: Tensor) -> str:
        return f"beats {rows.tolist()}"


class BeatLearner(ToyLearner):
    """Cross-entropy of a network of both signals."""

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        logits = model(batch["ecg"], batch["pcg"])
        return {"loss": functional.cross_entropy(logits, batch["label"])}, logits.softmax(dim=1)[:, 1]


@pytest.fixture(scope="module")
def beats(simulated_cache: Cache) -> Beats:
    ecg, pcg = (
        torch.from_numpy(np.array(np.load(simulated_cache.path / f"beats_{name}.npy")[:48, ::20], np.float32))
        for name in ("ecg", "pcg")
    )
    label = torch.from_numpy(simulated_cache.table("samples")["label"].to_numpy(np.int64)[:48].copy())
    return Beats(ecg.reshape(48, 1, 100), pcg.reshape(48, 1, 100), label)


def learned(
    folder: Path,
    beats: Beats,
    layout: Any = "channels-last",
    compiles: bool = False,
    learning_rate: float = 1e-3,
) -> Any:
    """Return the curve and the stored weights of two epochs of a PACFNet of one level, and the network."""
    toy = toy_run(folder, BeatLearner(), epochs=2, batch_size=16, learning_rate=learning_rate)
    run: FoldContext = replace(toy, samples=beats, compiles=compiles)
    torch.manual_seed(0)
    model = PACFNet(width=8, levels=1, dropout=0.0)
    set_layout(model, layout)
    progress = fit(run, model, Tracker(None))
    return untimed(progress.history), load_checkpoint(folder / "last.pt")["model"], model


@pytest.fixture(scope="module")
def reference(tmp_path_factory, beats) -> Any:
    return learned(tmp_path_factory.mktemp("reference"), beats)


def assert_same_curve(one: Any, other: Any) -> None:
    assert len(one[0]) == len(other[0]) == 2
    for here, there in zip(one[0], other[0], strict=True):
        for name in ("train/loss", "val/loss", "gradient_norm"):
            assert here[name] == pytest.approx(there[name], rel=2e-3, abs=1e-4), name
    assert one[1].keys() == other[1].keys()


def test_the_plain_layout_learns_the_same(tmp_path, beats, reference):
    plain = learned(tmp_path, beats, layout="plain")
    assert_same_curve(plain, reference)
    assert reference[0][1]["train/loss"] < reference[0][0]["train/loss"], "something is learned"


def test_the_curve_tells_other_weights(tmp_path, beats, reference):
    """The tolerance is no wider than a difference that matters: another learning rate is seen."""
    run = replace(
        toy_run(tmp_path, BeatLearner(), epochs=2, batch_size=16, learning_rate=1.3e-3), samples=beats
    )
    torch.manual_seed(0)
    model = PACFNet(width=8, levels=2, dropout=0.0)
    history = untimed(fit(run, model, Tracker(None)).history)
    with pytest.raises(AssertionError):
        assert_same_curve((history, model.state_dict()), reference)


@pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="no C++ compiler here, which --compile needs"
)
def test_compiled_it_learns_the_same_and_checkpoints_hold_plain_names(tmp_path, beats, reference):
    found = learned(tmp_path, beats, compiles=True)
    assert_same_curve(found, reference)
    for name, weight in reference[1].items():
        assert not name.startswith("_orig_mod")
        assert torch.equal(found[1][name], found[2].state_dict()[name]), "the weights of the model given"
        assert found[1][name].shape == weight.shape


@pytest.mark.parametrize(("size", "compiled_sizes", "all_sizes"), [(10, {10}, {10, 2}), (64, {32}, {32})])
def test_a_last_batch_of_another_size_is_not_compiled(
    tmp_path, beats, monkeypatch, size, compiled_sizes, all_sizes
):
    """It would be compiled anew with sizes left open, which takes many minutes and slows all later steps."""
    by_compiled: set[int] = set()
    by_all: set[int] = set()

    class Compiled(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self._orig_mod = model

        def forward(self, ecg: Tensor, pcg: Tensor) -> Any:
            by_compiled.add(len(ecg))
            return self._orig_mod(ecg, pcg)

    monkeypatch.setattr(loop, "compiled", lambda model, *_: Compiled(model))
    toy = toy_run(tmp_path, BeatLearner(), epochs=1, batch_size=size, drop_last=False)
    model = PACFNet(width=8, levels=1, dropout=0.0)
    model.head.register_forward_hook(
        lambda head, given, _: by_all.add(len(given[0])) if head.training else None
    )
    fit(replace(toy, samples=beats, compiles=True), model, Tracker(None))
    assert by_compiled == compiled_sizes
    assert by_all == all_sizes, "32 samples are trained on"


def test_the_model_inside_what_is_compiled(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    model = nn.Linear(3, 2)
    wrapped = compiled(model, CPU)
    assert wrapped is not model
    assert unwrap(wrapped) is model
    assert unwrap(model) is model


def test_the_aim_of_the_compiler_is_passed_on(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    modes: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda model, mode: modes.append(mode))
    compiled(nn.Linear(3, 2), CPU)
    compiled(nn.Linear(3, 2), CPU, "max-autotune")
    assert modes == ["default", "max-autotune"]


def test_without_a_compiler_it_is_refused_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"^--compile needs a C\+\+ compiler such as g\+\+: install one, or"):
        compiled(nn.Linear(3, 2), CPU)


def test_a_compiler_named_by_the_environment_will_do(monkeypatch, tmp_path):
    compiler = tmp_path / "my-compiler"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "my-compiler")
    assert unwrap(compiled(nn.Linear(3, 2), CPU)) is not None
    compiler.unlink()
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        compiled(nn.Linear(3, 2), CPU)


def test_on_cuda_triton_is_what_is_needed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--compile on CUDA needs Triton"):
        compiled(nn.Linear(3, 2), torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("options", "dimensions", "compiles"),
    [
        ([], 4, False),
        (["--layout", "plain"], 3, False),
        (["--layout", "channels-last", "--compile"], 4, True),
    ],
    ids=["default", "plain", "compile"],
)
def test_the_command_line_reaches_the_network(
    simulated_cache, tmp_path, monkeypatch, options, dimensions, compiles
):
    seen: set[int] = set()
    asked: list[torch.device] = []

    def forward(layer: Convolution, given: Tensor) -> Tensor:
        seen.add(given.ndim)
        return original(layer, given)

    def compile_nothing(model: nn.Module, device: torch.device, mode: str) -> nn.Module:
        asked.append(device)
        return model

    original = Convolution.forward
    monkeypatch.setattr(Convolution, "forward", forward)
    monkeypatch.setattr("learning.loop.compiled", compile_nothing)
    size = "--preset small --width 8 --points 100 --epochs 1 --folds 0 --threads 1 --device cpu"
    places = ["--checkpoint-dir", str(tmp_path / "ck"), "--log-dir", str(tmp_path / "runs")]
    words = [*size.split(), "--precision", "float32", "--cache", str(simulated_cache.path)]
    run = training.main([*words, *places, *options])
    assert seen == {dimensions}
    assert bool(asked) is compiles
    stored = load_checkpoint(run / "fold_0" / "best.pt")["settings"]
    assert (stored["layout"], stored["compile"]) == (options[1] if options else "auto", compiles)
