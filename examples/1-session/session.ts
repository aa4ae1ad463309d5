// Dream's b-session: the first visit logs a visitor in, and the page recognizes them later, also after a restart.

import { session, sessionManager } from 'keepsake'
import { logger, serve } from 'keepsake/serve'

const escapes: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (character) => escapes[character] as string)

const html = (text: string) => new Response(text, { headers: { 'content-type': 'text/html; charset=utf-8' } })

const { SESSIONS = 'sqlite:sessions.db', PORT = '8080' } = process.env

await serve(
  logger(
    sessionManager({ backend: SESSIONS })(async (request) => {
      const s = await session(request)
      const user: string | undefined = s.get('user')
      if (user === undefined) {
        s.invalidate()
        s.set('user', 'anastasios')
        return html("You weren't logged in; but now you are!")
      }
      return html(`Welcome back, ${escapeHtml(user)}!`)
    }),
  ),
  { port: Number(PORT) },
)
