// What the pages gain by a script; all of them work without it. No page depends on anything from elsewhere.
globalThis.saestore = (() => {
  "use strict";
  const typing = (el) => el && /^(INPUT|TEXTAREA|SELECT)$/.test(el.tagName);

  // Drag over a histogram to choose a range; a click on a bar stays a link.
  function ranges(root, go) {
    for (const chart of root.querySelectorAll("svg[data-template]")) {
      if (!chart.dataset.template) continue;
      const low = +chart.dataset.low, high = +chart.dataset.high, log = chart.hasAttribute("data-log");
      let start = null, mark = null;
      const at = (event) => {
        const box = chart.getBoundingClientRect();
        return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      };
      chart.addEventListener("dragstart", (event) => event.preventDefault());
      chart.addEventListener("pointerdown", (event) => { start = at(event); });
      chart.addEventListener("pointermove", (event) => {
        if (start === null || !event.buttons) return;
        if (!mark) {
          chart.setPointerCapture(event.pointerId); // the drag goes on beyond the edge; a click stays the bar's
          mark = document.createElementNS("http://www.w3.org/2000/svg", "rect");
          mark.setAttribute("class", "chosen");
          mark.setAttribute("height", "90");
          chart.append(mark);
        }
        const now = at(event);
        mark.setAttribute("x", 640 * Math.min(start, now));
        mark.setAttribute("width", 640 * Math.abs(now - start));
      });
      chart.addEventListener("click", (event) => { if (mark) event.preventDefault(); }, true);
      chart.addEventListener("pointerup", (event) => {
        const end = at(event), first = start;
        start = null;
        if (first === null || Math.abs(end - first) < 0.01) { mark?.remove(); mark = null; return; }
        const value = (share) => { const v = low + share * (high - low); return log ? 10 ** v : v; };
        go(chart.dataset.template.replace("LOW", value(Math.min(first, end))).replace("HIGH", value(Math.max(first, end))));
      });
    }
  }

  function copying(root) {
    for (const button of root.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(button.dataset.copy);
        const text = button.textContent;
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = text; }, 1200);
      });
    }
  }

  // Complete the last word of a condition; without a script the list completes the whole of it.
  function completing(root) {
    for (const input of root.querySelectorAll("[data-complete]")) {
      const list = root.querySelector("#" + input.getAttribute("list"));
      if (!list) continue;
      const names = [...list.querySelectorAll("option")].map((option) => option.value);
      input.addEventListener("input", () => {
        const word = /[\w:.+-]*$/.exec(input.value)[0], before = input.value.slice(0, input.value.length - word.length);
        list.replaceChildren(...(word ? names.filter((name) => name.startsWith(word)) : []).map((name) => {
          const option = document.createElement("option");
          option.value = before + name;
          return option;
        }));
      });
    }
  }

  // The search of a folder of pages, whose index is a script.
  function searching(root) {
    const input = root.querySelector("[data-index]"), hits = root.querySelector("#hits");
    if (!input || !hits || !globalThis.saestoreIndex) return;
    input.addEventListener("input", () => {
      const word = input.value.trim().toLowerCase();
      const found = word ? saestoreIndex.filter((entry) => entry.text.toLowerCase().includes(word)).slice(0, 12) : [];
      hits.replaceChildren(...found.map((entry) => {
        const link = document.createElement("a"), row = document.createElement("li");
        link.href = entry.href.startsWith("#") ? entry.href : input.dataset.index + entry.href;
        link.textContent = entry.text;
        row.append(link);
        return row;
      }));
    });
  }

  function keys(root, event, go) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const active = root.activeElement ?? document.activeElement;
    if (typing(active)) { if (event.key === "Escape") active.blur(); return; }
    if (event.key === "/") {
      const box = root.querySelector("#q");
      if (box) { event.preventDefault(); box.focus(); }
    }
    if (active?.matches?.(".scroll, pre")) return; // there the arrows scroll
    const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const link = rel && root.querySelector(`a[rel=${rel}]`);
    if (link) { event.preventDefault(); go(link.getAttribute("href")); }
  }

  // A page that is not done yet is loaded again, unless someone is reading elsewhere or filling in a form.
  let timer = 0;
  const still = () => clearTimeout(timer); // someone goes elsewhere
  function moving(root, again) {
    still();
    if (!root.querySelector("[data-moves]")) return;
    const busy = () => document.hidden || typing(root.activeElement) || root.querySelector("input:checked");
    timer = setTimeout(() => { if (busy()) moving(root, again); else again(); }, 5000);
  }

  function enhance(root, go) {
    ranges(root, go);
    copying(root);
    completing(root);
    searching(root);
  }

  function page() {
    const go = (address) => { location.href = address; };
    document.documentElement.classList.add("scripted");
    enhance(document, go);
    moving(document, () => location.reload());
    addEventListener("beforeunload", still);
    document.addEventListener("keydown", (event) => keys(document, event, go));
  }
  return { enhance, keys, moving, page, still };
})();
if (typeof document !== "undefined" && !globalThis.saestoreInWidget && document.querySelector("main#main")) saestore.page();
