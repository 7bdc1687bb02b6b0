"""Contrastive alignment: the loss by hand, what is trained, what is frozen, and several processes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from learning.distributed import stop_processes
from models.ecg_cmr.cmr_encoder import CMREncoder
from models.ecg_cmr.contrast import ContrastiveModel, info_nce, match_parts
from models.ecg_cmr.ecg_encoder import ECGEncoder
from tests.models.ecg_cmr.small import generator, train

WAVES = 3
"""Ways in which the hearts of the toy patients differ."""


def build(seed: int = 0, long_axis: bool = False, dropout: float = 0.0, **options: Any) -> ContrastiveModel:
    torch.manual_seed(seed)
    ecg = ECGEncoder(40, 10, 3, 16, 1, 2, dropout)
    cmr, other = (CMREncoder(2, 8, (2, 4, 4), 16, 1, 2, dropout) for _ in range(2))
    return ContrastiveModel(ecg, cmr, 8, long_axis_encoder=other if long_axis else None, **options)


def pairs(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """ECG and cine of patients in whom one hidden vector mixes fixed waves and fixed images."""
    hidden = torch.randn(count, WAVES, generator=generator(seed))
    waves = torch.randn(WAVES, 3, 40, generator=generator(1000))
    images = torch.randn(WAVES, 2, 8, 8, generator=generator(1001))
    noise = 0.1 * torch.randn(count, 3, 40, generator=generator(seed + 1))
    return torch.einsum("bw,wlt->blt", hidden, waves) + noise, torch.einsum("bw,wfyx->bfyx", hidden, images)


def embed(model: ContrastiveModel, name: str, signal: Tensor) -> Tensor:
    return model.embed(name, signal)["whole"]


ONE = torch.tensor(1.0)


def test_loss_of_two_pairs_by_hand():
    similarity = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    forth = [math.log1p(math.exp(2 * (0.1 - 0.9))), math.log1p(math.exp(2 * (0.3 - 0.7)))]
    back = [math.log1p(math.exp(2 * (0.3 - 0.9))), math.log1p(math.exp(2 * (0.1 - 0.7)))]
    expected = (sum(forth) / 2 + sum(back) / 2) / 2
    assert info_nce(similarity, torch.tensor(2.0)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_pairs_that_look_alike_cost_the_logarithm_of_their_number(count):
    assert info_nce(torch.full((count, count), 0.4), torch.tensor(9.0)).item() == pytest.approx(
        math.log(count), abs=1e-6
    )


def test_perfect_pairs_cost_nothing():
    assert info_nce(2 * torch.eye(4) - 1, torch.tensor(50.0)).item() == pytest.approx(0, abs=1e-6)


def test_pairs_of_one_patient_are_not_each_others_negatives():
    similarity = torch.tensor([[0.5, 9.0, 0.1], [9.0, 0.5, 0.2], [0.3, 0.4, 0.5]])
    found = info_nce(similarity, ONE, torch.tensor([7, 7, 8]))

    def log_sum(*values: float) -> float:
        return math.log(sum(math.exp(value) for value in values))

    forth = log_sum(0.5, 0.1) + log_sum(0.5, 0.2) + log_sum(0.3, 0.4, 0.5) - 1.5
    back = log_sum(0.5, 0.3) + log_sum(0.5, 0.4) + log_sum(0.1, 0.2, 0.5) - 1.5
    assert found.item() == pytest.approx((forth + back) / 6, rel=1e-6)


def test_pairs_left_out_neither_count_nor_serve_as_negatives():
    similarity = torch.rand(5, 5, generator=generator())
    valid = torch.tensor([True, False, True, True, False])
    expected = info_nce(similarity[valid][:, valid], ONE)
    assert torch.isclose(info_nce(similarity, ONE, valid=valid), expected)
    assert info_nce(similarity, ONE, valid=torch.zeros(5, dtype=torch.bool)).item() == 0


def test_parts_by_hand():
    first = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    second = torch.tensor([[[0.6, 0.8], [0.0, -1.0], [1.0, 0.0]], [[-1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]])
    known_first = torch.ones(1, 2, dtype=torch.bool)
    known_second = torch.tensor([[True, True, False], [True, True, True]])
    found = match_parts(first, second, known_first, known_second)
    expected = [
        ((0.6 + 0.8) / 2 + (0.8 + 0.0) / 2) / 2,
        ((0.6 + 1.0) / 2 + (0.0 + 0.8 + 1.0) / 3) / 2,
    ]
    assert found.tolist() == [pytest.approx(expected)]


def test_shapes_and_unit_length():
    model, (ecg, cmr) = build().eval(), pairs()
    found = model(ecg, cmr)
    assert found["ecg_embedding"].shape == found["cmr_embedding"].shape == (6, 8)
    for name, signal in (("ecg", ecg), ("cmr", cmr)):
        embedding = embed(model, name, signal)
        assert torch.equal(embedding, found[f"{name}_embedding"])
        assert torch.allclose(embedding.norm(dim=1), torch.ones(6), atol=1e-6)
    similarity = model.similarity(found["ecg_embedding"], found["cmr_embedding"][:4])
    assert similarity.shape == (6, 4)
    assert found["temperature"].item() == pytest.approx(0.1)
    full = model.similarity(found["ecg_embedding"], found["cmr_embedding"])
    assert torch.isclose(found["loss"], info_nce(full, torch.tensor(10.0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.001}, "temperature must be from 0.01 to 1.0"),
        ({"temperature": 2.0}, "temperature must be"),
        ({"pooling": "last"}, "pooling must be"),
        ({"token_dropout": 1.0}, "token_dropout must be"),
    ],
)
def test_settings_that_make_no_model_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_second_view_needs_its_encoder_and_the_other_way_round():
    ecg, cmr = pairs()
    with pytest.raises(ValueError, match="give both, or neither"):
        build()(ecg, cmr, long_axis=cmr)
    with pytest.raises(ValueError, match="give both, or neither"):
        build(long_axis=True)(ecg, cmr)
    with pytest.raises(ValueError, match="built without long_axis_encoder"):
        build().embed("long_axis", cmr)


def without_gradient(model: nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.grad is None}


@pytest.mark.parametrize("options", [{}, {"local": True}, {"pooling": "class"}, {"token_dropout": 0.5}])
def test_both_heads_both_encoders_and_the_temperature_learn(options):
    model = build(**options)
    model(*pairs())["loss"].backward()
    assert without_gradient(model) == set()
    assert model.log_scale.grad is not None
    assert model.log_scale.grad != 0
    for head in model.heads.values():
        assert all(weight.grad is not None and weight.grad.any() for weight in head.parameters())


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({"freeze_cmr": True}, {"cmr_encoder"}),
        ({"freeze_ecg": True}, {"ecg_encoder"}),
        ({"freeze_ecg": True, "freeze_cmr": True}, {"ecg_encoder", "cmr_encoder"}),
        ({"freeze_cmr": True, "long_axis": True}, {"cmr_encoder", "long_axis_encoder"}),
    ],
)
def test_frozen_encoders_stay_and_their_heads_learn(options, frozen):
    model, (ecg, cmr) = build(dropout=0.5, **options), pairs()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1.0)
    model(ecg, cmr, long_axis=cmr if "long_axis" in options else None)["loss"].backward()
    optimizer.step()
    changed = {
        name.split(".")[0]
        for name, weight in model.state_dict().items()
        if not torch.equal(weight, before[name])
    }
    learning = {"ecg_encoder", "cmr_encoder", "long_axis_encoder"} & {name.split(".")[0] for name in before}
    assert changed == (learning - frozen) | {"heads", "log_scale"}
    for name in learning:
        assert model.get_submodule(name).training == (name not in frozen), "no dropout in a frozen encoder"


def test_temperature_is_learned_within_its_bounds():
    """Pairs already matched ask for an ever lower temperature, pairs mismatched for a higher one."""
    model = build()
    model.log_scale.data.fill_(10.0)
    ecg, cmr = pairs()
    assert model(ecg, cmr)["temperature"].item() == pytest.approx(0.01)
    model(ecg, cmr)["loss"].backward()
    assert model.log_scale.grad is not None
    assert model.log_scale.grad.abs() > 0, "at its bound it can still come back"
    model.log_scale.data.fill_(-3.0)
    assert model(ecg, cmr)["temperature"].item() == pytest.approx(1.0)


def test_leads_that_are_absent_do_not_count():
    model, (ecg, cmr) = build(local=True).eval(), pairs()
    present = torch.tensor([True, False, True]).expand(6, -1)
    planted = ecg.where(present.unsqueeze(-1), math.nan)
    first, second = model(ecg, cmr, present), model(planted, cmr, present)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.allclose(first["ecg_embedding"], embed(model, "ecg", ecg))


def test_a_pair_without_a_signal_is_left_out():
    model, (ecg, cmr) = build().eval(), pairs()
    expected = model(ecg[1:], cmr[1:])["loss"]
    for broken_ecg, broken_cmr in ((ecg.clone(), cmr), (ecg, cmr.clone())):
        (broken_ecg if broken_cmr is cmr else broken_cmr)[0] = math.nan
        assert torch.allclose(model(broken_ecg, broken_cmr)["loss"], expected, atol=1e-6)


def test_a_second_view_adds_its_loss_over_the_patients_who_have_it():
    model, (ecg, cmr) = build(long_axis=True).eval(), pairs()
    has = torch.tensor([True, False, True, True, True, False])
    other = cmr.flip(1).where(has[:, None, None, None], math.nan)
    found = model(ecg, cmr, long_axis=other, has_long_axis=has)
    similarity = model.similarity(embed(model, "ecg", ecg)[has], embed(model, "long_axis", other[has]))
    assert torch.isclose(found["long_axis"], info_nce(similarity, torch.tensor(10.0)), atol=1e-5)
    assert torch.isclose(found["loss"], found["short_axis"] + found["long_axis"])
    found["loss"].backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


def test_local_alignment_is_added_and_reads_leads_and_places():
    model, (ecg, cmr) = build(local=True).eval(), pairs()
    found = model(ecg, cmr)
    assert torch.isclose(found["loss"], found["short_axis"] + found["local"])
    weights = model.state_dict()
    plain = build().eval()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    assert torch.allclose(plain(ecg, cmr)["loss"], found["short_axis"], atol=1e-6)


def test_tokens_are_left_out_in_training_only_and_only_of_the_ecg():
    model, (ecg, cmr) = build(token_dropout=0.5), pairs()
    assert not torch.equal(embed(model, "ecg", ecg), embed(model, "ecg", ecg))
    assert torch.equal(embed(model, "cmr", cmr), embed(model, "cmr", cmr))
    model.eval()
    assert torch.equal(embed(model, "ecg", ecg), embed(model, "ecg", ecg))


def align(model: ContrastiveModel, shuffled: bool = False) -> None:
    ecg, cmr = pairs(256)
    if shuffled:
        cmr = cmr[torch.randperm(256, generator=generator())]

    def loss_of(step: int) -> Tensor:
        rows = torch.randperm(256, generator=generator(step))[:32]
        return model(ecg[rows], cmr[rows])["loss"]

    train(model, loss_of, 150, 3e-3)


def recall(model: ContrastiveModel, found_first: int = 5) -> float:
    """Return how often the own cine is among the first of 100 unseen ones."""
    with torch.no_grad():
        ecg, cmr = pairs(100, seed=77)
        similarity = model.eval().similarity(embed(model, "ecg", ecg), embed(model, "cmr", cmr))
    rank = (similarity > similarity.diagonal()[:, None]).sum(dim=1)
    return float((rank < found_first).double().mean())


def test_it_finds_the_cine_of_unseen_patients_unless_pairs_were_shuffled():
    model, shuffled = build(), build()
    start = model.temperature.item()
    align(model)
    align(shuffled, shuffled=True)
    assert recall(model) > 0.6
    assert recall(shuffled) < 0.2, "chance is 0.05"
    assert model.temperature.item() < start


def batch_with_everything() -> dict[str, Tensor]:
    """Eight pairs, a patient twice, a lead absent, a long axis missing."""
    ecg, cmr = pairs(8)
    present = torch.ones(8, 3, dtype=torch.bool)
    present[2, 1] = False
    has = torch.tensor([True, True, False, True, True, True, True, False])
    return {
        "ecg": ecg,
        "cmr": cmr,
        "lead_present": present,
        "long_axis": cmr.flip(1),
        "has_long_axis": has,
        "patient": torch.tensor([0, 1, 2, 3, 0, 5, 6, 7]),
    }


def step(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Any]:
    """Return the losses of a batch and every gradient."""
    found = model(**batch)
    found["loss"].backward()
    gradients = {name.removeprefix("module."): weight.grad for name, weight in model.named_parameters()}
    losses = {name: found[name].detach() for name in ("loss", "short_axis", "long_axis", "local")}
    return {"losses": losses, "gradients": gradients}


def share_a_batch(rank: int, folder: str) -> None:
    model = DistributedDataParallel(build(long_axis=True, local=True))
    mine = {name: rows[rank::2] for name, rows in batch_with_everything().items()}
    torch.save(step(model, mine), f"{folder}/rank{rank}.pt")
    if rank == 0:  # evaluation is done by one process alone, and must not wait for the other
        with torch.no_grad():
            model.module.eval()(**mine)


def work(rank: int, folder: str) -> None:
    """Be one of two processes that share a batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        share_a_batch(rank, folder)
    finally:
        stop_processes()


def test_two_processes_find_the_loss_and_the_gradients_of_one(tmp_path: Path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    alone = step(build(long_axis=True, local=True), batch_with_everything())
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, loss in alone["losses"].items():
            assert torch.allclose(found["losses"][name], loss, atol=1e-6), name
        for name, gradient in alone["gradients"].items():
            assert torch.allclose(found["gradients"][name], gradient, atol=1e-6, rtol=1e-4), name
