# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Nested variational inference for TensorFlow Probability."""

# Must be the first import: in the package's own programs it imports TensorFlow
# without its log lines.
from tfp_nvi.internal import notices as _notices  # noqa: F401  # isort: skip

from tfp_nvi import bijectors, diagnostics, targets
from tfp_nvi.chains import (
  Chain,
  Level,
)
from tfp_nvi.densities import (
  Densities,
  ExplicitDensities,
  GeometricPath,
)
from tfp_nvi.flows import (
  planar_flow_density,
)
from tfp_nvi.implicit import (
  ImplicitLevel,
  RatioWeightedParticles,
)
from tfp_nvi.internal.perceptron import (
  StackedPerceptron,
)
from tfp_nvi.interoperability import (
  SamplerDistribution,
  SamplerKernel,
  start_chains,
)
from tfp_nvi.layers import (
  GaussianLayer,
)
from tfp_nvi.likelihood import (
  LogLikelihood,
  log_likelihood,
)
from tfp_nvi.loading import (
  SavedSampler,
  load,
)
from tfp_nvi.objectives import (
  Estimate,
  NestedDivergence,
  Objective,
  SequenceBound,
  Side,
  avo,
  f_divergence,
  forward_kl,
  iwae,
  reverse_kl,
  rws,
  svi,
  variational_divergence,
  vsmc,
)
from tfp_nvi.posterior import (
  Posterior,
  fit_posterior,
)
from tfp_nvi.proposals import (
  NestedProposal,
  Proposal,
)
from tfp_nvi.resampling import (
  always,
  ess_below,
  never,
  resample,
  resample_systematic,
)
from tfp_nvi.runs import (
  Trace,
)
from tfp_nvi.sampler import (
  NestedSampler,
)
from tfp_nvi.saving import (
  save,
)
from tfp_nvi.state_space import (
  ConditionalFilter,
  FeatureHeuristic,
  FilterHistory,
  GaussianHeuristic,
  GaussianProposalNetwork,
  GlobalProposalNetwork,
  Heuristic,
  HiddenMarkovHeuristic,
  IndependentHeuristic,
  OnlineFilter,
  OnlineState,
  ParticleMetropolis,
  RecurrentHeuristic,
  SequentialPosterior,
  SmoothedDraws,
  StateSpaceModel,
  StateSpacePosterior,
  StateSpaceSampler,
  StateSpaceState,
  fit_state_space,
  joint_distribution_model,
  linear_gaussian_model,
  smc_squared,
  smooth,
  structural_time_series_model,
)
from tfp_nvi.training import (
  CollapseWarning,
  History,
  MissingMassWarning,
  MultiOptimizer,
  TrainingError,
  TrainingInterrupted,
  fit,
)
from tfp_nvi.transitions import (
  BijectorTransition,
  BlockTransition,
  Composition,
  DeterministicTransition,
  GaussianTransitions,
  KernelPair,
  LangevinTransitions,
  MCMCTransition,
  Move,
  PlanarTransitions,
  Transition,
)
from tfp_nvi.version import __version__
from tfp_nvi.weighting import (
  WeightedParticles,
  effective_sample_size,
  log_normalizer,
  normalize_weights,
  rejection_control,
  weighted_log_mean_exp,
  weighted_mean,
  weighted_quantiles,
)

__all__ = [
  '__version__',
  'BijectorTransition',
  'BlockTransition',
  'Chain',
  'CollapseWarning',
  'Composition',
  'ConditionalFilter',
  'Densities',
  'DeterministicTransition',
  'Estimate',
  'ExplicitDensities',
  'FeatureHeuristic',
  'FilterHistory',
  'GaussianHeuristic',
  'GaussianLayer',
  'GaussianProposalNetwork',
  'GaussianTransitions',
  'GeometricPath',
  'GlobalProposalNetwork',
  'Heuristic',
  'HiddenMarkovHeuristic',
  'History',
  'ImplicitLevel',
  'IndependentHeuristic',
  'KernelPair',
  'LangevinTransitions',
  'Level',
  'LogLikelihood',
  'MCMCTransition',
  'MissingMassWarning',
  'Move',
  'MultiOptimizer',
  'NestedDivergence',
  'NestedProposal',
  'NestedSampler',
  'Objective',
  'OnlineFilter',
  'OnlineState',
  'ParticleMetropolis',
  'PlanarTransitions',
  'Posterior',
  'Proposal',
  'RatioWeightedParticles',
  'RecurrentHeuristic',
  'SamplerDistribution',
  'SamplerKernel',
  'SavedSampler',
  'SequenceBound',
  'SequentialPosterior',
  'Side',
  'SmoothedDraws',
  'StackedPerceptron',
  'StateSpaceModel',
  'StateSpacePosterior',
  'StateSpaceSampler',
  'StateSpaceState',
  'Trace',
  'TrainingError',
  'TrainingInterrupted',
  'Transition',
  'WeightedParticles',
  'always',
  'avo',
  'bijectors',
  'diagnostics',
  'effective_sample_size',
  'ess_below',
  'f_divergence',
  'fit',
  'fit_posterior',
  'fit_state_space',
  'forward_kl',
  'iwae',
  'joint_distribution_model',
  'linear_gaussian_model',
  'load',
  'log_likelihood',
  'log_normalizer',
  'never',
  'normalize_weights',
  'planar_flow_density',
  'rejection_control',
  'resample',
  'resample_systematic',
  'reverse_kl',
  'rws',
  'smc_squared',
  'smooth',
  'structural_time_series_model',
  'save',
  'start_chains',
  'svi',
  'targets',
  'variational_divergence',
  'vsmc',
  'weighted_log_mean_exp',
  'weighted_mean',
  'weighted_quantiles',
]
