# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Updates of one block of a state given all the others, as in Gibbs sampling.

```none
log v = log gamma_k(z_b, rest) + log q(y_b | rest)
        - log gamma_{k-1}(y_b, rest) - log q(z_b | rest)
```

is the log incremental weight of an update from `y_b` to `z_b`. The forward and
the reverse kernel are one distribution, at the new and at the old value of the
block. It is zero where `gamma_k` is `gamma_{k-1}` and `q` is its conditional
distribution, which is Gibbs sampling.
"""

import collections.abc
import typing

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi.internal import checks, naming, randomness, types
from tfp_nvi.transitions import base, probes

tfd = tfp.distributions

__all__ = [
  'BlockTransition',
]


def _replace(structure, parts):
  """The same structure with other parts, which may be of another structure."""
  if isinstance(structure, collections.abc.Mapping):
    return {**structure, **parts}
  if isinstance(structure, tuple) and hasattr(structure, '_fields'):
    return structure._replace(**parts)
  return type(structure)(parts.get(i, part) for i, part in enumerate(structure))


class BlockTransition(base.Transition):
  """Updates one block of a state by a kernel that is given the others.

  This is a step of an amortized Gibbs sampler: particles that are properly
  weighted stay so whatever the kernel is, and the nearer it is to the
  conditional distribution of the block, the less the weights vary. Blocks may
  be continuous or discrete. Levels of several transitions that share a kernel,
  such as those of several sweeps over all blocks, train it together.

  The kernel must not depend on the old value of the block, because its density
  at that value is that of the reverse kernel. So that it cannot, the state that
  it is given has `None` in the place of the block. What cannot be checked is
  that it does not depend on the block in another way, as through a part that is
  a function of it: such a part belongs to the block.

  #### References

  [1]: H. Wu, H. Zimmermann, E. Sennesh, T. A. Le, J.-W. van de Meent.
       Amortized population Gibbs samplers with neural sufficient statistics.
       ICML, 2020. https://arxiv.org/abs/1911.01382

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions


  joint = tfd.JointDistributionNamed(
    {
      'mode': tfd.Categorical(probs=[0.3, 0.7]),
      'z': lambda mode: tfd.Normal(tf.gather([-2.0, 2.0], mode), 1.0),
      'x': lambda z: tfd.Normal(z, 1.0),
    }
  )
  posterior = joint.experimental_pin(x=1.5)


  def mode_given_rest(state):
    assert state['mode'] is None
    z = state['z'][..., tf.newaxis]
    return tfd.Categorical(logits=tf.concat([-z, z], axis=-1))


  def z_given_rest(state):
    return tfd.Normal(tf.gather([-1.0, 2.0], state['mode']), 1.0)


  sampler = nvi.NestedSampler(
    nvi.ExplicitDensities([posterior] * 3),
    [
      nvi.BlockTransition('mode', mode_given_rest),
      nvi.BlockTransition('z', z_given_rest),
    ],
    initial_proposal=tfd.JointDistributionNamed(
      {'mode': tfd.Categorical(probs=[0.5, 0.5]), 'z': tfd.Normal(0.0, 3.0)}
    ),
  )
  particles = sampler.sample(1_000, seed=1)
  ```
  """

  def __init__(
    self,
    block: str | int | typing.Sequence,
    kernel_fn: typing.Callable,
    name: str = 'block_transition',
  ):
    """Initializes the transition.

    Args:
      block: The part of a state that is updated: a Python `str` key of a state
        that is a `dict` or field of one that is a named tuple, or a Python
        `int` index of one that is a list or tuple. Or a list of these, for
        parts that are updated together.
      kernel_fn: Python callable from a state, of parts of shape
        `[num_particles] + batch + event`, to a `tfd.Distribution` over the
        block whose `log_prob` has the shape `[num_particles] + batch`. In the
        state, the block is `None`. Where `block` is a list, the distribution is
        over a `dict` from its elements to parts, such as a
        `tfd.JointDistributionNamed`; over a list of them if they are indices.
        It is over the real space, where densities are mapped to that.
      name: Python `str` name of this module.

    Raises:
      TypeError: If `block` is not of the kind asked for, or `kernel_fn` not
        callable.
      ValueError: If `block` is empty, has an element twice, or a negative one.
    """
    super().__init__(name=name)
    self._is_one = isinstance(block, (str, int)) and not isinstance(block, bool)
    blocks = [block] if self._is_one else block
    if (
      not isinstance(blocks, (list, tuple))
      or any(
        isinstance(b, bool) or not isinstance(b, (str, int)) for b in blocks
      )
      or len({type(b) for b in blocks}) > 1
    ):
      raise TypeError(
        '`block` must be the key or index of a part of a state, or a list of '
        f'keys or of indices; got {block!r}.'
      )
    if (
      not blocks
      or len(set(blocks)) < len(blocks)
      or any(isinstance(b, int) and b < 0 for b in blocks)
    ):
      raise ValueError(
        '`block` must name parts of a state, each once, by keys or by indices '
        f'that are not negative; got {block!r}.'
      )
    checks.check_callable(
      'kernel_fn', kernel_fn, 'a callable that returns a tfd.Distribution'
    )
    self._blocks = tuple(blocks)
    self._kernel_fn = kernel_fn

  def bind(self, densities: densities_lib.Densities) -> None:
    """Looks for the block among the parts of a state, and tries the kernel.

    Args:
      densities: The sequence of intermediate densities.

    Raises:
      ValueError: If there is no such part, the kernel is over another support,
        or it does not reach values that the densities have mass at.
    """
    names = list(naming.named_parts(densities.event_shape))
    if not set(self._blocks) <= set(names):
      parts = f'are {names}' if names else 'have no names, as it is one Tensor'
      raise ValueError(
        f'`block` must name parts of a state, which {parts}; got '
        f'{self._describe()}.'
      )
    states = probes.probe_states(densities)
    if states is None:
      return
    old = self._take(states)
    try:
      kernel = self._kernel(states)
      draws = self._draw(kernel, randomness.as_seed(1))
      checks.check_same_states('`kernel_fn`', draws, old)
      log_reverse = kernel.log_prob(old)
    except Exception:  # pylint: disable=broad-except
      # Its parameters may have a batch shape that the densities do not have.
      # Any mistake is met again at the first call.
      return
    if not densities.is_discrete and probes.are_integers(draws):
      raise ValueError(
        '`kernel_fn` must return a distribution over the real values of the '
        'block; it returned a discrete one, which has no density there: '
        f'{kernel!r}.'
      )
    is_missed = log_reverse == -float('inf')
    if tf.reduce_any(is_missed) and tf.reduce_any(
      is_missed & probes.is_positive(densities, states, 0)
    ):
      raise ValueError(
        '`kernel_fn` must return a distribution with a positive density '
        'wherever the densities have one, as the mass of all other values '
        f'would be lost; it is zero at draws of the first density: {kernel!r}.'
      )

  def _describe(self):
    return repr(self._blocks[0] if self._is_one else list(self._blocks))

  def _take(self, state):
    """The block of a state, in the structure of the kernel's values."""
    parts = naming.named_parts(state)
    if self._is_one:
      return parts[self._blocks[0]]
    parts = {name: parts[name] for name in self._blocks}
    return parts if isinstance(self._blocks[0], str) else list(parts.values())

  def _put(self, state, block):
    """A state with another value of the block, in the same structure."""
    if self._is_one:
      parts = {self._blocks[0]: block}
    elif isinstance(self._blocks[0], str):
      parts = block
    else:
      parts = dict(zip(self._blocks, block, strict=True))
    return tf.nest.pack_sequence_as(
      state, tf.nest.flatten(_replace(state, parts))
    )

  def _kernel(self, state):
    """The distribution of the block given the rest of a state."""
    return checks.check_returned_instance(
      'kernel_fn',
      self._kernel_fn(_replace(state, dict.fromkeys(self._blocks))),
      tfd.Distribution,
      'a tfd.Distribution',
    )

  def _draw(self, kernel, seed):
    """A draw, as a plain `dict` or list where that of a kernel is another."""
    with randomness.portable_sampling():
      draw = kernel.sample(seed=seed)
    parts = naming.named_parts(draw)
    if self._is_one or not parts:
      return draw
    return parts if isinstance(self._blocks[0], str) else list(parts.values())

  def propose(
    self,
    level: int | tf.Tensor,
    previous: types.Structure,
    noise: types.Structure,
    target_log_prob_fn: typing.Callable,
    reparameterize: bool = True,
  ) -> base.Move:
    """Proposes a state; see `Transition.propose`."""
    del level, target_log_prob_fn
    kernel, old = self._kernel(previous), self._take(previous)
    new = self._draw(kernel, noise)
    checks.check_same_states('`kernel_fn`', new, old)
    draw = base.as_draw(kernel, new, kernel.log_prob, reparameterize)
    fixed = self._kernel(base.stop_gradient(previous))
    return draw._replace(
      state=self._put(previous, draw.state),
      log_reverse=kernel.log_prob(old),
      log_reverse_fixed_states=fixed.log_prob(base.stop_gradient(old)),
      record=noise,
    )
