# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the training loop."""

import glob
import os
import signal
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tests.training_stub import Stub
from tfp_nvi import training

tfd = tfp.distributions


def _sampler(dtype=tf.float32, batch_shape=(), scale=1.0):
  path = nvi.GeometricPath(
    tfd.Normal(tf.zeros([], dtype), tf.constant(3.0, dtype)),
    tfd.Normal(tf.constant(2.0, dtype), tf.constant(scale, dtype)),
    num_densities=3,
    learnable=True,
    batch_shape=batch_shape,
  )
  return nvi.NestedSampler(
    path,
    nvi.GaussianTransitions(
      path, hidden_units=[8], batch_shape=batch_shape, seed=1
    ),
  )


def _fit(sampler, num_steps, **kwargs):
  return nvi.fit(
    sampler,
    nvi.reverse_kl(),
    num_particles=20,
    num_steps=num_steps,
    **{'seed': 3, 'progress': False, **kwargs},
  )


@pytest.fixture(scope='module')
def reference():
  """A training run without a stop, and the sampler it left."""
  sampler = _sampler()
  return _fit(sampler, 50, steps_per_call=20), sampler


def test_history_has_a_value_for_each_step_and_batch_member():
  history = _fit(_sampler(batch_shape=[2]), 5, steps_per_call=3)
  assert history.loss.shape == (5, 2)
  assert history.log_normalizer.shape == (5, 2)
  assert history.effective_sample_size.shape == (5, 2)
  assert history.log_incremental_weights.shape == (5, 2, 2)
  assert history.microseconds_per_step > 0.0
  assert history.compile_seconds > 0.0


def test_training_reduces_the_divergence():
  # Between consecutive normal densities with learned kernels the divergence can
  # be brought near zero; the start is far from it.
  history = _fit(
    _sampler(scale=0.5),
    1_000,
    optimizer=tf_keras.optimizers.Adam(1e-2),
  )
  assert np.mean(history.loss[:20]) > 4.0 * np.mean(history.loss[-100:])
  assert np.mean(history.effective_sample_size[-100:]) > 0.8 * 20


def test_log_normalizer_of_normalized_densities_is_near_zero(reference):
  _, sampler = reference
  # 10,000 particles: the standard error is below 0.02 by the effective sample
  # size checked first, so that 0.1 is more than five of them.
  particles = sampler.sample(10_000, seed=5)
  assert particles.effective_sample_size > 2_500.0
  assert abs(particles.log_normalizer) < 0.1


@pytest.mark.parametrize('steps_per_call', [7, 50])
def test_numbers_do_not_depend_on_steps_per_call(reference, steps_per_call):
  history = _fit(_sampler(), 50, steps_per_call=steps_per_call)
  np.testing.assert_allclose(history.loss, reference[0].loss, rtol=1e-5)


def test_resumed_training_gives_the_same_numbers(reference, tmp_path):
  directory = tmp_path / 'checkpoints'
  _fit(_sampler(), 30, steps_per_call=20, checkpoint_dir=directory)
  sampler = _sampler()
  history = _fit(sampler, 50, steps_per_call=20, checkpoint_dir=directory)
  np.testing.assert_array_equal(history.loss, reference[0].loss)
  np.testing.assert_array_equal(
    history.log_incremental_weights, reference[0].log_incremental_weights
  )
  for ours, theirs in zip(
    sampler.trainable_variables,
    reference[1].trainable_variables,
    strict=True,
  ):
    np.testing.assert_array_equal(ours, theirs)
  # Nothing is left to do, and nothing is done.
  again = _fit(_sampler(), 50, checkpoint_dir=directory)
  np.testing.assert_array_equal(again.loss, reference[0].loss)


@pytest.mark.slow
def test_legacy_optimizers_give_the_same_numbers_and_resume(
  reference, tmp_path
):
  def fit(num_steps, directory):
    return _fit(
      _sampler(),
      num_steps,
      steps_per_call=20,
      optimizer=tf_keras.optimizers.legacy.Adam(1e-3),
      checkpoint_dir=str(tmp_path / directory),
    )

  history = fit(50, 'whole')
  # The same formula, in another order of operations.
  np.testing.assert_allclose(history.loss, reference[0].loss, rtol=1e-4)
  fit(30, 'parts')
  resumed = fit(50, 'parts')
  np.testing.assert_array_equal(resumed.loss, history.loss)


