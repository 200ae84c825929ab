"""What is measured, against whom, and how: `python -m benchmarks --help`.

Each contender runs in a process of its own; rounds are interleaved, so that all of them meet the
same machine; medians go to `RESULTS.md`. A timing is never a test.
"""
