# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The variational form of a divergence, and the objectives of implicit levels.

With `g(l) = f(exp(l))` for a Csiszar function `f`, and its convex conjugate
`f*`, the inequality of Fenchel and Young gives for any function `V`

```none
D_f(p || q) = E_q[f(p / q)] >= E_p[T(V)] - E_q[f*(T(V))],
T(V) = f'(exp(V)) = exp(-V) g'(V),        f*(T(V)) = g'(V) - g(V),
```

with equality for `V = log(p / q)`. So no conjugate needs to be found: it is
finite at all derivatives of `f`, and what a discriminator returns is the log
density ratio, whichever the divergence. For `tfp.vi.jensen_shannon`, `T` is
`log(D)` and `f*(T)` is `-log(1 - D)` with `D` the sigmoid of `V`, the minimax
value function of generative adversarial networks.

If the target has a factor `w` that can be evaluated, then `V` is the log ratio
without it, `l = V + log w`, and expectations under `w p` are those under `p`:

```none
D_f(w p || q) >= E_p[exp(-V) g'(l)] - E_q[g'(l) - g(l)].
```

This is the loss of a level. Where `V` is the true log ratio the gradient of it,
through the draws and `w` with `V` held fixed, is that of the divergence, by the
envelope theorem.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi import weighting
from tfp_nvi.implicit import ImplicitLevel
from tfp_nvi.internal import checks, reductions, types
from tfp_nvi.objectives import level as level_lib
from tfp_nvi.objectives.base import Side

__all__ = [
  'check_strictly_convex',
  'estimate_level',
  'variational_divergence',
]


def check_strictly_convex(
  name: str, csiszar_function: Callable, dtype: tf.DType
) -> None:
  """Raises an error if a function is linear somewhere.

  Args:
    name: Python `str` name of the argument that it came from.
    csiszar_function: Python callable from `log u` to `f(u)`.
    dtype: dtype that it takes.

  Raises:
    ValueError: If `f` has the same slope in different parts of `[1/4, 4]`.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  from tfp_nvi.objectives import adversarial

  adversarial.check_strictly_convex('f', tfp.vi.jensen_shannon, tf.float32)
  ```
  """
  log_u = np.linspace(-np.log(4.0), np.log(4.0), 16)
  with tf.init_scope():
    values = csiszar_function(tf.constant(log_u, dtype)).numpy()
  slopes = np.diff(values) / np.diff(np.exp(log_u))
  if not np.all(np.diff(slopes) > 1e-4):
    raise ValueError(
      f'`{name}` must be strictly convex, so that a discriminator can learn '
      'the density ratio from it; got '
      f'{getattr(csiszar_function, "__name__", csiszar_function)!r}, which is '
      'linear in places. Give another `discriminator_csiszar_function`, such '
      'as tfp.vi.jensen_shannon.'
    )


def _clip(log_ratio):
  """Bounds a log ratio, so that its exponential can be squared."""
  limit = 0.45 * np.log(log_ratio.dtype.max)
  return tf.clip_by_value(log_ratio, -limit, limit)


def _derivative(csiszar_function, log_ratio):
  """`T = f'(u)` as a function of `log u`."""
  if csiszar_function is tfp.vi.jensen_shannon:
    return tf.math.log_sigmoid(log_ratio)
  log_ratio = _clip(log_ratio)
  _, g1, _ = level_lib.derivatives(csiszar_function, log_ratio)
  return tf.exp(-log_ratio) * g1


def _conjugate(csiszar_function, log_ratio, clips=True):
  """`f*(f'(u))` as a function of `log u`."""
  if csiszar_function is tfp.vi.jensen_shannon:
    return tf.math.softplus(log_ratio)
  if clips:
    log_ratio = _clip(log_ratio)
  g, g1, _ = level_lib.derivatives(csiszar_function, log_ratio)
  return g1 - g


def _factored_derivative(csiszar_function, log_ratio, log_weight):
  """`exp(-V) g'(l)`, the integrand at draws of the target with a factor."""
  if csiszar_function is tfp.vi.jensen_shannon:
    return tf.exp(log_weight - log_ratio) * tf.math.log_sigmoid(log_weight)
  # Log weights have no common scale, so that only the ratio is bounded.
  _, g1, _ = level_lib.derivatives(csiszar_function, log_weight)
  return tf.exp(-_clip(log_ratio)) * g1


