"""`report` by hand, on findings that are made up: what the page says, and what it refuses."""

import re
import shutil
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import findings_by_hand as by_hand
import pytest
from findings_by_hand import NASTY, PAGE, shown

from pipeline.reporting import html
from stages import report


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stages/report.py", *by_hand.ARGUMENTS])


def page() -> str:
    assert report.main() == 0
    return PAGE.read_text(encoding="utf-8")


def text(of: str) -> str:
    """What a reader sees, in plain signs, with single spaces."""
    without = re.sub(r"<(style|script)>.*?</\1>|</?(bdi|wbr)>", "", of, flags=re.S)
    return plain(" ".join(unescape(re.sub(r"<[^>]*>", " ", without)).split()))


def plain(said: str) -> str:
    special = "\N{MINUS SIGN}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}"
    return said.translate(str.maketrans(special, "-x "))


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(of)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_headline_says_how_many_images_are_right_and_how_sure_that_is() -> None:
    by_hand.write()
    said = text(page())
    assert "98.25 % of 2,000 test images right" in said
    assert "97.65 to 98.80 % with 95 % confidence. 35 are wrong." in said
    assert "Log loss 0.0486 0.0438 to 0.0491 nats; lower is better" in said


def test_it_says_which_model_was_taken_and_why() -> None:
    by_hand.write()
    said = text(page())
    assert (
        "The fine-tuned model was taken. Its log loss on valid is the lower one: 0.0486 against "
        "0.2512 of the head. On test, fine-tuned minus head, paired by image: -0.2026 (-0.2500 to "
        "-0.1500), better. Its log-probabilities are divided by a temperature of 1.2500, fitted on "
        "valid: it was too sure."
    ) in said
    assert "Final fine-tuned, calibrated 35 of 2,000 98.25 % 97.65 to 98.80" in said
    assert "-0.0014 no difference shown -0.0040 to +0.0010" in said


def test_the_ledger_thresholds_params_and_versions_are_told() -> None:
    by_hand.write()
    said = text(page())
    assert "Found 2,601 files Accepted 2,600 2,500 labelled, 100 not" in said
    assert "Rejected 1 1 x truncated image Copies 7 3 exact, 4 nearly the same" in said
    assert "Label fixes given another class: 2." in said
    assert "7 passed over: __MACOSX." in said
    assert "cat 1,250 200 0 1,450 dog 1,250 200 0 1,450 all 2,500 400 0 2,500" in said
    assert "most images right 0.6655 97.50 % 1.75 % 1.75 % 97.50 %" in said
    assert "near_duplicates 0.87" in said
    assert "augment.rotation 15" in said
    assert "backbones [convnet]" in said
    assert "instruction set AVX2 threads 2" in said
    assert f"python 3.{sys.version_info.minor} " in said


def test_a_rerun_gives_the_same_bytes_and_leaves_nothing_of_the_last_one() -> None:
    by_hand.write()
    by_hand.explain([shown("cat.1.jpg", "images/1.png"), shown("cat.2.jpg", "images/2.png")])

    def contents() -> dict[str, bytes]:
        assert report.main() == 0
        written = (path for path in PAGE.parent.rglob("*") if path.is_file())
        return {path.relative_to(PAGE.parent).as_posix(): path.read_bytes() for path in written}

    first = contents()
    assert sorted(first) == [
        "explain/heatmaps/1.png",
        "explain/heatmaps/2.png",
        "explain/images/1.png",
        "explain/images/2.png",
        "index.html",
        "pictures/confusion.png",
        "pictures/learning_curves.png",
        "pictures/roc.png",
    ]
    assert contents() == first
    by_hand.explain([shown("cat.1.jpg", "images/1.png")])
    assert "explain/images/2.png" not in contents()


