// Dream's b-session: a visitor is logged in at the first visit and recognised at the next, also after a restart.

import { session, sessionManager } from 'keepsake'
import { logger, serve } from 'keepsake/serve'

const escapes: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
const escaped = (text: string) => text.replace(/[&<>"']/g, (character) => escapes[character] as string)

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
      return html(`Welcome back, ${escaped(user)}!`)
    }),
  ),
  { port: Number(PORT) },
)
