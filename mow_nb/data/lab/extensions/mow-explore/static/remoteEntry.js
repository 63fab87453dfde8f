// JupyterLab loads this when `mow explore` opens the explorer's notebook: a sign while things load, and the explorer's
// cell (the one whose id is 'explore') runs once its kernel is there. Other cells are left alone.
;(() => {
  const sign = document.createElement('div')
  sign.setAttribute('role', 'status')
  sign.id = 'mow-loading'
  sign.textContent = 'The explorer is being loaded ...'
  sign.style.cssText =
    'position:fixed;left:50%;top:45%;transform:translate(-50%,-50%);z-index:10000;padding:14px 26px;border-radius:8px;' +
    'font:16px/1.5 sans-serif;background:#fff;color:#1c1e21;border:1px solid #767b82;box-shadow:0 2px 12px #0003'
  document.body.append(sign)

  const until = async (ready) => {
    let found
    while (!(found = await ready())) await new Promise((go) => setTimeout(go, 50))
    return found
  }

  async function open(app) {
    const panel = await until(() => {
      const widget = app.shell.currentWidget
      return widget?.sessionContext && widget.content?.widgets?.length && widget
    })
    await panel.context.ready
    const notebook = panel.content
    const at = notebook.widgets.findIndex((cell) => cell.model.id === 'explore')
    if (at < 0) return
    await panel.sessionContext.ready
    await until(() => panel.sessionContext.session?.kernel?.connectionStatus === 'connected')
    for (const side of ['left', 'right']) {
      if (app.shell.isSideTabBarVisible?.(side)) app.shell.toggleSideTabBarVisibility(side)
    }
    notebook.activeCellIndex = at
    await app.commands.execute('notebook:run-cell')
  }

  const plugin = {
    id: 'mow-explore:open',
    autoStart: true,
    activate: (app) => {
      app.restored.then(() => open(app)).finally(() => sign.remove())
    },
  }
  const container = { init: () => undefined, get: async () => () => ({ __esModule: true, default: plugin }) }
  ;(window._JUPYTERLAB ??= {})['mow-explore'] = container
})()
