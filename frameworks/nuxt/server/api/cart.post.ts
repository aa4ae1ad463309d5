// Adds an item to the cart.

import { readForm, session } from 'keepsake'

export default defineEventHandler(async (event) => {
  const form = await readForm(event)
  if (!form.ok) throw createError({ statusCode: form.status, message: form.message })
  const s = await session<Fields>(event)
  s.update('cart', (cart = []) => [...cart, form.fields.get('item') ?? ''])
  return sendRedirect(event, '/', 303)
})
