"""Plots as SVG, without any library, for what benchmarks leave in bench/runs: bars and lines that read well in light and dark.

A plot is a list of panels, which stand below each other; `write` makes the file.
"""

import math
from html import escape

WIDTH, LEFT, RIGHT = 760, 190, 90
COLOURS = ["#2f7ed8", "#e07b39", "#2f9e6e", "#b455c6", "#c9a227", "#d64550"]
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600; font-size: 15px } .small { font-size: 12px }
  .grid { stroke: #d0d7de } .other { fill: #9aa4af } .ours { fill: #2f7ed8 } .paper { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .grid { stroke: #30363d } .other { fill: #6e7681 } .ours { fill: #58a6ff } .paper { fill: #0d1117 } }
"""


def number(value):
    """As people read it: three digits and a unit."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value):
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def round_step(value):
    """The next number that is round."""
    unit = 10 ** math.floor(math.log10(value)) if 0 < value else 1
    return next(step * unit for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if value <= step * unit)


def bars(title, rows):
    """A bar for each (name, value, whether it is ours), on a logarithmic scale from a tenth of the least."""
    values = [value for _, value, _ in rows if 0 < value]
    low, high = math.log10(min(values) / 3), math.log10(max(values))
    parts = [f'<text class="title" x="12" y="24">{escape(title)}</text>']
    for index, (name, value, is_ours) in enumerate(rows):
        y = 40 + 26 * index
        share = 0 if value <= 0 else (math.log10(value) - low) / (high - low)
        width = max(2, share * (WIDTH - LEFT - RIGHT))
        parts.append(f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="{"ours" if is_ours else "other"}" x="{LEFT}" y="{y}" width="{width:.1f}" height="18" rx="3"/>')
        parts.append(f'<text class="small" x="{LEFT + width + 6:.1f}" y="{y + 14}">{number(value)}</text>')
    return "\n".join(parts), 48 + 26 * len(rows)


def lines(title, x_label, series, x_logarithmic=True):
    """A line through the (x, y) of each named series; y begins at zero."""
    height, left, top = 250, 70, 40
    right = 150 if 1 < len(series) else 40
    xs = sorted({x for points in series.values() for x, _ in points})
    y_max = 4 * round_step(max(y for points in series.values() for _, y in points) / 4)
    scale = math.log10 if x_logarithmic else float
    x_low, x_high = scale(xs[0]), scale(xs[-1])

    def at(x, y):
        share = (scale(x) - x_low) / (x_high - x_low or 1)
        return left + share * (WIDTH - left - right), top + (1 - y / y_max) * (height - top - 45)

    parts = [f'<text class="title" x="12" y="24">{escape(title)}</text>']
    for n in range(5):
        y = y_max * n / 4
        _, py = at(xs[0], y)
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{py:.1f}" y2="{py:.1f}"/>')
        parts.append(f'<text class="small" x="{left - 8}" y="{py + 4:.1f}" text-anchor="end">{number(y)}</text>')
    for x in xs:
        px, py = at(x, 0)
        parts.append(f'<text class="small" x="{px:.1f}" y="{py + 18:.1f}" text-anchor="middle">{number(x)}</text>')
    parts.append(f'<text class="small" x="{(left + WIDTH - right) / 2}" y="{height - 8}" text-anchor="middle">{escape(x_label)}</text>')
    for index, (name, points) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (at(x, y) for x, y in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        for x, y in points:
            px, py = at(x, y)
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"/>')
        if len(series) == 1:
            continue
        y = top + 14 + 20 * index
        parts.append(f'<rect x="{WIDTH - right + 14}" y="{y - 9}" width="10" height="10" rx="2" fill="{colour}"/>')
        parts.append(f'<text class="small" x="{WIDTH - right + 30}" y="{y}">{escape(name)}</text>')
    return "\n".join(parts), height + 10


def write(path, panels):
    """The panels below each other as one file."""
    placed, y = [], 0
    for text, height in panels:
        placed.append(f'<g transform="translate(0 {y})">\n{text}\n</g>')
        y += height
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}">\n<style>{STYLE}</style>\n'
        f'<rect class="paper" width="{WIDTH}" height="{y}"/>\n' + "\n".join(placed) + "\n</svg>\n"
    )
