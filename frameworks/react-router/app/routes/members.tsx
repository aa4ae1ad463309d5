import { addFlash, session } from 'keepsake'
import { redirect } from 'react-router'
import type { Route } from './+types/members'

export const loader = async ({ context }: Route.LoaderArgs) => {
  const { owner } = await session(context)
  if (owner !== undefined) return { owner }
  addFlash(context, 'info', 'Please log in.')
  throw redirect('/login', 303)
}

export default function Members({ loaderData }: Route.ComponentProps) {
  return <p id="visitor">{loaderData.owner}</p>
}
