#!/usr/bin/env bash
# `make gpu-check` on a machine that has JAX for its GPU but no network, with the wheels that
# `make gpu-wheels` has downloaded to .wheels/. PYTHON is the interpreter that has JAX.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"$python" -m pip install --quiet --no-index --no-deps --target "$site" .wheels/*.whl
PYTHONPATH=$site "$python" -m benchmarks.gpu --backend jax "$@"
