import { session } from 'keepsake'
import { command, getRequestEvent, query } from '$app/server'
import type { Fields } from '../../sessions.server'

export const getFields = query(async () => {
  const { page = 'none' } = (await session<Fields>(getRequestEvent())).fields
  return page
})

export const setPage = command(async () => {
  const s = await session<Fields>(getRequestEvent())
  s.set('page', 'remote')
  await getFields().refresh()
})
