"""Plans and learning rates: whole steps of every recipe, and each rate against the published closed form."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from training.recipe import Recipe, load_recipe
from training.schedule import Plan, WarmupCosine, make_schedule

IMAGENET_IMAGES = 1_281_167
CIFAR_IMAGES = 45_000  # of 50,000, a tenth held out


def timm_cosine(epoch: int, peak: float, warmup: int) -> float:
    """The rate of an epoch of 300 and 10 more: timm's CosineLRScheduler with its defaults, from 1e-6 and to 1e-5."""
    if epoch < warmup:
        return 1e-6 + epoch * (peak - 1e-6) / warmup
    if epoch >= 300:
        return 1e-5
    return 1e-5 + 0.5 * (peak - 1e-5) * (1 + math.cos(math.pi * epoch / 300))


def torch_cosine(epoch: int, peak: float) -> float:
    """PyTorch's CosineAnnealingLR, T_max 60 and eta_min 2e-4."""
    return 2e-4 + 0.5 * (peak - 2e-4) * (1 + math.cos(math.pi * epoch / 60))


def rates_of(recipe: Recipe, training_images: int, steps: list[int]) -> tuple[Plan, list[float]]:
    plan = Plan.of(recipe, training_images)
    schedule = make_schedule(recipe, plan)
    return plan, [float(schedule(step)) for step in steps]


@pytest.mark.parametrize(
    ("name", "peak", "warmup", "steps_per_epoch"),
    [
        ("imagenet_t2t_vit_12", 2e-3, 20, 1251),
        ("imagenet_t2t_vit_14", 5e-4, 20, 2502),
        ("imagenet_deit_small", 1e-3, 5, 1251),
    ],
)
def test_imagenet_rates_are_timms(name: str, peak: float, warmup: int, steps_per_epoch: int) -> None:
    epochs = [0, 1, warmup - 1, warmup, warmup + 1, 150, 299, 300, 309]
    firsts = [epoch * steps_per_epoch for epoch in epochs]
    plan, rates = rates_of(load_recipe(name), IMAGENET_IMAGES, firsts)
    assert (plan.steps_per_epoch, plan.epochs, plan.steps) == (steps_per_epoch, 310, 310 * steps_per_epoch)
    assert (plan.warmup_steps, plan.cooldown_steps) == (warmup * steps_per_epoch, 10 * steps_per_epoch)
    assert rates == pytest.approx([timm_cosine(epoch, peak, warmup) for epoch in epochs], rel=1e-4)
    lasts = [step + steps_per_epoch - 1 for step in firsts]
    assert rates_of(load_recipe(name), IMAGENET_IMAGES, lasts)[1] == rates  # within an epoch it stays


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_rates_are_those_of_pytorch(name: str) -> None:
    recipe, epochs = load_recipe(name), [0, 1, 30, 58, 59]
    plan, heads = rates_of(recipe, CIFAR_IMAGES, [703 * epoch + 702 for epoch in epochs])
    assert (plan.steps_per_epoch, plan.steps, plan.warmup_steps, plan.cooldown_steps) == (703, 60 * 703, 0, 0)
    assert heads == pytest.approx([torch_cosine(epoch, 0.05) for epoch in epochs], rel=1e-4)
    schedule = make_schedule(recipe, plan)
    body = [float(schedule.scaled(tf.constant(rate), 0, 0.01)) for rate in heads]
    assert body == pytest.approx([torch_cosine(epoch, 5e-4) for epoch in epochs], rel=1e-4)


def test_folder_rates_rise_for_five_epochs_and_fall_to_the_end() -> None:
    for images, per_epoch in ((300, 9), (20_000, 625)):
        steps = [0, 5 * per_epoch - 1, 5 * per_epoch, 100 * per_epoch - 1]
        plan, rates = rates_of(load_recipe("folder"), images, steps)
        assert (plan.steps_per_epoch, plan.epochs) == (per_epoch, 100)
        fall = math.cos(math.pi * (95 * per_epoch - 1) / (95 * per_epoch))
        last = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + fall)
        assert rates == pytest.approx([1e-3 / (5 * per_epoch), 1e-3, 1e-3, last], rel=1e-3)


# What these two recipes gave before recipes could count in epochs.
DIGITS = {
    0: 4.792332219949458e-06,
    100: 0.00048402557149529457,
    312: 0.001500000013038516,
    313: 0.001500000013038516,
    1000: 0.0014757566386833787,
    4375: 0.0007983896648511291,
    5999: 0.0003678634820971638,
    8749: 1.0000044312619139e-05,
    8750: 9.999999747378752e-06,
}
DIGITS_FURTHER = {
    0: 3.999999989900971e-06,
    124: 0.0005000000237487257,
    125: 0.0005000000237487257,
    312: 0.0004987761494703591,
    1000: 0.0004736670816782862,
    3000: 0.00026318663731217384,
    5999: 1.0000028851209208e-05,
    6000: 9.999999747378752e-06,
}


