import { redirect } from '@sveltejs/kit'
import { type Handle, type HandleServerError, sequence } from '@sveltejs/kit/hooks'
import { addFlash } from 'keepsake'
import { forSvelteKit } from 'keepsake/sveltekit'
import { manager } from './sessions.server'

const sessions = forSvelteKit(manager, { load: true })

/** A hook after the sessions that redirects. */
const guard: Handle = ({ event, resolve }) => {
  if (event.url.pathname === '/members' && event.locals.session.owner === undefined) {
    addFlash(event, 'info', 'Please log in.')
    redirect(303, '/login')
  }
  return resolve(event)
}

export const handle = sequence(sessions, guard)

export const handleError: HandleServerError = ({ kind, event, error }) => {
  if (kind !== 'unknown') return
  sessions.abandon(event, error)
  console.error('An error in a handler:', error)
}
