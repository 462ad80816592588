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
        await navigator.clipboard.writeText(button.dataset.copies);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not allowed";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    id.after(" ", button);
  }
}

// update makes a part of the page what the fresh one is. What is equal stays, and with it the
// focus of the keyboard and the place of a screen reader.
function update(part, fresh) {
  const old = [...part.childNodes];
  const now = [...fresh.childNodes];
  now.forEach((node, i) => {
    const was = old[i];
    if (!was) {
      part.append(node);
    } else if (was.nodeType !== Node.ELEMENT_NODE || was.nodeName !== node.nodeName) {
      was.replaceWith(node);
    } else if (!was.isEqualNode(node)) {
      for (const name of was.getAttributeNames()) if (!node.hasAttribute(name)) was.removeAttribute(name);
      for (const name of node.getAttributeNames()) was.setAttribute(name, node.getAttribute(name));
      if (!was.matches(".copy")) update(was, node); // the button says for a while that it has copied
    }
  });
  for (const node of old.slice(now.length)) node.remove();
}

// placeOf returns a selector of what has the focus within a part, "" if that has nothing by
// which it is found again.
function placeOf(part) {
  const focused = document.activeElement;
  if (!part.contains(focused)) return "";
  if (focused.dataset.copies) return `[data-copies="${CSS.escape(focused.dataset.copies)}"]`;
  return focused.hasAttribute("href") ? `a[href="${CSS.escape(focused.getAttribute("href"))}"]` : "";
}

// show shows a fresh part. What has the focus may be in another place then.
function show(part, text) {
  const selection = getSelection();
  if (!selection.isCollapsed && part.contains(selection.anchorNode)) return; // being copied
  const focused = placeOf(part);
  const fresh = document.createElement("template"); // it keeps the space at the beginning
  fresh.innerHTML = text;
  showTimes(fresh.content);
  offerCopies(fresh.content);
  update(part, fresh.content);
  if (focused && !document.activeElement.matches(focused)) (part.querySelector(focused) ?? document.getElementById("main")).focus();
}

const ended = "Your session has ended. Sign in again to go on.";
const lost = "This page is not live at the moment. It tries again by itself.";

function follow(part) {
  const note = document.querySelector("[data-live-note]");
  let source, timer, failures = 0, over = false;
  const say = (text) => {
    if (note.textContent === text) return; // a screen reader says it once
    note.hidden = !text;
    note.textContent = text;
  };
  const stop = () => {
    clearTimeout(timer);
    source?.close();
  };
  const end = (text) => {
    over = true;
    stop();
    say(text);
  };
  const start = () => {
    stop();
    if (over || document.hidden) return; // a browser has few connections, and other tabs need them
    source = new EventSource(part.dataset.live);
    source.addEventListener("part", (event) => {
      failures = 0;
      say("");
      show(part, event.data);
    });
    source.addEventListener("end", (event) => {
      end(event.data === "over" ? "" : ended);
      if (event.data === "over") location.reload(); // the verbs change, too
    });
    source.addEventListener("error", (event) => {
      say(lost);
      // The browser tries again by itself, but not after the answer that it cannot have it now.
      if (event.target.readyState !== EventSource.CLOSED) return;
      timer = setTimeout(again, Math.min(30, 2 ** failures++) * 1000);
    });
  };
  const again = async () => {
    const answer = await fetch(part.dataset.live, { method: "HEAD" }).catch(() => null);
    if (answer?.status === 401) end(ended);
    else if (answer?.status === 404) end("What this page shows is not there any more.");
    else start();
  };
  start();
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  addEventListener("beforeunload", stop); // a reload would take the place of what the user has asked for
}

// A page that the browser has kept may be of a session that has ended.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
showTimes(document);
offerCopies(document);
for (const part of document.querySelectorAll("[data-live]")) follow(part);
