# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""A deep generative mixture of images, and the proportions of mini-batches.

Learns a mixture of images and amortized inference for it [1], down to the class
proportions of a mini-batch, by nested objectives and, for comparison, by
reweighted wake-sleep with the same networks. Both start from random networks.
In the second half of the nested training, proportions that are inferred from
the whole mini-batch inform the cluster of each image.

```shell
python -m tfp_nvi.experiments.image_mixture --output_dir=results/digits
python -m tfp_nvi.experiments.image_mixture --dataset=mnist --data_dir=DIR \
  --objective=nvi,rws --output_dir=results/mnist
```

Mini-batches have class proportions lambda* that come from a Dirichlet
distribution. Labels serve to put together such mini-batches, which are
distributed as in the model. Labels are not passed on, but training makes use of
which images share a mini-batch. (`--noproportions_in_training` makes
mini-batches of images at random instead, without any labels.) After training,
labels serve once more, to match clusters to classes.

The output folder holds

```none
metrics.json        a row for each data set, objective and seed
saved_models/       trained models, to be used without this library
batches-*.png       a test mini-batch, one generated from the inferred
                    proportions, and the proportions, by objective
reconstructions-*.png  test images and their reconstructions
clusters-*.png      samples of each cluster
cells/*.npz         the data of the pictures
```

Fields of a row: `total_variation` between E[lambda] and lambda*, mean over 100
test mini-batches; `total_variation_of_one_pass`, from one pass, in which images
do not inform each other about the proportions; `accuracy` and
`normalized_mutual_information` of the most probable cluster of each test image;
importance-weighted `bound` per image, from 100 draws of z; `seconds` of
training. One matching of clusters to classes, the best one for the test set,
serves for all. `--eval_only` evaluates the latest checkpoint again.

A saved model, which `tf.saved_model.load` loads, has a method `infer`: from
images of shape `[N, height, width]`, with intensities from 0 to 1, to a dict
with the fields of `deep_mixture.Posterior`. Its draws have a fixed seed: the
same images give the same posterior.

#### References

[1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested variational
     inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
"""

from tfp_nvi.experiments.common import Results
from tfp_nvi.experiments.image_mixture.batches import mini_batches
from tfp_nvi.experiments.image_mixture.experiment import (
  ERRORS,
  OBJECTIVES,
  Settings,
  run,
)

__all__ = [
  'ERRORS',
  'OBJECTIVES',
  'Results',
  'Settings',
  'mini_batches',
  'run',
]
