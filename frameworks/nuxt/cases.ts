// Serves the cases of adapters by the built application of the folder cases.

import { createServer } from 'node:http'
import { join } from 'node:path'
import type { ServeApplication } from 'keepsake/testing'
import { listening } from '../../test/support/listening.ts'

export const serve: ServeApplication = async (application) => {
  Object.assign(globalThis, { application })
  const { listener } = await import(join(import.meta.dirname, '.output/cases/server/index.mjs'))
  const { mount } = globalThis as unknown as { mount: () => void }
  mount()
  return listening(createServer(listener))
}
