"""The facts of Criteo's click logs. Used by `prepare` and by presets.

Both logs are lines of a label, 13 integers (I2 may be negative) and 26 categories of 8 hexadecimal digits, separated by tabs,
without a header. An empty cell is a missing value. The Kaggle log has 45,840,617 lines of 7 days in the order of time. The 1TB logs
are 24 files of a day each, about 4.37e9 lines; the last day is held out.
"""

NUM_DENSE = 13
NUM_CATEGORICAL = 26
DENSE_NAMES = tuple(f"I{i}" for i in range(1, NUM_DENSE + 1))
CATEGORICAL_NAMES = tuple(f"C{i}" for i in range(1, NUM_CATEGORICAL + 1))

# Distinct values of C1..C26 in the Kaggle log.
# fmt: off
KAGGLE_CARDINALITIES = (
  1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
  27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)

# Rows that MLPerf v2 (DLRM-DCNv2) keeps of the 1TB logs' C1..C26, capped at 40M, and the bag lengths of its multi-hot version.
MLPERF_ROWS = (
  40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10,
  2209, 11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36,
)
MLPERF_BAG_LENGTHS = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
# fmt: on
