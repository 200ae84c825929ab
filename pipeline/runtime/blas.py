"""Which kernels OpenBLAS uses, under numpy and scipy.

It chooses them by the kind of processor as it is loaded, and those of AVX-512 give other last bits
than those of AVX2 (benchmark 11). The latter are on every x86 processor that TensorFlow's packages
run well on, so they are asked for wherever the processor has them. What the environment says of it
is overruled, like all that changes a result.
"""

import os
import platform

from pipeline.runtime import cpu

KERNELS = "Haswell"  # OpenBLAS' name of its kernels for AVX2 and FMA; AMD's Zen has the same


def choose_kernels() -> None:
    """Ask for `KERNELS`; without effect on a numpy that is imported already."""
    os.environ.pop("OPENBLAS_CORETYPE", None)
    if platform.machine() in ("x86_64", "AMD64") and cpu.flags().issuperset(("avx2", "fma")):
        os.environ["OPENBLAS_CORETYPE"] = KERNELS
