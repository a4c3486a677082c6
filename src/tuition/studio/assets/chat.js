// Follows the reply while the reader is at its end, stops with Escape, remembers the choice of light or dark.
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
    if (!talk) return setTimeout(watch, 50);
    new MutationObserver(() => { if (follow) scrollTo(0, document.documentElement.scrollHeight); })
      .observe(talk, { childList: true, subtree: true, characterData: true });
  };
  watch();
  window.studioFollow = () => { follow = true; scrollTo(0, document.documentElement.scrollHeight); };
  window.studioTheme = (name) => { try { localStorage.setItem("tuition-theme", name); } catch {} };
  window.studioThemeBefore = () => { try { return localStorage.getItem("tuition-theme"); } catch { return null; } };
})();
