"""The reason why a file gives no image."""


class Unreadable(Exception):  # noqa: N818  a result about one file, not an error of the run
    """A file that gives no image; the message is a short reason, the same in every run."""
