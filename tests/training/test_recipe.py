"""Recipes: every shipped one loads, the published ones hold the published values, and every fault is named."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dvt_tf.presets import CascadeConfig, get_preset
from training.augment import Augmentation
from training.recipe import RECIPES, Recipe, load_recipe
from training.schedule import Plan

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.toml"))

# timm's augmentation, as main.py of DVT and of T2T-ViT have it by default, and DeiT's apart from the interpolation.
TIMM = Augmentation(
    crop="random_resized",
    scale=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    interpolation="random",
    flip=True,
    randaugment="rand-m9-mstd0.5-inc1",
    erase=0.25,
    mixup=0.8,
    cutmix=1.0,
    switch=0.5,
    label_smoothing=0.1,
)
# What is the same in main.py of DVT (github.com/blackfeather-wang/Dynamic-Vision-Transformer) and of DeiT.
IMAGENET: dict[str, Any] = {
    "precision": "mixed_float16",  # --amp in the README of DVT; engine.py of DeiT
    "optimizer": "adamw",
    "beta_2": 0.999,  # PyTorch's
    "epsilon": 1e-8,  # PyTorch's; --opt-eps of DeiT
    "epochs": 300,
    "cooldown_epochs": 10,
    "warmup_learning_rate": 1e-6,
    "final_learning_rate": 1e-5,
    "body_learning_rate_scale": 1.0,
    "step_every": "epoch",  # timm's scheduler, t_in_epochs
    "cosine_over_warmup": True,  # timm's, warmup_prefix=False
    "weight_decay_of": "matrices",  # timm's add_weight_decay with no_weight_decay of the models
    "clip_norm": 0.0,  # --clip-grad None
    "ema_decay": 0.99996,
    "ema_warmup": False,
    "repeated_augmentation": 1,
    "frozen": (),
    "held_out": 0.0,
}
# transfer_learning.py of github.com/yitu-opensource/T2T-ViT, with the README's --lr 0.05 --b 64.
CIFAR: dict[str, Any] = {
    "preset": "dvt_t2t_vit_12",
    "follow_start": True,
    "precision": "float32",
    "optimizer": "sgd",
    "momentum": 0.9,
    "batch_size": 64,
    "epochs": 60,
    "cooldown_epochs": 0,
    "learning_rate": 0.05,
    "learning_rate_batch": 0,
    "body_learning_rate_scale": 0.01,  # --transfer-ratio
    "final_learning_rate": 2e-4,  # --min-lr
    "warmup_epochs": 0,
    "warmup_images": 0,
    "step_every": "epoch",  # scheduler.step() after each
    "weight_decay": 5e-4,
    "weight_decay_of": "all",  # one parameter list for each part, biases and norms in it
    "frozen": ("transformers.*.position.class_token", "transformers.*.norm"),  # in none of these lists
    "clip_norm": 0.0,
    "ema_decay": 0.0,
    "augmentation": Augmentation(crop="pad", interpolation="bilinear", flip=True),
    "repeated_augmentation": 1,
    "held_out": 0.1,  # ours: the script chooses by the test images
    "choose_by": "best",
    "preprocessing": {
        "resize_short_side": 224,
        "interpolation": "bilinear",
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2023, 0.1994, 0.2010],
    },
}
PUBLISHED: dict[str, dict[str, Any]] = {
    # 8 GPUs of 128: --lr 2e-3 --weight-decay .03, README of DVT
    "imagenet_t2t_vit_12": {
        **IMAGENET,
        "preset": "dvt_t2t_vit_12",
        "batch_size": 8 * 128,
        "learning_rate": 2e-3,
        "learning_rate_batch": 0,
        "weight_decay": 0.03,
        "warmup_epochs": 20,
        "augmentation": TIMM,
        "seed": 42,
    },
    # 8 GPUs of 64: --lr 5e-4 --weight-decay .05, README of DVT
    "imagenet_t2t_vit_14": {
        **IMAGENET,
        "preset": "dvt_t2t_vit_14",
        "batch_size": 8 * 64,
        "learning_rate": 5e-4,
        "learning_rate_batch": 0,
        "weight_decay": 0.05,
        "warmup_epochs": 20,
        "augmentation": TIMM,
        "seed": 42,
    },
    # main.py of github.com/facebookresearch/deit: lr * batch * world_size / 512; README_deit.md: 4 GPUs of 256
    "imagenet_deit_small": {
        **IMAGENET,
        "preset": "dvt_deit_small",
        "batch_size": 4 * 256,
        "learning_rate": 5e-4,
        "learning_rate_batch": 512,
        "weight_decay": 0.05,
        "warmup_epochs": 5,
        "augmentation": dataclasses.replace(TIMM, interpolation="bicubic"),
        "seed": 0,
    },
    "cifar10": {**CIFAR, "data": "tfds:cifar10"},
    "cifar100": {**CIFAR, "data": "tfds:cifar100"},
}


def config_of(recipe: Recipe) -> CascadeConfig:
    return CascadeConfig.from_dict({**get_preset(recipe.preset).config.to_dict(), **recipe.overrides})


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("smoke", [False, True])
def test_every_shipped_recipe_loads(name: str, smoke: bool) -> None:
    recipe = load_recipe(name, smoke)
    plan = Plan.of(recipe, 5000)
    assert plan.steps == plan.epochs * plan.steps_per_epoch
    assert smoke == (plan.steps < 100)
    config_of(recipe)
    json.dumps(dataclasses.asdict(recipe))  # as it is saved with a run and in the card


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_says_where_it_comes_from(name: str) -> None:
    header = re.match(r"(#.*\n)+", (RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
    assert header is not None
    assert f"--recipe {name} " in header[0]
    assert "#   hardware   " in header[0]


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, fields in PUBLISHED.items() for field in fields], ids=str
)
def test_published_values(name: str, field: str) -> None:
    assert getattr(load_recipe(name), field) == PUBLISHED[name][field]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name: str) -> None:
    config = config_of(load_recipe(name))
    assert config.drop_path_rate == 0.1  # --drop-path of all three
    assert config.image_size == 224
    assert config.num_classes == {"cifar10": 10, "cifar100": 100}.get(name, 1000)


def test_the_learning_rate_follows_the_batch() -> None:
    recipe = load_recipe("imagenet_deit_small")
    assert recipe.peak_learning_rate == pytest.approx(5e-4 * 1024 / 512)
    assert dataclasses.replace(recipe, batch_size=256).peak_learning_rate == pytest.approx(2.5e-4)
    assert load_recipe("imagenet_t2t_vit_14").peak_learning_rate == 5e-4


def test_the_bundled_models_recipe_is_unchanged() -> None:
    recipe = load_recipe("digits")
    assert (recipe.beta_2, recipe.clip_norm, recipe.epsilon, recipe.ema_warmup) == (0.99, 1.0, 1e-7, True)
    assert (recipe.ema_decay, recipe.weight_decay, recipe.weight_decay_of) == (0.999, 0.05, "matrices")
    assert (recipe.optimizer, recipe.step_every, recipe.cosine_over_warmup) == ("adamw", "step", False)
    assert (recipe.augmentation, recipe.frozen, recipe.choose_by) == (Augmentation(), (), "last")


def test_smoke_lays_its_fields_over_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'preset = "dvt_tiny_digits"\nimages = 900\nwarmup_images = 5\nseed = 3\n'
        "[augmentation]\nflip = true\nmixup = 0.5\n[overrides]\ndepth = 3\n"
        "[smoke]\nepochs = 1\nwarmup_epochs = 2\n[smoke.augmentation]\nmixup = 0.0\n[smoke.overrides]\ndim = 8\n"
    )
    recipe = load_recipe(str(path))
    assert (recipe.images, recipe.epochs, recipe.augmentation.mixup) == (900, 0, 0.5)
    smoke = load_recipe(str(path), smoke=True)
    assert (smoke.images, smoke.epochs, smoke.warmup_images, smoke.warmup_epochs, smoke.seed) == (0, 1, 0, 2, 3)
    assert (smoke.augmentation.flip, smoke.augmentation.mixup) == (True, 0.0)
    assert smoke.overrides == {"depth": 3, "dim": 8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learning_rat = 0.1\n",
            r"own.toml has unknown field learning_rat \(did you mean learning_rate\?\); the fields",
        ),
        ("label_smoothing = 0.1\n", r"unknown field label_smoothing \(it belongs into the table \[augmentation\]\)"),
        ("drop_path_rate = 0.1\n", r"unknown field drop_path_rate \(it belongs into the table \[overrides\]\)"),
        ("[augmentation]\nmixupp = 1.0\n", r"table \[augmentation\] has unknown field mixupp \(did you mean mixup\?\)"),
        ("[overrides]\ndepht = 3\n", r"table \[overrides\] has unknown field depht \(did you mean depth\?\)"),
        ("[preprocessing]\nmeans = 3\n", r"table \[preprocessing\] has unknown field means \(did you mean mean\?\)"),
        ("[smoke]\nimage = 3\n", r"table \[smoke\], has unknown field image \(did you mean images\?\)"),
        ("smoke = 3\n", r"table \[smoke\], must be a table, not 3"),
        ("overrides = 3\n", "overrides must be a table, not 3"),
        ("augmentation = 3\n", "augmentation must be a table, not 3"),
        ("[augmentation]\nmixup = -1.0\n", "own.toml: augmentation field mixup must be a number of at least 0, not -1"),
        ("images = 0\n", "gives neither epochs nor images"),
        ("images = -1\n", "recipe field images must be a whole number of at least 0, not -1"),
        ('images = "many"\n', "images must be a whole number of at least 0, not 'many'"),
        ("epochs = 2.5\n", r"epochs must be a whole number of at least 0, not 2\.5"),
        ("epochs = 2\nimages = 3\n", "images and epochs exclude each other"),
        ("warmup_epochs = 2\nwarmup_images = 3\n", "warmup_images and warmup_epochs exclude each other"),
        ("batch_size = 0\n", "batch_size must be a whole number of at least 1, not 0"),
        ("batch_size = true\n", "batch_size must be a whole number of at least 1, not True"),
        ("repeated_augmentation = 65\n", "repeated_augmentation must be at most batch_size, 64, not 65"),
        ("learning_rate = 2.0\n", r"learning_rate must be a number between 0 and 1, not 2\.0"),
        ("learning_rate = nan\n", "learning_rate must be a number between 0 and 1, not nan"),
        ('weight_decay = "all"\n', "weight_decay must be a number of at least 0, not 'all'"),
        ("token_loss = -1.0\n", r"token_loss must be a number of at least 0, not -1\.0"),
        ("ema_decay = 1.0\n", r"ema_decay must be a number of at least 0 and below 1, not 1\.0"),
        ("held_out = 1\n", "held_out must be a number of at least 0 and below 1, not 1"),
        ("ema_warmup = 1\n", "ema_warmup must be true or false, not 1"),
        ('precision = "float8"\n', "precision must be one of float32, mixed_bfloat16, mixed_float16, not 'float8'"),
        ('optimizer = "adam"\n', "optimizer must be one of adamw, sgd, lamb, not 'adam'"),
        ('step_every = "day"\n', "step_every must be one of step, epoch, not 'day'"),
        ('choose_by = "test"\n', "choose_by must be one of last, best, not 'test'"),
        ('frozen = "head"\n', "frozen must be a list of names of weights"),
        ("data = 3\n", "data must be a SPEC such as"),
        ("final_learning_rate = 0.1\n", r"final_learning_rate must be at most learning_rate \(0.001\), not 0\.1"),
        (
            "learning_rate_batch = 65536\n",
            r"must be at most learning_rate \(0.001 for a batch of 65536, so 9.7656.e-07 for one of 64\), not 1e-05",
        ),
        ("body_learning_rate_scale = 0.1\n", "body_learning_rate_scale must be 1 for optimizer adamw"),
        (f"seed = {2**31}\n", "seed must be at most 2147483647, not 2147483648"),
        (
            'optimizer = "sgd"\nbody_learning_rate_scale = 0.001\nfinal_learning_rate = 1e-4\n',
            "final_learning_rate must be at most the body's learning rate, 0.001 x",
        ),
        ("body_learning_rate_scale = 0\n", "body_learning_rate_scale must be a number above 0 and at most 1, not 0"),
        (
            'optimizer = "sgd"\nbody_learning_rate_scale = 0.1\nfinal_learning_rate = 1e-3\n',
            "final_learning_rate must be below learning_rate",
        ),
        ("preset = \n", "not valid TOML"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    needed = "" if "preset" in text else 'preset = "dvt_tiny_digits"\n'
    needed += "" if re.search(r"^(images|epochs)", text) else "epochs = 1\n"
    path.write_text(needed + text)
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_without_a_preset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("images = 10\n")
    with pytest.raises(ValueError, match="names no preset"):
        load_recipe(str(tmp_path / "own.toml"))


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"no recipe 'cifar1000' \(did you mean cifar100\?\); there are cifar10, .*digits"
    ):
        load_recipe("cifar1000")
