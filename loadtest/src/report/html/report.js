"use strict";
// The page is whole without this: it shows the values pointed at, and saves the JSON within.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);

  const plots = [...document.querySelectorAll(".plot svg")].map((svg) => {
    const hits = [...svg.querySelectorAll(".hits rect")];
    for (const hit of hits) {
      const title = hit.querySelector("title");
      hit.dataset.tip = title.textContent;
      title.remove(); // or the browser would show it as well
    }
    return { svg, hits, cross: svg.querySelector(".cross"), group: svg.dataset.group, at: -1 };
  });

  const point = (plot, index) => {
    const hit = plot.hits[index];
    for (const other of plots) {
      // Columns of charts in one group have the same places.
      const on = other.group === plot.group && hit !== undefined;
      other.cross.classList.toggle("on", on);
      if (on) other.cross.setAttribute("transform", `translate(${hit.dataset.x} 0)`);
    }
    plot.at = index;
    tip.hidden = hit === undefined;
    if (hit === undefined) return;
    tip.textContent = hit.dataset.tip;
    const box = plot.cross.getBoundingClientRect();
    const right = box.left + 14 + tip.offsetWidth < innerWidth;
    tip.style.left = `${right ? box.left + 14 : Math.max(4, box.left - 14 - tip.offsetWidth)}px`;
    tip.style.top = `${Math.max(4, Math.min(box.top + 8, innerHeight - tip.offsetHeight - 4))}px`;
  };

  for (const plot of plots) {
    plot.hits.forEach((hit, index) => hit.addEventListener("pointerenter", () => point(plot, index)));
    plot.svg.addEventListener("pointerleave", () => point(plot, -1));
    plot.svg.parentElement.addEventListener("blur", () => point(plot, -1));
    plot.svg.parentElement.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      point(plot, Math.max(0, Math.min(plot.hits.length - 1, plot.at + step)));
    });
  }

  const json = document.getElementById("report").textContent.trimStart();
  const report = JSON.parse(json);
  const save = document.createElement("button");
  save.textContent = "Save the JSON";
  save.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([json], { type: "application/json" }));
    link.download = `loadtest-${report.started_at.replaceAll(":", "")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  document.querySelector("main").append(save);
  document.documentElement.dataset.ready = "true";
})();
