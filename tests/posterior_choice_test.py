# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which pilot the runs repeat, where two of them have found different mass.

Stand-ins for pilots have given particles and evidences. What must hold:

- a pilot has less mass than another one only beyond their errors;
- it is left for the other one then, with a warning;
- a reference that was fitted to a pilot's particles must cover these.
"""

import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.posterior import (
  candidates,
  choice,
  fit_posterior,
  pilot,
  reference,
)

tfb = tfp.bijectors
tfd = tfp.distributions

NUM_PARTICLES = 1_000


def make_pilot(log_evidence=0.0, num_ancestors=NUM_PARTICLES, points=None):
  """A pilot of one stage with equal weights."""
  if points is None:
    points = np.random.default_rng(0).normal(size=[NUM_PARTICLES, 2])
  root = np.arange(NUM_PARTICLES)[:, np.newaxis] % num_ancestors
  population = pilot.Population(
    tf.constant(points, tf.float64),
    None,
    tf.fill([NUM_PARTICLES, 1], tf.constant(log_evidence, tf.float64)),
    tf.constant(root, tf.int32),
  )
  stage = pilot.Stage(1.0, None, 1.0, 1, 1, 0.8, 0.0, 1.0)
  affine = reference.from_affine(np.zeros(2), np.eye(2), tf.float64)
  moves = types.SimpleNamespace(starts_at_initial=True)
  return candidates.Pilot(
    'made', 'prior', moves, affine, pilot.Schedule([stage], True), population
  )


def make_chooser(broad=None):
  fitter = types.SimpleNamespace(warnings=[], history=[{}])
  chooser = choice.Chooser(fitter, 'auto', [0, 1])
  chooser.broad = broad
  return chooser


# With all ancestors, the variance is that of as many draws, 1e-3, for each of
# two pilots, and twice the error .09. With four ancestors it is 1/4, and the
# limit .5 + 2 sqrt(.251) = 1.502.
@pytest.mark.parametrize(
  'deficit, num_ancestors, expected',
  [
    (0.55, NUM_PARTICLES, False),
    (0.65, NUM_PARTICLES, True),
    (1.45, 4, False),
    (1.55, 4, True),
    (-2.0, NUM_PARTICLES, False),
  ],
)
def test_less_is_beyond_errors(deficit, num_ancestors, expected):
  few = make_pilot(-deficit, num_ancestors)
  assert candidates.has_less(few, make_pilot()) == expected


@pytest.mark.parametrize('deficit, is_left', [(0.4, False), (2.0, True)])
def test_a_pilot_with_less_mass_is_left(deficit, is_left):
  chooser = make_chooser()
  narrow, broad = make_pilot(), make_pilot(-deficit)
  best, reason = chooser._reconsider(narrow, broad, 'other')
  assert best is (narrow if is_left else broad)
  assert (reason != 'other') == is_left
  assert len(chooser.fitter.warnings) == is_left


def tail(share):
  """Normal points, of which a share is at 20 deviations."""
  points = np.random.default_rng(1).normal(size=[NUM_PARTICLES, 2])
  points[: round(share * NUM_PARTICLES), 0] = 20.0
  return points


def test_a_fit_must_cover_what_it_was_fitted_to():
  broad, chosen = make_pilot(points=tail(0.03)), make_pilot()
  chooser = make_chooser(broad)
  # Half a percent of any density is taken to be as far out.
  lost = chooser._share_lost(broad, chosen)
  np.testing.assert_allclose(lost, 0.03 - 0.005, atol=0.01)
  assert chooser.fitter.warnings == []
  # A pilot that has a tail loses none of it, nor does the same one.
  covers = make_pilot(points=tail(0.05)[::-1])
  assert chooser._share_lost(broad, covers) < 0.01
  assert chooser._share_lost(broad, broad) == 0.0
  # It need not cover particles that it was not fitted to.
  assert chooser._share_lost(chosen, chosen) == 0.0


def test_a_pilot_with_less_mass_is_no_measure_of_others():
  broad = make_pilot(-2.0, points=tail(0.03))
  chooser = make_chooser(broad)
  assert chooser._share_lost(broad, make_pilot()) == 0.0
  (warning,) = chooser.fitter.warnings
  assert 'found less mass itself (log evidence -2.00 and 0.00)' in warning


def test_variables_without_a_default_bijector():
  mixture = tfd.MixtureSameFamily(
    tfd.Categorical(probs=[0.7, 0.3]), tfd.Normal([0.0, 0.0], [0.1, 1.0])
  )
  model = tfd.JointDistributionNamed(
    {'b': mixture, 'y': lambda b: tfd.Normal(b, 1.0)}
  ).experimental_pin(y=1.0)
  with pytest.raises(ValueError, match='event_space_bijector.*variables b'):
    fit_posterior(model, seed=1, progress=False)
  posterior = fit_posterior(
    model,
    event_space_bijector={'b': tfb.Identity()},
    num_particles=200,
    num_runs=4,
    progress=False,
    seed=1,
  )
  # The convolution of a mixture of normal densities and a normal one.
  expected = tfd.MixtureSameFamily(
    tfd.Categorical(probs=[0.7, 0.3]),
    tfd.Normal([0.0, 0.0], [1.01**0.5, 2.0**0.5]),
  ).log_prob(1.0)
  # Five standard errors: a false alarm in 10^6 seeds, were they known exactly.
  error = max(posterior.log_evidence_error, 0.01)
  assert abs(posterior.log_evidence - float(expected)) < 5.0 * error
