import { createSessionStorage } from 'keepsake/react-router'
import type { SessionStorage } from 'react-router'
import { manager } from '../sessions.server.ts'
import type { Route } from './+types/storage'

type Data = { n: number }
type FlashData = { error: string }

const storage: SessionStorage<Data, FlashData> = createSessionStorage<Data, FlashData>(manager)

export const loader = async ({ request }: Route.LoaderArgs) => {
  const s = await storage.getSession(request.headers.get('cookie'))
  return Response.json(
    { n: s.get('n') ?? null, error: s.get('error') ?? null },
    { headers: { 'set-cookie': await storage.commitSession(s) } },
  )
}

export const action = async ({ request }: Route.ActionArgs) => {
  const s = await storage.getSession(request.headers.get('cookie'))
  const { searchParams } = new URL(request.url)
  if (searchParams.has('end')) {
    return new Response(null, { status: 204, headers: { 'set-cookie': await storage.destroySession(s) } })
  }
  s.set('n', (s.get('n') ?? 0) + 1)
  s.flash('error', 'An error.')
  return new Response(null, { status: 204, headers: { 'set-cookie': await storage.commitSession(s) } })
}
