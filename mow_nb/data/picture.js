// A picture some of whose parts stand for tasks: what is under the pointer is told, a click picks its task, and a picture
// of many tasks is drawn larger. The kernel's side is `Picture` in mow_nb/view/views.py.

const LARGEST = 4

function render({ model, el }) {
  const image = make('img', { class: `mow-${model.get('name')}`, draggable: 'false', onload: nameSliders })
  const told = make('div', { class: 'mow-told', role: 'status' })
  const sheet = make('div', { class: 'mow-sheet' }, image)
  let zoom = 1
  let address = null
  const scale = (by) => {
    zoom = Math.max(1, Math.min(LARGEST, zoom * by))
    image.style.width = `${100 * zoom}%`
    back.disabled = zoom === 1
    more.disabled = zoom === LARGEST
  }
  const button = (text, label, by) => make('button', { type: 'button', 'aria-label': label, onclick: () => scale(by) }, text)
  const more = button('+', 'Draw larger', 1.5)
  const back = button('−', 'Draw smaller', 1 / 1.5)
  const root = make('div', { class: 'mow-picture' }, sheet, make('div', { class: 'mow-zoom' }, back, more), told)

  function under(event) {
    // of the spots under the pointer the smallest
    const box = image.getBoundingClientRect()
    const x = (event.clientX - box.left) / box.width
    const y = (event.clientY - box.top) / box.height
    const area = ({ box: [a, b, c, d] }) => (c - a) * (d - b)
    const hit = model.get('spots').filter(({ box: [a, b, c, d] }) => a <= x && x <= c && b <= y && y <= d)
    return hit.reduce((best, spot) => (best === null || area(spot) < area(best) ? spot : best), null)
  }
  image.addEventListener('pointermove', (event) => {
    const spot = under(event)
    const box = root.getBoundingClientRect()
    told.textContent = spot ? spot.words : ''
    image.style.cursor = spot ? 'pointer' : ''
    const left = event.clientX - box.left
    told.style.left = left > box.width / 2 ? '' : `${left + 14}px`
    told.style.right = left > box.width / 2 ? `${box.width - left + 10}px` : ''
    told.style.top = `${event.clientY - box.top + 16}px`
  })
  image.addEventListener('pointerleave', () => (told.textContent = ''))
  image.addEventListener('click', (event) => {
    const spot = under(event)
    if (!spot) return
    model.set('picked', spot.task === model.get('picked') ? '' : spot.task)
    model.save_changes()
  })

  function draw() {
    const bytes = model.get('value')
    root.style.display = bytes?.byteLength ? '' : 'none'
    image.alt = model.get('alt')
    if (!bytes?.byteLength) return
    if (address) URL.revokeObjectURL(address)
    address = URL.createObjectURL(new Blob([bytes], { type: 'image/png' }))
    image.src = address
  }
  scale(1)
  draw()
  model.on('change:value', draw)
  model.on('change:alt', draw)
  el.append(root)
  return () => {
    model.off('change:value', draw)
    model.off('change:alt', draw)
    if (address) URL.revokeObjectURL(address)
  }
}

export default { render }
