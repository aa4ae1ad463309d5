// Logs the visitor in.

import { addFlash, readForm, session } from 'keepsake'

export default defineEventHandler(async (event) => {
  const form = await readForm(event)
  if (!form.ok) throw createError({ statusCode: form.status, message: form.message })
  const s = await session(event)
  s.login(form.fields.get('name') ?? '')
  addFlash(event, 'info', 'Welcome.')
  return sendRedirect(event, '/', 303)
})
