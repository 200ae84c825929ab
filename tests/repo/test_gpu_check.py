"""`make gpu-check` runs on a processor, too, where its rates mean nothing."""

import re
import subprocess
import sys

import pytest
from project import ROOT

SMALL = "--images 24 --size 64 --batch 8 --precision float32 --networks convnet ViT-B/16"


@pytest.mark.slow
def test_jax_gives_the_same_bytes_in_two_processes() -> None:
    words = [sys.executable, "-m", "benchmarks.gpu", *SMALL.split()]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("bytes of features and fine-tuned weights: the same twice\n")
    rates = re.findall(r"convnet: (extraction|fine-tuning) [\d,.]+ ", ended.stdout)
    assert rates == ["extraction", "fine-tuning"] * 2
    assert len(set(re.findall(r"sha256 convnet .* (\w{64})", ended.stdout))) == 2
    parts = (
        r"pixels [\d.]+ GB/s, reading alone [\d.]+, copying to the device [\d.]+; read [\d.]+ s, "
    )
    assert len(re.findall(parts, ended.stdout)) == 2
    assert (
        len(re.findall(r"ViT-B/16: [\d,]+ img/s on a batch in the device's memory", ended.stdout))
        == 2
    )
