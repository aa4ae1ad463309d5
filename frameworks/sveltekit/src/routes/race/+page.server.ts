import { session } from 'keepsake'
import { type Fields, manager } from '../../sessions.server'
import type { Actions, PageServerLoad } from './$types'

export const load: PageServerLoad = async ({ locals, url }) => {
  if (!url.searchParams.has('end')) return
  await manager.revoke(locals.session.label)
  locals.session.set('page', 'lost')
}

export const actions: Actions = {
  /** The session ends while the request is in progress, as by an operator in the meantime. */
  async default(event) {
    const s = await session<Fields>(event)
    await manager.revoke(s.label)
    s.set('page', 'lost')
  },
}
