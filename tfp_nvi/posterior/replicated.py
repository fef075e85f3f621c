# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Messages between the processes that fit one posterior.

Pilots are adaptive, so that a difference in rounding between two machines can
lead them to other inverse temperatures. Every process runs them, as it would
wait otherwise, and then takes over what the first one found.
"""

import functools
import io
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import randomness, types
from tfp_nvi.internal import replicas as replicas_lib
from tfp_nvi.posterior import (
  candidates,
  conditional,
  frozen,
  marginals,
  mixture,
  pilot,
  radial,
  stages,
)
from tfp_nvi.posterior import reference as reference_lib

__all__ = [
  'from_bytes',
  'of_first',
  'run_frozen',
  'to_bytes',
]

# The fields of a `Stage` that are numbers, and their types.
_NUMBERS = {
  name: kind
  for name, kind in pilot.Stage.__annotations__.items()
  if kind in (float, int)
}


def to_bytes(chosen: candidates.Pilot, reason: str) -> bytes:
  """Serializes the parts of a pilot that runs depend on.

  Args:
    chosen: `Pilot`.
    reason: Python `str`: why it was chosen.

  Returns:
    content: Python `bytes`: a file of NumPy, without pickled objects.
  """
  found = chosen.schedule.stages
  reference = chosen.reference
  arrays = {
    'start': np.array(chosen.start),
    'reason': np.array(reason),
    'is_complete': np.array(chosen.schedule.is_complete),
    # Double precision represents each of these numbers exactly.
    'numbers': np.array(
      [[x._asdict()[name] for name in _NUMBERS] for x in found], np.float64
    ),
    **{f'scale/{i}': x.scale.numpy() for i, x in enumerate(found)},
    'is_mixture': np.array(isinstance(reference, mixture.Mixture)),
    **{
      f'reference/{name}': value.numpy()
      for name, value in reference._asdict().items()
      if name not in reference_lib.MAPS
    },
  }
  spline, maps = None, {}
  if isinstance(reference, reference_lib.Reference):
    spline = reference.marginals
    maps = {'conditional': reference.conditional, 'radial': reference.radial}
  if spline is not None:
    arrays |= {
      f'marginals/{i}': np.asarray(x)
      for i, x in enumerate(
        (spline.bin_widths, spline.bin_heights, spline.knot_slopes)
      )
    }
  for kind, given in maps.items():
    if given is not None:
      arrays |= {
        f'{kind}/{name}': value.numpy()
        for name, value in given._asdict().items()
      }
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


def from_bytes(
  content: bytes, like: candidates.Pilot
) -> tuple[candidates.Pilot, str]:
  """A pilot from `to_bytes`.

  Args:
    content: Python `bytes`.
    like: `Pilot` of this process, for what the runs do not depend on.

  Returns:
    chosen: `Pilot`, with the moves of `like`.
    reason: Python `str`.
  """
  with np.load(io.BytesIO(content), allow_pickle=False) as file:
    arrays = dict(file)
  spline = None
  if 'marginals/0' in arrays:
    spline = marginals.make_spline(
      *(arrays[f'marginals/{i}'] for i in range(3))
    )
  fields, given, lengths = (
    _under(f'{kind}/', arrays)
    for kind in ('reference', 'conditional', 'radial')
  )
  reference = (
    mixture.Mixture(**fields)
    if arrays['is_mixture']
    else reference_lib.Reference(
      **fields,
      marginals=spline,
      conditional=conditional.Conditional(**given) if given else None,
      radial=radial.Radial(**lengths) if lengths else None,
    )
  )
  schedule = pilot.Schedule(
    [
      pilot.Stage(
        scale=tf.constant(arrays[f'scale/{i}']),
        **{
          name: kind(value)
          for (name, kind), value in zip(_NUMBERS.items(), row, strict=True)
        },
      )
      for i, row in enumerate(arrays['numbers'])
    ],
    bool(arrays['is_complete']),
  )
  chosen = like._replace(
    start=str(arrays['start']), reference=reference, schedule=schedule
  )
  return chosen, str(arrays['reason'])


def _under(prefix, arrays):
  """The `Tensor`s whose names have a prefix."""
  return {
    key.removeprefix(prefix): tf.constant(value)
    for key, value in arrays.items()
    if key.startswith(prefix)
  }


def of_first(
  replicas: replicas_lib.Replicas,
  fitter: stages.Fitter,
  chosen: candidates.Pilot,
  reason: str,
) -> tuple[candidates.Pilot, str]:
  """The pilot that the first process chose, for all of them.

  Args:
    replicas: `Replicas`.
    fitter: `Fitter`.
    chosen: `Pilot` that this process chose.
    reason: Python `str`: why it was chosen.

  Returns:
    chosen: `Pilot`.
    reason: Python `str`.
  """
  content = replicas.from_first(to_bytes(chosen, reason))
  chosen, reason = from_bytes(content, chosen)
  return chosen._replace(moves=fitter.moves_from(chosen.start)), reason


def run_frozen(
  replicas: replicas_lib.Replicas,
  chosen: candidates.Pilot,
  draw_fn: Callable,
  num_runs: int,
  seed: types.StatelessSeed,
  progress: Callable,
) -> list:
  """Runs by a schedule on all replicas, as `frozen.run_frozen` does on one.

  Each inverse temperature is a call, as the graph of all of them would have
  each operation as many times.

  Args:
    replicas: `Replicas`.
    chosen: `Pilot` whose schedule to repeat.
    draw_fn: Python callable from a seed, and an int32 scalar that differs
      between draws of a particle, to draws from the start.
    num_runs: Python `int`: independent runs of an island.
    seed: Stateless seed.
    progress: Python callable from an inverse temperature.

  Returns:
    runs: List of a `FrozenRun` for each island, without terms.
  """
  moves, reference = chosen.moves, chosen.reference
  schedule, dtype = chosen.schedule, moves.space.dtype

  def begin(seed):
    draw_seed, move_seed = tf.unstack(randomness.split_seed(seed, 2))
    population, tail_k, num_nan = frozen.begin(
      moves,
      reference,
      functools.partial(draw_fn, draw_seed),
      schedule,
      num_runs,
      randomness.fold_in(move_seed, len(schedule.stages)),
    )
    return move_seed, population, tail_k, num_nan

  def start():
    seeds = randomness.fold_in(seed, replicas.indices())
    return replicas.each(tf.function(begin, autograph=False), seeds)

  def advance(index, stage, seeds, populations):
    @tf.function(autograph=False)
    def of_island(seed, population):
      return frozen.advance(
        moves, reference, population, stage, randomness.fold_in(seed, index)
      )

    return replicas.each(of_island, seeds, populations)

  def reweight(delta, populations):
    return replicas.each(
      tf.function(
        lambda population: frozen.reweight(population, delta), autograph=False
      ),
      populations,
    )

  def gather(seeds, populations, shares, tail_ks, num_nan):
    del seeds
    return replicas.gather(
      frozen.FrozenRun(
        populations._replace(terms=()),
        tf.stack(shares, axis=1),
        tf.stack(tail_ks, axis=1),
        num_nan,
      )
    )

  replicas.meet()
  start_fn, advance_fn, reweight_fn, gather_fn = (
    tf.function(functools.partial(replicas.run, fn), autograph=False)
    for fn in (start, advance, reweight, gather)
  )
  seeds, populations, tail_k, num_nan = start_fn()
  shares: list = []
  tail_ks = [tail_k]
  for i, stage in enumerate(schedule.stages):
    if i:
      populations, tail_k = reweight_fn(
        tf.constant(stage.beta - schedule.stages[i - 1].beta, dtype),
        populations,
      )
      tail_ks.append(tail_k)
    populations, share = advance_fn(
      tf.constant(i),
      stage._replace(
        **{
          name: tf.constant(stage._asdict()[name], kind)
          for name, kind in _tensors(dtype).items()
        }
      ),
      seeds,
      populations,
    )
    shares.append(share)
    progress(stage.beta)
  replicas.meet()
  run = replicas.first(gather_fn(seeds, populations, shares, tail_ks, num_nan))
  return [
    tf.nest.map_structure(lambda x, i=i: x[i], run)
    for i in range(replicas.num_islands)
  ]


def _tensors(dtype):
  """The dtypes of the numbers of a stage, for one graph for all of them."""
  dtypes = {float: dtype, int: tf.int32}
  return {name: dtypes[kind] for name, kind in _NUMBERS.items()}
