"""The pages of a class's grades: one with all of them, and one for each student, without the others' grades.

A page needs no other file. It is made for phones, screens and paper."""
import html
from pathlib import Path

import numpy as np

from evaluation.counts import BY_CLASS, MEANING
from evaluation.submissions import TROUBLES
from utils import figure_colors

PAGE, STYLE, SORT = (Path(__file__).with_name(f"pages.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))


def feedback_page(args, truth, baselines, name, grade):
    """The page for one student, which says nothing about the others."""
    verdict = f"{grade['status']}: {grade['points']:.2f} of {truth.full_points:g} points"
    metrics = [{"metric": metric.replace("_", " "), "score": value, "best without a network":
                (min if metric == "delta_e" else max)(each["metrics"][metric] for each in baselines.values()),
                "points": grade["points by metric"].get(metric)} for metric, value in grade["metrics"].items()]
    by_class = [{"class": name, BY_CLASS[truth.task]: value} for name, value in zip(truth.classes, grade["by class"])]
    void = f"; {grade['void']:.1%} of the pixels are void or of no class, which is wrong" if grade["void"] else ""
    parts = [f"<p><strong>{verdict}</strong>; {grade['given']} of {len(truth.names)} predictions found{void}</p>",
             "<h2>Scores</h2>", *explain_points(truth), table(metrics), table(by_class)]
    for trouble, lines in grade["troubles"].items():
        if lines:
            items = "".join(f"<li>{html.escape(text)}</li>" for text in lines[:200])
            parts.append(f"<h2>{trouble} ({len(lines)})</h2><ul>{items}</ul>")
    # For labels the worst images alone would show which answers are wrong.
    if grade["worst"] and not (args.hide_truth and truth.task == "classification"):
        parts += worst_images(truth, grade["worst"], args.hide_truth)
    return page(f"{args.title or truth.task} \u2013 {name}", *parts)


def grades_page(args, truth, rows, baselines):
    """The page of all submissions. Images and scores by class are only on the students' pages."""
    shown = []
    for row in rows:
        name = row["submission"]
        link = name if row["status"] == "not handed in" else (name, f"feedback/{row['feedback']}")
        wrong = ", ".join(f"{row[trouble]} {trouble}" for trouble in TROUBLES if row[trouble])
        columns = {key: row[key] for key in ("rank", "status", "points", *truth.metrics, "group")}
        shown.append({"submission": link} | columns | {"wrong": wrong})
    trivial = [{"baseline": name, "points": grade["points"], **grade["metrics"]} for name, grade in baselines.items()]
    points = [row["points"] for row in rows if row["status"] != "not handed in"] or [0]
    return page(f"Grades: {args.title or truth.task}",
                f"<p>{len(rows)} submissions, {len(truth.names)} images, {truth.full_points:g} points at most; mean of "
                f"those handed in {np.mean(points):.2f} points, median {np.median(points):.2f}.</p>",
                histogram(points, truth.full_points),
                "<p>Submissions of one group have exactly the same predictions. Click a header to sort.</p>",
                *explain_points(truth), table(shown, sortable=True),
                "<h2>Baselines without a network</h2>", table(trivial),
                f"<script>{SORT}</script>")


def cell(value):
    """A table's cell. A pair is a link: (text, address). All text is escaped."""
    if isinstance(value, tuple):
        return f'<a href="{html.escape(value[1])}">{html.escape(value[0])}</a>'
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else html.escape(str(value))


def explain_points(truth):
    """Yield the rubric in words, one paragraph per metric."""
    for metric, steps in truth.rubric.items():
        told = ", ".join(f"{points:g} points at {value:.3f}" for value, points in steps)
        yield f"<p><strong>{metric}</strong>, {MEANING.get(metric, 'one of the scores')}: {told}, linear in between</p>"


def histogram(points, most):
    """An SVG histogram of the submissions' points, in ten steps up to the highest possible number."""
    counts, edges = np.histogram(np.clip(points, 0, most), 10, (0, most))
    bars = [f'<rect x="{40 * i + 12}" y="{115 - height}" width="36" height="{height}"/>'
            f'<text x="{40 * i + 30}" y="{110 - height}">{count or ""}</text>'
            for i, (count, height) in enumerate(zip(counts, 90 * counts // counts.max()))]
    ticks = [f'<text x="{40 * i + 10}" y="132">{edge:g}</text>' for i, edge in enumerate(edges)]
    return f'<svg viewBox="0 0 430 140" role="img" aria-label="histogram of the points">{"".join(bars + ticks)}</svg>'


def table(rows, sortable=False):
    """Dicts with equal keys -> an HTML table."""
    if not rows:
        return ""
    names = [html.escape(key.replace("_", " ")) for key in rows[0]]
    head = "".join(f"<th><button>{name}</button></th>" if sortable else f"<th>{name}</th>" for name in names)
    body = "\n".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row.values()) + "</tr>" for row in rows)
    return (f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>")


def worst_images(truth, worst, hide_truth):
    """Yield the legend of the masks' colours, and figures of the images from scoring.draw_worst."""
    keys = [*zip(truth.classes, figure_colors(truth.colors)), ("void or no class", (0, 0, 0))] if truth.colors else []
    yield "<h2>Worst images</h2>"
    yield from legend(keys)
    for caption, images in worst:
        shown = "".join(f'<div><img src="{uri}" alt="">{kind}</div>' for kind, uri in images.items()
                        if not hide_truth or kind in ("input", "prediction"))
        yield f"<figure>{shown}<figcaption>{html.escape(caption)}</figcaption></figure>"


def legend(keys):
    """Yield the entries of a legend. keys: (name, (r, g, b))."""
    yield from (f'<span style="border-color: rgb{tuple(color)}">{html.escape(name)}</span>' for name, color in keys)


def page(title, *parts):
    """A whole HTML document. The parts are HTML, the title is text."""
    return PAGE.format(title=html.escape(title), style=STYLE, parts="\n".join(parts))
