// Dream's w-flash: one request adds a message, and the next page shows it once.

import { addFlash, crossOriginProtection, csrfTag, readForm, sessionManager, takeFlash } from 'keepsake'
import { logger, serve } from 'keepsake/serve'
import { z } from 'zod'

const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)

const style = `body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 3rem auto; padding: 0 1rem }
input, button { font: inherit; padding: .3rem .6rem } .flash { padding: .5rem .8rem; border-left: .3rem solid }
.info { border-color: #083; background: #efe } .error { border-color: #a00; background: #fee }`

const Message = z.object({ text: z.string().trim().min(1, 'Please write something.').max(200, 'That is too long.') })

const home = async (request: Request) => {
  const flashes = await takeFlash(request)
  const shown = flashes.map(
    ({ category, text }) => `<p class="flash ${category}" role="status">${escapeHtml(text)}</p>`,
  )
  return new Response(
    `<!doctype html><html lang="en"><title>4-flash</title><style>${style}</style>
    <h1>Leave a message</h1>${shown.join('')}
    <form method="post">${await csrfTag(request)}
      <input name="text" aria-label="Message" autofocus> <button>Leave it</button>
    </form>`,
    { headers: { 'content-type': 'text/html; charset=utf-8' } },
  )
}

const addMessage = async (request: Request) => {
  const form = await readForm(request, Message)
  if (form.ok) addFlash(request, 'info', `You left: ${form.fields.text}`)
  else if (form.error === 'invalid_fields') addFlash(request, 'error', form.issues[0]?.message ?? form.message)
  else addFlash(request, 'error', form.message)
  return new Response(null, { status: 303, headers: { location: '/' } })
}

const { SESSIONS = 'sqlite:sessions.db', PORT = '8080' } = process.env

await serve(
  logger(
    sessionManager({ backend: SESSIONS })(
      crossOriginProtection((request) => {
        switch (`${request.method} ${new URL(request.url).pathname}`) {
          case 'GET /':
            return home(request)
          case 'POST /':
            return addMessage(request)
          default:
            return new Response('There is no such page.\n', { status: 404 })
        }
      }),
    ),
  ),
  { port: Number(PORT) },
)
