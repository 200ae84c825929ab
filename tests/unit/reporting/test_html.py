"""The report of made-up results: what the page says, and what it refuses."""

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import findings_by_hand as by_hand
import pytest
from dvc_cache import cached, linked
from findings_by_hand import NASTY, PAGE, shown

from pipeline.reporting import html
from pipeline.storage.results import AUDIT_COLUMNS

CAT = ("cat.1.jpg", "train", "train", "cat", "dog", 0.9, 1)
PICTURES = [f"pictures/{name}.png" for name in ("confusion", "learning_curves", "roc")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_hand.write()


def page() -> str:
    assert by_hand.report() == 0
    return PAGE.read_text(encoding="utf-8")


def text(of: str) -> str:
    """What a reader sees, in ASCII, with single spaces."""
    without = re.sub(r"<(style|script)>.*?</\1>|</?(bdi|wbr)>", "", of, flags=re.S)
    return plain(" ".join(unescape(re.sub(r"<[^>]*>", " ", without)).split()))


def plain(shown: str) -> str:
    special = "\N{MINUS SIGN}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}"
    return shown.translate(str.maketrans(special, "-x "))


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(of)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))


SENTENCES = [
    "98.25 % of 2,000 test images correct",
    "95 % confidence interval: 97.65 to 98.80 %. 35 are wrong.",
    "Log loss 0.0486 0.0438 to 0.0491 nats; lower is better",
    "The fine-tuned model was selected. Its log loss on valid is lower: 0.0486, against 0.2512 "
    "for the head. On test, fine-tuned minus head, paired by image: -0.2026 (-0.2500 to "
    "-0.1500), better. Its log-probabilities are divided by a temperature of 1.2500, fitted on "
    "valid: it was overconfident.",
    "Final fine-tuned, calibrated 35 of 2,000 98.25 % 97.65 to 98.80",
    "-0.0014 no difference shown -0.0040 to +0.0010",
    "Found 2,601 files Accepted 2,600 2,500 labelled, 100 unlabelled",
    "Rejected 1 1 x truncated image Copies 7 3 exact, 4 near",
    "Label fixes that change a label: 2.",
    "7 skipped: __MACOSX.",
    "cat 1,250 200 0 1,450 dog 1,250 200 0 1,450 all 2,500 400 0 2,500",
    "highest accuracy 0.6655 97.50 % 1.75 % 1.75 % 97.50 %",
    "near_duplicates 0.87",
    "instruction set AVX2 threads 2",
    f"python 3.{sys.version_info.minor} ",
    "0 have a copy, 1 pair looks like copies.",
    "cat.1.jpg cat cat.2.jpg train valid cat 0.4291 test",
]


def test_the_page_says_what_the_stages_measured() -> None:
    pair = ("cat.1.jpg", "train", "test", "cat", "cat.2.jpg", "train", "valid", "cat", 0.4291)
    by_hand.write_table("alike", AUDIT_COLUMNS["alike"], pair)
    by_hand.change("audit", alike_pairs=1)
    of = text(page())
    assert [sentence for sentence in SENTENCES if sentence not in of] == []


def test_a_rerun_gives_the_same_bytes_and_leaves_nothing_of_the_last_one() -> None:
    def contents() -> dict[str, bytes]:
        assert by_hand.report() == 0
        files = (path for path in PAGE.parent.rglob("*") if path.is_file())
        return {path.relative_to(PAGE.parent).as_posix(): path.read_bytes() for path in files}

    by_hand.explain([shown("cat.1.jpg", "images/1.png"), shown("cat.2.jpg", "images/2.png")])
    first = contents()
    explained = [f"explain/{kind}/{at}.png" for kind in ("heatmaps", "images") for at in (1, 2)]
    assert sorted(first) == [*explained, "index.html", *PICTURES]
    assert contents() == first
    by_hand.explain([shown("cat.1.jpg", "images/1.png")])
    assert "explain/images/2.png" not in contents()


