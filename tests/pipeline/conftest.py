"""Settings for stages that run in this process."""

import os

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # as `keras_setup.start` would set it
