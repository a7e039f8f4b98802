// Replaces the parts of a page that have data-live, every other second. Pages work without it: reload them.
const live = () => [...document.querySelectorAll("[data-live]")];

// What is being used stays: a menu that is open, a text that is selected, a field with the focus.
const isInUse = (part) => {
  const selection = getSelection();
  const isSelected = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  return isSelected || part.contains(document.activeElement) || part.querySelector("details[open], :checked");
};

async function refresh() {
  if (document.hidden || !live().length) return;
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
  for (const part of live()) {
    const fresh = page.getElementById(part.id);
    if (fresh && !isInUse(part)) part.replaceWith(document.adoptNode(fresh));
  }
}

async function keepFresh() {
  await refresh();
  setTimeout(keepFresh, 2000);
}

setTimeout(keepFresh, 2000);
