import { session } from 'keepsake'
import type { Fields } from '../sessions.server.ts'
import type { Route } from './+types/echo'

export const action = async (args: Route.ActionArgs) => {
  const s = await session<Fields>(args)
  s.set('api', 'action')
  return null
}

export const loader = async (args: Route.LoaderArgs) => {
  const s = await session<Fields>(args)
  return s.fields
}

export default function Echo({ loaderData }: Route.ComponentProps) {
  return <p id="fields">{JSON.stringify(loaderData)}</p>
}