def test_names_labels_and_reasons_are_escaped() -> None:
    line = (NASTY, "train", "train", NASTY, "dog", 0.9, 1)
    by_hand.write(classes=(NASTY, "dog"), labels=[line], reason=NASTY)
    layer = {"backbone": NASTY, "layer": NASTY, "picture": "images/1.png"}
    subject = {"member": NASTY, "label": NASTY, "picture": "images/1.png"}
    by_hand.explain(
        [shown(NASTY, "images/1.png", label=NASTY, said=NASTY, note=NASTY)],
        activations=subject | {"layers": [layer | {"shape": [3, 3]}]},
        filters=[layer],
    )
    by_hand.change_params(data={"train": NASTY})
    of = page()
    assert "<img src=x" not in of
    assert of.count("&lt;img src=x onerror=alert(1)&gt;.jpg") > 20
    elements = Elements(of).all
    assert not [tag for tag, has in elements if any(name.startswith("on") for name in has)]
    images = {has["src"] for tag, has in elements if tag == "img" and "src" in has}
    assert images == {*PICTURES, "explain/images/1.png", "explain/heatmaps/1.png"}


def test_without_feature_maps_there_is_a_sentence_in_place_of_a_switch() -> None:
    by_hand.explain([shown("cat.1.jpg", "images/1.png") | {"heatmap": None}], without_maps=["Net"])
    of = page()
    assert "There are no heatmaps, as Net has no feature maps." in text(of)
    assert 'id="heatmaps"' not in of
    by_hand.explain([shown("cat.1.jpg", "images/1.png")])
    assert 'id="heatmaps"' in page()


def test_nothing_is_loaded_but_images_beside_the_page() -> None:
    by_hand.explain([shown("cat 1#.jpg", "images/1 #%.png")])
    elements = Elements(page()).all
    [policy] = [str(has["content"]) for _, has in elements if "http-equiv" in has]
    assert re.fullmatch(
        r"default-src 'none'; img-src 'self' file: data:; style-src 'sha256-[^' ]+'; "
        r"script-src 'sha256-[^' ]+'; base-uri 'none'; form-action 'none'",
        policy,
    )
    addresses = {
        str(has.get(name, "")) for tag, has in elements for name in ("src", "href") if tag != "a"
    }
    assert "explain/images/1%20%23%25.png" in addresses
    assert not [at for at in addresses if ":" in at.removeprefix("data:,") or "//" in at]
    assert not [has for _, has in elements if "style" in has]  # the policy would refuse it


def test_ids_are_unique_links_resolve_and_images_have_a_description_and_size() -> None:
    by_hand.write(labels=[CAT] * 60)
    by_hand.explain([shown("cat.1.jpg", "images/1.png")])
    elements = Elements(page()).all
    ids = [has["id"] for _, has in elements if "id" in has]
    assert len(ids) == len(set(ids))
    assert {str(has["href"])[1:] for tag, has in elements if tag == "a"} <= set(ids)
    images = [has for tag, has in elements if tag == "img" and "src" in has]
    assert all(has["alt"] and int(has["width"] or 0) in (24, 60) for has in images)


def test_a_long_table_shows_fifty_lines_and_only_labelled_images_can_be_ticked() -> None:
    by_hand.write(labels=[(f"cat.{n}.jpg", *CAT[1:]) for n in range(1_234)])
    light = ("none.jpg", "test", "unlabelled", "dark", 12.5, 3, 0.1)
    by_hand.write_table("light", AUDIT_COLUMNS["light"], light)
    of = page()
    assert ("none.jpg" in of, of.count('class="tick"')) == (True, 1_234)
    table = of[of.index('data-table="labels"') : of.index("</table>", of.index("data-table"))]
    first, rest = table.split('<tbody id="more-labels" hidden>')
    assert (first.count("data-member"), rest.count("data-member")) == (50, 1_184)
    assert "The first 50 of 1,234. Show all 1,234" in text(of)


def test_without_test_the_metrics_are_those_of_valid_and_called_optimistic() -> None:
    by_hand.write(subsets=("valid",))
    of = text(page())
    assert "98.25 % of 2,000 valid images correct" in of
    assert ("so the metrics are slightly optimistic" in of, "On test" in of) == (True, False)


