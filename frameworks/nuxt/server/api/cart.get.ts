// The cart of the visitor, a token for the forms of the page, and the message for it.

import { csrfToken, session, takeFlash } from 'keepsake'

export default defineEventHandler(async (event) => {
  const s = await session<Fields>(event)
  const [message] = await takeFlash(event)
  return {
    cart: s.get('cart') ?? [],
    owner: s.owner ?? null,
    token: await csrfToken(event),
    flash: message?.text ?? '',
  }
})
