import { json } from '@sveltejs/kit'
import { session } from 'keepsake'
import type { Fields } from '../../../sessions.server'
import type { RequestHandler } from './$types'

export const GET: RequestHandler = async (event) => {
  const s = await session<Fields>(event)
  s.set('api', 'set')
  return json(s.fields)
}