def test_with_folds_the_metrics_are_those_of_out_of_fold_images() -> None:
    by_hand.change_params(fine_tune=None)
    by_hand.write(subsets=("out_of_fold", "valid"))
    by_hand.change("evaluate", chosen="head")
    by_hand.change("head", folds=4)
    of = text(page())
    assert "98.25 % of 2,000 out-of-fold images correct" in of
    assert "each image was predicted by the one head that has not seen it." in of
    assert "the mean of 4, each trained on train and valid without one of 4 parts" in of
    assert "fitted on out-of-fold images: it was overconfident" in of
    assert "Selected on out-of-fold images." in of
    assert "optimistic" not in of  # as it is with dense heads, whose epochs they select
    by_hand.change("head", kind="dense")
    assert "The images also selected that head's epoch, so" in text(page())


def test_many_classes_are_folded_in_natural_order_and_have_no_thresholds() -> None:
    by_hand.write(classes=[f"kind {number}" for number in range(100)])
    of = page()
    assert of.count("<summary>All 100 classes</summary>") == 2
    assert "Thresholds" not in text(of)
    assert text(of).index("kind 9 ") < text(of).index("kind 10 ")


def test_optional_keys_may_be_left_out_of_the_parameters() -> None:
    params = Path("params.yaml")
    lines = params.read_text(encoding="utf-8").splitlines(keepends=True)
    optional = ("  threads:", "  instruction_set:")
    kept = [line for line in lines if not line.startswith(optional)]
    assert len(lines) - len(kept) == 2
    params.write_text("".join(kept), encoding="utf-8")
    assert "instruction set" in text(page())


def test_without_fine_tuning_only_the_head_appears() -> None:
    by_hand.change_params(fine_tune=None)
    by_hand.change("evaluate", chosen="head", temperature=1.0)
    of = text(page())
    assert "The head was selected. There was no fine-tuning. Its probabilities are used" in of
    assert "Fine-tuned" not in of


def test_an_interval_that_is_not_available_is_told() -> None:
    bounds: dict[str, Any] = dict.fromkeys(by_hand.METRICS) | {"accuracy": [0.97, 0.99]}
    of_class = dict.fromkeys(("precision", "recall", "f1"))
    bounds["per_class"] = dict.fromkeys(("cat", "dog"), of_class)
    change = by_hand.BETTER | {"interval": None}
    pair = {subset: {"log_loss": change} for subset in ("valid", "test")}
    of_model = dict.fromkeys(("valid", "test"), bounds)
    differences = {"fine_tune against head": pair}
    by_hand.change("intervals", head=of_model, final=of_model, differences=differences)
    of = text(page())
    for sentence in (
        "Log loss 0.0486 interval not available nats",
        "paired by image: -0.2026 (interval not available), better.",
        "-0.2026 better interval not available",
        "cat 999 17 97.0 % interval not available 98.0 % interval not available",
    ):
        assert sentence in of


def test_empty_sections_say_so() -> None:
    by_hand.change("split", rejected=0, rejected_by_reason={})
    by_hand.change("intervals", differences={})
    rejected = shown("a.txt", None, subset="", label="", said="", probability=None, note="not one")
    by_hand.explain([rejected])
    of = text(page())
    assert of.count("None found.") == 5
    for sentence in ("Rejected 0 none", "Blank Nothing to see. None.", "no image not one a.txt"):
        assert sentence in of
    for absent in ("Copy lines", "Inside the network", "Differences between models"):
        assert absent not in of


Change = Callable[[], object]
OUTLIERS = AUDIT_COLUMNS["outliers"]


def remove(path: str) -> Change:
    at = Path("metrics", path)
    return lambda: shutil.rmtree(at) if at.is_dir() else at.unlink()


def head(content: str) -> Change:
    return lambda: Path("metrics/head.json").write_text(content, encoding="utf-8")


def table(*lines: Sequence[str]) -> Change:
    return lambda: by_hand.write_table("outliers", *lines)


def picture(path: str) -> Change:
    return lambda: by_hand.explain([], filters=[{"backbone": "b", "layer": "l", "picture": path}])


