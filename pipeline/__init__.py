"""The library below the stages, and the commands beside them."""

from pipeline.runtime.blas import choose_kernels

choose_kernels()  # before anything imports numpy