def test_names_labels_and_reasons_are_escaped() -> None:
    line = (NASTY, "train", "train", NASTY, "dog", 0.9, 1)
    by_hand.write(classes=(NASTY, "dog"), labels=[line], reason=NASTY)
    image = shown(NASTY, "images/1.png", label=NASTY, said=NASTY, note=NASTY)
    layer = {"backbone": NASTY, "layer": NASTY, "picture": "images/1.png"}
    by_hand.explain(
        [image],
        activations={
            "member": NASTY,
            "label": NASTY,
            "picture": "images/1.png",
            "layers": [layer | {"shape": [3, 3]}],
        },
        filters=[layer],
    )
    by_hand.change_params("data", train=NASTY)
    of = page()
    assert "<img src=x" not in of
    assert of.count("&lt;img src=x onerror=alert(1)&gt;.jpg") > 20
    elements = Elements(of).found
    assert not [tag for tag, given in elements if any(name.startswith("on") for name in given)]
    pictures = [given["src"] for tag, given in elements if tag == "img" and "src" in given]
    assert set(pictures) == {
        *(f"pictures/{name}.png" for name in ("confusion", "learning_curves", "roc")),
        "explain/images/1.png",
        "explain/heatmaps/1.png",
    }


def test_nothing_is_loaded_but_pictures_beside_the_page() -> None:
    by_hand.write()
    by_hand.explain([shown("cat 1#.jpg", "images/1 #%.png")])
    elements = Elements(page()).found
    policies = [given["content"] for _, given in elements if "http-equiv" in given]
    assert len(policies) == 1
    assert re.fullmatch(
        r"default-src 'none'; img-src 'self' file: data:; style-src 'sha256-[^' ]+'; "
        r"script-src 'sha256-[^' ]+'; base-uri 'none'; form-action 'none'",
        str(policies[0]),
    )
    addresses = {
        value
        for tag, given in elements
        for name, value in given.items()
        if name in ("src", "href") and tag != "a"
    }
    assert "explain/images/1%20%23%25.png" in addresses
    assert not [at for at in addresses if at and (":" in at.removeprefix("data:,") or "//" in at)]
    assert not [given for _, given in elements if "style" in given]  # the policy would refuse it


def test_every_id_stands_once_and_every_picture_has_its_words_and_size() -> None:
    by_hand.write(labels=[("cat.1.jpg", "train", "train", "cat", "dog", 0.9, 1)] * 60)
    by_hand.explain([shown("cat.1.jpg", "images/1.png")])
    elements = Elements(page()).found
    ids = [given["id"] for _, given in elements if "id" in given]
    assert len(ids) == len(set(ids))
    links = {str(given["href"])[1:] for tag, given in elements if tag == "a"}
    assert links <= set(ids)
    for tag, given in elements:
        if tag == "img" and "src" in given:
            assert given["alt"]
            assert int(given["width"] or 0) in (24, 60)


def test_a_long_table_shows_fifty_lines_and_holds_all() -> None:
    lines = [(f"cat.{n}.jpg", "train", "train", "cat", "dog", 0.9, 0) for n in range(1_234)]
    by_hand.write(labels=lines)
    of = page()
    table = of[of.index('data-table="labels"') : of.index("</table>", of.index("data-table"))]
    first, rest = table.split('<tbody id="more-labels" hidden>')
    assert (first.count("data-member"), rest.count("data-member")) == (50, 1_184)
    assert "The first 50 of 1,234. Show all 1,234" in text(of)


def test_only_labelled_images_can_be_ticked() -> None:
    by_hand.write()
    header = by_hand.COLUMNS["light"].split(",")
    of_light = [
        ("train/cat.1.jpg", "train", "valid", "dark", 12.5, 3, 0.1),
        ("test/1.jpg", "test", "unlabelled", "dark", 12.5, 3, 0.1),
        ("train/1.jpg", "train", "unlabelled", "dark", 12.5, 3, 0.1),
    ]
    by_hand.write_table("light", header, *of_light)
    boxes = [given for _, given in Elements(page()).found if given.get("class") == "tick"]
    assert [given["data-member"] for given in boxes] == ['"train/cat.1.jpg"']


