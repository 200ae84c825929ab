"""How much each benchmark works on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Counts of images and rounds.

    Attributes:
        rounds: of benchmarks 1 to 4, 8 and 12; in 10, draws of swapped labels.
        extraction: images by backbone, of benchmark 1.
        size: of an image in pixels, in benchmarks 1, 2, 3, 5, 8 and 10.
        resizing: photos in their own sizes, of benchmark 2.
        row_cache: images, of benchmark 3.
        many: numbers of images, of benchmark 4.
        many_size: of an image in pixels, there.
        end_to_end: images, of benchmark 5; a fifth of them unlabelled.
        end_to_end_rounds: of that one.
        variants: labelled images, of benchmarks 6, 7, 9 and 10.
        views: numbers of views, in benchmark 6.
        cached_epochs: images by backbone, of benchmark 8.
        audited: images whose audit is timed, in benchmark 10.
        classes: numbers of classes, and of images of each, in benchmark 12.
        copies: numbers of images, in benchmark 13.
        copies_exhaustive: up to so many of them, all are compared with all, too.
        zip_to_report: numbers of images, in benchmark 14.
        clothing: images of each class, at most, in benchmark 15.
    """

    rounds: int
    extraction: dict[str, int]
    size: int
    resizing: int
    row_cache: int
    many: tuple[int, ...]
    many_size: int
    end_to_end: int
    end_to_end_rounds: int
    variants: int
    views: tuple[int, ...]
    cached_epochs: dict[str, int]
    audited: int
    classes: tuple[tuple[int, int], ...]
    copies: tuple[int, ...]
    copies_exhaustive: int
    zip_to_report: tuple[int, ...]
    clothing: int


FULL = Settings(
    rounds=5,
    extraction={"VGG16": 64, "ResNet50": 192, "MobileNetV2": 2_000},
    size=224,
    resizing=800,
    row_cache=10_000,
    many=(1_000, 10_000, 100_000),
    many_size=64,
    end_to_end=10_000,
    end_to_end_rounds=1,
    variants=8_000,
    views=(1, 2, 4, 8),
    cached_epochs={"VGG16": 64, "MobileNetV2": 512},
    audited=25_000,
    classes=((2, 500), (12, 8), (200, 12), (1_000, 50)),
    copies=(20_000, 100_000, 1_000_000),
    copies_exhaustive=100_000,
    zip_to_report=(100_000, 1_000_000),
    clothing=2_000,
)
QUICK = Settings(  # whether everything runs; the figures mean nothing
    rounds=1,
    extraction={"VGG16": 8, "ResNet50": 8, "MobileNetV2": 16},
    size=96,
    resizing=16,
    row_cache=100,
    many=(30, 60),
    many_size=32,
    end_to_end=60,
    end_to_end_rounds=1,
    variants=60,
    views=(1, 2, 4),
    cached_epochs={"VGG16": 8, "MobileNetV2": 16},
    audited=90,
    classes=((2, 8), (40, 7)),
    copies=(100, 300),
    copies_exhaustive=300,
    zip_to_report=(100, 300),
    clothing=12,
)
