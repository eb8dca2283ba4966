// The pages in a notebook: every address is asked of the kernel, nothing of a port.
export default {
  render({ model, el }) {
    const root = el.attachShadow({ mode: "open" }), waiting = new Map();
    const sheet = document.createElement("style"), body = document.createElement("div");
    sheet.textContent = model.get("style_sheet");
    body.className = "scripted";
    body.tabIndex = -1;
    root.append(sheet, body);
    let next = 0, shown = [];

    const ask = (address, form) => new Promise((resolve) => {
      waiting.set(++next, resolve);
      model.send({ id: next, address, method: form ? "POST" : "GET", form: form ?? null });
    });
    const received = (content, buffers) => {
      const resolve = waiting.get(content.id);
      waiting.delete(content.id);
      resolve?.({ ...content, body: buffers[0] });
    };
    model.on("msg:custom", received);

    async function picture(image) {
      const name = image.hasAttribute("src") ? "src" : "href", address = image.getAttribute(name);
      image.removeAttribute(name);
      const answer = await ask(address);
      if (answer.status !== 200) return;
      const url = URL.createObjectURL(new Blob([answer.body], { type: answer.type }));
      shown.push(url);
      image.setAttribute(name, url);
    }

    async function go(address, form) {
      saestore.still();
      const answer = await ask(address, form);
      if (answer.location) return go(answer.location);
      if (answer.type !== "text/html") return;
      const page = new DOMParser().parseFromString(new TextDecoder().decode(answer.body), "text/html");
      shown.forEach((url) => URL.revokeObjectURL(url));
      shown = [];
      for (const image of page.querySelectorAll("svg image[href^='/'], img[src^='/']")) picture(image);
      body.replaceChildren(...["header", "main"].map((name) => page.querySelector(name)).filter(Boolean));
      saestore.enhance(root, go);
      saestore.moving(root, () => go(address));
    }

    root.addEventListener("click", (event) => {
      const link = event.target.closest?.("a[href]"), address = link?.getAttribute("href");
      if (!address || event.defaultPrevented || event.ctrlKey || event.metaKey) return;
      if (address.startsWith("/")) { event.preventDefault(); if (!/\.json($|\?)/.test(address)) go(address); }
    });
    root.addEventListener("submit", (event) => {
      event.preventDefault();
      const form = event.target, fields = {};
      for (const [name, value] of new FormData(form)) fields[name] = name in fields ? `${fields[name]},${value}` : value;
      if (form.method === "post") go(form.getAttribute("action"), fields);
      else go(`${form.getAttribute("action")}?${new URLSearchParams(fields)}`);
    });
    root.addEventListener("keydown", (event) => { saestore.keys(root, event, go); event.stopPropagation(); });
    // A card in the same notebook links to a page.
    const linked = (event) => {
      const link = event.target.closest?.("a[href^='#saestore:/']");
      if (!link) return;
      event.preventDefault();
      el.scrollIntoView({ block: "nearest" });
      go(link.getAttribute("href").slice("#saestore:".length));
    };
    document.addEventListener("click", linked, true);
    go(model.get("start"));
    return () => { document.removeEventListener("click", linked, true); model.off("msg:custom", received); shown.forEach((url) => URL.revokeObjectURL(url)); };
  },
};
