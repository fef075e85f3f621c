# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Non-centered coordinates serve where others leave doubts."""

import types

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.bijectors import noncentered_bijector
from tfp_nvi.posterior import (
  candidates,
  choice,
  fit_posterior,
  parametrization,
  pilot,
  reference,
  space,
)

tfb = tfp.bijectors
tfd = tfp.distributions

NUM_PARTICLES = 1_000
NUM_ROWS, NUM_COLUMNS = 5, 4


def make_data():
  rng = np.random.default_rng(10)
  return (
    2.0
    + 0.9 * rng.normal(size=[NUM_ROWS, 1])
    + 0.3 * rng.normal(size=[1, NUM_COLUMNS])
    + 0.5 * rng.normal(size=[NUM_ROWS, NUM_COLUMNS])
  )


def crossed_effects(data):
  """Rows and columns have effects, of which few data tell the scales."""
  return tfd.JointDistributionNamedAutoBatched(
    {
      'mean': tfd.Normal(0.0, 5.0),
      'row_scale': tfd.HalfCauchy(0.0, 1.0),
      'column_scale': tfd.HalfCauchy(0.0, 1.0),
      'scale': tfd.HalfCauchy(0.0, 1.0),
      'row': lambda row_scale: tfd.Sample(tfd.Normal(0.0, row_scale), NUM_ROWS),
      'column': lambda column_scale: tfd.Sample(
        tfd.Normal(0.0, column_scale), NUM_COLUMNS
      ),
      'y': lambda mean, row, column, scale: tfd.Independent(
        tfd.Normal(mean + row[:, tf.newaxis] + column, scale), 2
      ),
    }
  ).experimental_pin(y=tf.constant(data, tf.float32))


def exact_log_evidence(data):
  """By quadrature over three scales; means, rows and columns are integrated.

  The data's covariance has four eigenspaces: the mean, contrasts of rows, those
  of columns, and what is left.
  """
  log_scale = np.linspace(-14.0, 6.0, 161)
  row, column, noise = np.meshgrid(*[log_scale] * 3, indexing='ij')
  log_prior = sum(
    np.log(2.0 / np.pi) + x - np.log1p(np.exp(2.0 * x))
    for x in (row, column, noise)
  )
  row, column, noise = (np.exp(2.0 * x) for x in (row, column, noise))
  mean = data.mean()
  rows = data.mean(axis=1) - mean
  columns = data.mean(axis=0) - mean
  rest = data - mean - rows[:, np.newaxis] - columns
  by_rows = noise + NUM_COLUMNS * row
  by_columns = noise + NUM_ROWS * column
  both = NUM_ROWS * NUM_COLUMNS
  spaces = [
    (by_rows + NUM_ROWS * column + both * 25.0, both * mean**2, 1),
    (by_rows, NUM_COLUMNS * np.sum(rows**2), NUM_ROWS - 1),
    (by_columns, NUM_ROWS * np.sum(columns**2), NUM_COLUMNS - 1),
    (noise, np.sum(rest**2), (NUM_ROWS - 1) * (NUM_COLUMNS - 1)),
  ]
  log_prob = log_prior - 0.5 * both * np.log(2.0 * np.pi)
  for variance, square, count in spaces:
    log_prob -= 0.5 * (count * np.log(variance) + square / variance)
  step = log_scale[1] - log_scale[0]
  return scipy.special.logsumexp(log_prob) + 3.0 * np.log(step)


def test_crossed_effects_leave_no_doubt():
  """In the model's coordinates: -0.03 +- 0.02, and a warning of modes."""
  data = make_data()
  posterior = fit_posterior(
    crossed_effects(data),
    num_particles=250,
    num_runs=4,
    progress=False,
    seed=2,
  )
  assert 'non-centered coordinates' in posterior.reason
  assert not [x for x in posterior.warnings if x.startswith('modes')]
  error = posterior.log_evidence - exact_log_evidence(data)
  # Student's t with three degrees of freedom exceeds 13 once in a thousand.
  assert posterior.log_evidence_error < 0.05
  assert abs(error) < min(13.0 * posterior.log_evidence_error, 0.2)
  # The states are those of the model.
  rows = posterior.particles.particles['row']
  assert rows.shape == [1_000, NUM_ROWS]
  names = [x['name'] for x in posterior.history]
  assert 'pilot from the prior, non-centered' in names


