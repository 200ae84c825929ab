"""The stages of the pipeline, the commands beside it, and the packages below them."""

from stages.blas import choose_kernels

choose_kernels()  # before anything imports numpy
