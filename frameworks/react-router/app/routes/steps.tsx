import { session } from 'keepsake'
import { Link } from 'react-router'
import type { Fields } from '../sessions.server.ts'
import type { Route } from './+types/steps'

/** Two middlewares and a loader of one request set one field each. */
export const middleware: Route.MiddlewareFunction[] = [
  async ({ request }) => {
    const s = await session<Fields>(request)
    s.set('api', 'set')
  },
]

export const loader = async ({ context }: Route.LoaderArgs) => {
  const s = await session<Fields>(context)
  s.set('page', 'set')
  return s.fields
}

export default function Steps({ loaderData }: Route.ComponentProps) {
  return (
    <>
      <p id="fields">{JSON.stringify(loaderData)}</p>
      <Link to="/race">Race</Link>
    </>
  )
}
