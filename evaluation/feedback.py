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
    main, ranked, classes = truth.metrics[0], [], []
    for row in rows:
        name, each = row["submission"], grades[row["submission"]]
        link = name if row["status"] == "not handed in" else (name, f"feedback/{row['feedback']}")
        ranked.append({"rank": row["rank"], "submission": link, "status": row["status"], "points": row["points"],
                       **each["metrics"], f"95% of {main}": format_interval(*each["intervals"][main]),
                       "what is wrong": count_troubles(row), "identical to": row["identical to"]})
        classes.append({"": link} | dict(zip(truth.classes, each["by class"])))
    trivial = [{"baseline": name, "points": grade["points"], **grade["metrics"]} for name, grade in baselines.items()]
    by_class = (f"<h2>{BY_CLASS[truth.task]} by class</h2>", table(classes, "sortable", shaded=True))
    return page(f"Grades: {truth.task}",
                f"<p>{len(rows)} submissions, {len(truth.names)} images, {full_points(truth.rubric):g} points at most. "
                "Intervals hold 95% of 1000 bootstrap samples of the images. Click a header to sort. "
                f"Rubric: <code>{html.escape(json.dumps(truth.rubric))}</code></p>",
                table(ranked, "sortable"), "<h2>What needs no network would score</h2>", table(trivial),
                *(by_class if truth.classes else ()), f"<script>{SORT}</script>")
