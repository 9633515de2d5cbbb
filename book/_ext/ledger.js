/* Shows the rows of the ledger that have the verdict and the part of the article asked for. */
const form = document.querySelector(".ledger-filter");
const rows = [...document.querySelectorAll(".claims-ledger tbody tr")];

function filter() {
  const { kind, part } = Object.fromEntries(new FormData(form));
  for (const row of rows) {
    row.hidden =
      (kind && !row.classList.contains(`claim-verdict-${kind}`)) ||
      (part && !row.classList.contains(`claim-part-${part}`));
  }
  const shown = rows.filter((row) => !row.hidden).length;
  form.querySelector("output").textContent = `${shown} of ${rows.length} claims`;
}

form.hidden = false;
form.addEventListener("change", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter();
