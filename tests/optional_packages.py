"""Marks for tests that need an optional package."""

import importlib.util

import pytest

# Not by pytest.importorskip: `import openvino` sends telemetry, unless we import it.
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="needs openvino: pip install 'pipeline[openvino]'",
)
