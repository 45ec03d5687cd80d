// What the pages do beside htmx: hear of changes, keep times current, sort, copy, move by key, draw curves.
"use strict";
(() => {
  const each = (selector, what, root = document) => root.querySelectorAll(selector).forEach(what);

  // Times -------------------------------------------------------------------------------------------------
  const STEPS = [["min", 60, 90], ["h", 3600, 36], ["d", 86400, 60], ["months", 2629800, 24], ["years", 31557600, Infinity]];
  function relative(seconds) {
    const distance = Math.abs(seconds);
    if (distance < 45) return "just now";
    const [unit, length] = STEPS.find(([, length, limit]) => distance / length < limit);
    const text = `${Math.max(1, Math.round(distance / length))} ${unit}`;
    return seconds > 0 ? `${text} ago` : `in ${text}`;
  }
  function tellTimes() {
    each("time[datetime]", (element) => {
      const text = relative((Date.now() - Date.parse(element.dateTime)) / 1000);
      if (element.textContent !== text) element.textContent = text;
    });
  }
  setInterval(tellTimes, 20000);

  // Changes -----------------------------------------------------------------------------------------------
  const lamp = document.getElementById("live");
  let polling = null;
  let pending = null;
  const LIVE = "[hx-trigger*='registry-changed']";
  // Nothing is taken from under the hands of whoever writes into a part that follows the registry.
  const writing = () => document.querySelector(`${LIVE} details[open] form, ${LIVE} :is(input, textarea, select):focus`);
  function changed() {
    // Many changes at once are one.
    pending ??= setTimeout(() => {
      pending = null;
      if (document.hidden) return;
      if (writing()) setTimeout(changed, 2000);
      else document.body.dispatchEvent(new CustomEvent("registry-changed"));
    }, 250);
  }
  function show(state, words) {
    if (!lamp) return;
    if (state) lamp.dataset.state = state; else delete lamp.dataset.state;
    lamp.textContent = words;
  }
  function listen() {
    if (!document.querySelector(LIVE)) return lamp?.remove();
    const stream = new EventSource("/events");
    stream.addEventListener("open", () => { clearInterval(polling); polling = null; show("", "live"); });
    stream.addEventListener("changed", changed);
    stream.addEventListener("error", () => {
      polling ??= setInterval(changed, 5000);
      show("polling", "reconnecting");
      if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 10000);
    });
    addEventListener("pagehide", () => stream.close());
  }
  // One may have begun to write while the new part was on its way.
  document.addEventListener("htmx:before:swap", (event) => {
    if (!event.detail.ctx.sourceElement?.matches(LIVE) || !writing()) return;
    event.preventDefault();
    setTimeout(changed, 2000);
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && lamp) changed(); });

  // Theme -------------------------------------------------------------------------------------------------
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-theme-switch]");
    if (!button) return;
    const themes = ["auto", "light", "dark"];
    const theme = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % 3];
    document.documentElement.dataset.theme = theme;
    document.cookie = `theme=${theme}; path=/; max-age=31536000; samesite=lax`;
    button.querySelector("[data-theme-name]").textContent = theme;
    button.setAttribute("aria-label", `Theme: ${theme}; change it`);
    button.title = `Theme: ${theme}`;
    each("[data-chart]", draw);
  });

  // Copy --------------------------------------------------------------------------------------------------
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch {
      return;
    }
    button.classList.add("copied");
    setTimeout(() => button.classList.remove("copied"), 1200);
  });

  // Tables ------------------------------------------------------------------------------------------------
  function sortable() {
    each("table[data-sortable] thead th:not([data-fixed])", (heading) => {
      if (heading.querySelector("button") || !heading.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heading.textContent;
      heading.replaceChildren(button);
    });
  }
  // On a narrow screen each row is a paragraph; its figures need the names of their columns.
  function labelled() {
    each(".scroll > table:not(.wrap):has(thead)", (table) => {
      const names = [...table.tHead.rows[0].cells].map((heading) => heading.textContent.trim());
      each("tbody tr", (row) => [...row.cells].forEach((cell, column) => {
        const text = cell.textContent.trim();
        cell.toggleAttribute("data-none", (text === "" || text === "–") && !cell.querySelector("input, button"));
        const speaks = column === 0 || cell.tagName === "TH" || cell.querySelector(".kind, input");
        if (names[column] && !speaks && cell !== row.querySelector("a")?.closest("td")) cell.dataset.label = names[column];
      }), table);
      table.classList.add("labelled");
    });
  }
  // How tables are sorted, each by its place: what changes in the registry brings its rows in their first order.
  const sortedBy = new Map();
  const placeOf = (table) => `${table.closest("[id]")?.id} ${[...document.querySelectorAll("table[data-sortable]")].indexOf(table)}`;
  function sort(table, column, ascending) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    headings[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = table.tBodies[0];
    const value = (row) => {
      const cell = row.cells[column];
      const text = cell.dataset.value ?? cell.querySelector("time")?.dateTime ?? cell.textContent.trim();
      return text !== "" && !isNaN(text) ? Number(text) : text.toLowerCase();
    };
    const order = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
    const rows = [...body.rows].map((row) => [value(row), row]);
    rows.sort((a, b) => (ascending ? order(a[0], b[0]) : order(b[0], a[0])));
    body.append(...rows.map((pair) => pair[1]));
  }
  function sortAgain() {
    each("table[data-sortable]", (table) => {
      const by = sortedBy.get(placeOf(table));
      if (by && by.column < table.tHead.rows[0].cells.length) sort(table, by.column, by.ascending);
    });
  }
  document.addEventListener("click", (event) => {
    const heading = event.target.closest("table[data-sortable] thead th");
    if (!heading || !event.target.closest("button")) return;
    const table = heading.closest("table");
    const by = { column: heading.cellIndex, ascending: heading.getAttribute("aria-sort") !== "ascending" };
    sortedBy.set(placeOf(table), by);
    sort(table, by.column, by.ascending);
  });

  // Keys --------------------------------------------------------------------------------------------------
  let reached = null;  // where the row leads that one has moved to: its class is gone once the registry changed
  const leadsTo = (row) => row.querySelector("a")?.href;
  function reachAgain() {
    if (reached && !document.querySelector("[data-row].at")) {
      [...document.querySelectorAll("[data-row]")].find((row) => leadsTo(row) === reached)?.classList.add("at");
    }
  }
  function move(step) {
    const rows = [...document.querySelectorAll("[data-row]")].filter((row) => row.offsetParent !== null);
    if (!rows.length) return;
    const at = rows.findIndex((row) => row.classList.contains("at"));
    const next = rows[Math.min(rows.length - 1, Math.max(0, at + step))];
    rows[at]?.classList.remove("at");
    next.classList.add("at");
    reached = leadsTo(next);
    next.scrollIntoView({ block: "nearest" });
    next.querySelector("a")?.focus({ preventScroll: true });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, dialog[open]")) return;
    const row = document.querySelector("[data-row].at");
    if (event.key === "/") document.getElementById("search").focus();
    else if (event.key === "?") document.getElementById("help").showModal();
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "Enter" && row && !event.target.closest("a, button")) row.querySelector("a")?.click();
    else if (event.key === "x" && row) row.querySelector("input[type=checkbox]")?.click();
    else return;
    event.preventDefault();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-help]")) document.getElementById("help").showModal();
  });
  // Forms that filter send themselves when something was chosen.
  document.addEventListener("change", (event) => {
    if (event.target.matches("form.filters select, form.filters input[type=checkbox]")) event.target.form.requestSubmit();
  });

  // Curves: <div data-chart="/address/of.json">, which answers {x, series: [{name, values}], x_label, y_label} --
  function resolved(variable) {
    const probe = document.createElement("i");
    probe.style.color = `var(${variable})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  }
  function draw(element) {
    const data = element.curves;
    if (!data || !window.uPlot) return;
    const muted = resolved("--muted");
    const rule = resolved("--rule");
    const axis = (label) => ({ label, labelSize: 24, stroke: muted, font: "12px system-ui", labelFont: "12px system-ui", grid: { stroke: rule, width: 1 }, ticks: { stroke: rule, width: 1 } });
    const options = {
      width: Math.max(260, element.clientWidth),
      height: 260,
      scales: { x: { time: false } },
      axes: [axis(data.x_label), axis(data.y_label)],
      series: [{ label: data.x_label }].concat(data.series.map((series, index) => ({
        label: series.name, stroke: resolved(`--c${index % 8}`), width: 2, spanGaps: true, points: { show: data.x.length < 60 },
      }))),
    };
    element.plot?.destroy();
    element.plot = new uPlot(options, [data.x, ...data.series.map((series) => series.values)], element);
  }
  async function load(element) {
    const answer = await fetch(element.dataset.chart, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    element.curves = await answer.json();
    draw(element);
  }
  function charts() {
    each("[data-chart]", (element) => {
      if (element.watched) return;
      element.watched = true;
      load(element);
      if (element.hasAttribute("data-chart-live")) document.body.addEventListener("registry-changed", () => element.isConnected && load(element));
      new ResizeObserver(() => element.plot && element.plot.setSize({ width: Math.max(260, element.clientWidth), height: 260 })).observe(element);
    });
  }

  // Logs: <pre data-follow="/address"> is filled by a stream of lines, and scrolls along while one is at its end.
  function follow() {
    each("pre[data-follow]", (element) => {
      if (element.stream) return;
      element.stream = new EventSource(element.dataset.follow);
      element.stream.addEventListener("lines", (event) => {
        const atEnd = element.scrollTop + element.clientHeight >= element.scrollHeight - 24;
        element.append(JSON.parse(event.data));
        // A page that is left open for days must not grow: the last 200,000 characters stay.
        if (element.textContent.length > 250000) element.textContent = element.textContent.slice(-200000);
        if (atEnd) element.scrollTop = element.scrollHeight;
      });
      element.stream.addEventListener("end", () => element.stream.close());
      addEventListener("pagehide", () => element.stream.close());
    });
  }

  function ready() { tellTimes(); sortable(); sortAgain(); reachAgain(); labelled(); charts(); follow(); }
  document.addEventListener("htmx:after:swap", ready);
  ready();
  listen();
  // What is wider than the window shows where one is: the list of screens, a lineage.
  each(".screens [aria-current], .lineage .here", (here) => {
    const box = here.closest(".screens, .lineage");
    const [inner, outer] = [here.getBoundingClientRect(), box.getBoundingClientRect()];
    box.scrollLeft += inner.left + inner.width / 2 - outer.left - outer.width / 2;
    if (box.scrollHeight > box.clientHeight) box.scrollTop += inner.top + inner.height / 2 - outer.top - outer.height / 2;
  });
})();
