"use strict";

// Copy buttons stay hidden where there is no script.
for (const button of document.querySelectorAll(".command button")) {
  const code = button.parentElement.querySelector("code");
  button.hidden = false;
  button.addEventListener("click", async () => {
    const copied = await copy(code);
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    document.getElementById("announcement").textContent = copied ? "Command copied" : "Command selected, press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

// Where the clipboard is not allowed, the command is left selected for the reader.
async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return document.execCommand("copy");
  }
}

// Filters over rows that carry the values, joined by ";", in data attributes.
for (const form of document.querySelectorAll("form.filters")) {
  const rows = [...document.querySelectorAll("tr[data-verdict]")];
  const filter = () => {
    const wanted = [...new FormData(form)].filter(([, value]) => value);
    for (const row of rows) row.hidden = !wanted.every(([name, value]) => row.dataset[name].split(";").includes(value));
    form.querySelector("output").textContent =
      `${rows.filter((row) => !row.hidden).length} of ${rows.length} ${form.dataset.noun}`;
  };
  form.hidden = false;
  form.addEventListener("change", filter);
  filter();
}

// Paper cannot be unfolded.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:not([open])")) {
    folded.dataset.folded = "";
    folded.open = true;
  }
});
addEventListener("afterprint", () => {
  for (const folded of document.querySelectorAll("details[data-folded]")) {
    delete folded.dataset.folded;
    folded.open = false;
  }
});