def hierarchy():
  return tfd.JointDistributionNamed(
    {
      'scale': tfd.HalfNormal(1.0),
      'x': lambda scale: tfd.Normal(3.0, scale),
      'y': lambda x: tfd.Normal(x, 1.0),
    }
  ).experimental_pin(y=1.0)


def make_fitter(vectors):
  return types.SimpleNamespace(
    space=vectors, in_space=lambda space, label: (space, label)
  )


def test_the_coordinates_and_the_initial_density_must_be_the_models_own():
  target = hierarchy()
  own = space.VectorSpace(target, None, None, [0, 1])
  other, label = parametrization.in_noncentered(make_fitter(own), [0, 2])
  assert label == ', non-centered'
  y = tf.constant([[0.5, -1.0]])
  state, values = other.to_user(y), other.unconstrained(y)[0]
  np.testing.assert_allclose(
    state['x'], 3.0 + state['scale'] * values[:, 1], rtol=1e-5
  )
  # The density is the one that the bijector alone would give.
  given = noncentered_bijector(target)
  plain = space.VectorSpace(target, None, given, [0, 2])
  for found, expected in zip(
    other.log_probs(y, True), plain.log_probs(y, True), strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-4)
  # At a scale of almost zero it is still normal, here with a likelihood of y.
  y = tf.constant([[-60.0, 0.0], [-60.0, 4.0]])
  values = other.unconstrained(y)[0][:, 1]
  first, second = other.log_probs(y, True)[1]
  np.testing.assert_allclose(
    first - second, 0.5 * (values[1] ** 2 - values[0] ** 2), rtol=1e-4
  )
  bijector = {'scale': tfb.Softplus(), 'x': tfb.Identity()}
  given = space.VectorSpace(target, None, bijector, [0, 1])
  assert parametrization.in_noncentered(make_fitter(given), [0, 2]) is None
  initial = tfd.JointDistributionNamed(
    {'scale': tfd.HalfNormal(1.0), 'x': tfd.Normal(0.0, 1.0)}
  )
  with_initial = space.VectorSpace(target, initial, None, [0, 1])
  fitter = make_fitter(with_initial)
  assert parametrization.in_noncentered(fitter, [0, 2]) is None


def make_pilot(log_evidence, num_stages, is_complete=True):
  """A pilot of independent particles, by hand."""
  root = np.arange(NUM_PARTICLES)[:, np.newaxis]
  points = np.random.default_rng(0).normal(size=[NUM_PARTICLES, 2])
  population = pilot.Population(
    tf.constant(points),
    None,
    tf.fill([NUM_PARTICLES, 1], tf.constant(log_evidence, tf.float64)),
    tf.constant(root, tf.int32),
  )
  stage = pilot.Stage(1.0, None, 1.0, 1, 1, 0.8, 0.0, 1.0)
  return candidates.Pilot(
    'made',
    'prior',
    types.SimpleNamespace(starts_at_initial=True),
    reference.from_affine(np.zeros(2), np.eye(2), tf.float64),
    pilot.Schedule([stage] * num_stages, is_complete),
    population,
  )


class MadeChooser:
  """Stands for a `Chooser`; the first one that is made has doubts."""

  made: list = []

  def __init__(self, fitter, start, seed):
    del start, seed
    self.fitter, self.num_warnings = fitter, 0
    self.settings = fitter.settings
    self.doubt = self.settings.get('doubt', '')
    self.broad = make_pilot(self.settings['log_evidence'], 9)
    self.made.append(self)

  leaves_doubts = property(lambda self: self.settings['leaves_doubts'])
  has_other_doubts = property(
    lambda self: len(self.fitter.warnings) > bool(self.doubt)
  )

  def look(self):
    self.fitter.num_evaluations += 10

  def choose(self):
    self.fitter.num_evaluations += 100
    found = make_pilot(
      self.settings['log_evidence'], self.settings['num_stages']
    )
    return found, self.settings['reason']


