# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of checkpoints: what a folder survives, and what it refuses."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tests.training_stub import Stub
from tfp_nvi import training

tfd = tfp.distributions

ROOT = pathlib.Path(__file__).parents[1]


def _files(folder):
  return sorted(path.name for path in folder.iterdir())


def _save_two(folder):
  """A folder with checkpoints of steps 10 and 20, and the variables."""
  variables = [tf.Variable([1.0, 2.0]), tf.Variable(3, dtype=tf.int64)]
  checkpoints = training.Checkpoints(folder, {'a': 1})
  for step in (10, 20):
    variables[1].assign(step)
    checkpoints.save(step, variables, {'loss': np.arange(float(step))})
  return variables


def _restore(folder, variables=None, settings=None):
  """The checkpoint of a folder, into variables that had other values."""
  if variables is None:
    variables = [tf.Variable([0.0, 0.0]), tf.Variable(0, dtype=tf.int64)]
  checkpoints = training.Checkpoints(folder, settings or {'a': 1})
  restored = checkpoints.restore(variables)
  if restored is not None:
    step, arrays = restored
    np.testing.assert_array_equal(variables[0], [1.0, 2.0])
    assert variables[1] == step
    np.testing.assert_array_equal(arrays['loss'], np.arange(float(step)))
    return step
  return None


def test_restores_variables_and_arrays(tmp_path):
  _save_two(tmp_path)
  assert _restore(tmp_path) == 20
  assert _restore(str(tmp_path)) == 20
  assert _restore(tmp_path / 'new') is None


def test_dtypes_that_numpy_does_not_know_are_kept(tmp_path):
  for dtype in (tf.bfloat16, tf.float16, tf.bool, tf.float64):
    folder = tmp_path / dtype.name
    variable = tf.Variable(tf.cast([0.0, 1.0], dtype))
    training.Checkpoints(folder, {}).save(1, [variable])
    variable.assign(tf.cast([0.0, 0.0], dtype))
    training.Checkpoints(folder, {}).restore([variable])
    np.testing.assert_array_equal(tf.cast(variable, tf.float64), [0.0, 1.0])


def test_keeps_the_latest(tmp_path):
  checkpoints = training.Checkpoints(tmp_path, {}, max_to_keep=3)
  for step in (0, 9, 10, 100, 200):
    checkpoints.save(step, [])
  assert checkpoints.steps == [10, 100, 200]
  # Training that goes on from before a damaged file leaves it behind.
  checkpoints.save(150, [])
  assert checkpoints.steps == [10, 100, 150]


def test_litter_of_killed_writes_is_removed(tmp_path):
  _save_two(tmp_path)
  (tmp_path / 'checkpoint-30.npz.part').write_bytes(b'half')
  (tmp_path / 'notes.txt').write_text('mine')
  assert _restore(tmp_path) == 20
  assert _files(tmp_path) == [
    'checkpoint-10.npz',
    'checkpoint-20.npz',
    'notes.txt',
  ]


def _damages(path):
  """What may happen to a file: 30 cases."""
  content = path.read_bytes()
  random = np.random.default_rng(1)
  yield b''
  yield b'garbage'
  yield random.bytes(len(content))
  for size in random.integers(1, len(content), 9):
    yield content[:size]
  for i in random.integers(0, len(content), 18):
    damaged = bytearray(content)
    damaged[i] ^= 0xFF
    yield bytes(damaged)


def test_damaged_file_gives_way_to_the_one_before(tmp_path):
  _save_two(tmp_path)
  latest = tmp_path / 'checkpoint-20.npz'
  content = latest.read_bytes()
  num_damaged = 0
  for damaged in _damages(latest):
    latest.write_bytes(damaged)
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter('always')
      # Some bytes of an archive mean nothing; then all values are as before.
      step = _restore(tmp_path)
    assert (step == 10) == bool(caught)
    if caught:
      assert '`checkpoint_dir`' in str(caught[0].message)
      num_damaged += 1
    latest.write_bytes(content)
  assert num_damaged >= 20


def test_deleted_file_gives_way_to_the_one_before(tmp_path):
  _save_two(tmp_path)
  (tmp_path / 'checkpoint-20.npz').unlink()
  assert _restore(tmp_path) == 10


def test_nothing_but_damaged_files_is_an_error(tmp_path):
  _save_two(tmp_path)
  for path in tmp_path.iterdir():
    path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match='`checkpoint_dir`.*Remove the folder'):
    _restore(tmp_path)


