"""A badge: two words side by side, 20 pixels high."""

from html import escape

COLOURS = {"production": "#1a7f37", "recovers": "#1f6feb", "works": "#8a6100"}
"""By level; each dark enough for white letters."""
OTHER = "#6e7781"

LETTER, MARGIN = 6.2, 7.0
"""How wide a letter is on average, and what is left free on either side, in pixels."""


def badge(name: str, level: str) -> str:
    """Return the picture, as SVG. Each text is fitted into its field, whatever font there is."""
    widths = [len(text) * LETTER + 2 * MARGIN for text in (name, level)]
    left, right = (round(width, 1) for width in widths)
    whole = round(left + right, 1)
    label = escape(f"{name}: {level}")
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="20" viewBox="0 0 {whole} 20" role="img" aria-label="{label}">
  <title>{label}</title>
  <clipPath id="edge"><rect width="{whole}" height="20" rx="3"/></clipPath>
  <g clip-path="url(#edge)">
    <rect width="{left}" height="20" fill="#3d444d"/>
    <rect x="{left}" width="{right}" height="20" fill="{COLOURS.get(level, OTHER)}"/>
  </g>
  <g fill="#fff" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11" text-anchor="middle">
    {_text(name, 0, left)}
    {_text(level, left, right)}
  </g>
</svg>
"""


def _text(text: str, start: float, width: float) -> str:
    fitted = f'textLength="{width - 2 * MARGIN:.1f}" lengthAdjust="spacingAndGlyphs"'
    return f'<text x="{start + width / 2:.1f}" y="14" {fitted}>{escape(text)}</text>'
