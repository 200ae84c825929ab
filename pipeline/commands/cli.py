"""The command line: `pipeline COMMAND`; each command is a module of this folder.

A command's module has a docstring, which its `--help` prints, `add_arguments(parser)` and
`run(arguments)`. Only the command that is called is imported.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from pipeline.runtime.entrypoint import command

COMMANDS = {
    "predict": "classify image files with the final model",
    "compare": "compare this run with that of another commit",
    "verify": "run a commit again and compare its outputs with those recorded",
    "export": "write the final model as one file for use elsewhere",
    "doctor": "find what is wrong with this folder and machine",
    "lr-find": "find a learning rate for the head or fine-tuning",
    "suggest": "choose the unlabelled images to label next",
    "sweep": "search for better parameters of the head, in seconds a trial",
    "recipe": "write params.yaml from a recipe",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that `words`, by default the command line, names; return its status."""
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(
        prog="pipeline",
        description="A reproducible transfer-learning pipeline for images; `make repro` runs it.",
        epilog="`pipeline COMMAND --help` explains a command, with examples.",
    )
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = None
    for name, summary in COMMANDS.items():
        one = parsers.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if [name] == list(words[:1]):
            module = importlib.import_module(f"pipeline.commands.{name.replace('-', '_')}")
            one.description = module.__doc__
            module.add_arguments(one)
            run = module.run
    arguments = parser.parse_args(words)
    return command(run)(arguments) if run else 2
