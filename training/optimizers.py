"""The optimizers of a recipe: AdamW, SGD with a rate of its own for the body, and LAMB."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from tensorflow import keras

from dvt_tf.checkpoints import named_weights
from training.recipe import Recipe
from training.schedule import Plan, WarmupCosine, make_schedule

KERAS_3 = hasattr(keras.optimizers, "Lamb")
HEADS = ("head", "token_heads")  # parts of the names of the weights that `body_learning_rate_scale` is not for


def decays(name: str, weight: Any) -> bool:
    """Whether weight decay applies: to matrices, not to biases, norms, the class token and position embeddings."""
    return len(weight.shape) > 1 and not name.endswith(("class_token", "positions", "bias1", "bias2"))


def of_a_head(name: str) -> bool:
    """Whether a weight is of an exit's head, or of a token loss's."""
    return any(part in HEADS for part in name.split("."))


def make_optimizer(recipe: Recipe, model: keras.Model, plan: Plan) -> keras.optimizers.Optimizer:
    """The recipe's optimizer and schedule for the trainable weights of a built model, its state created.

    Under `mixed_float16` it scales the loss.

    Args:
        recipe: what to do. model: whose weights are named as in its file, below `cascade`.
        plan: the recipe in steps.

    Raises:
        ValueError: LAMB without TensorFlow Addons where it has to come from there.
    """
    schedule = make_schedule(recipe, plan)
    weights = dict(named_weights(model))
    spared = [] if recipe.weight_decay_of == "all" else [n for n, weight in weights.items() if not decays(n, weight)]
    clip_norm = recipe.clip_norm or None
    if recipe.optimizer == "adamw":
        optimizer = _clipping(keras.optimizers.AdamW)(
            learning_rate=schedule,
            weight_decay=recipe.weight_decay,
            beta_2=recipe.beta_2,
            epsilon=recipe.epsilon,
            global_clipnorm=clip_norm,
        )
    elif recipe.optimizer == "sgd":
        optimizer = _clipping(TwoRateSGD)(
            schedule,
            float(recipe.momentum),
            recipe.weight_decay,
            recipe.body_learning_rate_scale,
            [weight for name, weight in weights.items() if not of_a_head(name)],
            global_clipnorm=clip_norm,
        )
    elif KERAS_3:
        optimizer = _keras_lamb(
            learning_rate=schedule, beta_2=recipe.beta_2, epsilon=recipe.epsilon, global_clipnorm=clip_norm
        )
        optimizer.decay_rate = recipe.weight_decay
    else:
        optimizer = _addons_lamb(recipe, schedule, weights, spared)
    if hasattr(optimizer, "build"):
        optimizer.exclude_from_weight_decay(var_list=[weights[name] for name in spared])
        optimizer.build(model.trainable_variables)
    else:  # Addons' is of Keras's older kind
        optimizer._create_all_weights(model.trainable_variables)
    if recipe.precision == "mixed_float16":
        optimizer = _scaling()(optimizer)
        if hasattr(optimizer, "build"):
            optimizer.build(model.trainable_variables)
    return optimizer


def optimizer_variables(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """All that a run needs of an optimizer to go on, the step and the loss scale too, in a fixed order."""
    variables = optimizer.variables
    variables = list(variables() if callable(variables) else variables)
    scale = getattr(optimizer, "_loss_scale", None)  # Keras 2.15 does not count these among its variables
    return variables if scale is None else [*variables, scale.current_loss_scale, scale.counter]


class TwoRateSGD(keras.optimizers.SGD):
    """SGD with momentum as PyTorch has it, with a lower learning rate for the body of a model than for its heads.

    v <- momentum v + (g + decay w), then w <- w - rate v. So the decay is that of an L2 penalty, not decoupled, and a
    falling rate also shortens what momentum brings along; Keras's own keeps the old rates in its momentum.

    Args:
        schedule: of the heads' rate.
        momentum: of the gradients.
        decay_rate: of all weights but those excluded by `exclude_from_weight_decay`.
        body_scale: the body's peak as a multiple of the heads'; see `WarmupCosine.scaled`.
        body: weights that take the lower rate.
    """

    def __init__(
        self,
        schedule: WarmupCosine,
        momentum: float,
        decay_rate: float,
        body_scale: float,
        body: Iterable[Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=schedule, momentum=momentum, **kwargs)
        self.schedule = schedule
        self.decay_rate = decay_rate
        self.body_scale = body_scale
        self.body = frozenset(self._var_key(weight) for weight in body)
        self.order: tuple[Any, ...] = ()

    def build(self, variables: Any) -> None:
        super().build(variables)
        self.order = self.order or tuple(self._var_key(variable) for variable in variables)

    def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: Any = None) -> None:
        key = self._var_key(variable)
        rate = tf.convert_to_tensor(self.learning_rate if learning_rate is None else learning_rate)
        if key in self.body and self.body_scale != 1:
            rate = self.schedule.scaled(rate, self.iterations, self.body_scale)
        step = tf.convert_to_tensor(gradient)
        if self.decay_rate and self._use_weight_decay(variable):
            step += self.decay_rate * tf.convert_to_tensor(variable)
        if self.momentum:
            velocity = self.momentums[self.order.index(key)]
            step += self.momentum * tf.convert_to_tensor(velocity)
            velocity.assign(step)
        variable.assign_sub(rate * step)


def _addons_lamb(
    recipe: Recipe, schedule: WarmupCosine, weights: dict[str, Any], spared: list[str]
) -> keras.optimizers.Optimizer:
    """LAMB (You et al., 2020, arXiv 1904.00962) of TensorFlow Addons, for Keras 2.15."""
    try:
        from tensorflow_addons.optimizers import LAMB
    except ImportError as error:
        raise ValueError(
            "optimizer lamb needs TensorFlow Addons on this Keras: pip install tensorflow-addons==0.23.0"
        ) from error
    # It excludes by patterns over Keras's own names, such as bias:0 or bias/replica_1:0.
    last_parts = sorted({name.rsplit(".", 1)[-1] for name in spared})
    pattern = rf"(^|/)({'|'.join(map(re.escape, last_parts))})(_\d+)?(/replica_\d+)?:\d+$" if spared else ""
    for name, weight in weights.items():
        if bool(pattern and re.search(pattern, weight.name)) != (name in spared):
            raise ValueError(f"optimizer lamb cannot tell by the name {weight.name} whether {name} has weight decay")
    return LAMB(
        learning_rate=schedule,
        beta_2=recipe.beta_2,
        epsilon=recipe.epsilon,
        weight_decay=recipe.weight_decay,
        exclude_from_weight_decay=[pattern] if pattern else None,
        global_clipnorm=recipe.clip_norm or None,
    )


def _keras_lamb(**fields: Any) -> keras.optimizers.Optimizer:
    """Keras 3's LAMB, with weight decay where the paper and Addons have it: in the update whose length is adapted.

    As in Addons, weights without decay are not adapted.
    """

    class Lamb(keras.optimizers.Lamb):
        decay_rate = 0.0

        def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: Any) -> None:
            index = self._get_variable_index(variable)
            first, second = self._momentums[index], self._velocities[index]
            number = tf.cast(tf.convert_to_tensor(self.iterations), tf.float32) + 1.0
            value = tf.convert_to_tensor(variable)
            mean = self.beta_1 * tf.convert_to_tensor(first) + (1.0 - self.beta_1) * gradient
            square = self.beta_2 * tf.convert_to_tensor(second) + (1.0 - self.beta_2) * tf.square(gradient)
            first.assign(mean)
            second.assign(square)
            spread = tf.sqrt(square / (1.0 - tf.pow(self.beta_2, number))) + self.epsilon
            update = mean / (1.0 - tf.pow(self.beta_1, number)) / spread
            if self._use_weight_decay(variable):
                update += self.decay_rate * value
                lengths = tf.norm(value), tf.norm(update)
                learning_rate *= tf.where((lengths[0] > 0) & (lengths[1] > 0), tf.math.divide_no_nan(*lengths), 1.0)
            variable.assign_sub(learning_rate * update)

    return _clipping(Lamb)(**fields)


def _scaling() -> Any:
    """Keras's scaling of the loss, which leaves a step out where a gradient of any replica is not finite.

    Keras 3's looks at the first replica alone, before the gradients are added up.
    """
    if not KERAS_3:
        return keras.mixed_precision.LossScaleOptimizer

    class LossScaleOptimizer(keras.mixed_precision.LossScaleOptimizer):
        def check_finite(self, grads: Any) -> tf.Tensor:
            finite = super().check_finite(grads)
            context = tf.distribute.get_replica_context()
            if context is None or context.num_replicas_in_sync == 1:
                return finite
            count = context.all_reduce("SUM", tf.cast(finite, tf.int32))
            return tf.equal(count, context.num_replicas_in_sync)

    return LossScaleOptimizer


def _clipping(kind: type) -> Any:
    """An optimizer whose `global_clipnorm` is that of the gradients of all replicas together, as Keras 2's is.

    Keras 3's clips those of each replica before they are added up, so that the number of devices would matter.
    """
    if not KERAS_3:
        return kind

    class Clipping(kind):  # type: ignore[misc]
        def __init__(self, *arguments: Any, global_clipnorm: float | None = None, **fields: Any) -> None:
            super().__init__(*arguments, **fields)
            self.longest = global_clipnorm

        def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
            if self.longest:
                context = tf.distribute.get_replica_context()
                own = [tf.convert_to_tensor(gradient) for gradient in grads if gradient is not None]
                together = context.all_reduce("SUM", own) if context.num_replicas_in_sync > 1 else own
                scale = self.longest / tf.maximum(tf.linalg.global_norm(together), self.longest)
                grads = [None if gradient is None else gradient * scale for gradient in grads]
            return super().apply(grads, trainable_variables)

    Clipping.__name__ = kind.__name__
    return Clipping