def test_file_of_another_step_is_damaged(tmp_path):
  _save_two(tmp_path)
  os.replace(tmp_path / 'checkpoint-10.npz', tmp_path / 'checkpoint-30.npz')
  with pytest.warns(UserWarning, match='it is of step 10'):
    assert _restore(tmp_path) == 20


def test_other_settings_or_variables_are_an_error(tmp_path):
  _save_two(tmp_path)
  with pytest.raises(ValueError, match='other arguments: a 1, now 2'):
    _restore(tmp_path, settings={'a': 2})
  variables = [tf.Variable([0.0, 5.0]), tf.Variable(0, dtype=tf.int64)]
  for others in (
    variables[:1],
    [*variables, tf.Variable(0.0)],
    [variables[0], tf.Variable([0], dtype=tf.int64)],
    [variables[0], tf.Variable(0, dtype=tf.int32)],
  ):
    with pytest.raises(ValueError, match='`checkpoint_dir`.*other arguments'):
      _restore(tmp_path, others)
  # None of them was assigned.
  np.testing.assert_array_equal(variables[0], [0.0, 5.0])


def test_write_that_fails_leaves_what_there_was(tmp_path, monkeypatch):
  variables = _save_two(tmp_path)

  def fail(file, **arrays):
    file.write(b'half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(np, 'savez', fail)
  with pytest.raises(OSError, match='No space'):
    training.Checkpoints(tmp_path, {'a': 1}).save(30, variables)
  assert _files(tmp_path) == ['checkpoint-10.npz', 'checkpoint-20.npz']


# Training that resumes.


def _fit(stub, num_steps, folder, **kwargs):
  return stub.fit(
    num_steps,
    checkpoint_dir=folder,
    **{'optimizer': tf_keras.optimizers.Adam(0.1), **kwargs},
  )


def test_skipped_step_at_the_end_of_a_call_is_not_saved(tmp_path):
  class Stuck(Stub):
    """NaN gradients once `x` is below 3.65, after four steps."""

    def __init__(self):
      super().__init__(lambda step, x: tf.where(x < 3.65, np.nan, x))

  stub = Stuck()
  history = _fit(stub, 5, tmp_path)
  assert history.is_skipped.tolist() == [False] * 4 + [True]
  again = Stuck()
  _fit(again, 5, tmp_path)
  assert np.isfinite(again.x.numpy())
  assert again.x.numpy() == stub.x.numpy()


def test_resumed_training_has_the_same_clipping(tmp_path):
  def gradient_fn(step, x):
    # Once larger than before: below 3.5, reached in the second half.
    return tf.where(x < 3.5, 1e4, 1.0)

  whole, parts = Stub(gradient_fn), Stub(gradient_fn)
  optimizer = tf_keras.optimizers.SGD
  whole.fit(10, optimizer=optimizer(0.1))
  _fit(parts, 5, tmp_path, optimizer=optimizer(0.1))
  parts = Stub(gradient_fn)
  _fit(parts, 10, tmp_path, optimizer=optimizer(0.1))
  assert parts.x.numpy() == whole.x.numpy()


def test_fewer_steps_than_there_are_is_an_error(tmp_path):
  _fit(Stub(), 21, tmp_path)
  stub = Stub()
  with pytest.raises(ValueError, match='`num_steps` must be 21 at least'):
    _fit(stub, 14, tmp_path)
  assert stub.x.numpy() == 4.0


@pytest.mark.parametrize(
  'kwargs, name',
  [
    ({'optimizer': tf_keras.optimizers.Adam(0.2)}, 'learning_rate'),
    (
      {
        'optimizer': tf_keras.optimizers.Adam(
          tf_keras.optimizers.schedules.CosineDecay(0.1, 10)
        )
      },
      'learning_rate',
    ),
    ({'optimizer': tf_keras.optimizers.Adam(0.1, beta_1=0.5)}, 'beta_1'),
    ({'num_particles': 99}, 'num_particles'),
    ({'seed': 2}, 'seed'),
    ({'clip_factor': None}, 'clip_factor'),
  ],
)
def test_training_with_other_arguments_is_not_resumed(tmp_path, kwargs, name):
  _fit(Stub(), 5, tmp_path)
  with pytest.raises(ValueError, match=f'`checkpoint_dir`.*{name}'):
    _fit(Stub(), 10, tmp_path, **kwargs)


def test_training_of_another_target_is_not_resumed(tmp_path):
  _fit(Stub(), 5, tmp_path)
  other = Stub(loss=lambda step, x: 0.6 * x**2)
  with pytest.raises(ValueError, match='`checkpoint_dir`.*loss of the next'):
    _fit(other, 10, tmp_path)
  # Variables are not those of other training.
  assert other.x.numpy() == 4.0


def test_trained_variables_are_no_obstacle_to_resuming(tmp_path):
  stub = Stub()
  _fit(stub, 5, tmp_path)
  history = _fit(stub, 10, tmp_path)
  whole = Stub()
  expected = whole.fit(10, optimizer=tf_keras.optimizers.Adam(0.1))
  np.testing.assert_array_equal(history.loss, expected.loss)
  assert stub.x.numpy() == whole.x.numpy()


def test_training_with_another_policy_is_not_resumed(tmp_path):
  def fit(policy):
    path = nvi.GeometricPath(tfd.Normal(0.0, 1.0), tfd.Normal(1.0, 1.0), 2)
    sampler = nvi.NestedSampler(
      path,
      nvi.GaussianTransitions(path, hidden_units=[4], seed=1),
      resample_criterion_fn=policy,
    )
    Stub().fit(2, sampler, checkpoint_dir=tmp_path)

  fit(nvi.ess_below(0.5))
  fit(nvi.ess_below(0.5))
  for policy in (nvi.ess_below(0.6), nvi.never):
    with pytest.raises(ValueError, match='`checkpoint_dir`.*sampler'):
      fit(policy)


def test_full_disk_is_found_before_training(tmp_path, monkeypatch):
  def fail(file, **arrays):
    raise OSError(28, 'No space left on device')

  stub = Stub()
  monkeypatch.setattr(np, 'savez', fail)
  with pytest.raises(ValueError, match='`checkpoint_dir` .*No space'):
    _fit(stub, 5, tmp_path)
  assert stub.x.numpy() == 4.0


def test_disk_that_becomes_full_does_not_end_training(tmp_path, monkeypatch):
  save = np.savez

  def fail(file, **arrays):
    if len(arrays['array/loss']) == 20:
      raise OSError(28, 'No space left on device')
    save(file, **arrays)

  monkeypatch.setattr(np, 'savez', fail)
  with pytest.warns(UserWarning, match='step 10, and now it is 20') as caught:
    history = _fit(Stub(), 30, tmp_path, checkpoint_seconds=0.0)
  assert caught[0].filename == Stub.fit.__code__.co_filename
  assert len(history.loss) == 30
  assert training.Checkpoints(tmp_path, {}).steps == [10, 30]


def test_killed_training_resumes_to_the_same_numbers(tmp_path):
  # A process that saves after every call is killed at three moments, chosen at
  # random; what it leaves must be whole each time.
  program = textwrap.dedent(
    """
    import sys
    import numpy as np
    import tensorflow as tf
    import tf_keras
    from tests.training_stub import Stub

    stub = Stub()
    num_steps = int(sys.argv[2])
    history = stub.fit(
      num_steps,
      steps_per_call=1,
      optimizer=tf_keras.optimizers.Adam(0.01),
      checkpoint_dir=sys.argv[1],
      checkpoint_seconds=0.0,
      callback_fn=lambda step, values: print(step, flush=True),
    )
    """
  )
  random = np.random.default_rng(3)
  num_steps = 0
  for _ in range(2):
    with subprocess.Popen(
      [sys.executable, '-c', program, str(tmp_path), '100000'],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    ) as process:
      for _ in range(random.integers(5, 30)):
        line = process.stdout.readline()
      # Between two lines the process is mostly writing.
      process.send_signal(signal.SIGKILL)
    # It went on from where it was, and took at least the steps it told of.
    assert int(line) > num_steps
    num_steps = training.Checkpoints(tmp_path, {}).steps[-1]
    assert num_steps >= int(line) - 1
  stub, whole = Stub(), Stub()
  arguments = dict(steps_per_call=1)
  history = _fit(
    stub,
    num_steps + 3,
    tmp_path,
    optimizer=tf_keras.optimizers.Adam(0.01),
    **arguments,
  )
  expected = whole.fit(
    num_steps + 3, optimizer=tf_keras.optimizers.Adam(0.01), **arguments
  )
  np.testing.assert_array_equal(history.loss, expected.loss)
  assert stub.x.numpy() == whole.x.numpy()
