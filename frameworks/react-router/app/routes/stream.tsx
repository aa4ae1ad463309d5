import { setTimeout } from 'node:timers/promises'
import { session } from 'keepsake'
import { Suspense } from 'react'
import { Await } from 'react-router'
import type { Fields } from '../sessions.server.ts'
import type { Route } from './+types/stream'

/** React Router streams the promise after the head of the page. */
export const loader = async ({ context }: Route.LoaderArgs) => {
  const s = await session<Fields>(context)
  return { late: setTimeout(50).then(() => `late ${s.fields.page}`) }
}

export default function Stream({ loaderData }: Route.ComponentProps) {
  return (
    <Suspense fallback={<p>Please wait.</p>}>
      <Await resolve={loaderData.late}>{(late) => <p id="late">{late}</p>}</Await>
    </Suspense>
  )
}
