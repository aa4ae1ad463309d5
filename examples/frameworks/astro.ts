// Astro: src/middleware.ts and the endpoint src/pages/index.ts of an application that counts visits.

import { session, sessionManager } from 'keepsake'
import { type AstroContext, forAstro } from 'keepsake/astro'

type Fields = { visits: number }

// middleware.ts
const manager = sessionManager<Fields>({ backend: process.env.SESSIONS ?? 'memory:' })
export const onRequest = forAstro(manager)

// pages/index.ts
export const GET = async (context: AstroContext) => {
  const s = await session<Fields>(context)
  s.update('visits', (visits = 0) => visits + 1)
  return new Response(`You were here ${s.get('visits')} times.`)
}