# The error of a difference is sqrt(2 / 1000), so that a deficit of .2 counts
# (.1 + 2 x .045 = .19).
@pytest.mark.parametrize(
  'first, second, is_other, warnings, reason',
  [
    # There is nothing to doubt.
    ({'leaves_doubts': False}, {}, False, ['lost', 'more'], 'first'),
    # Both leave doubts.
    ({}, {'leaves_doubts': True}, False, ['lost', 'more'], 'first'),
    # The other one has lost mass, however short its path is.
    (
      {},
      {'log_evidence': -0.3, 'num_stages': 1},
      False,
      ['lost', 'more'],
      'first',
    ),
    # Its path is not much longer, or it has more mass, or fewer warnings.
    (
      {'warnings': ['lost']},
      {'num_stages': 5},
      True,
      [],
      'in non-centered coordinates, second',
    ),
    (
      {'warnings': ['lost']},
      {'log_evidence': 0.3},
      True,
      [],
      'in non-centered coordinates, second',
    ),
    ({}, {}, True, [], 'non-centered coordinates, second'),
    # It has a longer path, and confirms the first one.
    (
      {'warnings': ['lost']},
      {},
      False,
      [],
      'found no other mass (log evidence 0.00 and 0.00)',
    ),
    # It has warnings of its own.
    ({}, {'warnings': ['own']}, False, ['more'], 'found no other mass'),
  ],
)
def test_which_coordinates(
  monkeypatch, first, second, is_other, warnings, reason
):
  defaults = {'log_evidence': 0.0, 'num_stages': 4, 'warnings': []}
  fitters = [
    types.SimpleNamespace(
      settings=settings,
      warnings=list(settings['warnings']),
      history=[{}],
      num_evaluations=0,
      space=space.VectorSpace(hierarchy(), None, None, [0, 1]),
    )
    for settings in (
      {
        **defaults,
        'leaves_doubts': True,
        'doubt': 'lost',
        'warnings': ['lost', 'more'],
        'reason': 'first.',
        **first,
      },
      {
        **defaults,
        'leaves_doubts': False,
        'num_stages': 6,
        'reason': 'second.',
        **second,
      },
    )
  ]
  monkeypatch.setattr(choice, 'Chooser', MadeChooser)
  monkeypatch.setattr(
    parametrization, 'in_noncentered', lambda fitter, seed: fitters[1]
  )
  monkeypatch.setattr(
    parametrization, '_covers', lambda fitter, chosen, other, broad: True
  )
  fitter, chosen, found = parametrization.choose(
    fitters[0], 'auto', [0, 1], [0, 2]
  )
  assert fitter is fitters[is_other]
  assert chosen.num_stages == fitter.settings['num_stages']
  assert fitter.warnings == warnings
  assert reason in found


def test_evaluations_are_counted_where_it_is_interrupted(monkeypatch):
  settings = {
    'log_evidence': 0.0,
    'num_stages': 4,
    'leaves_doubts': True,
    'reason': 'first.',
  }
  own, other = (
    types.SimpleNamespace(settings=settings, warnings=[], num_evaluations=0)
    for _ in range(2)
  )

  class Interrupted(MadeChooser):
    def look(self):
      super().look()
      raise KeyboardInterrupt

  monkeypatch.setattr(choice, 'Chooser', Interrupted)

  def in_noncentered(fitter, seed):
    del seed
    other.num_evaluations = fitter.num_evaluations
    return other

  monkeypatch.setattr(parametrization, 'in_noncentered', in_noncentered)
  with pytest.raises(KeyboardInterrupt):
    parametrization.choose(own, 'auto', [0, 1], [0, 2])
  # The first one chose, and the second one looked.
  assert own.num_evaluations == 110


def test_processes_use_the_coordinates_of_the_first(monkeypatch):
  own, other, new = (object() for _ in range(3))
  monkeypatch.setattr(
    parametrization, 'in_noncentered', lambda fitter, seed: new
  )

  def replicas(content):
    return types.SimpleNamespace(from_first=lambda own_content: content)

  def found(content, fitter):
    return parametrization.of_first(replicas(content), own, fitter, [0, 1])

  assert found(b'\x00', own) is own
  assert found(b'\x01', other) is other
  assert found(b'\x00', other) is own
  assert found(b'\x01', own) is new
