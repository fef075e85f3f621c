# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""What a heuristic that knows the state is worth in the hidden Markov model.

```shell
python -m benchmarks.state_aware
```

In the experiment on hidden Markov models, a learned heuristic factor that may
depend on the current state is not better than one that depends on the emissions
alone. This measures how much there is to gain, in exact arithmetic of NumPy,
for sequences of the experiment's model:

- the variance, over the current state given the emissions and the observations
  so far, of the exact log likelihood of the observations to come: what a factor
  without the state cannot know, averaged over steps;
- with the emissions known, the deviation of log Z-hat over runs, and its mean
  distance from the exact log Z, for particle filters with the exact factor and
  with none, which is the exact one without the state. Both propose by the
  transition times the likelihood, and resample below half of the particles.
"""

import numpy as np
from absl import app

from benchmarks import reporting

__all__ = [
  'main',
  'measure',
]

_NUM_STATES, _STAY, _NUM_STEPS = 4, 0.91, 200
_LOCATIONS = np.array([-4.5, -1.5, 1.5, 4.5])
_NUM_PSEUDO, _CONCENTRATION, _RATE = 0.5, 4.0, 4.0


def transition_matrix():
  """Probabilities of the next state, in the last axis."""
  move = (1.0 - _STAY) / (_NUM_STATES - 1)
  return np.full([_NUM_STATES] * 2, move) + (_STAY - move) * np.eye(_NUM_STATES)


def simulate(random):
  """The log density of each observation of a sequence, by state."""
  shape = [_NUM_STATES]
  precision = random.gamma(_CONCENTRATION, 1.0 / _RATE, size=shape)
  mean = _LOCATIONS + random.normal(size=shape) / np.sqrt(
    _NUM_PSEUDO * precision
  )
  z = [random.integers(_NUM_STATES)]
  for _ in range(1, _NUM_STEPS):
    z.append(random.choice(_NUM_STATES, p=transition_matrix()[z[-1]]))
  x = mean[z] + random.normal(size=_NUM_STEPS) / np.sqrt(precision[z])
  square = precision * (x[:, np.newaxis] - mean) ** 2
  return 0.5 * np.log(precision / (2.0 * np.pi)) - 0.5 * square


def backward(log_emissions):
  """`log p(x_{k+1:} | z_k)` for each step and state."""
  messages = np.zeros([_NUM_STEPS, _NUM_STATES])
  for k in range(_NUM_STEPS - 2, -1, -1):
    log_joint = log_emissions[k + 1] + messages[k + 1]
    largest = log_joint.max()
    joint = transition_matrix() @ np.exp(log_joint - largest)
    messages[k] = largest + np.log(joint)
  return messages


def forward(log_emissions):
  """`p(z_k | x_{1:k})` for each step, and `log p(x)`."""
  total, filtered = 0.0, []
  belief = np.full([_NUM_STATES], 1.0 / _NUM_STATES)
  for k in range(_NUM_STEPS):
    if k:
      belief = belief @ transition_matrix()
    largest = log_emissions[k].max()
    belief = belief * np.exp(log_emissions[k] - largest)
    total += np.log(belief.sum()) + largest
    belief = belief / belief.sum()
    filtered.append(belief)
  return np.array(filtered), total


def run_filter(log_emissions, log_factors, num_particles, random):
  """An estimate of `log p(x)` by particles with a heuristic factor."""
  log_weights, total, z = np.zeros(num_particles), 0.0, None
  for k in range(_NUM_STEPS):
    prior = np.full([num_particles, _NUM_STATES], 1.0 / _NUM_STATES)
    if k:
      prior = transition_matrix()[z]
      log_weights = log_weights - log_factors[k - 1][z]
    largest = log_emissions[k].max()
    joint = prior * np.exp(log_emissions[k] - largest)
    norm = joint.sum(axis=1, keepdims=True)
    ends = np.cumsum(joint / norm, axis=1)
    uniform = random.uniform(size=[num_particles, 1])
    z = np.minimum((uniform > ends).sum(axis=1), _NUM_STATES - 1)
    log_weights = log_weights + np.log(norm[:, 0]) + largest + log_factors[k][z]
    weights = np.exp(log_weights - log_weights.max())
    if 2.0 * weights.sum() ** 2 < num_particles * (weights**2).sum():
      total += np.log(weights.mean()) + log_weights.max()
      points = (np.arange(num_particles) + random.uniform()) / num_particles
      ends = np.cumsum(weights) / weights.sum()
      z = z[np.minimum(np.searchsorted(ends, points), num_particles - 1)]
      log_weights = np.zeros(num_particles)
  largest = log_weights.max()
  return total + np.log(np.mean(np.exp(log_weights - largest))) + largest


def measure(num_sequences, num_filtered, num_runs, num_particles, seed=1):
  """Measures what the state is worth.

  Args:
    num_sequences: Python `int`: how many sequences to average over.
    num_filtered: Python `int`: how many of them to run filters on.
    num_runs: Python `int`: runs of each filter on each of these.
    num_particles: Python `int`.
    seed: Python `int`.

  Returns:
    row: Python `dict`: `variance`, and for `with_state` and `without`, a
      `deviation` of log Z-hat over runs, a `gap` and its standard `error`.
  """
  random = np.random.default_rng(seed)
  variances, errors = [], {'without': [], 'with_state': []}
  for i in range(num_sequences):
    log_emissions = simulate(random)
    messages = backward(log_emissions)
    filtered, exact = forward(log_emissions)
    mean = (filtered * messages).sum(axis=1, keepdims=True)
    variances.append((filtered * (messages - mean) ** 2).sum(axis=1).mean())
    if i >= num_filtered:
      continue
    for name, factors in (
      ('without', np.zeros_like(messages)),
      ('with_state', messages),
    ):
      errors[name].append(
        [
          run_filter(log_emissions, factors, num_particles, random) - exact
          for _ in range(num_runs)
        ]
      )
  row: dict = {'variance': float(np.mean(variances))}
  for name, values in errors.items():
    values = np.array(values)
    row[name] = {
      'deviation': float(values.std(axis=1, ddof=1).mean()),
      'gap': float(values.mean()),
      'error': float(values.mean(axis=1).std() / np.sqrt(num_filtered)),
    }
  return row


def main(argv):
  """Runs the measurement."""
  reporting.check_arguments(argv)
  row = measure(60, 10, 8, 1_000)
  print(f'variance over the state: {row.pop("variance"):.2f}')
  for name, values in row.items():
    print(
      f'{name}: deviation of log Z-hat {values["deviation"]:.3f}, gap '
      f'{values["gap"]:.3f} +- {values["error"]:.3f}'
    )


if __name__ == '__main__':
  app.run(main)
