# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Correlation matrices are refused, as their bijector has a wrong Jacobian."""

import numpy as np
import pytest
import tensorflow_probability as tfp

from tfp_nvi.posterior import fit_posterior
from tfp_nvi.state_space import global_space

tfd = tfp.distributions


def _prior(is_joint):
  prior = tfd.LKJ(2, np.float64(1.5))
  if not is_joint:
    return prior
  return tfd.JointDistributionNamed(
    {'r': prior, 'x': tfd.Normal(np.float64(0.0), np.float64(1.0))}
  )


def test_mass_over_the_real_space():
  """Not one, as it would be with the right Jacobian: then, refuse no more."""
  prior = _prior(False)
  bijector = prior.experimental_default_event_space_bijector()
  x = np.linspace(-60.0, 60.0, 12_001)[:, np.newaxis]
  log_prob = prior.log_prob(bijector.forward(x))
  log_det = bijector.forward_log_det_jacobian(x, 1)
  density = np.exp(log_prob + log_det)
  assert np.sum(density[np.isfinite(density)]) * (x[1, 0] - x[0, 0]) > 1.1


@pytest.mark.parametrize('is_joint', [False, True])
def test_posteriors_are_refused(is_joint):
  prior = _prior(is_joint)
  with pytest.raises(ValueError, match='`target`.*CholeskyLKJ'):
    fit_posterior(prior.log_prob, prior, seed=1)


@pytest.mark.parametrize('is_joint', [False, True])
def test_global_states_are_refused(is_joint):
  with pytest.raises(ValueError, match='`prior`.*CholeskyLKJ'):
    global_space.GlobalSpace(_prior(is_joint))
