// Ways a picture comes in: the file dialog, a drop on a zone, the clipboard.

const at = (id) => document.getElementById(id);
const filesOf = (transfer) => Array.from(transfer?.files ?? []);

/** Call onFiles with what is chosen in `inputId` or dropped on `zoneId`. */
export function takeFiles(inputId, zoneId, onFiles) {
  at(inputId).addEventListener("change", (event) => {
    const files = Array.from(event.target.files);
    event.target.value = "";
    if (files.length) onFiles(files);
  });
  const zone = at(zoneId);
  let depth = 0;
  const over = (on) => zone.classList.toggle("over", on);
  zone.addEventListener("dragenter", () => over(++depth > 0));
  zone.addEventListener("dragleave", () => over(--depth > 0));
  zone.addEventListener("drop", (event) => {
    depth = 0;
    over(false);
    const files = filesOf(event.dataTransfer);
    if (files.length) onFiles(files);
  });
}

/** Pasted pictures; and a drop beside every zone must not make the browser leave the page. */
export function takePasted(onFiles) {
  for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
  addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData);
    if (!files.length) return;
    event.preventDefault();
    onFiles(files);
  });
}