def test_checkpoint_of_other_arguments_is_an_error(tmp_path):
  arguments = dict(checkpoint_dir=str(tmp_path), jit_compile=False)
  _fit(_sampler(), 2, **arguments)
  with pytest.raises(ValueError, match='`checkpoint_dir`.*other arguments'):
    _fit(_sampler(), 4, **arguments, seed=4)
  with pytest.raises(ValueError, match='`checkpoint_dir`.*other arguments'):
    _fit(_sampler(batch_shape=[2]), 4, **arguments)


@pytest.mark.slow
def test_checkpoint_of_another_objective_is_an_error(tmp_path):
  directory = str(tmp_path)
  arguments = dict(
    num_particles=4, num_steps=2, seed=1, progress=False, jit_compile=False
  )
  nvi.fit(_sampler(), nvi.reverse_kl(), checkpoint_dir=directory, **arguments)
  for objective in (nvi.forward_kl(), nvi.svi()):
    with pytest.raises(ValueError, match='`checkpoint_dir`.*other arguments'):
      nvi.fit(_sampler(), objective, checkpoint_dir=directory, **arguments)


@pytest.mark.slow
def test_checkpoint_of_another_optimizer_is_an_error(tmp_path):
  directory = str(tmp_path)
  _fit(_sampler(), 2, checkpoint_dir=directory, jit_compile=False)
  for other in (tf_keras.optimizers.SGD, tf_keras.optimizers.legacy.Adam):
    with pytest.raises(ValueError, match='`checkpoint_dir`.*other arguments'):
      _fit(
        _sampler(),
        4,
        checkpoint_dir=directory,
        jit_compile=False,
        optimizer=other(1e-3),
      )


@pytest.mark.parametrize(
  'name, value, error',
  [
    ('sampler', 3, TypeError),
    ('objective', nvi.reverse_kl, TypeError),
    ('objective', 'reverse_kl', TypeError),
    ('optimizer', 'adam', TypeError),
    ('optimizer', tf_keras.optimizers.Adam, TypeError),
    ('callback_fn', 3, TypeError),
    ('variables', tf.Variable(0.0), TypeError),
    ('variables', [1.0], TypeError),
    ('variables', [], ValueError),
    ('variables', [tf.Variable(0.0)], ValueError),
    ('seed', 'one', TypeError),
    ('seed', [1, 2, 3], ValueError),
    ('clip_factor', 0.0, ValueError),
    ('clip_factor', float('nan'), ValueError),
    ('clip_factor', 'a', TypeError),
    ('checkpoint_seconds', 'a', TypeError),
    ('checkpoint_seconds', float('nan'), ValueError),
    ('checkpoint_dir', 3, TypeError),
    ('tensorboard_dir', 3, TypeError),
    ('jit_compile', 'yes', TypeError),
    ('progress', None, TypeError),
    ('strict', 1, TypeError),
  ],
)
def test_bad_arguments_of_fit(name, value, error):
  arguments = dict(
    sampler=_sampler(),
    objective=nvi.reverse_kl(),
    num_particles=4,
    num_steps=2,
    progress=False,
    seed=1,
  )
  with pytest.raises(error, match=rf'`{name}(\[0\])?` (must|are not)'):
    nvi.fit(**{**arguments, name: value})


def test_optimizers_whose_state_comes_late_have_no_checkpoints(tmp_path):
  class Optimizer:
    apply_gradients = tf_keras.optimizers.SGD(0.1).apply_gradients

  optimizer = Optimizer()
  with pytest.raises(ValueError, match='`optimizer` must .* have `build`'):
    nvi.fit(
      _sampler(),
      nvi.reverse_kl(),
      4,
      2,
      optimizer=optimizer,
      seed=1,
      checkpoint_dir=str(tmp_path),
    )


def test_checkpoint_folder_that_cannot_be_written_is_an_error(tmp_path):
  path = tmp_path / 'file'
  path.write_text('')
  with pytest.raises(ValueError, match='`checkpoint_dir` must be a folder'):
    _fit(_sampler(), 2, checkpoint_dir=str(path))


def test_checkpoints_need_a_seed(tmp_path):
  with pytest.raises(ValueError, match='`seed` must be given'):
    _fit(_sampler(), 2, checkpoint_dir=str(tmp_path), seed=None)


def test_compiled_and_uncompiled_training_agree():
  compiled, uncompiled = (
    _fit(_sampler(tf.float64), 6, jit_compile=jit_compile)
    for jit_compile in (True, False)
  )
  np.testing.assert_allclose(compiled.loss, uncompiled.loss, rtol=1e-8)


