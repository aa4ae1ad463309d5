// Another request logs the visitor out while this one changes the session.

import { session } from 'keepsake'

export default defineEventHandler(async (event) => {
  const s = await session<Fields>(event)
  if (s.owner !== undefined) await manager.revokeAll(s.owner)
  s.set('cart', ['lost'])
  return 'Not sent.'
})
