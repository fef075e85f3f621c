"""Temporary."""

import tensorflow as tf

from tfp_nvi.weighting import *


def check_resample_fn(fn):
  pass


def own_places(shape):
  return tf.broadcast_to(
    tf.reshape(tf.range(shape[0]), [-1] + [1] * (len(shape) - 1)), shape
  )
