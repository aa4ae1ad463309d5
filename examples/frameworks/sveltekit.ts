// SvelteKit: src/hooks.server.ts and src/routes/+page.server.ts of an application that counts visits.

import { session, sessionManager } from 'keepsake'
import { forSvelteKit, type SvelteKitEvent } from 'keepsake/sveltekit'

type Fields = { visits: number }

// hooks.server.ts
const manager = sessionManager<Fields>({ backend: process.env.SESSIONS ?? 'memory:' })
export const handle = forSvelteKit(manager)

// +page.server.ts
export const load = async (event: SvelteKitEvent) => {
  const s = await session<Fields>(event)
  s.update('visits', (visits = 0) => visits + 1)
  return { text: `You were here ${s.get('visits')} times.` }
}
