"""The stages of the pipeline: one script for each box of the DAG in `dvc.yaml`."""

import pipeline  # noqa: F401  chooses OpenBLAS' kernels before anything imports numpy
