"use strict";
(() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Hidden lines of long tables; heatmaps in place of images.
  for (const button of all(".show")) {
    button.addEventListener("click", () => {
      const more = document.getElementById(button.dataset.shows);
      more.hidden = false;
      one("input, button, select", more)?.focus();
      button.parentElement.remove();
    });
  }
  const heatmaps = one("#heatmaps");
  const showHeatmaps = () => document.body.classList.toggle("heats", heatmaps.checked);
  heatmaps?.addEventListener("change", showHeatmaps);
  if (heatmaps) showHeatmaps(); // the browser may restore the checkbox

  // Open all details for printing.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });

  // Enlarge an image beside its heatmap; the arrow keys browse its group.
  const dialog = one("#enlarged");
  const [photo, heat] = all(".stage img", dialog);
  const stage = one(".stage", dialog);
  const caption = one(".caption", dialog);
  let group = [];
  let at = 0;

  const fill = (target, sized, address, description) => {
    target.src = address;
    target.alt = description;
    target.classList.toggle("small", Number(sized.getAttribute("width")) < 480);
  };
  const show = (index) => {
    at = (index + group.length) % group.length;
    const button = group[at];
    const image = one(".photo", button);
    const address = button.dataset.heatmap;
    fill(photo, image, image.getAttribute("src"), image.alt);
    heat.hidden = !address;
    stage.classList.toggle("two", Boolean(address));
    if (address) fill(heat, image, address, `Heatmap of ${image.alt}`);
    else heat.removeAttribute("src");
    const text = one("figcaption", button.closest("figure") ?? button);
    caption.replaceChildren(...(text ? text.cloneNode(true).childNodes : [image.alt]));
    one(".place", dialog).textContent = `${at + 1} of ${group.length}`;
  };
  for (const button of all(".zoom")) {
    button.addEventListener("click", () => {
      group = all(".zoom").filter((other) => other.dataset.group === button.dataset.group);
      for (const step of all("[data-step]", dialog)) step.disabled = group.length < 2;
      show(group.indexOf(button));
      dialog.showModal();
      one(".close", dialog).focus();
    });
  }
  for (const step of all("[data-step]", dialog)) {
    step.addEventListener("click", () => show(at + Number(step.dataset.step)));
  }
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(at + step);
  });
  one(".close", dialog).addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });

  // Ticked rows as lines for data/label_fixes.csv, one per file; the first table has priority.
  const form = one("#fixes");
  if (!form) return;
  const [csv, source, header, copied] = ["#csv", "#source", "#header", "#copied"].map((id) => one(id));
  const field = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const write = () => {
    const lines = new Map();
    for (const box of all(".tick:checked")) {
      const member = JSON.parse(box.dataset.member);
      const choice = one(".choice", box.closest("tr"));
      const label = choice ? JSON.parse(choice.value) : "exclude";
      if (!lines.has(member)) lines.set(member, [member, label, source.value].map(field).join(","));
    }
    const head = header.checked ? ["member,label,source"] : [];
    csv.value = [...head, ...lines.values()].map((line) => `${line}\n`).join("");
    one("#ticked").textContent = lines.size === 1 ? "1 line" : `${lines.size} lines`;
    copied.textContent = "";
  };
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(csv.value);
      copied.textContent = "Copied.";
    } catch {
      csv.focus();
      csv.select(); // a page opened from a file may not write to the clipboard
      copied.textContent = "Selected: copy with Ctrl+C or Cmd+C.";
    }
  };
  const section = one("#audit");
  section.addEventListener("change", write);
  source.addEventListener("input", write);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    copy();
  });
  write();
})();