def test_batch_members_are_trained_apart():
  # Restarts have their own weights and particles; that of the first one must be
  # the same whatever the second one has for a target.
  def fit_with(second):
    path = nvi.GeometricPath(
      tfd.Normal(0.0, 3.0),
      tfd.Normal(tf.constant([2.0, second]), 1.0),
      num_densities=2,
    )
    sampler = nvi.NestedSampler(
      path, nvi.GaussianTransitions(path, [8], batch_shape=[2], seed=1)
    )
    return _fit(sampler, 20).loss

  near, far = fit_with(1.0), fit_with(-4.0)
  np.testing.assert_allclose(near[:, 0], far[:, 0], rtol=1e-4, atol=1e-5)
  assert np.abs(near[:, 1] - far[:, 1]).max() > 0.1


def test_variables_of_plain_callables_are_trained():
  shift = tf.Variable(0.0)
  densities = nvi.ExplicitDensities(
    [tfd.Normal(0.0, 1.0), tfd.Normal(1.0, 1.0)]
  )
  transition = nvi.KernelPair(
    lambda y: tfd.Normal(y + shift, 0.1), lambda z: tfd.Normal(z - shift, 0.1)
  )
  _fit(
    nvi.NestedSampler(densities, transition),
    1_500,
    optimizer=tf_keras.optimizers.Adam(1e-2),
  )
  # Exact for a shift of one: the densities and kernels then map on each other.
  assert abs(float(shift) - 1.0) < 0.1


def test_nothing_to_train_is_an_error():
  densities = nvi.ExplicitDensities(
    [tfd.Normal(0.0, 1.0), tfd.Normal(1.0, 1.0)]
  )
  transition = nvi.KernelPair(
    lambda y: tfd.Normal(y, 1.0), lambda z: tfd.Normal(z, 1.0)
  )
  with pytest.raises(ValueError, match='nothing to train'):
    _fit(nvi.NestedSampler(densities, transition), 1)


def test_nan_stops_training_and_names_step_and_level():
  calls = tf.Variable(0.0)

  def target(x):
    # A number when it is checked, and NaN once the variable has moved far.
    return -0.5 * (x - calls) ** 2 + 0.0 * tf.math.log(0.05 - calls)

  path = nvi.GeometricPath(tfd.Normal(0.0, 1.0), target, num_densities=3)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, [4], seed=1))

  class Moves(tf_keras.optimizers.SGD):
    def apply_gradients(self, grads_and_vars, **kwargs):
      calls.assign_add(0.01)
      return super().apply_gradients(grads_and_vars, **kwargs)

  # The sixth evaluation is of log(0.05 - 0.05) or less: -inf times zero.
  with pytest.raises(FloatingPointError, match=r'NaN at step [56], level [12]'):
    _fit(sampler, 60, optimizer=Moves(0.0), steps_per_call=20)


@pytest.mark.parametrize(
  'name', ['num_particles', 'num_steps', 'steps_per_call']
)
@pytest.mark.parametrize('value', [0, -1, 1.5, True])
def test_counts_must_be_positive(name, value):
  arguments = {'num_particles': 2, 'num_steps': 2, 'steps_per_call': 2}
  with pytest.raises(
    (TypeError, ValueError), match=f'`{name}` must be (a )?positive'
  ):
    nvi.fit(_sampler(), nvi.reverse_kl(), **{**arguments, name: value})


def test_callback_sees_every_step_once():
  seen = []
  history = _fit(
    _sampler(),
    5,
    steps_per_call=2,
    callback_fn=lambda step, values: seen.append((step, values['loss'])),
  )
  assert [step for step, _ in seen] == [2, 4, 5]
  np.testing.assert_array_equal(
    np.concatenate([loss for _, loss in seen]), history.loss
  )


def test_callback_that_returns_true_ends_training(tmp_path):
  def fit(num_steps, **kwargs):
    stub = Stub()
    history = stub.fit(
      num_steps,
      steps_per_call=2,
      optimizer=tf_keras.optimizers.Adam(0.1),
      **kwargs,
    )
    return history, stub.x.numpy()

  history, x = fit(
    10, callback_fn=lambda step, values: step == 4, checkpoint_dir=tmp_path
  )
  assert len(history.loss) == 4
  assert fit(4)[1] == x
  # It is saved, and goes on from there.
  history, x = fit(10, checkpoint_dir=tmp_path)
  expected, y = fit(10)
  np.testing.assert_array_equal(history.loss, expected.loss)
  assert x == y


@pytest.fixture
def interrupts():
  """Interrupts that Python handles, also where tests run in the background."""
  previous = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, previous)


