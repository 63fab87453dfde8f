// A link to a folded cell opens it.
(() => {
  const unfold = () => {
    const place = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = place && place.closest('details:not([open])');
    if (fold) {
      fold.open = true;
      place.scrollIntoView();
    }
  };
  addEventListener('hashchange', unfold);
  addEventListener('DOMContentLoaded', unfold);
})();
