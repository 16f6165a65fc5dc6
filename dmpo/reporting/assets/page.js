"use strict";
// Every <figure class="chart"> holds its numbers as JSON: see dmpo/reporting/charts.py.
(() => {
  const COLOURS = 8;
  const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
  const SVG = "http://www.w3.org/2000/svg";
  const MARGIN = { top: 12, right: 16, bottom: 44, left: 56 };

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const draw = (parent, name, attributes) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.append(element);
    return element;
  };
  const colour = (index) => `var(--c${index % COLOURS})`;
  const dash = (index) => DASHES[Math.floor(index / COLOURS) % DASHES.length];

  // A piece of a line as it is drawn, for legend and values.
  const sample = (index) => {
    const svg = document.createElementNS(SVG, "svg");
    for (const [key, value] of Object.entries({ width: 26, height: 10, "aria-hidden": true })) {
      svg.setAttribute(key, value);
    }
    draw(svg, "line", {
      x1: 0, x2: 26, y1: 5, y2: 5, "stroke-width": 3,
      style: `stroke: ${colour(index)}`, "stroke-dasharray": dash(index),
    });
    return svg;
  };

  const short = (value) => {
    const size = Math.abs(value);
    if (size < 999.5) return String(Number(value.toPrecision(3)));
    for (const [unit, prefix] of [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"]]) {
      if (size >= unit * 0.9995) return `${Number((value / unit).toPrecision(3))} ${prefix}`;
    }
    return `${Number((value / 1e3).toPrecision(3))} k`;
  };

  // Round numbers between low and high, about so many.
  const ticks = (low, high, count) => {
    const rough = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
    return found;
  };

  const extent = (values) => {
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return [low, high];
  };

  // Mean at a position: on the straight line between points, nothing outside of them.
  const valueAt = (xs, ys, x) => {
    if (!xs.length || x < xs[0] || x > xs[xs.length - 1]) return null;
    let right = xs.findIndex((other) => other >= x);
    if (right <= 0) return ys[0];
    const share = (x - xs[right - 1]) / (xs[right] - xs[right - 1]);
    return ys[right - 1] + share * (ys[right] - ys[right - 1]);
  };

  const start = (figure) => {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const shown = data.lines.map(() => true);
    const chosen = { axis: Object.keys(data.axes)[0], metric: Object.keys(data.metrics)[0] };
    let guide = null;

    const controls = make("div", { class: "controls" });
    for (const [key, text, names] of [["metric", "show", data.metrics], ["axis", "against", data.axes]]) {
      const select = make("select");
      for (const [value, name] of Object.entries(names)) select.append(make("option", { value }, name));
      select.addEventListener("change", () => { chosen[key] = select.value; guide = null; render(); });
      controls.append(make("label", {}, text, select));
    }
    const plot = make("div", { class: "plot" });
    const legend = make("div", { class: "legend", role: "group", "aria-label": "lines shown" });
    data.lines.forEach((name, index) => {
      const button = make("button", { type: "button", "aria-pressed": "true" });
      button.append(sample(index), make("span", {}, name));
      button.addEventListener("click", () => {
        shown[index] = !shown[index];
        button.setAttribute("aria-pressed", String(shown[index]));
        guide = null;
        render();
      });
      legend.append(button);
    });
    figure.prepend(controls, plot, legend);

    const visible = () => data.panels[chosen.metric][chosen.axis]
      .map((line, index) => ({ ...line, index }))
      .filter((line) => shown[line.index] && Object.keys(line.runs).length);

    const render = () => {
      const width = Math.max(280, plot.clientWidth);
      const height = Math.round(Math.min(440, Math.max(260, width * 0.5)));
      const lines = visible();
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("tabindex", "0");
      svg.setAttribute("role", "img");
      const axisName = data.axes[chosen.axis];
      const metricName = data.metrics[chosen.metric];
      svg.setAttribute("aria-label", `${metricName} against ${axisName}; arrow keys read values`);
      plot.replaceChildren(svg);
      const runs = lines.flatMap((line) => Object.values(line.runs));
      if (!runs.length) {
        draw(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle" })
          .textContent = lines.length || shown.some(Boolean) ? "no run has logged this" : "nothing selected";
        return;
      }
      let [left, right] = extent(runs.flatMap((run) => run.x));
      if (left === right) right = left + 1;
      let [low, high] = extent(runs.flatMap((run) => run.y));
      if (low === high) { low -= Math.abs(low) * 0.1 || 0.5; high += Math.abs(high) * 0.1 || 0.5; }
      const air = (high - low) * 0.05;
      [low, high] = [low - (low === 0 ? 0 : air), high + air];
      const toX = (x) => MARGIN.left + (x - left) / (right - left) * (width - MARGIN.left - MARGIN.right);
      const toY = (y) => height - MARGIN.bottom - (y - low) / (high - low) * (height - MARGIN.top - MARGIN.bottom);
      const bottom = height - MARGIN.bottom;

      for (const tick of ticks(low, high, height / 45)) {
        draw(svg, "line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: toY(tick), y2: toY(tick) });
        draw(svg, "text", { x: MARGIN.left - 8, y: toY(tick) + 4, "text-anchor": "end" }).textContent = short(tick);
      }
      for (const tick of ticks(left, right, width / 110)) {
        draw(svg, "line", { class: "grid", x1: toX(tick), x2: toX(tick), y1: bottom, y2: bottom + 5 });
        draw(svg, "text", { x: toX(tick), y: bottom + 19, "text-anchor": "middle" }).textContent = short(tick);
      }
      draw(svg, "text", { x: (MARGIN.left + width - MARGIN.right) / 2, y: height - 6, "text-anchor": "middle" })
        .textContent = axisName;

      const path = (xs, ys) => xs.map((x, i) => `${i ? "L" : "M"}${toX(x).toFixed(1)} ${toY(ys[i]).toFixed(1)}`).join("");
      for (const line of lines) {
        const { x, low: least, high: most } = line.mean;
        const isSeveral = Object.keys(line.runs).length > 1;
        if (isSeveral && x.length > 1) {
          const back = path([...x].reverse(), [...least].reverse()).replace("M", "L");
          draw(svg, "path", { class: "band", d: `${path(x, most)}${back}Z`, style: `fill: ${colour(line.index)}` });
        }
        if (isSeveral) {
          for (const run of Object.values(line.runs)) {
            draw(svg, "path", { class: "run", d: path(run.x, run.y), style: `stroke: ${colour(line.index)}` });
          }
        }
      }
      for (const line of lines) {
        const { x, mean } = line.mean;
        draw(svg, "path", {
          class: "mean", d: path(x, mean), style: `stroke: ${colour(line.index)}`,
          "stroke-dasharray": dash(line.index),
        });
        if (x.length <= 12) {
          x.forEach((place, i) => draw(svg, "circle", {
            cx: toX(place), cy: toY(mean[i]), r: 3.5, style: `fill: ${colour(line.index)}`,
          }));
        }
      }

      const places = [...new Set(lines.flatMap((line) => line.mean.x))].sort((a, b) => a - b);
      const marks = document.createElementNS(SVG, "g");
      svg.append(marks);
      const box = make("div", { class: "values", "aria-live": "polite", hidden: "" });
      plot.append(box);
      const point = (at) => {
        guide = at;
        marks.replaceChildren();
        box.hidden = at === null;
        if (at === null) return;
        const x = places[at];
        draw(marks, "line", { class: "guide", x1: toX(x), x2: toX(x), y1: MARGIN.top, y2: bottom });
        const rows = lines
          .map((line) => [line, valueAt(line.mean.x, line.mean.mean, x)])
          .filter(([, value]) => value !== null)
          .sort((a, b) => b[1] - a[1]);
        box.replaceChildren(make("b", {}, `${short(x)} ${axisName}`));
        for (const [line, value] of rows) {
          draw(marks, "circle", { cx: toX(x), cy: toY(value), r: 4, style: `fill: ${colour(line.index)}` });
          box.append(make("div", {},
            sample(line.index),
            make("span", {}, data.lines[line.index]),
            make("em", {}, String(Number(value.toPrecision(4)))),
          ));
        }
        const room = plot.clientWidth - box.offsetWidth;
        const beside = toX(x) + 14;
        box.style.left = `${Math.max(0, beside <= room ? beside : toX(x) - 14 - box.offsetWidth)}px`;
      };
      const nearest = (event) => {
        const x = (event.clientX - svg.getBoundingClientRect().left) * width / svg.clientWidth;
        let best = 0;
        places.forEach((place, i) => {
          if (Math.abs(toX(place) - x) < Math.abs(toX(places[best]) - x)) best = i;
        });
        return best;
      };
      svg.addEventListener("pointermove", (event) => point(nearest(event)));
      svg.addEventListener("pointerdown", (event) => point(nearest(event)));
      svg.addEventListener("pointerleave", () => point(null));
      svg.addEventListener("blur", () => point(null));
      svg.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const from = guide === null ? (step > 0 ? -1 : places.length) : guide;
        point(Math.min(places.length - 1, Math.max(0, from + step)));
      });
    };
    new ResizeObserver(render).observe(plot);
    render();
  };

  document.querySelectorAll("figure.chart").forEach(start);
})();
