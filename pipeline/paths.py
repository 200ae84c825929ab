"""Where everything lies, relative to the project's folder: the one place that knows a path.

`dvc.yaml` names the same paths; a test compares both.
"""

from pathlib import Path

PARAMS = Path("params.yaml")
CODE = Path("code.yaml")
SETTINGS = Path("settings.yaml")
RUN_LOCK = Path("requirements.lock")
GPU_LOCKS = {  # by compute.backend
    "jax": Path("requirements-jax-cuda.lock"),
    "tensorflow": Path("requirements-tf-cuda.lock"),
}
RECIPES = Path("recipes")

DATA = Path("data")
TRAIN_INPUT, TEST_INPUT = DATA / "inputs" / "train", DATA / "inputs" / "test"
LABEL_FIXES = DATA / "label_fixes.csv"
LEDGER = DATA / "split.csv"
RESIZED = DATA / "resized.zarr"
WEIGHTS = DATA / "weights"
NETWORKS = DATA / "networks"
WEIGHT_DIGESTS = DATA / "weights.sha256"
FEATURES = DATA / "features"
HEAD = DATA / "head"
MODEL = DATA / "model"
SUBMISSION = DATA / "submission.csv"

METRICS = Path("metrics")
SPLIT_METRICS = METRICS / "split.json"
AUDIT_METRICS, AUDIT = METRICS / "audit.json", METRICS / "audit"
HEAD_METRICS, HEAD_HISTORY = METRICS / "head.json", METRICS / "head_history.csv"
FINE_TUNE_METRICS = METRICS / "fine_tune.json"
FINE_TUNE_HISTORY = METRICS / "fine_tune_history.csv"
EVALUATION, INTERVALS = METRICS / "evaluate.json", METRICS / "intervals.json"
CURVES, PLOTS = METRICS / "curves", METRICS / "pictures"
EXPLAIN = METRICS / "explain"
REPORT = METRICS / "report"

# Kept between runs, outside of DVC; nothing but time is lost with them.
ROW_CACHE = DATA / ".rows"
FROZEN_ACTIVATIONS = DATA / ".activations"
PREDICTOR = DATA / ".predictor"  # the final model in OpenVINO's format
CHECKPOINT = DATA / ".training" / "fine_tune.npz"
MACHINES = DATA / ".machines"
SITE_CACHE = Path(".site-cache")  # of DVC, as in .dvc/config


def weights(backbone: str) -> Path:
    """Return the weights file of a backbone."""
    return WEIGHTS / f"{backbone}.weights.h5"


def network(backbone: str) -> Path:
    """Return the folder of a backbone's network in OpenVINO's format."""
    return NETWORKS / backbone


def preset(backbone: str) -> Path:
    """Return the description of a backbone that is a KerasHub preset."""
    return network(backbone) / "preset.json"


def features(backbone: str) -> Path:
    """Return the feature array of a backbone."""
    return FEATURES / f"{backbone}.zarr"


def head_file(folder: Path = HEAD) -> Path:
    """Return the weights of the trained head."""
    return folder / "head.npz"


def model_weights(folder: Path = MODEL) -> Path:
    """Return the weights of the fine-tuned network; absent without fine-tuning."""
    return folder / "model.weights.h5"


def predictions(folder: Path) -> Path:
    """Return the log-probabilities below `HEAD` or `MODEL`."""
    return folder / "predictions.zarr"
