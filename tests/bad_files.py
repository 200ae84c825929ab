"""Files that stages hand on to stages, damaged behind their back."""

from bad_inputs import Bad

TOLD = "x"
INPUTS: list[Bad] = []
