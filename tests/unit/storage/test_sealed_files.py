"""A sealed file that was changed is refused; its readers do not see the seal."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.runtime.errors import UserError
from pipeline.storage import sealed_files

PATH = Path("model.weights.h5")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_sealed_hdf5_file_opens_as_before() -> None:
    with h5py.File(PATH, "w") as file:
        file["kernel"] = np.arange(12)
    sealed_files.seal(PATH)
    with h5py.File(sealed_files.require_sealed(PATH, "fine_tune")) as file:
        np.testing.assert_array_equal(file["kernel"][()], np.arange(12))


def test_a_sealed_file_that_was_changed_is_refused_and_one_without_a_seal_is_not() -> None:
    for content in (b"", b"weights", b"weights" * 100):
        PATH.write_bytes(content)
        assert sealed_files.require_sealed(PATH, "fine_tune") == PATH
    sealed_files.seal(PATH)
    assert sealed_files.require_sealed(PATH, "fine_tune") == PATH
    with PATH.open("r+b") as file:
        file.seek(200)
        file.write(b"!")
    with pytest.raises(UserError) as refused:
        sealed_files.require_sealed(PATH, "fine_tune")
    assert str(refused.value) == (
        f"{PATH}: expected the bytes that `fine_tune` wrote, got others, by the sha256 behind "
        f"them; remove {PATH} and run `dvc repro` again"
    )


def test_arrays_come_back_to_the_run_that_wrote_them_unless_they_are_damaged() -> None:
    path = Path("state.npz")
    assert sealed_files.read_arrays(path, "one run") is None
    sealed_files.write_arrays(path, "one run", {"epochs": np.arange(3)})
    arrays = sealed_files.read_arrays(path, "one run")
    assert arrays is not None
    assert arrays["epochs"].tolist() == [0, 1, 2]
    assert sealed_files.read_arrays(path, "another run") is None
    content = path.read_bytes()
    changed = content.replace(np.arange(3).tobytes(), np.arange(1, 4).tobytes())
    for damaged in (content[: len(content) // 2], changed, b""):
        path.write_bytes(damaged)
        assert sealed_files.read_arrays(path, "one run") is None
