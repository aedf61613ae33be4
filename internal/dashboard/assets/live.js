// The pages work without this script. It refreshes the parts marked with data-live, shows times in
// the browser's time zone, and adds the copy buttons.
"use strict";

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });

function localize(root) {
  for (const t of root.querySelectorAll("time[datetime]")) {
    t.title = t.textContent;
    t.textContent = clock.format(new Date(t.dateTime));
  }
}

// announce tells screen readers what changed, at most every ten seconds so that people can follow.
let announced = "", announcedAt = 0;
function announce(text, isLast) {
  if (!text || text === announced || (!isLast && Date.now() - announcedAt < 10000)) return;
  announced = text;
  announcedAt = Date.now();
  document.getElementById("announcement").textContent = text;
}

// The text of each part as the server sent it, before it was localized.
const known = new Map();

function replace(part, fresh, text) {
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const position = focused ? [...part.querySelectorAll("a, button, [tabindex]")].indexOf(focused) : -1;
  const scrolled = [...part.querySelectorAll(".scroll")].map((s) => [s.scrollLeft, s.scrollTop]);
  localize(fresh);
  part.replaceWith(fresh);
  known.set(fresh.id, text);
  fresh.querySelectorAll(".scroll").forEach((s, i) => scrolled[i] && s.scrollTo(...scrolled[i]));
  if (focused) {
    const again = (focused.id && document.getElementById(focused.id)) || fresh.querySelectorAll("a, button, [tabindex]")[position];
    if (again) again.focus({ preventScroll: true });
  }
}

async function refresh() {
  const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
  if (!answer.ok) throw new Error(String(answer.status));
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    if (!fresh) continue;
    const text = fresh.outerHTML;
    if (known.get(part.id) !== text) replace(part, document.importNode(fresh, true), text);
    announce(fresh.dataset.say, page.body.dataset.every === "0");
  }
  return Number(page.body.dataset.every);
}

function live() {
  const note = document.getElementById("live");
  let every = Number(document.body.dataset.every);
  if (!every) return;
  let pause = every;
  const next = async () => {
    if (document.hidden) return setTimeout(next, pause);
    try {
      every = await refresh();
      pause = every;
      if (note) note.textContent = every ? "Updates automatically." : "";
    } catch {
      pause = Math.min(2 * pause, 30000);
      if (note) note.textContent = "Update failed; retrying.";
    }
    if (every) setTimeout(next, pause);
  };
  setTimeout(next, pause);
}

function copies() {
  const copy = (button, text) => {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text());
      const before = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = before; }, 1500);
    });
  };
  if (!navigator.clipboard) return;
  for (const b of document.querySelectorAll("[data-copy]")) copy(b, () => document.getElementById(b.dataset.copy).textContent);
  for (const b of document.querySelectorAll("[data-copy-link]")) copy(b, () => location.origin + location.pathname);
}

for (const part of document.querySelectorAll("[data-live]")) known.set(part.id, part.outerHTML);
localize(document);
copies();
live();
