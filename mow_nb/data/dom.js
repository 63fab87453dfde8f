// What the halves of the widgets in the browser share; their sources follow this one.

function make(tag, attrs = {}, ...inside) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(attrs)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value)
    else node.setAttribute(name, value)
  }
  node.append(...inside)
  return node
}

// the handle of a slider of ipywidgets has no name of its own: it is called what its label says
function nameSliders() {
  for (const slider of document.querySelectorAll('.widget-slider')) {
    const handle = slider.querySelector('[role=slider]')
    const label = slider.querySelector('.widget-label')
    if (handle && label) handle.setAttribute('aria-label', label.innerText)
  }
}
