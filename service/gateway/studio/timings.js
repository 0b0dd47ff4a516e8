// Latency by stage as a small table with bars.

import { seconds, stageName } from "./wording.js";

/** Fill `tbody` from {stage: seconds}; a "total" entry is shown last, without being drawn as a stage. */
export function showTimings(tbody, timings, seenHere) {
  const stages = Object.entries(timings).filter(([stage, value]) => stage !== "total" && value > 0);
  const longest = Math.max(...stages.map(([, value]) => value), 1e-9);
  const rows = stages.map(([stage, value]) => {
    const line = row(stageName(stage), value, value / longest);
    line.title = stage;
    return line;
  });
  if (timings.total) rows.push(row("On the server, in all", timings.total, null));
  if (seenHere) rows.push(row("Seen from this page", seenHere, null));
  tbody.replaceChildren(...rows);
}

function row(name, value, share) {
  const line = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  const figure = document.createElement("td");
  figure.className = "figure";
  figure.textContent = seconds(value);
  if (share === null) {
    line.className = "sum";
    head.colSpan = 2;
    line.append(head, figure);
    return line;
  }
  const cell = document.createElement("td");
  cell.className = "lane";
  const bar = document.createElement("span");
  bar.className = "measure";
  bar.style.width = `${Math.max(share * 100, 1.5)}%`;
  cell.append(bar);
  line.append(head, cell, figure);
  return line;
}
