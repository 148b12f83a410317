"""Small charts as SVG, a histogram and one of lines, with a text for who cannot see them."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 420, 220  # of a chart in its own units
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34  # margins
BINS = 40
MOST = 99.5  # percentile beyond which a histogram's long tail falls into its last bar
COLOURS = ("#2f6fb0", "#d1702a", "#3a9a5b")  # told apart by the colour-blind, and by their dashes
DASHES = ("", "7 4", "2 3")


def histogram(title: str, unit: str, values: np.ndarray) -> str:
    """How many cells have which value; nothing where there is no finite value. values: (N,)."""
    values = values[np.isfinite(values)]
    if not values.size:
        return ""
    low, high = float(values.min()), float(np.percentile(values, MOST))
    high = high if high > low else low + 1
    counts, edges = np.histogram(np.minimum(values, high), BINS, (low, high))
    x = _scale(edges, low, high, LEFT, WIDTH - RIGHT)
    y = _scale(counts, 0, counts.max(), HEIGHT - BOTTOM, TOP)
    bars = "".join(
        f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{right - left - 0.5:.1f}" '
        f'height="{HEIGHT - BOTTOM - top:.1f}"/>'
        for left, right, top in zip(x[:-1], x[1:], y, strict=True)
    )
    quartiles = np.percentile(values, (25, 50, 75))
    told = f"median {_short(quartiles[1])}, half of the cells from {_short(quartiles[0])} to "
    told += f"{_short(quartiles[2])}{f' {unit}' if unit else ''}"
    named = f"{title} ({unit})" if unit else title
    return _figure(title, f"{len(values):,} cells: {told}", bars, (low, high), named, counts.max())


def lines(title: str, axis: str, x: Sequence[float], series: Mapping[str, np.ndarray]) -> str:
    """Several values between 0 and 1 over the same x. series: (len(x),) each, by name."""
    at = _scale(np.array(x), x[0], x[-1], LEFT, WIDTH - RIGHT)
    drawn, told = [], []
    for n, (name, values) in enumerate(series.items()):
        y = _scale(np.asarray(values), 0, 1, HEIGHT - BOTTOM, TOP)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(at, y, strict=True))
        colour, dash = COLOURS[n % 3], DASHES[n % 3]
        drawn.append(f'<polyline points="{points}" stroke="{colour}" stroke-dasharray="{dash}"/>')
        drawn.append(_key(n, name, colour, dash))
        told.append(f"{name} {values[0]:.2f} at {x[0]:g} and {values[-1]:.2f} at {x[-1]:g}")
    return _figure(title, "; ".join(told), "".join(drawn), (x[0], x[-1]), axis, 1)


def _key(n: int, name: str, colour: str, dash: str) -> str:
    y = TOP + 14 * n + 8
    x = WIDTH - 110
    line = f'<polyline points="{x},{y} {x + 24},{y}" stroke="{colour}" stroke-dasharray="{dash}"/>'
    return f'{line}<text x="{x + 30}" y="{y + 4}">{escape(name)}</text>'


def _figure(
    title: str, told: str, drawn: str, span: tuple[float, float], axis: str, highest: float
) -> str:
    base, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
    texts = [
        (LEFT, base + 14, "start", _short(span[0])),
        (WIDTH - RIGHT, base + 14, "end", _short(span[1])),
        (middle, base + 28, "middle", axis),
        (LEFT - 6, TOP + 10, "end", _short(highest)),
        (LEFT - 6, base, "end", "0"),
    ]
    words = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
        for x, y, anchor, text in texts
    )
    axes = f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>'
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(title)}: {escape(told)}">{axes}{drawn}{words}</svg>'
        f'<p class="soft">{escape(told)}</p></figure>'
    )


def _scale(values: np.ndarray, low: float, high: float, start: float, end: float) -> np.ndarray:
    scaled: np.ndarray = start + (values - low) / max(high - low, 1e-12) * (end - start)
    return scaled


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
