document.querySelectorAll("th button").forEach(button => button.onclick = () => {
  const th = button.parentNode, body = th.closest("table").tBodies[0], sign = button.value = -(button.value || -1);
  const text = row => row.cells[th.cellIndex].textContent;
  body.append(...[...body.rows].sort((a, b) => sign * text(a).localeCompare(text(b), "en", {numeric: true})));
});
