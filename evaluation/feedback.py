"""The pages of a class's grades: one with all of them, and one for each student, which tells of no other."""
import html
import json

from evaluation.pages import SORT, figures, format_interval, page, table
from evaluation.rubrics import full_points
from evaluation.submissions import TROUBLES

BY_CLASS = {"segmentation": "IoU", "classification": "accuracy", "colorization": None}
WORST = {"segmentation": "Image, truth and prediction of the three worst.",
         "classification": "The first three mistakes.", "colorization": "Truth and prediction of the three worst."}


def count_troubles(row):
    return ", ".join(f"{row[trouble]} {trouble}" for trouble in TROUBLES if row[trouble])


def feedback_page(truth, name, grade):
    """What one student is sent: nothing in it tells of the others."""
    verdict = f"{grade['status']}: {grade['points']:.2f} of {full_points(truth.rubric):g} points"
    metrics = [{"metric": metric.replace("_", " "), "score": value,
                "95% interval": format_interval(*grade["intervals"][metric]),
                "points": grade["points by metric"].get(metric)} for metric, value in grade["metrics"].items()]
    by_class = [{"class": name, BY_CLASS[truth.task]: value} for name, value in zip(truth.classes, grade["by class"])]
    lists = [f"<h3>{trouble} ({grade['trouble counts'][trouble]})</h3><ul>"
             + "".join(f"<li>{html.escape(text)}</li>" for text in lines)
             + ("<li>...</li>" if len(lines) < grade["trouble counts"][trouble] else "") + "</ul>"
             for trouble, lines in grade["troubles"].items() if lines]
    void = f"; {grade['void']:.1%} of the pixels are left void, which is wrong" if grade["void"] else ""
    return page(name,
                f"<p><strong>{verdict}</strong>; {grade['given']} of {len(truth.names)} predictions found{void}</p>",
                "<h2>Scores</h2>", table(metrics), "<h2>Classes</h2>" if by_class else "", table(by_class, shaded=True),
                "<h2>What is wrong</h2>" if lists else "", *lists,
                f"<h2>Worst images</h2><p>{WORST[truth.task]}</p>" if grade["worst"] else "", figures(grade["worst"]))


def grades_page(truth, rows, grades, baselines):
    """The table of all submissions and their classes. Images are on the students' own pages."""
    main = truth.metrics[0]
    link = lambda row: (row["submission"] if row["status"] == "not handed in" else  # noqa: E731
                        (row["submission"], f"feedback/{row['feedback']}"))
    ranked = [{"rank": row["rank"], "submission": link(row), "status": row["status"], "points": row["points"],
               **grades[row["submission"]]["metrics"],
               f"95% of {main}": format_interval(*grades[row["submission"]]["intervals"][main]),
               "what is wrong": count_troubles(row), "identical to": row["identical to"]} for row in rows]
    trivial = [{"baseline": name, "points": grade["points"], **grade["metrics"]} for name, grade in baselines.items()]
    classes = [{"": link(row)} | dict(zip(truth.classes, grades[row["submission"]]["by class"])) for row in rows]
    return page(f"Grades: {truth.task}",
                f"<p>{len(rows)} submissions, {len(truth.names)} images, {full_points(truth.rubric):g} points at most. "
                "Intervals hold 95% of 1000 bootstrap samples of the images. Click a header to sort. "
                f"Rubric: <code>{html.escape(json.dumps(truth.rubric))}</code></p>",
                table(ranked, "sortable"), "<h2>What needs no network would score</h2>", table(trivial),
                f"<h2>{BY_CLASS[truth.task]} by class</h2>" if truth.classes else "",
                table(classes, "sortable", shaded=True) if truth.classes else "", f"<script>{SORT}</script>")
