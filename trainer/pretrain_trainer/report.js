// Comfort only: what the curves say where the pointer is. Without it nothing is missing.
for (const plot of document.querySelectorAll(".plot")) {
  const svg = plot.querySelector("svg"), says = plot.querySelector("output"), line = plot.querySelector(".pointer");
  const {x0, x1, y0, y1, log} = svg.dataset;
  const curves = [...svg.querySelectorAll(".raw")].map(path => ({
    label: path.dataset.label,
    points: (path.getAttribute("d").match(/[^ML]+/g) || []).map(pair => pair.split(" ").map(Number)),
  }));
  const value = y => {
    const share = 1 - y / svg.viewBox.baseVal.height;
    return log ? y0 * (y1 / y0) ** share : +y0 + (y1 - y0) * share;
  };
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), width = svg.viewBox.baseVal.width;
    const x = (event.clientX - box.left) / box.width * width;
    const near = curves.filter(curve => curve.points.length).map(({label, points}) => {
      const point = points.reduce((best, one) => Math.abs(one[0] - x) < Math.abs(best[0] - x) ? one : best);
      return `${label} ${value(point[1]).toPrecision(4)}`;
    });
    says.textContent = `step ${Math.round(+x0 + (x1 - x0) * x / width).toLocaleString("en")}: ${near.join(", ")}`;
    line.style.left = `${100 * x / width}%`;
    line.hidden = false;
  });
  svg.addEventListener("pointerleave", () => { says.textContent = ""; line.hidden = true; });
}
