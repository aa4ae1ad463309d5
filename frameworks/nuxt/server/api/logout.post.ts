// Logs the visitor out.

import { readForm, session } from 'keepsake'

export default defineEventHandler(async (event) => {
  const form = await readForm(event)
  if (!form.ok) throw createError({ statusCode: form.status, message: form.message })
  const s = await session(event)
  s.invalidate()
  return sendRedirect(event, '/', 303)
})
