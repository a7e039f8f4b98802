// Replaces the parts of a page that have data-live, every other second. Pages work without it: reload them.
const PAUSE_MILLISECONDS = 2000;
let isPressed = false;
addEventListener("pointerdown", () => { isPressed = true; });
addEventListener("pointerup", () => { isPressed = false; });
addEventListener("pointercancel", () => { isPressed = false; });

const liveParts = () => [...document.querySelectorAll("[data-live]")];

// What is being used stays: a field with the focus, text that is selected, a box that is ticked, details that are open.
function isInUse(part) {
  const selection = getSelection();
  return (
    part.contains(document.activeElement) ||
    (selection && !selection.isCollapsed && part.contains(selection.anchorNode)) ||
    part.querySelector("details[open], input:checked") ||
    [...part.querySelectorAll("select")].some((select) => select.value)
  );
}

function showSelectAll() {
  for (const button of document.querySelectorAll("[data-select-all]")) button.hidden = false;
}

async function refresh() {
  if (document.hidden || isPressed || !liveParts().length) return;
  let answer;
  try {
    answer = await fetch(location.href, { headers: { accept: "text/html" } });
  } catch {
    document.body.classList.add("is-offline");
    return;
  }
  document.body.classList.toggle("is-offline", !answer.ok);
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of liveParts()) {
    const fresh = page.getElementById(part.id);
    if (fresh && !isPressed && !isInUse(part) && !part.isEqualNode(fresh)) {
      part.replaceWith(document.adoptNode(fresh));
    }
  }
  showSelectAll();
}

async function keepFresh() {
  await refresh();
  setTimeout(keepFresh, PAUSE_MILLISECONDS);
}

document.addEventListener("click", (event) => {
  if (!event.target.matches("[data-select-all]")) return;
  const boxes = [...event.target.form.querySelectorAll("input[type=checkbox]")];
  const isAll = boxes.every((box) => box.checked);
  for (const box of boxes) box.checked = !isAll;
});

showSelectAll();
setTimeout(keepFresh, PAUSE_MILLISECONDS);
