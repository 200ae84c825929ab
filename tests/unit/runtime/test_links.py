"""Links into the DVC cache of this project are files of the folder; no other may lead out of it."""

from pathlib import Path

import pytest

from pipeline.runtime import links

NAME = "0b/26e313ed4a7ca6904b0e9369e5b957"
CACHED = f"files/md5/{NAME}"
INTO_CACHE = [f"shared/cache/{CACHED}", f"shared/cache/{NAME}", f"alias/{CACHED}", "project/second"]
ELSEWHERE = [
    *("/etc/passwd", "outside.jpg", "shared/cache", "shared/cache/files/md5/0b"),
    *(f"shared/cache/{CACHED}.dir", f"shared/cache/runs/{NAME}", "shared/cache/files/md5/notes"),
    *(f"shared/other/{CACHED}", f"shared/cache/more/{CACHED}", f"project/.dvc/cache/{CACHED}"),
]
CONFIGS = {  # the cache that DVC uses, by its files of configuration
    ".dvc/cache": {},
    "../shared/cache": {"config": "../../shared/cache"},
    "../of mine": {"config": "../../shared/cache", "config.local": "../../of mine"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of photos in a project whose cache is elsewhere, named by a link."""
    configure(tmp_path / "project", {"config": "../../alias"})
    for path in (f"{top}/{name}" for top in ("cache", "other") for name in (CACHED, NAME)):
        (tmp_path / "shared" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shared" / path).write_bytes(b"a photo")
    (tmp_path / "alias").symlink_to("shared/cache")
    (tmp_path / "project/second").symlink_to(tmp_path / "shared/cache" / CACHED)
    (tmp_path / "project/photos").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return Path("photos")


def configure(project: Path, config: dict[str, str]) -> None:
    (project / ".dvc").mkdir(parents=True)
    for name, cache in config.items():
        text = f"[cache]\n    dir = {cache}\n    type = symlink\n"
        (project / ".dvc" / name).write_text(text, encoding="utf-8")


def test_only_links_to_files_of_dvcs_cache_may_lead_out_of_a_folder(folder: Path) -> None:
    link = folder / "link.jpg"
    found = {}
    for target in [*INTO_CACHE, *ELSEWHERE]:
        link.symlink_to(folder.absolute().parent.parent / target)
        found[target] = links.leads_out(link, folder)
        link.unlink()
    link.symlink_to("1.jpg")
    assert found == dict.fromkeys(INTO_CACHE, False) | dict.fromkeys(ELSEWHERE, True)
    assert not links.leads_out(link, folder)


@pytest.mark.parametrize("cache", CONFIGS)
def test_the_cache_is_the_one_that_dvc_uses(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path / "project", CONFIGS[cache])
    (tmp_path / "project/photos").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    Path("photos/1.jpg").symlink_to(Path(cache, CACHED).absolute())
    assert not links.leads_out(Path("photos/1.jpg"), Path("photos"))


def test_outside_of_a_dvc_project_no_link_may_lead_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos/1.jpg").symlink_to(Path(".dvc/cache", CACHED).absolute())
    assert links.leads_out(Path("photos/1.jpg"), Path("photos"))


def test_archives_are_the_same_by_their_path_and_not_by_dvcs_copy_of_their_bytes(
    folder: Path,
) -> None:
    for name in ("train.zip", "test.zip"):
        Path(name).symlink_to(Path("../shared/cache", CACHED).absolute())
    Path("linked.zip").symlink_to("train.zip")
    Path("plain.zip").write_bytes(b"")
    Path("other.zip").symlink_to("plain.zip")
    assert links.same("train.zip", "photos/../train.zip")
    assert links.same("train.zip", "linked.zip")
    assert links.same("plain.zip", "other.zip")
    assert not links.same("train.zip", "test.zip")
    assert not links.same("train.zip", "plain.zip")
    Path("loop.zip").symlink_to("loop.zip")
    assert links.same("loop.zip", "loop.zip")  # comes to an end
