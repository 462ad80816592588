// Everything works without this script, by reloading. It shows times in the reader's zone, and
// keeps live parts up to date.
"use strict";

function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (isNaN(at)) continue;
    const two = (n) => String(n).padStart(2, "0");
    time.title = time.textContent;
    time.textContent = at.getFullYear() + "-" + two(at.getMonth() + 1) + "-" + two(at.getDate()) + " " +
      two(at.getHours()) + ":" + two(at.getMinutes()) + ":" + two(at.getSeconds());
  }
}

// offerCopies puts a button beside each id, where the browser can copy.
function offerCopies(root) {
  if (!navigator.clipboard) return;
  for (const id of root.querySelectorAll("[data-copy]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet copy";
    button.textContent = "Copy";
    button.dataset.copies = id.dataset.copy;
    button.setAttribute("aria-label", "Copy " + id.dataset.copy);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(id.dataset.copy);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not allowed";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    id.after(" ", button);
  }
}

// place returns how the link or the button that has the keyboard's focus is found again, after
// the part was replaced.
function place(part) {
  const focused = document.activeElement;
  if (!part.contains(focused)) return "";
  if (focused.dataset.copies) return `button[data-copies="${CSS.escape(focused.dataset.copies)}"]`;
  return focused.hasAttribute("href") ? `a[href="${CSS.escape(focused.getAttribute("href"))}"]` : "";
}

function follow(part) {
  const note = document.querySelector("[data-live-note]");
  const say = (text) => { note.hidden = !text; note.textContent = text; };
  const source = new EventSource(part.dataset.live);
  source.addEventListener("part", (event) => {
    say("");
    const selection = getSelection();
    if (!selection.isCollapsed && part.contains(selection.anchorNode)) return; // being copied
    const focused = place(part);
    const fresh = new DOMParser().parseFromString(event.data, "text/html");
    showTimes(fresh);
    offerCopies(fresh);
    part.replaceChildren(...fresh.body.childNodes);
    if (focused) part.querySelector(focused)?.focus();
  });
  source.addEventListener("end", (event) => {
    source.close();
    if (event.data === "over") location.reload(); // the verbs change, too
    else say("Your session has ended. Sign in again to go on.");
  });
  source.addEventListener("error", () => {
    say(source.readyState === EventSource.CLOSED
      ? "This page is not live any more. Reload it."
      : "The connection is lost, and is being made again.");
  });
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}

showTimes(document);
offerCopies(document);
for (const part of document.querySelectorAll("[data-live]")) follow(part);
