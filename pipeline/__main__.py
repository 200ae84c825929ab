"""Run `pipeline` as `python -m pipeline`."""

import sys

from pipeline.commands.cli import main

sys.exit(main())
