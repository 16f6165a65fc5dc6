// <div class="samples"> holds rollouts as JSON: see dmpo/reporting/samples.py.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const AT_ONCE = 8;     // rollouts drawn before more are asked for
  const BUCKETS = 16;    // shades in the picture of positions and steps
  // Viridis but for its darkest end, which rises in lightness and reads the same to colour-blind eyes.
  const STOPS = [[71, 46, 124], [62, 74, 137], [49, 104, 142], [38, 130, 142],
    [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37]];

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const draw = (parent, name, attributes, text = "") => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  };
  const number = (value, digits = 3) => (value === undefined || value === null
    ? "–" : String(Number(value.toPrecision(digits))));
  const shade = (share) => {
    const place = Math.min(1, Math.max(0, share)) * (STOPS.length - 1);
    const low = Math.min(STOPS.length - 2, Math.floor(place));
    return STOPS[low].map((from, i) => Math.round(from + (place - low) * (STOPS[low + 1][i] - from)));
  };
  const css = (rgb) => `rgb(${rgb.join(" ")})`;
  const ink = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#14171b" : "#ffffff");
  const shareOf = (step, last) => (last > 0 ? step / last : 0);

  // A token without text is the end of the answer, or a part of the character before it.
  const shownToken = (text, isEnd) => {
    if (text === "") return isEnd ? "end" : "·";
    return text.replaceAll("\n", "↵\n");
  };
  const labelled = (text, control) => make("label", {}, text, control);
  const options = (select, pairs) => {
    for (const [value, text] of pairs) select.append(make("option", { value: String(value) }, text));
    return select;
  };

  // A bar from 0 to a value, on a scale that holds 0 and all others.
  const meter = (value, [low, high], mark) => {
    const at = (x) => 100 * (x - low) / ((high - low) || 1);
    const [from, to] = [Math.min(0, value), Math.max(0, value)].map(at);
    const bar = make("div", { class: "meter", "aria-hidden": "true" }, make("i", {
      class: value < 0 ? "negative" : "", style: `left: ${from}%; width: ${Math.max(0.5, to - from)}%`,
    }));
    if (mark !== undefined) bar.append(make("u", { style: `left: ${at(mark)}%` }));
    return bar;
  };

  // Positions from left to right, denoising steps downwards: where a token was fixed, and since when.
  const order = (sample, last) => {
    const [left, top] = [22, 4];
    const count = sample.tokens.length;
    const width = 256;
    const cell = Math.min(24, (width - left - 4) / count);
    const row = Math.min(9, 96 / (last + 1));
    const thick = Math.max(row, 2);
    const height = top + last * row + thick + 14;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "order");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${count} tokens by position, fixed in ${last + 1} denoising steps`);
    const since = Array.from({ length: BUCKETS }, () => "");
    const when = Array.from({ length: BUCKETS }, () => "");
    sample.commit_steps.forEach((step, position) => {
      const bucket = Math.round(shareOf(step, last) * (BUCKETS - 1));
      const [x, y] = [left + position * cell, top + step * row];
      since[bucket] += `M${x.toFixed(2)} ${y.toFixed(2)}h${cell.toFixed(2)}v${((last - step) * row + thick).toFixed(2)}h${(-cell).toFixed(2)}z`;
      when[bucket] += `M${x.toFixed(2)} ${y.toFixed(2)}h${cell.toFixed(2)}v${thick.toFixed(2)}h${(-cell).toFixed(2)}z`;
    });
    since.forEach((d, i) => { if (d) draw(svg, "path", { d, fill: css(shade(i / (BUCKETS - 1))), opacity: 0.22 }); });
    when.forEach((d, i) => { if (d) draw(svg, "path", { d, fill: css(shade(i / (BUCKETS - 1))) }); });
    draw(svg, "text", { x: left - 4, y: top + 8, "text-anchor": "end" }, "1");
    if (last > 1) draw(svg, "text", { x: left - 4, y: top + (last + 1) * row, "text-anchor": "end" }, String(last + 1));
    draw(svg, "text", { x: left, y: height - 3 }, "first token");
    const end = left + count * cell;
    if (count > 1) draw(svg, "text", { x: Math.max(end, left + 90), y: height - 3, "text-anchor": "end" }, `${count}th`.replace(/(?<!1)1th$/, "1st").replace(/(?<!1)2th$/, "2nd").replace(/(?<!1)3th$/, "3rd"));
    return svg;
  };

  const start = (root) => {
    const data = JSON.parse(root.querySelector("script").textContent);
    const extent = (key) => {
      const values = data.samples.map((sample) => sample[key]).filter((value) => value !== undefined);
      return [Math.min(0, ...values), Math.max(0, ...values)];
    };
    const scales = Object.fromEntries(["reward", "weight", "real_weight"].map((key) => [key, extent(key)]));
    // Weights are 1 on average in a group; advantages, which some are negative of, 0.
    const meanWeight = data.runs.map((_, run) =>
      (data.samples.some((sample) => sample.run === run && sample.weight < 0) ? 0 : 1));
    const ofRun = (sample) => chosen.run === "" || sample.run === Number(chosen.run);
    const stepsOf = () => [...new Set(data.samples.filter(ofRun).map((sample) => sample.step))].sort((a, b) => a - b);
    const chosen = { run: "", step: null, sort: "order", count: AT_ONCE };
    let steps = stepsOf();

    // ---------------------------------------------------------------- controls
    const controls = make("div", { class: "controls" });
    if (data.runs.length > 1) {
      const run = options(make("select"), [["", "all runs"], ...data.runs.map((name, index) => [index, name])]);
      run.addEventListener("change", () => {
        chosen.run = run.value;
        steps = stepsOf();
        slider.max = String(Math.max(0, steps.length - 1));
        slider.value = slider.max;
        pickStep();
      });
      controls.append(labelled("of", run));
    }
    const told = make("output");
    const slider = make("input", { type: "range", min: "0", max: String(steps.length - 1), step: "1", value: String(steps.length - 1) });
    slider.setAttribute("aria-label", "sampled steps, the first to the last");
    const every = make("input", { type: "checkbox" });
    const pickStep = () => {
      slider.disabled = every.checked || steps.length < 2;
      chosen.step = every.checked ? null : steps[Number(slider.value)] ?? null;
      chosen.count = AT_ONCE;
      render();
    };
    slider.addEventListener("input", pickStep);
    every.addEventListener("change", pickStep);
    controls.append(labelled("at step", slider), told, labelled("", every));
    controls.lastChild.append("all steps");
    const sort = options(make("select"), [
      ["order", "as sampled"], ["reward-", "highest reward"], ["reward+", "lowest reward"],
      ["weight-", "largest weight"], ["weight+", "smallest weight"],
    ]);
    sort.addEventListener("change", () => { chosen.sort = sort.value; chosen.count = AT_ONCE; render(); });
    controls.append(labelled("sorted by", sort));
    root.append(controls);

    if (data.samples.some((sample) => sample.tokens)) {
      const bar = make("i", { style: `background: linear-gradient(to right, ${STOPS.map(css).join(", ")})` });
      root.append(make("div", { class: "scale" }, "fixed in the first denoising step", bar, "in the last one"));
    }
    const found = make("p", { class: "note", "aria-live": "polite" });
    // Short completions leave room for two beside each other.
    const isShort = data.samples.every((sample) => (sample.tokens || sample.completion || "").length <= 96);
    const list = make("div", { class: isShort ? "list short" : "list" });
    const more = make("button", { type: "button", class: "more" }, "show more");
    more.addEventListener("click", () => { chosen.count += AT_ONCE; render(); });
    root.append(found, list, more);

    // ---------------------------------------------------------------- one rollout
    const tokensOf = (sample) => {
      const steps = sample.commit_steps;
      const last = Math.max(0, (sample.denoising_steps || 1) - 1, ...steps);
      const line = make("div", { class: "tokens", tabindex: "0", dir: "auto", role: "group",
        "aria-label": "tokens, coloured by the denoising step that fixed them; arrow keys read them" });
      const note = make("p", { class: "told", "aria-live": "polite" });
      const idle = "Point at a token, or use the arrow keys: when it was fixed, and how surely.";
      note.textContent = idle;
      const spans = sample.tokens.map((text, position) => {
        const rgb = shade(shareOf(steps[position], last));
        const isEnd = text === "" && position === sample.tokens.length - 1;
        const span = make("span", { style: `background: ${css(rgb)}; color: ${ink(rgb)}` });
        if (text === "") span.className = "end";
        span.textContent = shownToken(text, isEnd);
        span.dataset.at = position;
        return span;
      });
      line.append(...spans);
      let at = null;
      const tell = (position) => {
        if (at !== null) spans[at].classList.remove("at");
        at = position;
        if (at === null) { note.textContent = idle; return; }
        spans[at].classList.add("at");
        const parts = [`token ${at + 1} of ${sample.num_tokens || spans.length}`,
          `fixed in denoising step ${steps[at] + 1} of ${last + 1}`];
        const logProb = sample.log_probs?.[at];
        if (typeof logProb === "number") parts.push(`probability ${number(Math.exp(logProb))} (${number(logProb)} nats)`);
        const entropy = sample.entropies?.[at];
        if (typeof entropy === "number") parts.push(`entropy ${number(entropy)} nats`);
        note.textContent = parts.join(" · ");
      };
      line.addEventListener("pointerover", (event) => {
        if (event.target.dataset.at !== undefined) tell(Number(event.target.dataset.at));
      });
      line.addEventListener("pointerleave", () => tell(null));
      line.addEventListener("blur", () => tell(null));
      line.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
        if (!move || !spans.length) return;
        event.preventDefault();
        tell(at === null ? (move > 0 ? 0 : spans.length - 1) : Math.min(spans.length - 1, Math.max(0, at + move)));
      });
      const replay = make("input", { type: "range", min: "0", max: String(last + 1), step: "1", value: String(last + 1) });
      const count = make("output", {}, `all ${last + 1} steps`);
      replay.setAttribute("aria-label", "denoising steps taken");
      replay.addEventListener("input", () => {
        const taken = Number(replay.value);
        count.textContent = taken > last ? `all ${last + 1} steps` : `after ${taken} of ${last + 1}`;
        spans.forEach((span, i) => {
          const isHidden = steps[i] >= taken;
          span.classList.toggle("hidden", isHidden);
          const text = sample.tokens[i];
          if (!isHidden) span.textContent = shownToken(text, i === spans.length - 1);
          else span.textContent = text.includes("\n") ? text.replace(/[^\n]+/g, "░") : "░".repeat(Math.min(4, Math.max(1, [...text].length)));
        });
      });
      return { line, note, last, replay: make("label", { class: "replay" }, "replay", replay, count) };
    };

    const card = (sample) => {
      const header = make("header");
      if (data.runs.length > 1) header.append(make("b", {}, data.runs[sample.run]));
      header.append(make("span", {}, `step ${sample.step}`));
      if (sample.group !== undefined) header.append(make("span", {}, `prompt ${sample.group + 1}, rollout ${sample.rollout + 1} of ${sample.group_size}`));
      if (sample.rank !== undefined) header.append(make("span", {}, `rank ${sample.rank} by reward`));
      const text = make("div", {}, make("h4", {}, "prompt"),
        make("div", { class: "prompt", dir: "auto", tabindex: "0" }, data.prompts[sample.prompt]),
        make("h4", {}, "completion"));
      const side = make("div", {}, make("h4", {}, "reward and weight"));
      const figures = make("div", { class: "figures" });
      const row = (name, value, scale, mark) => {
        figures.append(make("span", {}, name),
          typeof value === "number" ? meter(value, scale, mark) : make("div"),
          make("b", {}, number(value)));
      };
      row("reward", sample.reward, scales.reward);
      const parts = Object.entries(sample.components || {});
      if (parts.length > 1) for (const [name, value] of parts) row(name, value, [Math.min(0, value), Math.max(1, value)]);
      row("weight", sample.weight, scales.weight, meanWeight[sample.run]);
      if (sample.real_weight !== undefined) row("real weight", sample.real_weight, scales.real_weight, 0);
      if (sample.ess !== undefined) row("ESS of its group", sample.ess, [0, 1]);
      side.append(figures);
      if (sample.tokens) {
        const shown = tokensOf(sample);
        text.append(shown.line, shown.note);
        if (sample.num_tokens) text.append(make("p", { class: "note" }, `The first ${sample.tokens.length} of ${sample.num_tokens} tokens.`));
        side.append(make("h4", {}, "position × denoising step"), order(sample, shown.last), shown.replay);
      } else {
        text.append(make("div", { class: "tokens", dir: "auto", tabindex: "0" }, sample.completion ?? ""));
      }
      return make("article", { class: "sample" }, header, text, side);
    };

    const render = () => {
      told.textContent = chosen.step === null ? "all" : String(chosen.step);
      const kept = data.samples.filter((sample) =>
        ofRun(sample) && (chosen.step === null || sample.step === chosen.step));
      if (chosen.sort !== "order") {
        const [key, sign] = [chosen.sort.slice(0, -1), chosen.sort.endsWith("-") ? -1 : 1];
        kept.sort((a, b) => sign * ((a[key] ?? 0) - (b[key] ?? 0)));
      }
      const count = Math.min(chosen.count, kept.length);
      found.textContent = kept.length
        ? `${count} of ${kept.length} rollouts${chosen.step === null ? "" : ` sampled at step ${chosen.step}`}`
        : "no rollout was sampled here";
      list.replaceChildren(...kept.slice(0, count).map(card));
      more.hidden = count === kept.length;
    };
    pickStep();
  };

  document.querySelectorAll(".samples").forEach(start);
})();
