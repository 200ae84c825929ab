"""Write the page that `dvc plots` fills: with Vega in it, so that it opens without network.

DVC's own page loads Vega from a content network. Vega, Vega-Lite and Vega-Embed come from the
package `vl-convert-python` (all under the BSD 3-clause license); `.dvc/config` names the page.
    python -m pipeline.reporting.plots_page .dvc/plots/page.html
"""

import sys
from pathlib import Path

from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import arguments, script

VEGA_LITE = "5.20"  # DVC's templates are of version 5
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh_tag}
<title>Plots</title>
<link rel="icon" href="data:,">
<style>
body { margin: 1rem auto; max-width: 80rem; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif }
table { border-spacing: 1rem }
</style>
<!-- Vega, Vega-Lite, Vega-Embed: Copyright University of Washington Interactive Data Lab and
contributors, BSD 3-clause license, https://github.com/vega -->
<script>
(() => {
SCRIPT
})();
</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


@script
def main() -> None:
    """Write it whole or not at all."""
    (out,) = map(Path, arguments(__doc__, count=1))
    with atomic_files.replacing(out) as partial:
        partial.write_text(page(), encoding="utf-8")
    print(f"plots_page: {out}, {out.stat().st_size / 1e6:.1f} MB")


def page() -> str:
    """The template, with DVC's placeholders `{plot_divs}` and `{refresh_tag}` in it."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return PAGE.replace("SCRIPT", bundle.replace("</script", "<\\/script"))


if __name__ == "__main__":
    sys.exit(main())
