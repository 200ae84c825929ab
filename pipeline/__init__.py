"""The library below the stages, and the commands beside them.

OpenBLAS, under numpy and scipy, chooses its kernels by the processor when it is loaded, and its
AVX-512 kernels give other last bits than those for AVX2 (benchmark 11). The latter run on every x86
processor that TensorFlow's wheels run well on, so they are requested wherever the processor has
them, whatever the environment says, before anything imports numpy.
"""

import os
import platform

from pipeline.runtime import machine

KERNELS = "Haswell"  # OpenBLAS' name of its kernels for AVX2 and FMA; AMD's Zen uses the same

os.environ.pop("OPENBLAS_CORETYPE", None)
if platform.machine() in ("x86_64", "AMD64") and machine.flags().issuperset(("avx2", "fma")):
    os.environ["OPENBLAS_CORETYPE"] = KERNELS
