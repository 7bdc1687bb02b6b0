"""The loop: what it learns, when it stops, what it keeps, and that a stop in between changes nothing."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_pre_hook
from toy_learner import ToyLearner, build, points, toy_run, train, untimed

from common.errors import UserError
from config import OptimizationSettings
from learning.checkpoint import load_checkpoint
from learning.distributed import Processes
from learning.loop import NonFiniteLossError, _batches, clip_gradient, make_optimizer, predict

STEPS = 4
"""Steps of one epoch of the toy: 32 rows in batches of 8."""


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class StoppedError(Exception):
    """Stands for a kill: nothing of the epoch under way is saved."""


def stop_at(step: int):
    def meddle(now: int, loss: Tensor) -> Tensor:
        if now == step:
            raise StoppedError
        return loss

    return meddle


# --- learning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_learns_two_separate_clouds(tmp_path, optimizer):
    model, progress, recorder = train(toy_run(tmp_path, epochs=12, optimizer=optimizer))
    assert progress.finished
    assert (progress.epoch, progress.step) == (12, 12 * STEPS)
    assert recorder.epochs[-1]["val/accuracy"] == 1.0
    assert recorder.epochs[-1]["val/loss"] < 0.1 < recorder.epochs[0]["val/loss"]
    assert recorder.epochs[-1]["train/loss"] < recorder.epochs[0]["train/loss"]
    assert recorder.steps == list(range(1, 13))
    assert same_weights(model.state_dict(), load_checkpoint(tmp_path / "last.pt")["model"])


def test_reports_the_same_curves_every_epoch(tmp_path):
    _, progress, recorder = train(toy_run(tmp_path))
    names = {
        "train/loss",
        "train/accuracy",
        "val/loss",
        "val/accuracy",
        "gradient_norm",
        "samples_per_second",
    }
    assert all(set(scores) == names | {"learning_rate"} for scores in recorder.epochs)
    assert all(set(scores) == names for scores in progress.history)
    assert all(scores["samples_per_second"] > 0 for scores in recorder.epochs)


def test_validation_scores_are_those_of_the_network_in_use(tmp_path):
    run = toy_run(tmp_path)
    model, progress, _ = train(run)
    losses, predictions = predict(
        run.learner, model, run.samples, run.validation, batch_size=5, device=run.device
    )
    loss = losses["loss"]
    assert progress.history[-1]["val/loss"] == pytest.approx(loss, abs=1e-6)
    with torch.no_grad():
        direct = model.eval()(points().features[32:48])
    assert torch.allclose(predictions, direct.softmax(dim=1)[:, 1], atol=1e-6)
    assert loss == pytest.approx(float(functional.cross_entropy(direct, points().label[32:48])), abs=1e-6)


def test_what_a_learner_names_beside_the_loss_has_curves_of_its_mean(tmp_path):
    class Named(ToyLearner):
        def step(self, model, batch):
            losses, predictions = super().step(model, batch)
            rows = float(len(predictions))
            return losses | {
                "rows": losses["loss"].new_tensor(rows),
                "double": 2 * losses["loss"],
            }, predictions

    _, progress, recorder = train(toy_run(tmp_path, Named()))
    for scores in (*progress.history, *recorder.epochs):
        assert scores["train/double"] == pytest.approx(2 * scores["train/loss"], rel=1e-5)
        assert scores["val/double"] == pytest.approx(2 * scores["val/loss"], rel=1e-5)
        assert scores["train/rows"] == 8


def test_every_epoch_sees_every_row_once_in_another_order(tmp_path):
    seen: list[Tensor] = []

    class Watched(ToyLearner):
        def score(self, samples, rows, predictions):
            seen.append(rows)
            return super().score(samples, rows, predictions)

    train(toy_run(tmp_path, Watched(), validation=False, epochs=3))
    assert [sorted(rows.tolist()) for rows in seen] == [list(range(32))] * 3
    assert len({tuple(rows.tolist()) for rows in seen}) == 3


def test_processes_share_the_rows_of_a_batch_out(tmp_path):
    whole = list(_batches(toy_run(tmp_path), 0))
    parts = [list(_batches(toy_run(tmp_path, processes=Processes(rank, 2, rank)), 0)) for rank in (0, 1)]
    for batch, one, other in zip(whole, *parts, strict=True):
        assert len(one) == len(other) == 4
        assert sorted([*one.tolist(), *other.tolist()]) == sorted(batch.tolist())


# --- seeds ---------------------------------------------------------------------------------------------


def test_same_seed_same_run_other_seed_another(tmp_path):
    runs = [train(toy_run(tmp_path / name, seed=seed)) for name, seed in (("a", 5), ("b", 5), ("c", 6))]
    weights = [model.state_dict() for model, _, _ in runs]
    assert same_weights(weights[0], weights[1])
    assert untimed(runs[0][1].history) == untimed(runs[1][1].history)
    assert not same_weights(weights[0], weights[2])


def test_order_and_dropout_follow_the_seed_of_the_run(tmp_path):
    """Same initial weights: what differs is the order of the samples and the dropout."""
    one, other = (train(toy_run(tmp_path / str(seed), seed=seed), build(0))[0] for seed in (1, 2))
    assert not same_weights(one.state_dict(), other.state_dict())


# --- stopped and continued -----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("schedule", ["plateau", "one-cycle", "constant"])
def test_two_and_two_epochs_equal_four_bit_for_bit(tmp_path, schedule, optimizer):
    settings = {"schedule": schedule, "optimizer": optimizer, "plateau_patience": 0, "learning_rate": 0.05}
    alone, progress, _ = train(toy_run(tmp_path / "alone", **settings))
    learner = ToyLearner(meddle=stop_at(2 * STEPS + 3))  # in the middle of the third epoch
    with pytest.raises(StoppedError):
        train(toy_run(tmp_path / "stopped", learner, **settings))
    assert load_checkpoint(tmp_path / "stopped" / "last.pt")["progress"]["epoch"] == 2

    continued, later, recorder = train(toy_run(tmp_path / "stopped", **settings), build(99), resume=True)
    assert same_weights(alone.state_dict(), continued.state_dict())
    assert untimed(later.history) == untimed(progress.history)
    assert recorder.steps == [3, 4]
    for name in ("last.pt", "best.pt"):
        one, two = (load_checkpoint(tmp_path / folder / name) for folder in ("alone", "stopped"))
        assert same_weights(one["model"], two["model"])
    states = [load_checkpoint(tmp_path / folder / "last.pt")["optimizer"] for folder in ("alone", "stopped")]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for key, state in states[0]["state"].items():
        assert same_weights(state, states[1]["state"][key])


def test_plateau_counts_on_over_a_stop(tmp_path):
    """Five epochs without improvement, stopped after two: the rate falls at the same epoch."""
    settings = {"schedule": "plateau", "plateau_patience": 2, "epochs": 6}
    _, _, alone = train(toy_run(tmp_path / "alone", ToyLearner([1.0] * 6), **settings))
    with pytest.raises(StoppedError):
        train(toy_run(tmp_path / "stopped", ToyLearner([1.0] * 6, stop_at(2 * STEPS + 1)), **settings))
    _, _, later = train(toy_run(tmp_path / "stopped", ToyLearner([1.0] * 4), **settings), resume=True)
    rates = [scores["learning_rate"] for scores in alone.epochs]
    assert len(set(rates)) > 1
    assert [scores["learning_rate"] for scores in later.epochs] == rates[2:]


def test_early_stopping_counts_on_over_a_stop(tmp_path):
    losses = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
    settings = {"early_stop": 4, "epochs": 8}
    with pytest.raises(StoppedError):
        train(toy_run(tmp_path, ToyLearner(losses, stop_at(3 * STEPS + 1)), **settings))
    _, progress, _ = train(toy_run(tmp_path, ToyLearner(losses[3:]), **settings), resume=True)
    assert (progress.epoch, progress.best_epoch, progress.best_loss) == (5, 1, 0.5)


def test_a_finished_run_is_not_trained_further(tmp_path):
    model, _, _ = train(toy_run(tmp_path))
    again, progress, recorder = train(toy_run(tmp_path), build(99), resume=True)
    assert recorder.epochs == []
    assert progress.epoch == 4
    assert same_weights(model.state_dict(), again.state_dict())


def test_without_resume_it_begins_again(tmp_path):
    first, _, _ = train(toy_run(tmp_path))
    again, progress, recorder = train(toy_run(tmp_path))
    assert len(recorder.epochs) == progress.epoch == 4
    assert same_weights(first.state_dict(), again.state_dict())


# --- selection, stopping, learning rate ----------------------------------------------------------------


def test_early_stopping_and_the_epoch_that_is_kept(tmp_path):
    """Best at epoch 5 (0.7); epoch 6 is better by less than 1e-4 and does not count; three later it ends."""
    learner = ToyLearner([1.0, 0.8, 0.9, 0.85, 0.7, 0.69995, 0.72, 0.71, 0.1, 0.1])
    _, progress, recorder = train(toy_run(tmp_path, learner, epochs=10, early_stop=3))
    assert (progress.epoch, progress.best_epoch, progress.stale) == (8, 5, 3)
    assert progress.best_loss == pytest.approx(0.7)
    assert len(recorder.epochs) == 8
    best, last = (load_checkpoint(tmp_path / name) for name in ("best.pt", "last.pt"))
    assert same_weights(best["model"], learner.at_validation[4])
    assert same_weights(last["model"], learner.at_validation[7])
    assert not same_weights(best["model"], last["model"])
    assert (best["progress"]["epoch"], last["progress"]["epoch"]) == (5, 8)
    assert last["progress"]["finished"]


def test_early_stopping_takes_any_gain_where_the_settings_ask_for_none(tmp_path):
    learner = ToyLearner([0.7, 0.69995, 0.72, 0.71])
    _, progress, _ = train(toy_run(tmp_path, learner, early_stop=3, least_improvement=0.0))
    assert (progress.best_epoch, progress.stale) == (2, 2)


def test_without_early_stopping_the_last_epoch_is_kept(tmp_path):
    learner = ToyLearner([0.1, 0.5, 0.6, 0.7])
    _, progress, _ = train(toy_run(tmp_path, learner, early_stop=0))
    assert progress.epoch == 4
    assert same_weights(load_checkpoint(tmp_path / "best.pt")["model"], learner.at_validation[3])


def test_without_validation_all_epochs_are_trained_and_the_last_is_kept(tmp_path):
    model, progress, recorder = train(toy_run(tmp_path, validation=False, early_stop=1, schedule="plateau"))
    assert progress.epoch == 4
    assert not any(name.startswith("val/") for scores in recorder.epochs for name in scores)
    assert same_weights(load_checkpoint(tmp_path / "best.pt")["model"], model.state_dict())


def test_plateau_divides_the_learning_rate_by_ten(tmp_path):
    """Best at epoch 2, patience 2, as Keras counts: the rate falls after epochs 3 and 4, 5 and 6 ...

    The curve has the rate with which an epoch was trained, not that of the next one.
    """
    learner = ToyLearner([1.0, 0.9, 0.95, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
    run = toy_run(tmp_path, learner, schedule="plateau", plateau_patience=2, epochs=9, learning_rate=0.1)
    _, _, recorder = train(run)
    rates = [scores["learning_rate"] for scores in recorder.epochs]
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2 + [0.0001])


def test_plateau_stops_at_its_floor(tmp_path):
    settings = {"schedule": "plateau", "plateau_patience": 1, "learning_rate": 0.1, "plateau_floor": 3e-3}
    _, _, recorder = train(toy_run(tmp_path, ToyLearner([1.0] * 5), epochs=5, **settings))
    rates = [scores["learning_rate"] for scores in recorder.epochs]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 3e-3, 3e-3])


def test_one_cycle_rises_to_its_peak_and_ends_near_zero(tmp_path):
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(float(optimizer.param_groups[0]["lr"]))
    )
    try:
        train(toy_run(tmp_path, schedule="one-cycle", epochs=10, learning_rate=0.02))
    finally:
        hook.remove()
    assert len(rates) == 10 * STEPS
    assert max(rates) == pytest.approx(0.02, rel=0.02)
    assert 0.2 < rates.index(max(rates)) / len(rates) < 0.4
    assert rates[0] < 0.002
    assert rates[-1] < 1e-4


def test_constant_rate_stays(tmp_path):
    _, _, recorder = train(toy_run(tmp_path, ToyLearner([1.0] * 9), epochs=9, plateau_patience=0))
    assert [scores["learning_rate"] for scores in recorder.epochs] == [0.01] * 9


@pytest.mark.parametrize(("clip", "bound"), [(0.5, 0.5), (0.0, math.inf)])
def test_gradient_is_clipped_to_its_norm(tmp_path, clip, bound):
    norms: list[float] = []

    def measure(optimizer, *_):
        gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
        norms.append(float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()))

    hook = register_optimizer_step_pre_hook(measure)
    try:
        learner = ToyLearner(meddle=lambda _, loss: 100 * loss)
        _, _, recorder = train(toy_run(tmp_path, learner, gradient_clip=clip, epochs=1))
    finally:
        hook.remove()
    assert len(norms) == STEPS
    assert max(norms) <= bound * (1 + 1e-4)
    assert recorder.epochs[0]["gradient_norm"] > 10, "the norm reported is the one before clipping"
    if clip == 0:
        assert max(norms) > 10


def test_each_tensor_is_clipped_by_itself(tmp_path):
    """Gradients (3, 4) and 12 at a largest norm of 2: (1.2, 1.6) and 2; together their norm was 13."""
    model = torch.nn.Linear(2, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([12.0])
    norm = clip_gradient(model, OptimizationSettings(gradient_clip=2.0, clip="tensor"))
    assert float(norm) == pytest.approx(13)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[1.2, 1.6]]))
    torch.testing.assert_close(model.bias.grad, torch.tensor([2.0]))


def test_epsilon_of_adam(tmp_path):
    """The first step of Adam is rate * g / (|g| + epsilon): half the rate where both are 1."""
    model = torch.nn.Linear(1, 1, bias=False)
    before, model.weight.grad = float(model.weight), torch.ones(1, 1)
    make_optimizer(model, OptimizationSettings(learning_rate=0.1, adam_epsilon=1.0)).step()
    assert float(model.weight) == pytest.approx(before - 0.05)


@pytest.mark.parametrize(("size", "sizes"), [(8, [8] * 4), (10, [10, 10, 10, 2]), (31, [31]), (40, [32])])
def test_the_last_batch_counts_where_the_settings_say_so_and_it_has_two_samples(tmp_path, size, sizes):
    run = toy_run(tmp_path, batch_size=size, drop_last=False)
    assert [len(rows) for rows in _batches(run, 0)] == sizes
    assert run.samples_per_epoch == sum(sizes)
    assert {len(rows) for rows in _batches(toy_run(tmp_path, batch_size=10), 0)} == {10}


# --- what cannot go on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("batch_size", "bad"), [(8, 2), (1, 3), (1, 25)])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_recordings(tmp_path, value, batch_size, bad):
    steps = 32 // batch_size
    rows: list[Tensor] = []

    class Watched(ToyLearner):
        def step(self, model, batch):
            if model.training and self.steps == steps + bad - 1:
                matches = (points().features[None] == batch["features"][:, None]).all(dim=-1)
                rows.append(matches.nonzero()[:, 1])
            return super().step(model, batch)

    learner = Watched(meddle=lambda step, loss: loss * value if step == steps + bad else loss)
    model = build(plain=True)
    with pytest.raises(NonFiniteLossError) as stop:
        train(toy_run(tmp_path, learner, batch_size=batch_size), model)
    message = str(stop.value)
    assert points().describe(rows[0]) in message
    assert f"step {bad} of the epoch" in message
    assert "fold 0" in message
    assert str(value) in message
    last = load_checkpoint(tmp_path / "last.pt")
    assert last["progress"]["epoch"] == 1
    assert all(torch.isfinite(weight).all() for weight in last["model"].values())
    assert not (tmp_path / "best.pt").exists()


@pytest.mark.parametrize(("size", "count"), [(7, 2), (8, 3), (0, 1), (-4, 2)])
def test_batches_that_cannot_be_shared_out_are_refused(tmp_path, size, count):
    run = toy_run(tmp_path, processes=Processes(0, count, 0), batch_size=size)
    with pytest.raises(UserError, match=rf"--batch-size {size} cannot be shared by {count} processes"):
        train(run)
    assert not tmp_path.joinpath("last.pt").exists()


def test_too_few_samples_are_refused(tmp_path):
    with pytest.raises(UserError, match="fold 0 has 1 training samples; prepare more data"):
        train(replace(toy_run(tmp_path), train=torch.arange(1)))


def test_fewer_samples_than_a_batch_make_one_step(tmp_path):
    _, progress, _ = train(toy_run(tmp_path, batch_size=64, epochs=2))
    assert progress.step == 2


def test_checkpoints_carry_the_metadata_of_the_run(tmp_path):
    train(toy_run(tmp_path))
    for name in ("best.pt", "last.pt"):
        content = load_checkpoint(tmp_path / name)
        assert (content["task"], content["fold"], content["progress"]["epoch"]) == ("toy", 0, 4)
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "last.pt"}
