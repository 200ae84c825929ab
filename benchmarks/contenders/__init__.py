"""The scripts that the pipeline is measured against; each runs in a process of its own."""
