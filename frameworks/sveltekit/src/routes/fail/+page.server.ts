import { session } from 'keepsake'
import type { Fields } from '../../sessions.server'
import type { PageServerLoad } from './$types'

export const load: PageServerLoad = async (event) => {
  const s = await session<Fields>(event)
  s.set('page', 'lost')
  throw new Error('This handler fails.')
}