def _interrupt(step, values):
  del values
  if step == 4:
    signal.raise_signal(signal.SIGINT)


def test_interrupt_ends_a_program_with_history_and_checkpoint(
  tmp_path, interrupts
):
  stub = Stub()
  with pytest.raises(
    training.TrainingInterrupted, match='after 4 steps'
  ) as caught:
    stub.fit(
      10, steps_per_call=2, callback_fn=_interrupt, checkpoint_dir=tmp_path
    )
  assert isinstance(caught.value, KeyboardInterrupt)
  assert len(caught.value.history.loss) == 4
  assert training.Checkpoints(tmp_path, {}).steps == [0, 4]
  # The handler of signals is the one there was.
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupt_in_a_notebook_returns_the_history(monkeypatch, interrupts):
  monkeypatch.setattr(sys, 'ps1', 'In : ', raising=False)
  with pytest.warns(UserWarning, match='interrupted after 4 steps'):
    history = Stub().fit(10, steps_per_call=2, callback_fn=_interrupt)
  assert len(history.loss) == 4


def test_interrupt_of_a_callback_is_one_of_training(tmp_path):
  def interrupt(step, values):
    raise KeyboardInterrupt

  with pytest.raises(training.TrainingInterrupted) as caught:
    Stub().fit(10, steps_per_call=3, callback_fn=interrupt)
  assert len(caught.value.history.loss) == 3


def test_second_interrupt_is_immediate(interrupts):
  def interrupt(step, values):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    pytest.fail('Not interrupted.')

  with pytest.raises(KeyboardInterrupt):
    Stub().fit(10, callback_fn=interrupt)
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_optimizer_of_other_variables_is_an_error():
  optimizer = tf_keras.optimizers.Adam(0.1)
  Stub().fit(2, optimizer=optimizer)
  with pytest.raises(ValueError, match='`optimizer` must .* not trained'):
    Stub().fit(2, optimizer=optimizer)


def test_tensorboard_summaries_are_written(tmp_path):
  _fit(_sampler(), 4, steps_per_call=2, tensorboard_dir=tmp_path)
  [path] = glob.glob(os.path.join(tmp_path, '*tfevents*'))
  tags, steps = set(), set()
  for event in tf.compat.v1.train.summary_iterator(path):
    for value in event.summary.value:
      tags.add(value.tag)
      steps.add(event.step)
  assert tags == {
    '_hparams_/session_start_info',
    'loss',
    'log_normalizer',
    'effective_sample_size',
    'is_skipped',
    'level_effective_sample_sizes/1',
    'level_effective_sample_sizes/2',
    'log_incremental_weights/1',
    'log_incremental_weights/2',
    'num_nan',
  }
  assert steps == {0, 2, 4}


def test_tensorboard_reads_settings_and_levels(tmp_path):
  """Against TensorBoard's own reader of events."""
  reader = pytest.importorskip(
    'tensorboard.backend.event_processing.event_accumulator'
  )
  plugin_data = pytest.importorskip(
    'tensorboard.plugins.hparams.plugin_data_pb2'
  )
  history = _fit(
    _sampler(),
    4,
    steps_per_call=2,
    tensorboard_dir=tmp_path,
    optimizer=tf_keras.optimizers.Adam(0.125),
  )
  events = reader.EventAccumulator(str(tmp_path))
  events.Reload()
  sizes = [
    tf.make_ndarray(x.tensor_proto)
    for x in events.Tensors('level_effective_sample_sizes/2')
  ]
  np.testing.assert_allclose(
    sizes,
    history.level_effective_sample_sizes[:, 1].reshape([2, 2]).mean(axis=1),
    rtol=1e-6,
  )
  found = plugin_data.HParamsPluginData.FromString(
    events.SummaryMetadata('_hparams_/session_start_info').plugin_data.content
  ).session_start_info.hparams
  assert found['optimizer/learning_rate'].number_value == 0.125
  assert found['num_steps'].number_value == 4
  assert 'KL' in found['objective'].string_value.upper()


@pytest.mark.parametrize(
  'objective',
  [
    nvi.svi(),
    nvi.iwae(),
    nvi.rws(),
    nvi.avo(),
    # The other side of it is not stable from the start.
    nvi.forward_kl(sides=nvi.Side.FORWARD),
  ],
  ids=['svi', 'iwae', 'rws', 'avo', 'forward_kl'],
)
def test_every_objective_trains(objective):
  history = nvi.fit(
    _sampler(scale=0.5),
    objective,
    num_particles=20,
    num_steps=800,
    optimizer=tf_keras.optimizers.Adam(1e-2),
    seed=1,
    progress=False,
  )
  first, last = np.split(history.effective_sample_size, [400])
  # Four standard errors of the difference, which training alone explains.
  error = np.sqrt((np.var(first) + np.var(last)) / 400)
  assert np.mean(last) - np.mean(first) > 4.0 * error