def variational_divergence(
  csiszar_function: Callable,
  target_log_ratios: types.TensorLike,
  proposal_log_ratios: types.TensorLike,
) -> tf.Tensor:
  """A lower bound on a divergence, from learned log density ratios.

  The mean of `f'(u)` at draws of the target minus that of `f*(f'(u))` at draws
  of the proposal. Its expectation is at most `D_f(target || proposal)`, and
  equal to it where the ratios are the true ones. At draws that the ratio was
  not learned from it is therefore a test of how well it was.

  Log ratios whose exponential could not be squared in their dtype are clipped;
  for `tfp.vi.jensen_shannon`, which has a closed form, none are.

  Args:
    csiszar_function: Python callable from `log u` to `f(u)`.
    target_log_ratios: float `Tensor` of shape `[num_draws] + batch`: `log u`,
      the learned `log(target / proposal)`, at draws of the target.
    proposal_log_ratios: float `Tensor` of shape `[num_particles] + batch`: the
      same at draws of the proposal.

  Returns:
    bound: float `Tensor` of shape `batch`.

  Raises:
    TypeError: If an argument is not of the kind asked for.
    ValueError: If the log ratios have different batches, or one is NaN.

  #### References

  [1]: X. Nguyen, M. J. Wainwright, M. I. Jordan. Estimating divergence
       functionals and the likelihood ratio by convex risk minimization. IEEE
       Transactions on Information Theory, 56(11), 2010.
       https://arxiv.org/abs/0809.0853

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  p, q = (tfp.distributions.Normal(loc, 1.0) for loc in (0.0, 0.5))


  def log_ratio(x):
    return p.log_prob(x) - q.log_prob(x)


  bound = nvi.variational_divergence(
    tfp.vi.kl_forward,
    log_ratio(p.sample(10_000, seed=(0, 1))),
    log_ratio(q.sample(10_000, seed=(0, 2))),
  )
  assert abs(bound - p.kl_divergence(q)) < 0.02
  ```
  """
  checks.check_callable(
    'csiszar_function',
    csiszar_function,
    'a callable from log u to f(u), such as tfp.vi.jensen_shannon',
  )
  target_log_ratios = checks.as_tensor(
    'target_log_ratios', target_log_ratios, kind='floating point', min_rank=1
  )
  proposal_log_ratios = checks.as_tensor(
    'proposal_log_ratios',
    proposal_log_ratios,
    kind='floating point',
    min_rank=1,
  )
  for name, log_ratios in (
    ('target_log_ratios', target_log_ratios),
    ('proposal_log_ratios', proposal_log_ratios),
  ):
    is_nan = tf.math.is_nan(log_ratios)
    if reductions.has_values(is_nan) and tf.reduce_any(is_nan):
      raise ValueError(
        f'`{name}` must be numbers; got {int(tf.math.count_nonzero(is_nan))} '
        f'NaN of {tf.size(log_ratios)}.'
      )
  _check_same_batch(target_log_ratios, proposal_log_ratios)
  return _bound(csiszar_function, target_log_ratios, proposal_log_ratios)


def _check_same_batch(target_log_ratios, proposal_log_ratios):
  if (
    target_log_ratios.shape[1:] != proposal_log_ratios.shape[1:]
    or target_log_ratios.dtype != proposal_log_ratios.dtype
  ):
    raise ValueError(
      '`target_log_ratios` must have the dtype and the batch shape of '
      '`proposal_log_ratios`, '
      f'{checks.describe(proposal_log_ratios)}; got '
      f'{checks.describe(target_log_ratios)}.'
    )


def _bound(csiszar_function, target_log_ratios, proposal_log_ratios):
  """`variational_divergence`, without its checks."""
  return weighting.mean(
    _derivative(csiszar_function, target_log_ratios)
  ) - weighting.mean(_conjugate(csiszar_function, proposal_log_ratios))


