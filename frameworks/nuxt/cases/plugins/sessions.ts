// Mounts the manager of each case, in the place of the one before.

import { forNuxt } from 'keepsake/nuxt'

export default defineNitroPlugin((nitroApp) => {
  const { handler } = nitroApp.h3App
  globalThis.mount = () => {
    nitroApp.h3App.handler = handler
    forNuxt(globalThis.application.manager)(nitroApp)
  }
})
