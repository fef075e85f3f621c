# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Messages between the processes that fit one posterior."""

import numpy as np
import pytest
import tensorflow as tf

from tests import replicas_program as program
from tfp_nvi.posterior import (
  candidates,
  conditional,
  marginals,
  mixture,
  pilot,
  radial,
  reference,
  replicated,
)


def make_affine(spline=None, given=None, lengths=None):
  affine = reference.from_affine(np.arange(3.0), 0.7 * np.eye(3), tf.float32)
  return affine._replace(marginals=spline, conditional=given, radial=lengths)


def make_pilot(start):
  """A pilot of two stages in three coordinates."""
  scales = [tf.eye(3), tf.constant(np.tri(3), tf.float32)]
  schedule = pilot.Schedule(
    [
      pilot.Stage(0.1 * (i + 1), scale, 0.3, 4 + i, 2, 0.8, 0.25, 0.7)
      for i, scale in enumerate(scales)
    ],
    True,
  )
  return candidates.Pilot('pilot', 'prior', 'moves', start, schedule, None)


def make_spline():
  """A map of each of three coordinates, with two bins."""
  widths = np.tile([[8.0, 12.0]], [3, 1])
  slopes = np.array([[0.5], [1.0], [2.0]])
  return marginals.make_spline(
    *(x.astype(np.float32) for x in (widths, widths[:, ::-1], slopes))
  )


def make_conditional():
  """A map of which the second coordinate is the driver."""
  rng = np.random.default_rng(1)
  return conditional.interpolate(
    [1, 0, 2],
    np.array([0.3]),
    np.array([[0.5]]),
    (
      rng.normal(size=[3, 2]),
      rng.normal(size=[3, 2]),
      np.tril(rng.normal(size=[3, 2, 2]), -1),
    ),
    3,
    tf.float32,
  )


def make_radial():
  """A map of lengths, as that of a Student t density."""
  found, _ = radial.fit_radial(
    lambda x: -4.0 * np.log1p(np.sum(x**2, axis=1) / 5.0),
    np.eye(3),
    tf.float32,
  )
  return found


def make_mixture():
  covariances = np.stack([np.eye(3), 0.2 * np.eye(3)])
  centers = np.array([[0.0, 0.0, 0.0], [3.0, 1.0, 2.0]])
  return mixture.from_arrays(
    np.array([0.4, 0.6]), centers, covariances, tf.float32
  )


@pytest.mark.parametrize(
  'start_fn',
  [
    make_affine,
    lambda: make_affine(make_spline()),
    lambda: make_affine(make_spline(), make_conditional()),
    lambda: make_affine(lengths=make_radial()),
    make_mixture,
  ],
  ids=['affine', 'with splines', 'conditional', 'lengths', 'mixture'],
)
def test_pilots_are_the_same_after_a_journey(start_fn):
  sent = make_pilot(start_fn())
  content = replicated.to_bytes(sent, 'as asked for.')
  # Another process may have found something else.
  other = make_pilot(make_affine())._replace(
    start='reference',
    moves='other moves',
    schedule=pilot.Schedule([], False),
  )
  found, reason = replicated.from_bytes(content, other)
  assert (found.start, reason) == ('prior', 'as asked for.')
  assert found.moves == 'other moves'
  assert found.schedule.is_complete
  assert len(found.schedule.stages) == 2
  for a, b in zip(found.schedule.stages, sent.schedule.stages, strict=True):
    np.testing.assert_array_equal(a.scale, b.scale)
    # Numbers are the same, and of the same type.
    assert a._replace(scale=0) == b._replace(scale=0)
    assert [type(x) for x in a] == [type(x) for x in b]
  u = tf.random.stateless_normal([5, 3], seed=[1, 2])
  assert type(found.reference) is type(sent.reference)
  for x, y in zip(
    reference.forward(found.reference, u),
    reference.forward(sent.reference, u),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)
  if isinstance(sent.reference, mixture.Mixture):
    np.testing.assert_array_equal(
      mixture.log_prob(found.reference, u), mixture.log_prob(sent.reference, u)
    )


def test_runs_on_a_strategy_are_those_without():
  """One replica; for two of them see replicas_test."""
  expected = program.fit_posterior(None)
  found = program.fit_posterior(tf.distribute.OneDeviceStrategy('CPU:0'))
  np.testing.assert_allclose(
    found.particles.particles, expected.particles.particles, rtol=1e-4
  )
  np.testing.assert_allclose(
    found.particles.log_weights, expected.particles.log_weights, atol=1e-4
  )
  assert found.num_target_evaluations == expected.num_target_evaluations
  for name in ('pareto_k', 'level_effective_sample_sizes'):
    np.testing.assert_allclose(
      found.history[-1][name], expected.history[-1][name], rtol=1e-3
    )