def _penalized_log_ratio(level, values):
  """Learned log ratios at draws of the target, and the penalty of each."""
  if not level.gradient_penalty:
    log_ratio = level.log_ratio(values)
    return log_ratio, tf.zeros_like(log_ratio)
  parts = densities_lib.floating_parts(values)
  with tf.GradientTape() as tape:
    tape.watch(parts)
    log_ratio = level.log_ratio(values)
  rank = log_ratio.shape.rank
  squares = [
    tf.reduce_sum(tf.square(g), axis=list(range(rank, g.shape.rank)))
    for g in tape.gradient(log_ratio, parts)
    if g is not None
  ]
  if not squares:
    raise ValueError(
      f'`gradient_penalty` of {level.name!r} must be zero where the '
      'discriminator has no gradient by its values, as of discrete ones; got '
      f'{level.gradient_penalty}.'
    )
  return log_ratio, 0.5 * level.gradient_penalty * tf.add_n(squares)


def estimate_level(
  level: ImplicitLevel,
  num_particles: int,
  seed: types.StatelessSeed,
  csiszar_function: Callable,
  sides: Side,
) -> tuple[tuple[tf.Tensor, tf.Tensor], tf.Tensor, tf.Tensor, tf.Tensor]:
  """The variational form of the divergence of an implicit level.

  Args:
    level: `ImplicitLevel`.
    num_particles: Python `int`.
    seed: Stateless seed.
    csiszar_function: Python callable from `log u` to `f(u)`: that of the
      objective.
    sides: `Side`: which side of the level is trained. The discriminator is in
      any case.

  Returns:
    surrogates: Pair of scalar `Tensor`s: what `trainables` and what the
      discriminator minimize.
    loss: float `Tensor` of shape `batch`: a lower bound on the divergence, in
      expectation.
    log_incremental_weight: float `Tensor` of shape `batch`: the mean.
    log_weights: float `Tensor` of shape `[num_particles] + batch`, learned.

  Raises:
    ValueError: If the Csiszar function of the discriminator is not strictly
      convex.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tf_keras
  import tfp_nvi as nvi
  from tfp_nvi.objectives import adversarial

  tfd = tfp.distributions

  level = nvi.ImplicitLevel(
    tfd.Normal([0.0], 1.0), tfd.Normal([1.0], 1.0), tf_keras.layers.Dense(1), []
  )
  *_, log_weights = adversarial.estimate_level(
    level, 5, (0, 1), tfp.vi.kl_reverse, nvi.Side.BOTH
  )
  assert log_weights.shape == [5]
  ```
  """
  f = level.csiszar_function or csiszar_function
  discriminator_f = level.discriminator_csiszar_function or f
  proposed, compared = level.draw(num_particles, seed)
  if Side.FORWARD not in sides:
    proposed = tf.nest.map_structure(tf.stop_gradient, proposed)
  if Side.REVERSE not in sides:
    compared = tf.nest.map_structure(tf.stop_gradient, compared)
  target_ratio, penalty = _penalized_log_ratio(level, compared)
  parts = densities_lib.floating_parts(proposed)
  with tf.GradientTape() as tape:
    tape.watch(parts)
    proposal_ratio = level.log_ratio(proposed)
    _check_same_batch(target_ratio, proposal_ratio)
    check_strictly_convex(
      'csiszar_function', discriminator_f, proposal_ratio.dtype
    )
    log_weights = level.log_weight(proposed, proposal_ratio)
    conjugate = weighting.mean(
      _conjugate(f, log_weights, clips=not level.has_log_factor)
    )
  if level.has_log_factor:
    reward = _factored_derivative(
      f, target_ratio, level.log_weight(compared, target_ratio)
    )
  else:
    reward = _derivative(f, target_ratio)
  loss = weighting.mean(reward) - conjugate
  if level.non_saturating:
    # The same stationary point, at which both parts have opposite gradients.
    surrogate = weighting.mean(reward) - weighting.mean(
      _derivative(f, proposal_ratio)
    )
  else:
    surrogate = loss
  if sides == Side.FORWARD and level.has_log_factor:
    # Through draws alone, as the factor belongs to the other side.
    surrogate = tf.add_n(
      [
        tf.reduce_sum(tf.stop_gradient(-gradient) * part)
        for gradient, part in zip(
          tape.gradient(conjugate, parts), parts, strict=True
        )
        if gradient is not None
      ]
    )
  bound = loss
  if level.has_log_factor or discriminator_f is not f:
    bound = _bound(discriminator_f, target_ratio, proposal_ratio)
  return (
    (
      tf.reduce_sum(surrogate),
      tf.reduce_sum(weighting.mean(penalty) - bound),
    ),
    loss,
    weighting.mean(log_weights),
    log_weights,
  )
