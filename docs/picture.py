"""The picture of the README, drawn from the table in docs/howto/method.md.

python docs/picture.py        # writes docs/methods.svg
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent
PICTURE = DOCS / "methods.svg"
SHOWN = {
    "`bias_correction`": ("rounding, biases corrected", "#b0b0b0"),
    "`brecq`": ("BRECQ", "#9bd3c9"),
    "`qdrop`": ("QDrop", "#e69f00"),
    "`subbyte`": ("Subbyte", "#4f9fe0"),
}
LOW, HIGH = 0.0, 85.0  # per cent, the ends of the axis
WIDTH, TOP, BOTTOM, LEFT = 720, 60, 250, 50
BAR, GAP, GROUP = 38, 6, 220


def numbers() -> tuple[list[str], float, dict[str, list[float]]]:
    """Widths, the float model's top-1, and method → top-1 at each width."""
    page = (DOCS / "howto" / "method.md").read_text(encoding="utf-8")
    section = page[page.index("## What it gives") : page.index("## What it costs")]
    best = float(re.findall(r"Float has ([\d.]+) %", section)[0])
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in section.splitlines()
        if row.startswith("| ")
    ]
    found = {row[0]: [float(cell) for cell in row[1:]] for row in rows if row[0] in SHOWN}
    return rows[0][1:], best, found


def height(value: float) -> float:
    """Where a share in per cent stands, in pixels from the top."""
    return BOTTOM - (value - LOW) / (HIGH - LOW) * (BOTTOM - TOP)


def draw() -> str:
    """The picture."""
    widths, best, found = numbers()
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 320" width="{WIDTH}" '
        'font-family="sans-serif" font-size="13" role="img">'
    )
    parts = [
        head,
        "<title>Top-1 of ResNet-20 on CIFAR-10 by method and bits</title>",
        f'<rect width="{WIDTH}" height="320" fill="#fff"/>',
        text(LEFT, 24, "ResNet-20 on CIFAR-10: top-1 % of 10,000 test images", "start", 15),
    ]
    for value in range(0, 81, 20):
        parts += [line(height(value), 'stroke="#e4e4e4"'), text(42, height(value) + 4, value)]
    for i, name in enumerate(widths):
        left = LEFT + 15 + i * GROUP
        parts += bars(left, [values[i] for values in found.values()])
        parts.append(text(left + 2 * (BAR + GAP) - GAP / 2, 270, name, "middle"))
    parts.append(line(height(best), 'stroke="#222" stroke-dasharray="5 4"'))
    parts.append(text(700, height(best) - 6, f"float {best:.1f}"))
    return "\n".join([*parts, *legend(), "</svg>", ""])


def text(x: float, y: float, said: object, anchor: str = "end", size: int = 13) -> str:
    """Some words."""
    place = f'x="{x:g}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="#222">{said}</text>'


def line(y: float, style: str) -> str:
    """A horizontal line."""
    return f'<line x1="{LEFT}" x2="700" y1="{y:.1f}" y2="{y:.1f}" {style}/>'


def bars(left: float, values: list[float]) -> list[str]:
    """A bar for each method, with its number."""
    parts = []
    for i, (value, (_, colour)) in enumerate(zip(values, SHOWN.values(), strict=True)):
        x, y = left + i * (BAR + GAP), height(value)
        size = f'width="{BAR}" height="{BOTTOM - y:.1f}"'
        parts.append(f'<rect x="{x:g}" y="{y:.1f}" {size} fill="{colour}"/>')
        parts.append(text(x + BAR / 2, y + 16, f"{value:.1f}", "middle", 12))
    return parts


def legend() -> list[str]:
    """Which colour is which method."""
    parts, x = [], LEFT + 15
    for label, colour in SHOWN.values():
        parts.append(f'<rect x="{x}" y="290" width="12" height="12" fill="{colour}"/>')
        parts.append(text(x + 18, 301, label, "start"))
        x += 40 + 7 * len(label)
    return parts


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
