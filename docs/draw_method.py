"""Draws docs/method.svg, the picture of the README: python docs/draw_method.py"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot
from matplotlib.patches import FancyBboxPatch

AUDIO, VIDEO, FUSION, TEXT, PLAIN = "#cfe3f5", "#d5ecd0", "#f6e3b4", "#eed3e6", "#eeeeee"


def box(axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    """A rounded box with text in its middle; (x, y) is its lower left corner."""
    shape = "round,pad=0,rounding_size=0.8"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, fc=colour, ec="#555555"))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", linespacing=1.3)


def tokens(axes, x: float, y: float, count: int, colour: str) -> None:
    """A row of small squares, one a token."""
    for i in range(count):
        axes.add_patch(FancyBboxPatch((x + 1.7 * i, y), 1.2, 2.4, boxstyle="square,pad=0",
                                      fc=colour, ec="#555555"))


def arrow(axes, start: tuple[float, float], end: tuple[float, float], **style) -> None:
    """An arrow between two points."""
    axes.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color="#333333", lw=1.2,
                                                  shrinkA=0, shrinkB=0, **style))


def draw(path: str | Path) -> None:
    """Writes the picture; the ending of `path` says in which format."""
    settings = {"font.size": 9, "svg.hashsalt": "method", "font.family": "DejaVu Sans"}
    with pyplot.rc_context(settings):
        figure, axes = pyplot.subplots(figsize=(11.5, 4.85))
        axes.set(xlim=(0, 100), ylim=(0, 42), aspect="equal")
        axes.axis("off")

        # a clip becomes one fused token
        axes.text(0.5, 39.6, "a clip", style="italic")
        for y, colour, name, count in ((33, AUDIO, "audio", 5), (23, VIDEO, "video", 7)):
            axes.text(0.5, y + 3.2, f"{name} features", fontsize=7.5)
            tokens(axes, 0.5, y, count, colour)
            arrow(axes, (12.8, y + 1.2), (17, y + 1.2))
            box(axes, 17, y - 1.3, 13, 5, "embedding net\n+ time code", colour)
            arrow(axes, (30, y + 1.2), (35, y + 1.2))
        box(axes, 35, 18, 22, 20, "", FUSION)
        axes.text(46, 35.6, "hybrid attention", ha="center", weight="bold")
        box(axes, 37, 27.2, 18, 6, "Z layers: a token sees\nits own modality", "#fffaf0")
        box(axes, 37, 19.6, 18, 6, "L – Z layers: a token\nsees all tokens", "#fffaf0")
        arrow(axes, (46, 27.2), (46, 25.6))

        # the fused token is classified
        arrow(axes, (57, 28), (63, 28))
        axes.text(60, 29, "class\ntoken", ha="center", fontsize=7.5)
        box(axes, 63, 25.5, 9, 5, "Projnet", PLAIN)
        arrow(axes, (72, 28), (83, 28))
        axes.text(77.5, 29, "real\nfeature", ha="center", fontsize=7.5)
        box(axes, 83, 25.5, 8, 5, "CLnet", PLAIN)
        arrow(axes, (91, 28), (95, 28))
        axes.text(95.5, 28, "class", va="center", style="italic")

        # the generator makes more features of the classes with few clips
        axes.text(0.5, 9.6, "a class with few clips", style="italic")
        box(axes, 0.5, 3.5, 12.5, 4.6, '"playing violin"', "#ffffff")
        arrow(axes, (13, 5.8), (17, 5.8))
        box(axes, 17, 3.3, 13, 5, "text vector", TEXT)
        arrow(axes, (30, 5.8), (35, 5.8))
        box(axes, 35, 1.2, 37, 11.4, "", TEXT)
        axes.text(53.5, 10.2, "diffusion of features", ha="center", weight="bold")
        axes.text(37, 5, "noise", va="center")
        steps = [44, 51, 58]
        arrow(axes, (42, 5), (44, 5))
        for x, name in zip(steps, ("T", "T – 1", "…"), strict=True):
            box(axes, x, 3, 5, 4, name, "#fffaf0")
            arrow(axes, (x + 5, 5), (x + 7, 5))
        box(axes, 65, 3, 5, 4, "1", "#fffaf0")
        axes.plot([70, 87, 87], [5, 5, 24], color="#333333", lw=1.2)
        arrow(axes, (87, 23), (87, 25.5))
        axes.text(86, 15, "synthetic features of\nthat class, while the\nclassifier is trained",
                  ha="right", va="center", fontsize=7.5)
        arrow(axes, (76, 28), (67.5, 12.6), ls="--")
        axes.text(69.5, 20, "learns from\nreal features", ha="right", va="center", fontsize=7.5)
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None}
                       if str(path).endswith("svg") else None)
        pyplot.close(figure)


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("method.svg"))
