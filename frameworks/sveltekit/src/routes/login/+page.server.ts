import { fail, redirect } from '@sveltejs/kit'
import { addFlash, csrfToken, readForm, session, takeFlash } from 'keepsake'
import type { Actions, PageServerLoad } from './$types'

export const load: PageServerLoad = async (event) => {
  const messages = await takeFlash(event)
  return { token: await csrfToken(event), texts: messages.map(({ text }) => text) }
}

export const actions: Actions = {
  async default(event) {
    const form = await readForm(event)
    if (!form.ok) return fail(400, { message: form.message })
    if (form.fields.get('name') !== 'anna') return fail(403, { message: 'There is no such visitor.' })
    const s = await session(event)
    s.login('anna')
    addFlash(event, 'info', 'Welcome.')
    redirect(303, '/')
  },
}