def _amortized():
  """A sampler for any location, of batches of three, with one variable."""
  offset = tf.Variable(0.0)

  def make_sampler(element):
    loc = element['loc']
    path = nvi.GeometricPath(
      tfd.Normal(tf.zeros([3]), 3.0), tfd.Normal(loc, 1.0), num_densities=2
    )
    return nvi.NestedSampler(
      path,
      nvi.KernelPair(
        lambda y: tfd.Normal(loc + offset + tf.zeros_like(y), 1.0),
        lambda z: tfd.Normal(tf.zeros_like(z), 3.0),
      ),
    )

  return make_sampler, offset


def _locations(size=12):
  values = np.linspace(-4.0, 4.0, size, dtype=np.float32)
  dataset = tf.data.Dataset.from_tensor_slices({'loc': values})
  dataset = dataset.shuffle(size, seed=1)
  return dataset.batch(3, drop_remainder=True)


def test_each_step_takes_an_element_of_the_data():
  # With reverse kernel and initial density alike, the incremental weight is
  # Normal(z; loc, 1) / Normal(z; loc + offset, 1): its divergence from one is
  # offset^2 / 2 for every location, if kernel and target have the same one.
  make_sampler, offset = _amortized()
  offset.assign(1.0)
  history = _fit(
    make_sampler,
    300,
    data=_locations(),
    steps_per_call=20,
    optimizer=tf_keras.optimizers.Adam(0.05),
  )
  assert history.loss.shape == (300, 3)
  assert np.mean(history.loss[0]) > 0.1
  assert abs(float(offset)) < 0.05
  np.testing.assert_allclose(history.loss[-20:], 0.0, atol=5e-3)


def test_elements_are_those_of_the_data_in_turn():
  seen = []
  offset = tf.Variable(0.0)

  class LossIsTheElement(nvi.Objective):
    description = 'mean of the element'

    def __call__(self, sampler, num_particles, seed):
      del num_particles, seed
      estimate = nvi.Estimate(
        loss=sampler,
        log_normalizer=sampler,
        effective_sample_size=sampler,
        log_incremental_weights=sampler[tf.newaxis],
        level_effective_sample_sizes=sampler[tf.newaxis],
        num_nan=tf.zeros([], tf.int32),
      )
      return estimate, [(tf.reduce_sum(sampler), offset)]

  data = tf.data.Dataset.from_tensor_slices(np.arange(10, dtype=np.float32))
  history = nvi.fit(
    lambda x: x,
    LossIsTheElement(),
    data=data.batch(3, drop_remainder=True),
    num_particles=1,
    num_steps=5,
    steps_per_call=2,
    progress=False,
    callback_fn=lambda step, values: seen.append(step),
  )
  expected = np.arange(9.0).reshape([3, 3])
  np.testing.assert_array_equal(history.loss, expected[[0, 1, 2, 0, 1]])
  assert seen == [2, 4, 5]


def test_resumed_training_takes_the_data_that_is_left(tmp_path):
  def fit(num_steps, **kwargs):
    make_sampler, _ = _amortized()
    return _fit(
      make_sampler, num_steps, data=_locations(), steps_per_call=4, **kwargs
    ).loss

  expected = fit(15)
  fit(6, checkpoint_dir=str(tmp_path))
  np.testing.assert_array_equal(fit(15, checkpoint_dir=str(tmp_path)), expected)


def test_bad_data():
  make_sampler, _ = _amortized()
  with pytest.raises(TypeError, match='`data` must be a tf.data.Dataset'):
    _fit(make_sampler, 2, data=[1.0, 2.0])
  with pytest.raises(TypeError, match='`sampler` must be a callable'):
    _fit(_sampler(), 2, data=_locations())
  with pytest.raises(ValueError, match='`data`.*shapes are known'):
    _fit(make_sampler, 2, data=_locations().unbatch().batch(3))
  for empty in (
    _locations().take(0),
    _locations().filter(lambda x: False),
  ):
    with pytest.raises(ValueError, match='`data` must have elements'):
      _fit(make_sampler, 2, data=empty, jit_compile=False)
