"""How learning rates follow the size of a run along an axis (`--lr_rule`). Called by `points.py`."""

from dlrm_jax.config import RunConfig
from sweeps.axes import with_part

RULES = ("constant", "transfer")
# A learning rate follows the batch size to this power, by optimiser.
BATCH_POWER = {"sgd": 1.0, "adagrad": 1 / 3, "rowwise_adagrad": 1 / 3, "adam": 0.5}


def transferred(base: RunConfig, config: RunConfig) -> RunConfig:
  """Returns `config` with each learning rate of `base` times (its batch size / the batch size of `base`)**p. The optimiser decides p.

  p = 1 for SGD (Goyal et al. 2017, arXiv 1706.02677) and 1/2 for Adam (Malladi et al. 2022, arXiv 2205.10287). p = 1/3 for Adagrad, which
  divides its rate by the root of a sum of squares over the steps. At a fixed number of examples its best rate does not depend on the
  batch where gradients are all noise (p = 0). Where they are all signal, it grows as the root of the batch (p = 1/2).

  Measured on planted data of all four parts, 2**18 examples, three seeds, from a base of 256 examples a step, excess at
  p = 0, 1/3, 1/2: batch 32 .0919 .0889 .0906; 64 .0854 .0885 .0914; 1024 .1101 .1036 .1008; 2048 .1149 .1106 .1124. The rule is better
  than constant rates at three of the four and by 3% in the mean (.1006 .0979 .0988), and worse at 64. The minima over five rates, for
  batches of 64 to 2,048 and two seeds, have the power .11 [-.02, .24] (analysis/STUDY.md): the best power is below the rule's.

  Adam, two seeds, p = 0, 1/2, 1: batch 64 .0734 .0702 .0865; 1024 .0926 .0766 .0743. SGD, one seed, the same p: 64 .1045 .1042 .1073;
  1024 .1277 .1206 .1163. For SGD p = 1 is best towards larger batches, and worse than constant rates towards smaller ones.

  Rates do not change with width, dim, depth or tables, where the measured optima follow no power. Adagrad, two seeds, factors of 2 on the
  base's rate: the best dense rate was 2, 2, 1, 1, 4 times the base's at 1/8, 1/2, 1, 2, 4 times the overarch's width. It was 4 (the largest
  tried), 1, 2 times the base's at 1/8, 1, 4 times the bottom MLP's width. The rule 1/width (Yang et al. 2022, arXiv 2203.03466, for Adam)
  gives 1/4 at 4 times the overarch. There its excess was .1066, and that of the base's rate .0918. The best table rate was 1/2, 1, 1 times
  the base's at dim 2, 8, 32.
  """
  train = config.train
  ratio = train.batch_size / base.train.batch_size
  if ratio == 1:
    return config
  table_lr = train.table_lr * ratio ** BATCH_POWER[train.table_optimizer]
  dense_lr = train.dense_lr * ratio ** BATCH_POWER[train.dense_optimizer]
  return with_part(config, "train", table_lr=table_lr, dense_lr=dense_lr)
