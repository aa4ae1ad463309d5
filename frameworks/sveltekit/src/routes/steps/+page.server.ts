import { session } from 'keepsake'
import type { Fields } from '../../sessions.server'
import type { PageServerLoad } from './$types'

/** The page and the endpoint that it fetches set one field each. */
export const load: PageServerLoad = async (event) => {
  const s = await session<Fields>(event)
  s.set('page', 'set')
  await event.fetch('/api/step')
  return { ...s.fields }
}
