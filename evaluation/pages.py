"""HTML pages that need nothing else: for a phone, a screen or paper."""
import html

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 1rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2 } h1, h2, h3, li, figcaption, code { overflow-wrap: anywhere }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
td, th { padding: .3rem .6rem; border-bottom: 1px solid #8885; text-align: right; vertical-align: baseline }
td { white-space: nowrap } td.text { white-space: normal; min-width: 6rem }
td:first-child, th:first-child, .text { text-align: left }
.sortable th { cursor: pointer; text-decoration: underline dotted }
.shaded { background: color-mix(in srgb, #3a9d6e calc(var(--share) * .6), transparent) }
figure { display: inline-block; margin: 0 1rem 1rem 0; max-width: 100% } figure img { max-width: 100%; display: block }
figcaption { font-size: .8rem } .row { display: flex; flex-wrap: wrap; gap: .5rem }
.row figure { width: 22rem; margin: 0 } pre { white-space: pre-wrap; overflow-wrap: anywhere }
@media (max-width: 30rem) { td, th { padding: .3rem .25rem } td.text { min-width: 5rem } }
@media print { body { max-width: none; font-size: 10pt; print-color-adjust: exact } .wide { overflow: visible }
  figure, tr { break-inside: avoid } h2, h3 { break-after: avoid } figure img { max-height: 10cm } }
"""
SORT = """
document.querySelectorAll(".sortable th").forEach(th => th.onclick = () => {
  const body = th.closest("table").tBodies[0], sign = th.dataset.sign = -(th.dataset.sign || 1);
  const text = row => row.cells[th.cellIndex].textContent;
  const number = row => isNaN(parseFloat(text(row))) ? -1 : parseFloat(text(row));
  body.append(...[...body.rows].sort((a, b) => sign * (number(a) - number(b) || text(a).localeCompare(text(b)))));
});
"""


def cell(value, shaded=False):
    """A table's cell. A pair is a link: (text, address). Nothing but numbers goes in unescaped."""
    if isinstance(value, tuple):
        return f'<td class="text"><a href="{html.escape(value[1])}">{html.escape(value[0])}</a></td>'
    if isinstance(value, float):
        shade = f' class="shaded" style="--share: {value:.0%}"' if shaded else ""
        return f"<td{shade}>{value:.3f}</td>"
    kind = ' class="text"' if isinstance(value, str) else ""
    return f"<td{kind}>{'-' if value is None else html.escape(str(value))}</td>"


def table(rows, name="", shaded=False):
    """Dicts with equal keys -> an HTML table."""
    if not rows:
        return ""
    kinds = [' class="text"' if isinstance(value, (str, tuple)) else "" for value in rows[0].values()]
    head = "".join(f"<th{kind}>{html.escape(key.replace('_', ' '))}</th>" for key, kind in zip(rows[0], kinds))
    body = "\n".join("<tr>" + "".join(cell(value, shaded) for value in row.values()) + "</tr>" for row in rows)
    return (f'<div class="wide"><table class="{name}"><thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>")


def figures(images):
    """Pairs (caption, address of the image) -> HTML figures."""
    return "".join(f'<figure><img src="{uri}" alt="{html.escape(caption)}"><figcaption>{html.escape(caption)}'
                   "</figcaption></figure>" for caption, uri in images)


def page(title, *parts):
    """A whole HTML document that needs nothing else. The parts are HTML, the title is text."""
    title = html.escape(title)
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n" + "\n".join(parts) + "\n</body></html>\n")


def format_interval(low, high):
    """None for both where there are too few images for an interval."""
    if low is None:
        return "-"
    return f"{low:.3f}\u00a0to\u00a0{high:.3f}"  # on one line, also in a narrow column