WRITERS = {"head.json": "train_head", "pictures": "evaluate", "audit/copies.csv": "audit"}
INCOMPLETE = "metrics: expected complete results of all stages, got "
OUTSIDE = "expected the path of a picture in metrics/explain, got "
REFUSED: list[tuple[Change, str, str]] = [
    *(
        (remove(path), f"metrics/{path}: expected the output of `{stage}`", stage)
        for path, stage in WRITERS.items()
    ),
    (head("{"), "head.json: expected a JSON object, got", "train_head"),
    (head("{}"), f"{INCOMPLETE}\"'dict object' has no attribute 'kind'\"", ""),
    (head('{"kind": "", "parameters": "x"}'), INCOMPLETE, ""),
    (lambda: by_hand.change("intervals", final={}), INCOMPLETE, ""),
    (lambda: by_hand.change("evaluate", final={}), f"{INCOMPLETE}\"'valid'\"", ""),
    (table(("member", "label")), "outliers.csv: expected the columns member,source,", "audit"),
    (table(OUTLIERS, ("a", "train", "train", "cat", "x")), "numbers as isolation, got", "audit"),
    (table(OUTLIERS, ("a", "train")), "outliers.csv line 2: expected 5 fields", "audit"),
    *(
        (picture(path), OUTSIDE, "explain")
        for path in ("../../secret.png", "/etc/secret.png", "images/../../x.png", "link", "1.png")
    ),
    (picture("text"), "metrics/explain/text: expected a picture, got something", "explain"),
]


def test_pictures_and_a_report_that_dvc_keeps_in_its_cache_are_read_and_replaced() -> None:
    by_hand.draw("metrics/explain/images/1.png")
    picture("images/1.png")()
    before = page()
    linked(Path("metrics"))
    assert page() == before
    assert not PAGE.is_symlink()
    files = cached(Path(".dvc/cache"))
    assert len(files) > 5
    picture(str(files[0].absolute()))()  # not by a link in the folder
    assert by_hand.report() == 1


@pytest.mark.parametrize(("change", "part", "stage"), REFUSED)
def test_unusable_input_is_refused_in_one_sentence_and_the_last_page_stays(
    change: Change, part: str, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("secret.png", "metrics/x.png", "metrics/explain/images/1.png"):
        by_hand.draw(name)
    Path("metrics/explain/link").symlink_to(Path("secret.png").absolute())
    Path("metrics/explain/text").write_text("no picture", encoding="utf-8")
    PAGE.parent.mkdir(parents=True)
    PAGE.write_text("before", encoding="utf-8")
    change()
    assert by_hand.report() == 1
    assert [path.name for path in PAGE.parent.iterdir()] == ["index.html"]
    assert PAGE.read_text(encoding="utf-8") == "before"
    sentence = capsys.readouterr().err
    assert (sentence.count("\n"), part in sentence) == (1, True), sentence
    assert f"run `dvc repro {stage}".rstrip() in sentence


@pytest.mark.parametrize(
    ("formatter", "expected"),
    [
        (html.percent, {0.975: "97.5 %"}),
        (lambda share: html.percent(share, 2_000), {0.9825: "98.25 %"}),
        (html.percents, {(0.92907, 0.991462): "92.9 to 99.1"}),
        (html.chance, {0.99996: "> 99.9 %", 1.0: "100.0 %", 0.00001: "< 0.1 %"}),
        (html.number, {0.048612: "0.0486", 1234.5: "1,234", -0.0001: "-0.0001", -1e-5: "0.0000"}),
        (lambda value: html.number(value, "+"), {0.0026: "+0.0026", 0.00001: "0.0000"}),
        (html.points, {0.3083: "+30.83", -0.00001: "0.00"}),
        (html.setting, {None: "null", True: "true", 15.0: "15", ("a", None): "[a, null]"}),
        (lambda key: html.setting({key: 1.5}), {0: "{0: 1.5}"}),
    ],
)
def test_numbers_are_formatted_for_people(
    formatter: Callable[..., str], expected: dict[Any, str]
) -> None:
    assert {value: plain(formatter(value)) for value in expected} == expected
