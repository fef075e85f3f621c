# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Nested variational inference for TensorFlow Probability."""

from tfp_nvi import bijectors
from tfp_nvi import diagnostics
from tfp_nvi import targets
from tfp_nvi.densities import ExplicitDensities
from tfp_nvi.densities import GeometricPath
from tfp_nvi.networks import StackedPerceptron
from tfp_nvi.objectives import Estimate
from tfp_nvi.objectives import NestedDivergence
from tfp_nvi.objectives import SequenceBound
from tfp_nvi.objectives import Side
from tfp_nvi.objectives import avo
from tfp_nvi.objectives import f_divergence
from tfp_nvi.objectives import forward_kl
from tfp_nvi.objectives import iwae
from tfp_nvi.objectives import reverse_kl
from tfp_nvi.objectives import rws
from tfp_nvi.objectives import svi
from tfp_nvi.objectives import vsmc
from tfp_nvi.sampler import NestedProposal
from tfp_nvi.sampler import NestedSampler
from tfp_nvi.sampler import Trace
from tfp_nvi.training import History
from tfp_nvi.training import fit
from tfp_nvi.transitions import BijectorTransition
from tfp_nvi.transitions import Composition
from tfp_nvi.transitions import GaussianTransitions
from tfp_nvi.transitions import KernelPair
from tfp_nvi.transitions import MCMCTransition
from tfp_nvi.transitions import PlanarTransitions
from tfp_nvi.transitions import Transition
from tfp_nvi.weighting import WeightedParticles
from tfp_nvi.weighting import always
from tfp_nvi.weighting import effective_sample_size
from tfp_nvi.weighting import ess_below
from tfp_nvi.weighting import log_normalizer
from tfp_nvi.weighting import never
from tfp_nvi.weighting import normalize_weights
from tfp_nvi.weighting import rejection_control
from tfp_nvi.weighting import resample
from tfp_nvi.weighting import resample_systematic
from tfp_nvi.weighting import weighted_log_mean_exp
from tfp_nvi.weighting import weighted_mean
