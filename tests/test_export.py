"""export.py from the command line, and every kind of network of beats it takes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import export
import training
from common.command_line import to_plain
from common.errors import UserError
from config import ModelSettings, PreparationSettings, TrainingSettings
from datasets.signals import shorten_beats
from learning.checkpoint import file_digest, load_checkpoint, save_checkpoint
from learning.export import CHECKED_BATCHES, TOLERANCE, open_exported, read_facts
from learning.loop import predict
from models import NETWORKS
from tasks.ecg_pcg import EcgPcg
from tasks.ecg_pcg_export import exportable, random_beats

POINTS = 100
SUBSETS = {"modality_dropout": 0.5}
CASES = [
    pytest.param({"attention": "cascaded"}, {"ecg", "pcg"}, id="cascaded"),
    pytest.param({"attention": "parallel"}, {"ecg", "pcg"}, id="parallel"),
    pytest.param(SUBSETS, {"ecg", "pcg", "has_ecg", "has_pcg"}, id="subsets"),
    pytest.param({"zeroed": "pcg"}, {"ecg"}, id="zeroed"),
    pytest.param({"model": "pcg-network"}, {"pcg"}, id="pcg-network"),
    pytest.param({"model": "cross-attention"} | SUBSETS, None, id="cross-attention-subsets"),
    *(pytest.param({"model": name}, None, id=name) for name in NETWORKS if name != "pacfnet"),
]


def checkpoint(seed: int = 0, **options) -> dict:
    """Return the checkpoint of a network with random weights whose answers depend on its input.

    As it is built, batch normalization leaves next to nothing of the input for the head: no test of anything.
    """
    settings = TrainingSettings(model=ModelSettings(width=8, points=POINTS, **options))
    torch.manual_seed(seed)
    network = EcgPcg().build(settings).train()
    names = ("ecg", "pcg") + (("has_ecg", "has_pcg") if getattr(network, "absence_tokens", False) else ())
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name, token in network.named_parameters():
        if "tokens" in name:
            torch.nn.init.normal_(token)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(20):
            logits = network(**random_beats(names, 64, POINTS, generator))
        last = [part for part in network.modules() if isinstance(part, torch.nn.Linear)][-1]
        last.weight /= logits.std(dim=0).mean()
    return {
        "task": "ecg-pcg",
        "run": "made",
        "fold": 0,
        "protocol": "session",
        "settings": to_plain(settings),
        "model": network.state_dict(),
        "threshold": 0.375,
        "trained_on": {"content": []},
        "provenance": {"torch": "2.13.0", "commit": "0123456789ab"},
        "cache": {
            "identity": "0" * 64,
            "source": "physionet2016",
            "simulated": False,
            "settings": to_plain(PreparationSettings()),
        },
    }


def call(*arguments: object) -> Path:
    return export.main([str(argument) for argument in (*arguments, "--threads", "1")])


def needs_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="ONNX needs it (requirements-dev.txt)")


# Networks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "names"), CASES)
def test_a_torch_program_says_what_the_network_says(options, names, tmp_path):
    save_checkpoint(tmp_path / "best.pt", checkpoint(**options))
    path = call("--checkpoint", tmp_path / "best.pt", "--format", "torch")
    said = compare(path, tmp_path / "best.pt")
    assert names is None or set(said) == names


@pytest.mark.parametrize(("options", "names"), CASES[:5])
def test_onnxruntime_says_what_the_network_says(options, names, tmp_path):
    needs_onnx()
    save_checkpoint(tmp_path / "best.pt", checkpoint(**options))
    path = call("--checkpoint", tmp_path / "best.pt")
    assert path == tmp_path / "best.onnx"
    assert set(compare(path, tmp_path / "best.pt")) == names


def compare(path: Path, made_from: Path) -> dict[str, torch.Tensor]:
    """Ask file and network, as a task asks it, about batches of 1 and of 5; return the last inputs."""
    content = load_checkpoint(made_from)
    network = exportable(content, "").network.network.eval()
    run, spread = open_exported(path), []
    for rows in (1, 5):
        inputs = exportable(content, "").draw(rows, torch.Generator().manual_seed(rows))
        with torch.no_grad():
            logits = network(**inputs)
        found = run(inputs)
        assert found["logits"].shape == (rows, 2)
        assert (found["logits"] - logits).abs().max() <= TOLERANCE
        assert (found["probability"] - logits.softmax(dim=1)[:, 1]).abs().max() <= TOLERANCE
        spread.append(float(logits.std(dim=0, correction=0).max()))
    assert spread[-1] > 100 * TOLERANCE, "the answers must depend on the input for this to be a test"
    return inputs


def test_an_absent_signal_may_hold_anything_and_a_row_without_any_says_nothing(tmp_path):
    save_checkpoint(tmp_path / "best.pt", checkpoint(**SUBSETS))
    run = open_exported(call("--checkpoint", tmp_path / "best.pt", "--format", "torch"))
    inputs = random_beats(("ecg", "pcg"), 3, POINTS, torch.Generator().manual_seed(1))
    has = {"has_ecg": torch.tensor([True, False, False]), "has_pcg": torch.tensor([True, True, False])}
    said = run(inputs | has)["probability"]
    spoiled = inputs | {"ecg": inputs["ecg"].clone()}
    spoiled["ecg"][1:] = torch.nan
    again = run(spoiled | has)["probability"]
    assert torch.equal(said[:2], again[:2]) and said.isnan().tolist() == [False, False, True]
    everything = run(inputs | dict.fromkeys(has, torch.ones(3, dtype=torch.bool)))["probability"]
    assert (said[1] - everything[1]).abs() > TOLERANCE, "the mask must matter"


# A run, from recordings to file ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(simulated_cache, tmp_path_factory) -> Path:
    """Return a run of two folds, trained for one epoch on simulated recordings."""
    house = tmp_path_factory.mktemp("house")
    return training.main(
        [
            *("--preset", "small", "--width", "8", "--points", "100", "--epochs", "1", "--folds", "0", "1"),
            *("--precision", "float32", "--device", "cpu", "--threads", "1", "--run-name", "tiny"),
            *("--cache", str(simulated_cache.path), "--checkpoint-dir", str(house / "checkpoints")),
            *("--log-dir", str(house / "runs")),
        ]
    )


def test_a_file_gives_the_probabilities_of_the_run(run, simulated_cache, tmp_path, capsys):
    """Cached beats, shortened, and numpy alone: what docs/inference.md does."""
    needs_onnx()
    import onnxruntime

    path = call("--checkpoint", run, "--fold", "1", "--out", tmp_path / "tiny.onnx")
    said = capsys.readouterr().out
    assert "pacfnet of run tiny, fold 1" in said
    assert "Largest difference from the network" in said and "not a medical device" in said
    beats = {
        kind: shorten_beats(simulated_cache.beats(kind)[:40], 100)[:, None].astype(np.float32)
        for kind in ("ecg", "pcg")
    }
    session = onnxruntime.InferenceSession(path)
    logits, probability = session.run(["logits", "probability"], beats)
    content = load_checkpoint(run / "fold_1" / "best.pt")
    settings = TrainingSettings(model=ModelSettings(width=8, points=100))
    task, cpu = EcgPcg(), torch.device("cpu")
    network = task.build(settings)
    network.load_state_dict(content["model"])
    samples = task.samples(simulated_cache, settings, cpu)
    wanted = predict(task, network, samples, torch.arange(40), batch_size=16, device=cpu)[1]
    assert np.abs(probability - wanted.numpy()).max() <= TOLERANCE
    assert logits.shape == (40, 2)


def test_a_file_knows_what_it_is(run, tmp_path):
    path = call("--checkpoint", run, "--fold", "0", "--out", tmp_path / "tiny.pt2")
    facts, content = read_facts(path), load_checkpoint(run / "fold_0" / "best.pt")
    for name, value in {
        "task": "ecg-pcg",
        "model": "pacfnet",
        "run": "tiny",
        "fold": "0",
        "protocol": "session",
        "points": "100",
        "classes": "normal, abnormal",
        "outputs": "logits, probability",
        "trained_on_simulated_data": "yes",
        "assumed_prevalence": "0.5",
        "checkpoint_sha256": file_digest(run / "fold_0" / "best.pt"),
    }.items():
        assert facts[name] == value
    assert json.loads(facts["threshold"]) == content["threshold"]
    assert json.loads(facts["trained_with"]) == content["provenance"]
    assert json.loads(facts["model_settings"])["width"] == 8
    assert set(json.loads(facts["inputs"])) == {"ecg", "pcg"}
    assert "brought to 2000 points by a cubic spline, then to 100" in facts["sampling_rate"]
    assert "no" in facts["notice"] and "diagnosis" in facts["notice"]


def test_the_final_fit_comes_before_folds(run, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(run, copy)
    with pytest.raises(UserError, match=r"holds fold_0, fold_1, each a network of its own: choose one with"):
        call("--checkpoint", copy, "--dry-run")
    shutil.copytree(copy / "fold_0", copy / "fold_all")
    assert call("--checkpoint", copy, "--dry-run") == copy / "fold_all" / "best.onnx"
    assert call("--checkpoint-dir", tmp_path, "--dry-run") == copy / "fold_all" / "best.onnx"
    assert call("--checkpoint", copy, "--fold", "1", "--dry-run") == copy / "fold_1" / "best.onnx"
    assert not list(copy.rglob("*.onnx"))


def test_a_perturbed_weight_is_found_and_no_file_left(tmp_path, monkeypatch):
    """The file is of one network, and asked beside another: one weight of many, changed a bit."""
    save_checkpoint(tmp_path / "best.pt", checkpoint())
    made = export.open_exportable(tmp_path / "best.pt", export.EXPORT)
    honest = export.write_export.__globals__["open_exported"]

    def perturb(path: Path):
        with torch.no_grad():
            made.network.network.encoders["ecg"][0].body[0][0].weight[0, 0, 3] += 0.05
        return honest(path)

    monkeypatch.setattr(export, "open_exportable", lambda *_: made)
    monkeypatch.setitem(export.write_export.__globals__, "open_exported", perturb)
    with pytest.raises(UserError, match="differs from the network by"):
        call("--checkpoint", tmp_path / "best.pt", "--format", "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fold", "7"], r"There is no trained fold_7 in .*tiny, only fold_0, fold_1"),
        (["--fold", "0", "--out", "a.pt2", "--format", "onnx"], r"--out a\.pt2 must end with \.onnx"),
        (
            ["--fold", "0", "--out", "a.bin"],
            r"--out a\.bin must end with \.onnx for --format onnx ",
        ),
        (["--checkpoint", "nowhere"], r"There is no best\.pt in nowhere"),
    ],
)
def test_commands_without_a_meaning_are_refused(run, arguments, said):
    with pytest.raises(UserError, match=said):
        call("--checkpoint", run, *arguments)


def test_an_unknown_format_ends_the_program(run, capsys):
    with pytest.raises(SystemExit) as left:
        call("--checkpoint", run, "--format", "tensorflow")
    assert left.value.code == 2
    assert "onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"task": "ecg-multimodal"},
            "task ecg-multimodal, whose networks cannot be exported yet: .*ecg-p",
        ),
        ({"settings": {"model": {"model": "linear"}}}, "linear judges features that only this code computes"),
        ({"settings": {"model": {"model": "phase-fusion"}}}, "phase-fusion judges features"),
        ({"model": {}}, "does not fit this version of the code"),
        ({"cache": {}}, "does not fit this version of the code"),
    ],
)
def test_checkpoints_that_cannot_be_exported_are_refused(tmp_path, changes, said):
    save_checkpoint(tmp_path / "best.pt", checkpoint() | changes)
    with pytest.raises(UserError, match=said):
        call("--checkpoint", tmp_path / "best.pt", "--format", "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_one_file_has_no_folds(tmp_path):
    save_checkpoint(tmp_path / "best.pt", checkpoint())
    with pytest.raises(UserError, match="--fold chooses in the folder of a run"):
        call("--checkpoint", tmp_path / "best.pt", "--fold", "0")


def test_several_sizes_of_batches_are_tried():
    assert min(CHECKED_BATCHES) == 1 and max(CHECKED_BATCHES) > 16