def test_a_pair_that_is_alike_names_both_images_and_how_alike_they_are() -> None:
    by_hand.write()
    line = ("cat.1.jpg", "train", "test", "cat", "cat.2.jpg", "train", "valid", "cat", 0.4291)
    by_hand.write_table("alike", by_hand.COLUMNS["alike"].split(","), line)
    by_hand.change("audit", alike_pairs=1)
    said = text(page())
    assert "0 have a copy, 1 pair looks like copies." in said
    assert "cat.1.jpg cat cat.2.jpg train valid cat 0.4291 test" in said


def test_without_test_the_figures_are_those_of_valid_and_said_to_be_too_good() -> None:
    by_hand.write(subsets=("valid",))
    said = text(page())
    assert "98.25 % of 2,000 valid images right" in said
    assert "so the figures are a little too good" in said
    assert "On test" not in said


def test_more_classes_have_no_thresholds_and_a_hundred_are_folded() -> None:
    names = [f"kind {number}" for number in range(100)]
    by_hand.write(classes=names)
    of = page()
    said = text(of)
    assert "Thresholds" not in said
    assert "100 classes" in said
    assert of.count("<summary>All 100 classes</summary>") == 2
    assert said.index("kind 9 ") < said.index("kind 10 ")


def test_without_fine_tuning_the_head_alone_is_told() -> None:
    by_hand.write()
    by_hand.change_params("fine_tune", epochs=0)
    by_hand.change("evaluate", chosen="head", temperature=1.0)
    said = text(page())
    assert "The head was taken. There was no fine-tuning. Its probabilities are used as" in said
    assert "Fine-tuned" not in said


def test_a_second_pair_that_was_never_trained_has_no_differences_to_tell() -> None:
    by_hand.write()
    by_hand.change("intervals", differences={})
    assert "Which differences are shown" not in text(page())


def test_nothing_found_and_nothing_rejected_is_said_so() -> None:
    by_hand.write()
    by_hand.change("split", rejected=0, rejected_by_reason={})
    said = text(page())
    assert "Rejected 0 none" in said
    assert said.count("None found.") == 5
    assert "Blank Nothing to see. None." in said
    assert "Copy lines" not in said
    assert "Inside the network" not in said


