import { session } from 'keepsake'
import type { Fields } from '../sessions.server.ts'
import type { Route } from './+types/fail'

export const loader = async ({ context }: Route.LoaderArgs) => {
  const s = await session<Fields>(context)
  s.set('page', 'lost')
  throw new Error('This handler fails.')
}

export default function Fail() {
  return <p>Never shown.</p>
}