@pytest.mark.parametrize(
    ("name", "epochs", "warmup", "rates"), [("digits", 35, 313, DIGITS), ("digits_further", 24, 125, DIGITS_FURTHER)]
)
def test_the_recipes_of_the_digits_keep_their_steps_and_rates(
    name: str, epochs: int, warmup: int, rates: dict[int, float]
) -> None:
    plan, found = rates_of(load_recipe(name), 0, list(rates))
    assert plan == Plan(250, epochs, warmup, 0)
    assert found == pytest.approx(list(rates.values()), rel=1e-6)  # a cosine differs in its last bit between stacks


@pytest.mark.parametrize(
    ("recipe", "images", "plan"),
    [
        (Recipe("x", epochs=3, batch_size=10), 100, Plan(10, 3, 0, 0)),
        (Recipe("x", epochs=3, batch_size=10), 109, Plan(10, 3, 0, 0)),  # the rest fills no batch
        (Recipe("x", epochs=3, batch_size=10), 10, Plan(1, 3, 0, 0)),
        (Recipe("x", epochs=3, batch_size=10, steps_per_epoch=7), 100, Plan(7, 3, 0, 0)),
        (Recipe("x", epochs=3, batch_size=10, warmup_epochs=2, cooldown_epochs=4), 105, Plan(10, 7, 20, 40)),
        (Recipe("x", images=1000, batch_size=10, warmup_images=15), 300, Plan(30, 3, 2, 0)),
        (Recipe("x", images=1000, batch_size=10, steps_per_epoch=30), 0, Plan(30, 3, 0, 0)),
        (Recipe("x", images=1, batch_size=10, steps_per_epoch=30), 0, Plan(30, 1, 0, 0)),
        (Recipe("x", epochs=2, batch_size=30, repeated_augmentation=3), 100, Plan(3, 2, 0, 0)),
    ],
)
def test_plans(recipe: Recipe, images: int, plan: Plan) -> None:
    assert Plan.of(recipe, images) == plan


def test_a_run_is_saved_after_every_epoch() -> None:
    plan = Plan(7, 3, 2, 7)
    assert plan.steps == 21


def test_images_that_fill_no_batch_are_refused() -> None:
    recipe = Recipe("x", epochs=3, batch_size=10)
    with pytest.raises(
        ValueError, match="batch_size 10 is more than the 9 training images there are; make it at most 9"
    ):
        Plan.of(recipe, 9)
    with pytest.raises(ValueError, match="needs the number of training images"):
        Plan.of(recipe)


@given(
    peak=st.floats(1e-3, 0.5),
    scale=st.floats(1e-3, 1.0),
    start=st.sampled_from([0.0, 1e-6]),
    warmup=st.integers(0, 5),
    epoch=st.sampled_from([0, 3]),
    over=st.booleans(),
)
def test_a_scaled_rate_is_that_of_a_schedule_with_a_scaled_peak(
    peak: float, scale: float, start: float, warmup: int, epoch: int, over: bool
) -> None:
    length = epoch or 1

    def of(peak: float) -> WarmupCosine:
        return WarmupCosine(peak, 1e-4, warmup * length, 20 * length, start, epoch, over)

    steps = np.arange(25 * length)
    found = of(peak).scaled(of(peak)(steps), steps, scale).numpy()
    np.testing.assert_allclose(found, of(peak * scale)(steps).numpy(), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", [int, np.int64, tf.constant, lambda step: tf.constant(float(step))])
def test_a_step_may_be_any_number(kind: Callable[[int], object]) -> None:
    for epoch in (0, 4):
        schedule = WarmupCosine(1.0, 0.1, 8, 80, epoch=epoch)
        assert float(schedule(kind(42))) == float(schedule(42))


def test_a_schedule_is_made_again_from_its_configuration() -> None:
    schedule = WarmupCosine(1.0, 0.1, 8, 80, 0.01, 4, True)
    again = WarmupCosine.from_config(schedule.get_config())
    np.testing.assert_array_equal(again(np.arange(90)), schedule(np.arange(90)))


def test_fields_reach_the_schedule() -> None:
    recipe = Recipe(
        "x",
        epochs=8,
        batch_size=10,
        warmup_epochs=2,
        cooldown_epochs=2,
        learning_rate=0.1,
        warmup_learning_rate=0.01,
        final_learning_rate=0.02,
    )
    rising = rates_of(recipe, 50, [0, 4, 9])[1]
    assert rising == pytest.approx([0.019, 0.055, 0.1])
    assert rates_of(recipe, 50, [40, 49])[1] == pytest.approx([0.02, 0.02])
    by_epochs = dataclasses.replace(recipe, step_every="epoch")
    assert rates_of(by_epochs, 50, [0, 4, 5, 9, 10])[1] == pytest.approx([0.01, 0.01, 0.055, 0.055, 0.1])
