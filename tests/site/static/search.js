// Each result of a search shows the sentences around what was found. EXCERPTS: page -> [[place, text], ...]
(() => {
  const words = (new URLSearchParams(location.search).get('q') || '').toLowerCase().split(/\s+/).filter(Boolean);
  const first = (text) => Math.min(...words.map((w) => text.toLowerCase().indexOf(w)).filter((i) => i >= 0));

  // the text of that place, or of the place on the page that has most of the words
  const textOf = (page, place) => {
    const known = EXCERPTS[page] || [];
    const own = known.find(([id]) => id === place);
    if (own && place) return own[1];
    const share = ([, text]) => words.filter((w) => text.toLowerCase().includes(w)).length;
    return known.reduce((best, one) => (share(one) > share(best) ? one : best), known[0] || ['', ''])[1];
  };

  const excerpt = (text) => {
    const at = first(text);
    const start = Number.isFinite(at) && at > 120 ? text.indexOf(' ', at - 100) + 1 : 0;
    const end = text.length > start + 240 ? text.lastIndexOf(' ', start + 240) : text.length;
    const p = document.createElement('p');
    p.className = 'context';
    let rest = (start ? '… ' : '') + text.slice(start, end) + (end < text.length ? ' …' : '');
    for (let i = first(rest); Number.isFinite(i); i = first(rest)) {
      const word = words.filter((w) => rest.toLowerCase().startsWith(w, i)).sort((a, b) => b.length - a.length)[0];
      const mark = document.createElement('mark');
      mark.textContent = rest.slice(i, i + word.length);
      p.append(rest.slice(0, i), mark);
      rest = rest.slice(i + word.length);
    }
    p.append(rest);
    return p;
  };

  const tell = () => {
    for (const item of document.querySelectorAll('#search-results ul.search > li:not([data-told])')) {
      const link = item.querySelector('a');
      if (!link) continue;
      item.dataset.told = 'yes';
      const url = new URL(link.href);
      const page = url.pathname.split('/').pop().replace(/\.html$/, '');
      const text = textOf(page, decodeURIComponent(url.hash.slice(1)));
      if (text) item.append(excerpt(text));
    }
  };
  new MutationObserver(tell).observe(document.getElementById('search-results'), { childList: true, subtree: true });
  tell();
})();
