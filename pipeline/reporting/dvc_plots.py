"""Write `.dvc/plots/page.html`, which `dvc plots` fills in, so that it opens without network.

    python -m pipeline.reporting.dvc_plots

DVC's own page loads Vega from a content delivery network. This one contains Vega, Vega-Lite and
Vega-Embed from `vl-convert-python`, all under the BSD 3-clause license.
"""

import sys
from pathlib import Path

from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import command

PAGE = Path(".dvc/plots/page.html")
VEGA_LITE = "5.20"  # DVC's templates need version 5


def page() -> str:
    """Return the page with DVC's placeholders `{plot_divs}` and `{refresh_tag}`."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    template = Path(__file__).parent.joinpath("templates", "dvc_plots.html")
    script = bundle.replace("</script", "<\\/script")
    return template.read_text(encoding="utf-8").replace("SCRIPT", script)


@command
def main() -> None:
    """Write the page."""
    with atomic_files.replacing(PAGE) as partial:
        partial.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
