"use strict";
// Draws the figures from the JSON beside them, in the theme's colours, and lets the reader choose what they show.
(() => {
  const PAPER = 640;
  const root = document.documentElement;
  const probe = document.body.appendChild(document.createElement("span"));
  probe.hidden = true;
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const read = (id) => JSON.parse(document.getElementById(id).textContent);

  // A colour named "@c0" -> the value of --c0 in the current theme.
  const colours = new Map();
  const colour = (name) => {
    if (!colours.has(name)) {
      probe.style.color = `var(--${name})`;
      colours.set(name, getComputedStyle(probe).color);
    }
    return colours.get(name);
  };
  const coloured = (value, key = "") => {
    if (typeof value === "string") return /color/i.test(key) && value[0] === "@" ? colour(value.slice(1)) : value;
    if (Array.isArray(value)) return value.map((part) => coloured(part, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, coloured(part, name)]));
    }
    return value;
  };

  const axisLook = () => ({
    gridcolor: colour("grid"), zerolinecolor: colour("grid"), linecolor: colour("muted"), tickcolor: colour("muted"),
    automargin: true, title: { standoff: 6 }, fixedrange: matchMedia("(pointer: coarse)").matches,
  });
  const merged = (base, over) => {
    const result = { ...base };
    for (const [key, value] of Object.entries(over || {})) {
      const isObject = value && typeof value === "object" && !Array.isArray(value);
      result[key] = isObject ? merged(base[key] || {}, value) : value;
    }
    return result;
  };

  const layoutOf = (figure, width) => {
    const { content } = figure;
    const left = 48, right = 14, top = figure.legend ? 62 : 34, bottom = 52;
    const gap = content.layout.xaxis?.title ? 82 : 56;
    let height = content.panelHeight + top + bottom;
    const layout = merged(
      {
        font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colour("ink") },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
        hoverlabel: { bgcolor: colour("card"), bordercolor: colour("muted"), font: { color: colour("ink") } },
        showlegend: figure.legend, margin: { l: left, r: right, t: top, b: bottom }, xaxis: {}, yaxis: {},
        transition: { duration: 0 },
      },
      coloured(content.layout),
    );
    if (content.panels) {
      const inner = width - left - right;
      const columns = Math.max(1, Math.min(content.panels, 4, Math.floor((inner + 44) / (content.panelWidth + 44))));
      const rows = Math.ceil(content.panels / columns);
      height = rows * (content.panelHeight + gap) - gap + top + bottom;
      layout.grid = {
        rows, columns, pattern: "independent",
        xgap: 44 / ((inner + 44) / columns), ygap: gap / (content.panelHeight + gap),
      };
    }
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) layout[key] = merged(axisLook(), layout[key]);
    }
    layout.legend = {
      orientation: "h", x: 0, xanchor: "left", yanchor: "bottom", y: 1 + 24 / (height - top - bottom),
      bgcolor: "rgba(0,0,0,0)",
    };
    return { ...layout, width, height };
  };

  const shown = (figure, trace) =>
    Object.entries(trace.meta || {}).every(([name, value]) => figure.chosen[name] === value);

  const draw = (figure, width = figure.plot.clientWidth) => {
    const traces = figure.content.traces.filter((trace) => shown(figure, trace)).map((trace) => coloured(trace));
    figure.legend = traces.some((trace) => trace.showlegend !== false && trace.type === "scatter" && trace.name);
    return Plotly.react(figure.plot, traces, layoutOf(figure, width), { displayModeBar: false, responsive: false });
  };

  const choiceOf = (figure, choice) => {
    figure.chosen[choice.name] = choice.options[choice.start];
    const label = element("label", {}, `${choice.label} `);
    if (choice.slider) {
      const output = element("output", { textContent: choice.options[choice.start] });
      const slider = element("input", { type: "range", min: 0, max: choice.options.length - 1, value: choice.start });
      slider.name = choice.name;
      slider.addEventListener("input", () => {
        const option = choice.options[slider.value];
        figure.chosen[choice.name] = output.textContent = option;
        slider.setAttribute("aria-valuetext", option);
        draw(figure);
      });
      slider.setAttribute("aria-valuetext", choice.options[choice.start]);
      label.append(slider, output);
      return label;
    }
    label.append(select(choice.name, choice.options, choice.start, (option) => {
      figure.chosen[choice.name] = option;
      draw(figure);
    }));
    return label;
  };

  const select = (name, options, start, chosen) => {
    const made = element("select", { name }, ...options.map((text) => element("option", { textContent: text })));
    made.selectedIndex = start;
    made.addEventListener("change", () => chosen(options[made.selectedIndex]));
    return made;
  };

  const figures = [...document.querySelectorAll("[data-figure]")].map((box) => {
    const content = read(`figure-${box.dataset.figure}`);
    const figure = { content, chosen: {}, plot: box.querySelector(".plot") };
    const controls = box.querySelector(".controls");
    controls.append(...content.choices.map((choice) => choiceOf(figure, choice)));
    const save = box.querySelector(".save");
    for (const format of ["svg", "png"]) {
      const button = element("button", { type: "button", textContent: `Save as ${format.toUpperCase()}` });
      button.setAttribute("aria-label", `Save as ${format.toUpperCase()}: ${content.title}`);
      button.addEventListener("click", () => {
        const { width, height } = figure.plot.layout;
        Plotly.downloadImage(figure.plot, { format, width, height, scale: 2, filename: box.dataset.figure });
      });
      save.append(button);
    }
    return figure;
  });

  const drawAll = (width) => {
    colours.clear();
    figures.forEach((figure) => draw(figure, width));
  };

  const gallery = document.getElementById("gallery");
  if (gallery) {
    const { order, settings, total, images, seeds, classes, start, split } = read("gallery-data");
    const any = "any";
    const chosen = { setting: start, true: any, called: any };
    const list = gallery.querySelector("ul"), count = gallery.querySelector("[role=status]");
    const show = () => {
      const all = settings[chosen.setting];
      const found = all.filter(([, label, called]) =>
        (chosen.true === any || classes[label] === chosen.true) &&
        (chosen.called === any || classes[called] === chosen.called));
      list.replaceChildren(...found.map(([index, label, called, confidence, times]) => {
        const text = `${classes[label]} called ${classes[called]}`;
        const alt = `Image ${index} of the ${split} split, ${text}`;
        return element("li", {},
          element("img", { src: images[index], alt, width: 96, height: 96 }),
          element("strong", { textContent: text }), element("br"),
          `${(100 * confidence).toFixed(1)} % sure`, element("br"), `${times} of ${seeds[chosen.setting]} seeds`);
      }));
      const more = total[chosen.setting] - all.length;
      count.textContent = `${found.length} shown of ${total[chosen.setting]} mistakes` +
        (more > 0 ? `; the ${more} least confident are left out` : "");
    };
    const controls = gallery.querySelector(".controls");
    const add = (text, name, options, first) => controls.append(element("label", {}, `${text} `,
      select(name, options, first, (option) => { chosen[name] = option; show(); })));
    add("Setting", "setting", order, order.indexOf(start));
    add("is", "true", [any, ...classes], 0);
    add("called", "called", [any, ...classes], 0);
    show();
  }

  const theme = document.getElementById("theme");
  const themes = ["auto", "light", "dark"];
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % themes.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    theme.textContent = `Theme: ${next}`;
    drawAll();
  });
  scheme.addEventListener("change", () => drawAll());
  // Paper is light, and narrower than most windows.
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme || "";
    root.dataset.theme = "light";
    drawAll(PAPER);
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    drawAll();
  });
  let waiting;
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(() => drawAll(), 150);
  });
  drawAll();
  root.dataset.ready = "yes";
})();
