"""A stage that is killed, or meets a full disk, leaves what the next run continues from."""

import re
import signal
import sys
from pathlib import Path

import pytest
from album import Album, counts
from torture import hash_files, inject

NONE = ("", 0)
SITES = [20, 60, 100]  # changes to the file system

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it needs fork and audit hooks")


@pytest.mark.parametrize("fault", ["KILL", pytest.param("ENOSPC", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "stage", ["resize", pytest.param("extract", marks=pytest.mark.slow)], ids=str
)
def test_a_stage_that_is_stopped_continues_to_the_same_bytes(
    stage: str, fault: str, album: Album
) -> None:
    album.change({"backbones.convnet.pooling": "avg"})
    for label in ("cat", "dog"):
        album.add(label, 12)
    album.split()
    words = ["resize"]
    if stage == "extract":
        album.resize()
        album.fetch_weights()
        words = ["extract", "convnet"]
    before, rows = hash_files(Path()), len(album.hashes()) * len(words)  # of two views
    *stopped, last = inject(words, [*((fault, site) for site in SITES), NONE], Path())
    for run in stopped:
        assert run["outputs"] == before
        if fault == "KILL":
            assert run["status"] == -signal.SIGKILL
        else:
            (sentence,) = re.findall("^error: .*", run["printed"], re.M)
            assert "expected room on the disk" in sentence
            assert (run["status"], run["strays"]) == (1, [])
            assert "Traceback" not in run["printed"]
    ((computed, known),) = counts(last["printed"])
    assert known > 0
    assert computed + known == rows
    (fresh,) = inject(words, [NONE], Path(), STAGES_ROW_CACHE_GIB="0")
    assert counts(fresh["printed"]) == [(rows, 0)]
    assert last["outputs"] == fresh["outputs"] != before
    assert last["strays"] == []
