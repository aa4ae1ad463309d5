import type { APIRoute } from 'astro'
import { session } from 'keepsake'
import { type Fields, manager } from '../sessions.ts'

/** The session ends while the request is in progress, as by an operator in the meantime. */
export const GET: APIRoute = async (context) => {
  const s = await session<Fields>(context)
  await manager.revoke(s.label)
  s.set('page', 'lost')
  return new Response('Never sent.')
}
