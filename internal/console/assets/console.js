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

// place finds the link again that has the keyboard's focus, after the part was replaced.
function place(part) {
  const focused = document.activeElement;
  return part.contains(focused) && focused.getAttribute("href");
}

function follow(part) {
  const note = document.querySelector("[data-live-note]");
  const say = (text) => { note.hidden = !text; note.textContent = text; };
  const source = new EventSource(part.dataset.live);
  source.addEventListener("part", (event) => {
    say("");
    const selection = getSelection();
    if (!selection.isCollapsed && part.contains(selection.anchorNode)) return; // being copied
    const link = place(part);
    const fresh = new DOMParser().parseFromString(event.data, "text/html");
    showTimes(fresh);
    part.replaceChildren(...fresh.body.childNodes);
    if (link) part.querySelector(`a[href="${CSS.escape(link)}"]`)?.focus();
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
for (const part of document.querySelectorAll("[data-live]")) follow(part);
