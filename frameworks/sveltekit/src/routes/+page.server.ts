import { redirect } from '@sveltejs/kit'
import { addFlash, csrfToken, readForm, session, takeFlash } from 'keepsake'
import type { Fields } from '../sessions.server'
import type { Actions, PageServerLoad } from './$types'

export const load: PageServerLoad = async (event) => {
  const { owner, fields } = event.locals.session
  const messages = await takeFlash(event)
  return { owner, cart: fields.cart ?? [], texts: messages.map(({ text }) => text), token: await csrfToken(event) }
}

export const actions: Actions = {
  async add(event) {
    const form = await readForm(event)
    if (!form.ok) {
      addFlash(event, 'error', form.message)
      redirect(303, '/')
    }
    const item = form.fields.get('item') ?? 'tea'
    const s = await session<Fields>(event)
    s.update('cart', (cart = []) => [...cart, item])
    addFlash(event, 'info', `${item} is in the cart.`)
    redirect(303, '/')
  },
  async logout(event) {
    const form = await readForm(event)
    if (form.ok) (await session(event)).invalidate()
    redirect(303, '/')
  },
}
