// React Router: app/root.tsx and app/routes/home.tsx of an application that counts visits.

import { session, sessionManager } from 'keepsake'
import { forReactRouter, type ReactRouterArgs } from 'keepsake/react-router'

type Fields = { visits: number }

// root.tsx
const manager = sessionManager<Fields>({ backend: process.env.SESSIONS ?? 'memory:' })
export const middleware = [forReactRouter(manager)]

// home.tsx
export const loader = async ({ context }: ReactRouterArgs) => {
  const s = await session<Fields>(context)
  s.update('visits', (visits = 0) => visits + 1)
  return { text: `You were here ${s.get('visits')} times.` }
}
