# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Deep latent Gaussian models of binary images.

One to three layers of Gaussian latents with a recognition model that runs the
other way [1], learned by several objectives with the same networks.

```shell
python -m tfp_nvi.experiments.deep_gaussian --output_dir=results/deep_gaussian
python -m tfp_nvi.experiments.deep_gaussian --dataset=mnist --data_dir=DIR \
  --objective=reverse_kl --num_layers=2 --output_dir=results/deep_mnist
```

Objectives are

```none
svi         the evidence lower bound of the whole model
iwae        the importance-weighted bound, with several particles
rws         reweighted wake-sleep, with as many
reverse_kl  nested reverse KL divergences, one for each layer, between learned
            intermediate densities [2]
forward_kl  the same where recognition has forward KL divergences, from draws of
            the model
```

Pixels are binarized anew whenever an image is used in training, with the
intensity as the probability of a one; the test set is binarized once, by a
fixed seed.

The output folder holds

```none
metrics.json         a row for each objective and number of layers
log_likelihood.png   log likelihoods and evidence lower bounds
reconstructions.png  test images and their reconstructions
samples.png          images drawn from the models
traversals.png       images along latents of the last layer, a row each
missing.png          test images whose lower half is filled in
cells/*.npz          the data of the pictures
checkpoints/         from which the same command continues
```

Fields of a row, in nats per test image: `test_log_likelihood`, estimated by a
long sampler from the recognition model to the posterior, and the standard error
of that estimate for these images, `test_log_likelihood_error`; `elbo`;
`importance_weighted_bound` of many draws for some of the images, and
`gain_over_importance_sampling`, the mean by which the long sampler is above it
for the same images. `seconds` are those of training.

#### References

[1]: D. J. Rezende, S. Mohamed, D. Wierstra. Stochastic backpropagation and
     approximate inference in deep generative models. ICML, 2014.
     https://arxiv.org/abs/1401.4082
[2]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested variational
     inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
"""

from tfp_nvi.experiments.common import Results
from tfp_nvi.experiments.deep_gaussian.experiment import (
  ERRORS,
  OBJECTIVES,
  Settings,
  run,
)
from tfp_nvi.experiments.deep_gaussian.model import DeepGaussian

__all__ = [
  'ERRORS',
  'OBJECTIVES',
  'DeepGaussian',
  'Results',
  'Settings',
  'run',
]
