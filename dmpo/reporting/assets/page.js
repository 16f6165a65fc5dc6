"use strict";
// Every <div class="charts"> holds its numbers as JSON: see dmpo/reporting/charts.py.
(() => {
  const COLOURS = 8;
  const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
  const SVG = "http://www.w3.org/2000/svg";
  const LARGE = { top: 12, right: 16, bottom: 44, left: 56 };
  const SMALL = { top: 8, right: 10, bottom: 22, left: 46 };
  const FEWEST_SMOOTHED = 8;   // points below which a curve is not smoothed
  const DRAG = 5;              // pixels that tell a drag from a click

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

  // A piece of a line as it is drawn, for legends and values.
  const sample = (stroke, dashes) => {
    const svg = document.createElementNS(SVG, "svg");
    for (const [key, value] of Object.entries({ width: 26, height: 10, "aria-hidden": true })) {
      svg.setAttribute(key, value);
    }
    draw(svg, "line", {
      x1: 0, x2: 26, y1: 5, y2: 5, "stroke-width": 3, style: `stroke: ${stroke}`, "stroke-dasharray": dashes,
    });
    return svg;
  };

  const short = (value) => {
    const size = Math.abs(value);
    if (size > 0 && size < 1e-4) return value.toExponential(1);
    if (size < 999.5) return String(Number(value.toPrecision(3)));
    for (const [unit, prefix] of [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"]]) {
      if (size >= unit * 0.9995) return `${Number((value / unit).toPrecision(3))} ${prefix}`;
    }
    return `${Number((value / 1e3).toPrecision(3))} k`;
  };
  const exact = (value) => {
    if (Math.abs(value) >= 1e5) return short(value);
    return Math.abs(value) < 1e-4 && value ? value.toExponential(2) : String(Number(value.toPrecision(4)));
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

  // The first place in rising positions that is not left of x.
  const placeOf = (xs, x) => {
    let [start, end] = [0, xs.length];
    while (start < end) {
      const middle = (start + end) >> 1;
      if (xs[middle] < x) start = middle + 1; else end = middle;
    }
    return start;
  };

  // Value at a position: on the straight line between points, nothing outside of them.
  const valueAt = (xs, ys, x) => {
    if (!xs.length || x < xs[0] || x > xs[xs.length - 1]) return null;
    const right = placeOf(xs, x);
    if (right === 0) return ys[0];
    const share = (x - xs[right - 1]) / ((xs[right] - xs[right - 1]) || 1);
    return ys[right - 1] + share * (ys[right] - ys[right - 1]);
  };

  // Exponential moving average, corrected for its beginning.
  const smoothed = (ys, factor) => {
    if (!factor || ys.length < FEWEST_SMOOTHED) return ys;
    let [sum, weight] = [0, 0];
    return ys.map((y) => {
      sum = factor * sum + (1 - factor) * y;
      weight = factor * weight + (1 - factor);
      return sum / weight;
    });
  };

  // ---------------------------------------------------------------- one group of charts
  const start = (root) => {
    const data = JSON.parse(root.querySelector("script").textContent);
    const state = {
      axis: Object.keys(data.axes)[0], smoothing: 0, zoom: null, at: null,
      shown: data.lines.map(() => true),
    };
    let charts = [];
    let cache = new Map();

    // Curves of a metric on the axis that is shown: the mean of a line, its band, and its runs.
    const curves = (metric) => {
      if (cache.has(metric)) return cache.get(metric);
      const found = data.lines.map((name, index) => {
        const runs = data.runs.filter((run) => run.line === index && metric in run.values).map((run) => {
          const [grid, values] = run.values[metric];
          const places = run.grids[grid][state.axis];
          const kept = places.map((x, i) => i).filter((i) => places[i] !== null);
          const raw = kept.map((i) => values[i]);
          return { x: kept.map((i) => places[i]), raw, y: smoothed(raw, state.smoothing) };
        }).filter((run) => run.x.length);
        const band = data.bands[metric]?.[state.axis]?.[index];
        const mean = band
          ? { x: band.x, y: smoothed(band.mean, state.smoothing) }
          : runs[0] || { x: [], y: [] };
        return { name, index, runs, mean, band: band && {
          x: band.x, low: smoothed(band.low, state.smoothing), high: smoothed(band.high, state.smoothing),
        } };
      }).filter((line) => line.runs.length);
      cache.set(metric, found);
      return found;
    };
    const renderAll = () => { for (const chart of charts) chart.render(); };
    const changed = () => { cache = new Map(); renderAll(); };
    const zoomTo = (range) => {
      state.zoom = range;
      state.at = null;
      reset.disabled = range === null;
      renderAll();
    };
    const pointTo = (x, chart = null) => {
      state.at = x;
      for (const each of charts) each.mark(each === chart);
    };
    // Positions on the axis that any shown curve of any chart covers, so that all charts align.
    const domain = () => {
      if (state.zoom) return state.zoom;
      const ends = charts.flatMap((chart) => chart.visible().flatMap(({ line }) =>
        line.runs.flatMap((run) => [run.x[0], run.x[run.x.length - 1]])));
      const [left, right] = extent(ends);
      return ends.length ? [left, left === right ? left + 1 : right] : [0, 1];
    };

    // -------------------------------------------------------------- controls
    const select = make("select");
    for (const [value, name] of Object.entries(data.axes)) select.append(make("option", { value }, name));
    select.addEventListener("change", () => { state.axis = select.value; zoomTo(null); changed(); });
    const slider = make("input", { type: "range", min: "0", max: "0.98", step: "0.02", value: "0" });
    const amount = make("output", {}, "off");
    slider.addEventListener("input", () => {
      state.smoothing = Number(slider.value);
      amount.textContent = state.smoothing ? state.smoothing.toFixed(2) : "off";
      changed();
    });
    const reset = make("button", { type: "button", disabled: "" }, "show all");
    reset.addEventListener("click", () => zoomTo(null));
    const legend = make("div", { class: "legend", role: "group", "aria-label": "lines shown" });
    const buttons = data.lines.map((name, index) => {
      const button = make("button", { type: "button", "aria-pressed": "true" });
      button.append(sample(colour(index), DASHES[Math.floor(index / COLOURS) % DASHES.length]), make("span", {}, name));
      button.title = "show or hide; with Shift: this one alone, or all";
      button.addEventListener("click", (event) => {
        if (event.shiftKey) {
          const isAlone = state.shown.every((on, other) => on === (other === index));
          state.shown = state.shown.map((_, other) => isAlone || other === index);
        } else {
          state.shown[index] = !state.shown[index];
        }
        buttons.forEach((each, other) => each.setAttribute("aria-pressed", String(state.shown[other])));
        renderAll();
      });
      return button;
    });
    legend.append(...buttons);
    const toolbar = make("div", { class: "toolbar" }, make("div", { class: "controls" },
      make("label", {}, "against", select),
      make("label", {}, "smoothing", slider, amount),
      reset,
    ));
    if (data.lines.length > 1) toolbar.append(legend);
    root.append(toolbar);

    // -------------------------------------------------------------- one chart
    const chart = (place, { margin, height, metrics, heading, reading }) => {
      const plot = make("div", { class: "plot" });
      place.append(plot);
      let geometry = null;
      const self = {
        metrics,
        visible: () => Object.keys(self.metrics).flatMap((metric, number) =>
          curves(metric).filter((line) => state.shown[line.index]).map((line) => ({
            line, number, text: self.metrics[metric],
            dashes: DASHES[(Math.floor(line.index / COLOURS) + number) % DASHES.length],
          }))),
        render: () => { geometry = paint(); self.mark(false); },
        mark: (isPointed) => mark(isPointed),
      };

      const paint = () => {
        const width = Math.max(200, plot.clientWidth);
        const tall = height(width);
        const items = self.visible();
        const svg = document.createElementNS(SVG, "svg");
        svg.setAttribute("viewBox", `0 0 ${width} ${tall}`);
        svg.setAttribute("tabindex", "0");
        svg.setAttribute("role", "img");
        svg.setAttribute("aria-label",
          `${heading()} against ${data.axes[state.axis]}; arrow keys read values, + and - zoom, 0 shows all`);
        const isFocused = plot.contains(document.activeElement);
        plot.replaceChildren(svg);
        if (!items.length) {
          draw(svg, "text", { x: width / 2, y: tall / 2, "text-anchor": "middle" })
            .textContent = state.shown.some(Boolean) ? "no run has logged this" : "nothing selected";
          return null;
        }
        const [left, right] = domain();
        const inside = (xs, ys, add) => {
          const first = Math.max(0, placeOf(xs, left) - 1);
          for (let i = first; i < xs.length && (xs[i] <= right || xs[i - 1] <= right); i++) add(ys[i]);
        };
        const seen = [];
        for (const { line } of items) {
          for (const run of line.runs) inside(run.x, run.y, (y) => seen.push(y));
          inside(line.mean.x, line.mean.y, (y) => seen.push(y));
        }
        let [low, high] = seen.length ? extent(seen) : [0, 1];
        if (low === high) { low -= Math.abs(low) * 0.1 || 0.5; high += Math.abs(high) * 0.1 || 0.5; }
        const air = (high - low) * 0.06;
        [low, high] = [low - (low === 0 ? 0 : air), high + air];
        const bottom = tall - margin.bottom;
        const toX = (x) => margin.left + (x - left) / (right - left) * (width - margin.left - margin.right);
        const toY = (y) => bottom - (y - low) / (high - low) * (bottom - margin.top);

        for (const tick of ticks(low, high, (bottom - margin.top) / 42)) {
          draw(svg, "line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: toY(tick), y2: toY(tick) });
          draw(svg, "text", { x: margin.left - 8, y: toY(tick) + 4, "text-anchor": "end" }).textContent = short(tick);
        }
        for (const tick of ticks(left, right, (width - margin.left) / (margin === LARGE ? 100 : 60))) {
          draw(svg, "line", { class: "grid", x1: toX(tick), x2: toX(tick), y1: bottom, y2: bottom + 4 });
          const room = width - margin.right - toX(tick);
          draw(svg, "text", { x: toX(tick), y: bottom + 17, "text-anchor": room < 12 ? "end" : "middle" })
            .textContent = short(tick);
        }
        if (margin === LARGE) {
          draw(svg, "text", { x: (margin.left + width - margin.right) / 2, y: tall - 6, "text-anchor": "middle" })
            .textContent = data.axes[state.axis];
        }
        const area = draw(svg, "svg", {
          x: margin.left - 4, y: margin.top - 4,
          width: width - margin.left - margin.right + 8, height: bottom - margin.top + 8,
          viewBox: `${margin.left - 4} ${margin.top - 4} ${width - margin.left - margin.right + 8} ${bottom - margin.top + 8}`,
        });
        const path = (xs, ys) => xs.map((x, i) => `${i ? "L" : "M"}${toX(x).toFixed(1)} ${toY(ys[i]).toFixed(1)}`).join("");
        for (const { line, dashes } of items) {
          const stroke = `stroke: ${colour(line.index)}`;
          if (line.band && line.band.x.length > 1) {
            const back = path([...line.band.x].reverse(), [...line.band.low].reverse()).replace("M", "L");
            draw(area, "path", {
              class: "band", d: `${path(line.band.x, line.band.high)}${back}Z`, style: `fill: ${colour(line.index)}`,
            });
          }
          for (const run of line.runs) {
            const isFaint = run.y !== run.raw;
            if (isFaint) draw(area, "path", { class: "raw", d: path(run.x, run.raw), style: stroke });
            if (line.band) draw(area, "path", { class: "run", d: path(run.x, run.y), style: stroke, "stroke-dasharray": dashes });
          }
        }
        for (const { line, dashes } of items) {
          const { x, y } = line.mean;
          draw(area, "path", {
            class: "mean", d: path(x, y), style: `stroke: ${colour(line.index)}`, "stroke-dasharray": dashes,
          });
          if (x.filter((each) => each >= left && each <= right).length <= 12) {
            x.forEach((at, i) => draw(area, "circle", {
              cx: toX(at), cy: toY(y[i]), r: margin === LARGE ? 3.5 : 2.5, style: `fill: ${colour(line.index)}`,
            }));
          }
        }
        const chosen = draw(svg, "rect", { class: "chosen", y: margin.top, height: bottom - margin.top, hidden: "" });
        const marks = document.createElementNS(SVG, "g");
        svg.append(marks);
        const box = make("div", { class: "values", "aria-live": "polite", hidden: "" });
        plot.append(box);
        const places = [...new Set(items.flatMap(({ line }) => line.mean.x))]
          .filter((x) => x >= left && x <= right).sort((a, b) => a - b);
        const found = { items, svg, width, left, right, bottom, toX, toY, marks, box, places, chosen };
        listen(found);
        if (isFocused) svg.focus({ preventScroll: true });
        return found;
      };

      const mark = (isPointed) => {
        if (!geometry) { reading?.(null); return; }
        const { items, marks, box, toX, toY, bottom, left, right } = geometry;
        marks.replaceChildren();
        box.hidden = true;
        const x = state.at;
        if (x === null || x < left || x > right) { reading?.(items); return; }
        draw(marks, "line", { class: "guide", x1: toX(x), x2: toX(x), y1: margin.top, y2: bottom });
        const rows = items
          .map((item) => [item, valueAt(item.line.mean.x, item.line.mean.y, x)])
          .filter(([, value]) => value !== null)
          .sort((a, b) => b[1] - a[1]);
        for (const [{ line }, value] of rows) {
          draw(marks, "circle", { cx: toX(x), cy: toY(value), r: 4, style: `fill: ${colour(line.index)}` });
        }
        reading?.(items, x);
        if (!isPointed) return;
        box.hidden = false;
        box.replaceChildren(make("b", {}, `${short(x)} ${data.axes[state.axis]}`));
        for (const [{ line, text, dashes }, value] of rows) {
          const name = Object.keys(self.metrics).length > 1
            ? (data.lines.length > 1 ? `${line.name}, ${text}` : text)
            : line.name;
          box.append(make("div", {}, sample(colour(line.index), dashes), make("span", {}, name), make("em", {}, exact(value))));
        }
        const room = plot.clientWidth - box.offsetWidth;
        const scale = plot.clientWidth / geometry.width;
        const beside = toX(x) * scale + 14;
        box.style.left = `${Math.max(0, beside <= room ? beside : toX(x) * scale - 14 - box.offsetWidth)}px`;
      };

      const listen = (drawn) => {
        const { svg, places, width, left, right, toX, chosen } = drawn;
        const inner = width - margin.left - margin.right;
        const positionOf = (event) => {
          const pixel = (event.clientX - svg.getBoundingClientRect().left) * width / svg.clientWidth;
          return Math.min(right, Math.max(left, left + (pixel - margin.left) / inner * (right - left)));
        };
        const nearest = (x) => {
          if (!places.length) return null;
          const at = Math.min(places.length - 1, placeOf(places, x));
          return at > 0 && x - places[at - 1] < places[at] - x ? places[at - 1] : places[at];
        };
        let from = null;
        svg.addEventListener("pointerdown", (event) => {
          if (event.button !== 0) return;
          from = { pixel: event.clientX, x: positionOf(event) };
          svg.setPointerCapture(event.pointerId);
          pointTo(nearest(from.x), self);
        });
        svg.addEventListener("pointermove", (event) => {
          const x = positionOf(event);
          pointTo(nearest(x), self);
          if (!from || Math.abs(event.clientX - from.pixel) < DRAG) { chosen.setAttribute("hidden", ""); return; }
          const [a, b] = [from.x, x].sort((p, q) => p - q);
          chosen.removeAttribute("hidden");
          chosen.setAttribute("x", toX(a));
          chosen.setAttribute("width", Math.max(0, toX(b) - toX(a)));
        });
        svg.addEventListener("pointerup", (event) => {
          const begun = from;
          from = null;
          if (begun && Math.abs(event.clientX - begun.pixel) >= DRAG) {
            zoomTo([begun.x, positionOf(event)].sort((p, q) => p - q));
          }
        });
        svg.addEventListener("pointercancel", () => { from = null; chosen.setAttribute("hidden", ""); });
        svg.addEventListener("pointerleave", () => { if (!from) pointTo(null); });
        svg.addEventListener("dblclick", () => zoomTo(null));
        svg.addEventListener("blur", () => { if (svg.isConnected) pointTo(null); });
        svg.addEventListener("keydown", (event) => {
          if (event.ctrlKey || event.metaKey || event.altKey) return;
          const pace = event.shiftKey ? 10 : 1;
          const steps = { ArrowLeft: -pace, ArrowRight: pace, Home: -Infinity, End: Infinity }[event.key];
          if (steps !== undefined && places.length) {
            const now = state.at === null ? (steps > 0 ? -1 : places.length) : placeOf(places, state.at);
            pointTo(places[Math.min(places.length - 1, Math.max(0, now + steps))], self);
          } else if (["+", "=", "-"].includes(event.key)) {
            const middle = state.at ?? (left + right) / 2;
            const half = (right - left) / (event.key === "-" ? 1 : 4);
            state.zoom = null;
            const [least, most] = domain();
            const range = [Math.max(least, middle - half), Math.min(most, middle + half)];
            zoomTo(range[0] <= least && range[1] >= most ? null : range);
            pointTo(nearest(middle), self);
          } else if (event.key === "0" || event.key === "Escape") {
            zoomTo(null);
          } else {
            return;
          }
          event.preventDefault();
        });
      };
      charts.push(self);
      return self;
    };

    // -------------------------------------------------------------- small pictures
    const grid = make("div", { class: "panels" });
    if (data.panels.length) root.append(grid);
    for (const panel of data.panels) {
      const values = make("output", { class: "reading" });
      const title = make("div", { class: "title" }, make("h3", {}, panel.title), values);
      const figure = make("figure", { class: "panel" }, title);
      const names = Object.entries(panel.metrics);
      if (names.length > 1) {
        figure.append(make("div", { class: "marks" }, ...names.map(([, text], number) => make("span", {},
          sample("currentColor", DASHES[number]), text))));
      }
      grid.append(figure);
      chart(figure, {
        margin: SMALL, height: () => (names.length > 1 ? 150 : 168), metrics: panel.metrics, heading: () => panel.title,
        // The last values, or those under the guide, where there are few enough to stand there.
        reading: (items, x = null) => {
          values.replaceChildren();
          if (!items || items.length > 3) return;
          for (const { line } of items) {
            const { x: xs, y: ys } = line.mean;
            const value = x === null ? ys[ys.length - 1] : valueAt(xs, ys, x);
            if (value !== null && value !== undefined) {
              values.append(make("b", { style: `color: ${colour(line.index)}` }, short(value)));
            }
          }
        },
      });
    }

    // -------------------------------------------------------------- any metric
    const metric = make("select");
    const families = new Map();
    for (const [value, name] of Object.entries(data.metrics)) {
      const family = value.includes("/") ? value.split("/")[0] : "";
      if (!families.has(family)) families.set(family, []);
      families.get(family).push(make("option", { value }, name));
    }
    const isLong = Object.keys(data.metrics).length > 12;
    for (const [family, options] of families) {
      if (isLong && family) {
        const group = make("optgroup", { label: family });
        group.append(...options);
        metric.append(group);
      } else {
        metric.append(...options);
      }
    }
    metric.value = Object.keys(data.metrics)[0];
    const about = make("p", { class: "about" });
    const figure = make("figure", { class: "chart" }, make("div", { class: "controls" },
      make("label", {}, data.panels.length ? "any metric" : "show", metric)));
    root.append(figure);
    const choose = () => ({ [metric.value]: data.metrics[metric.value] });
    const large = chart(figure, {
      margin: LARGE, height: (width) => Math.round(Math.min(420, Math.max(250, width * 0.42))),
      metrics: choose(), heading: () => data.metrics[metric.value],
    });
    figure.append(about);
    const describe = () => { about.textContent = data.descriptions[metric.value] || ""; };
    metric.addEventListener("change", () => { large.metrics = choose(); state.at = null; describe(); renderAll(); });
    describe();

    let width = 0;
    let isWaiting = false;
    new ResizeObserver(() => {
      if (root.clientWidth === width || isWaiting) return;
      isWaiting = true;
      requestAnimationFrame(() => { isWaiting = false; width = root.clientWidth; renderAll(); });
    }).observe(root);
    width = root.clientWidth;
    renderAll();
  };

  document.querySelectorAll(".charts").forEach(start);
})();