def test_an_image_without_a_picture_is_a_tile_with_its_note() -> None:
    by_hand.write()
    rejected = shown("a.txt", None, subset="", label="", said="", probability=None, note="no image")
    by_hand.explain([rejected])
    assert "no picture no image a.txt" in text(page())


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence; what was there before stays as it was."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("before", encoding="utf-8")
    assert report.main() == 1
    assert [path.name for path in PAGE.parent.iterdir()] == ["index.html"]
    assert PAGE.read_text(encoding="utf-8") == "before"
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    return sentence.removeprefix("error: ").removesuffix("\n")


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("split.json", "split"),
        ("head.json", "train_head"),
        ("fine_tune.json", "fine_tune"),
        ("evaluate.json", "evaluate"),
        ("intervals.json", "evaluate"),
        ("pictures", "evaluate"),
        ("audit.json", "audit"),
        ("audit/copies.csv", "audit"),
        ("explain/explain.json", "explain"),
    ],
)
def test_what_is_missing_is_told_with_the_stage_that_writes_it(
    path: str, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand.write()
    at = Path("metrics", path)
    shutil.rmtree(at) if at.is_dir() else at.unlink()
    assert failure(capsys) == (
        f"metrics/{path}: expected the output of `{stage}`, got nothing at that path; "
        f"run `dvc repro {stage}` first"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "expected JSON, got EOF while parsing an object at line 1 column 1"),
        ("{}", "kind: expected this key, got nothing"),
        ('{"kind": 3, "parameters": 1}', "kind: expected a valid string, got 3"),
        ('{"kind": "dense", "parameters": "x"}', "parameters: expected a valid integer, got 'x'"),
        ("[]", "expected an object, got []"),
    ],
)
def test_malformed_figures_are_told_in_one_sentence(
    content: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand.write()
    Path("metrics/head.json").write_text(content, encoding="utf-8")
    assert failure(capsys) == f"metrics/head.json: {sentence}; run `dvc repro train_head` again"


def test_a_figure_without_its_interval_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    by_hand.write()
    by_hand.change("intervals", final={})
    assert failure(capsys) == (
        "metrics/intervals.json: expected intervals of final on valid, as evaluate.json has the "
        "final model's figures there, got none; run `dvc repro evaluate` again"
    )


@pytest.mark.parametrize("path", ["../../secret.png", "/etc/secret.png", "images/../../x.png"])
def test_a_picture_outside_of_its_folder_is_refused(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand.write()
    by_hand.draw("secret.png")
    by_hand.draw("metrics/x.png")
    by_hand.draw("metrics/explain/images/1.png")
    by_hand.explain([], filters=[{"backbone": "b", "layer": "l", "picture": path}])
    assert failure(capsys) == (
        "metrics/explain/explain.json: expected the paths of pictures inside metrics/explain, "
        f"got {path!r}; run `dvc repro explain` again"
    )


def test_a_link_that_leads_out_of_the_folder_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    by_hand.write()
    by_hand.draw("secret.png")
    Path("metrics/explain/link.png").symlink_to(Path("secret.png").absolute())
    by_hand.explain([], filters=[{"backbone": "b", "layer": "l", "picture": "link.png"}])
    assert "expected the paths of pictures inside metrics/explain" in failure(capsys)


def test_a_picture_that_is_not_there_or_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    by_hand.write()
    by_hand.explain([], filters=[{"backbone": "b", "layer": "l", "picture": "1.png"}])
    assert failure(capsys) == (
        "metrics/explain/explain.json: expected a picture at metrics/explain/1.png, got no such "
        "file; run `dvc repro explain` again"
    )
    Path("metrics/explain/1.png").write_text("no picture", encoding="utf-8")
    assert failure(capsys) == (
        "metrics/explain/1.png: expected a picture, got something that cannot be read as PNG, "
        "JPEG or WebP; run `dvc repro explain` again"
    )


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            [("member", "label")],
            "expected the columns member,source,subset,label,isolation, got 'member,label'",
        ),
        (
            [by_hand.COLUMNS["outliers"].split(","), ("a", "train", "train", "cat", "much")],
            " line 2: expected 5 fields with numbers as isolation, got 'a,train,train,cat,much'",
        ),
        (
            [by_hand.COLUMNS["outliers"].split(","), ("a", "train")],
            " line 2: expected 5 fields with numbers as isolation, got 'a,train'",
        ),
    ],
)
def test_a_malformed_table_is_told_in_one_sentence(
    lines: list[tuple[str, ...]], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand.write()
    by_hand.write_table("outliers", *lines)
    where = "metrics/audit/outliers.csv" + ("" if sentence.startswith(" ") else ": ")
    assert failure(capsys) == f"{where}{sentence}; run `dvc repro audit` again"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (html.percent(0.975), "97.5 %"),
        (html.percent(0.9825, 2_000), "98.25 %"),
        (html.percents((0.92907, 0.991462)), "92.9 to 99.1"),
        (html.chance(0.99996), "> 99.9 %"),
        (html.chance(1.0), "100.0 %"),
        (html.chance(0.00001), "< 0.1 %"),
        (html.number(0.048612), "0.0486"),
        (html.number(1234.5), "1,234"),
        (html.number(-0.0001), "-0.0001"),
        (html.number(-0.00001), "0.0000"),
        (html.signed(0.0026), "+0.0026"),
        (html.signed(0.00001), "0.0000"),
        (html.points(0.3083), "+30.83"),
        (html.points(-0.00001), "0.00"),
        (html.setting(None), "null"),
        (html.setting(True), "true"),
        (html.setting(15.0), "15"),
        (html.setting(1e-05), "1e-05"),
        (html.setting(["a", None]), "[a, null]"),
        (html.setting({0: 1.5}), "{0: 1.5}"),
    ],
)
def test_numbers_are_written_for_people(said: str, meant: str) -> None:
    assert plain(said) == meant
