import { session } from 'keepsake'
import { type Fields, manager } from '../sessions.server.ts'
import type { Route } from './+types/race'

/** The session ends while the request is in progress, as by an operator in the meantime. */
export const loader = async ({ context }: Route.LoaderArgs) => {
  const s = await session<Fields>(context)
  await manager.revoke(s.label)
  s.set('page', 'lost')
  return null
}

export default function Race() {
  return <p>Never shown.</p>
}
