// Follows the reply while the reader is at its end, stops with Escape, and keeps in the browser's storage what
// has to outlive the page: the choice of light or dark, and the conversations.
(() => {
  const atEnd = () => window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 120;
  let follow = true;
  addEventListener("scroll", () => {
    follow = atEnd();
    document.body.classList.toggle("scrolled", window.scrollY > 8);
  }, { passive: true });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector(".q-menu, .q-dialog")) emitEvent("studio-stop");
  });
  const watch = () => {
    const talk = document.querySelector(".talk");
    if (!talk || !document.querySelector(".dock textarea")) return setTimeout(watch, 50);
    const toEnd = () => { if (follow && talk.querySelector(".reply")) scrollTo(0, document.documentElement.scrollHeight); };
    new MutationObserver(toEnd).observe(talk, { childList: true, subtree: true, characterData: true });
    const dock = document.querySelector(".dock");
    new ResizeObserver(() => {
      document.body.style.setProperty("--dock", `${dock.offsetHeight}px`);  // nothing is hidden behind it
      toEnd();
    }).observe(dock);
    const text = dock.querySelector("textarea");
    text.addEventListener("paste", (event) => {
      const pasted = event.clipboardData.getData("text").length;
      if (text.value.length + pasted - (text.selectionEnd - text.selectionStart) > text.maxLength) {
        event.preventDefault();
        emitEvent("studio-too-long");
      }
    });
  };
  watch();
  window.studioFollow = () => { follow = true; scrollTo(0, document.documentElement.scrollHeight); };

  const stored = (action) => { try { return action(); } catch { return null; } };
  window.studioTheme = (name) => stored(() => localStorage.setItem("tuition-theme", name));
  window.studioThemeBefore = () => stored(() => localStorage.getItem("tuition-theme"));

  const PREFIX = "tuition-conversation-", CURRENT = "tuition-current", SLICE = 150_000, MOST_LISTED = 200;
  const raw = (id) => stored(() => localStorage.getItem(PREFIX + id)) ?? "";
  const parsed = (text) => stored(() => JSON.parse(text));
  let unsaved = false;
  window.studioCurrent = () => stored(() => sessionStorage.getItem(CURRENT));
  window.studioMakeCurrent = (id) => stored(() => sessionStorage.setItem(CURRENT, id));
  window.studioForget = (id) => stored(() => localStorage.removeItem(PREFIX + id));
  window.studioSlice = (id, start) => {
    const text = raw(id);
    let end = start + SLICE;
    if (/[\uD800-\uDBFF]/.test(text[end - 1] ?? "")) end += 1;  // not between the halves of a character
    return text.slice(start, end);
  };
  window.studioHeads = () => stored(() => Object.keys(localStorage)
    .filter((key) => key.startsWith(PREFIX))
    .map((key) => parsed(localStorage.getItem(key)))
    .filter((kept) => kept?.turns?.length && kept.id && kept.title && kept.model && kept.saved)
    .sort((a, b) => b.saved - a.saved)
    .slice(0, MOST_LISTED)
    .map(({ id, title, model, saved }) => ({ id, title, model, saved: new Date(saved).toLocaleString() })));
  window.studioKeep = (head, index, turn) => {
    const turns = parsed(raw(head.id))?.turns ?? [];
    if (turns.length < index || (turns[index] && turns[index].id !== turn.id)) return "other";
    turns[index] = turn;
    try {
      localStorage.setItem(PREFIX + head.id, JSON.stringify({ ...head, saved: Date.now(), turns }));
      unsaved = false;
      return "kept";
    } catch {
      unsaved = true;
      return "full";
    }
  };
  addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
  addEventListener("pagehide", () => emitEvent("studio-gone"));
})();
