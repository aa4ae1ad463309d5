// Dream's d-form: a form that only this visitor can send, and a friendly answer to each outcome.

import { crossOriginProtection, csrfTag, type FormResult, readForm, sessionManager } from 'keepsake'
import { logger, serve } from 'keepsake/serve'
import { z } from 'zod'

const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)

const style = `body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 3rem auto; padding: 0 1rem }
form { display: grid; gap: .8rem; justify-items: start } label { display: grid }
input, button { font: inherit; padding: .3rem .6rem } .error { color: #a00 }`

const Message = z.object({ message: z.string().trim().min(1, 'Please write something.').max(200, 'That is too long.') })

const show = async (request: Request, { above = '', typed = '', status = 200 } = {}) =>
  new Response(
    `<!doctype html><html lang="en"><title>3-form</title><style>${style}</style>
    <h1>Say something</h1>${above}
    <form method="post" enctype="multipart/form-data">${await csrfTag(request)}
      <label>Message <input name="message" value="${escapeHtml(typed)}" autofocus></label>
      <label>File, if you like <input name="file" type="file"></label>
      <button>Send</button>
    </form>`,
    { status, headers: { 'content-type': 'text/html; charset=utf-8' } },
  )

/** The answer to each outcome, and the visitor's text if the page may show it again. */
const answerTo = (form: FormResult<z.infer<typeof Message>>, file: string) => {
  if (form.ok) return { above: `<p>You wrote: <b>${escapeHtml(form.fields.message)}</b>${file}</p>` }
  const error = (text: string) => ({
    above: `<p class="error" role="alert">${escapeHtml(text)}</p>`,
    status: form.status,
  })
  switch (form.error) {
    case 'invalid_fields': // the messages of the schema
      return { ...error(form.issues.map(({ message }) => message).join(' ')), typed: form.fields.get('message') ?? '' }
    case 'expired': // an honest visitor who was too late, or logged in or out since
    case 'wrong_session':
      return { ...error(form.message), typed: form.fields.get('message') ?? '' }
    case 'missing_token': // a mistake of ours, or an attack: the page shows none of its text
    case 'many_tokens':
    case 'invalid_token':
    case 'wrong_content_type':
    case 'too_large':
      return error(form.message)
  }
}

const { SESSIONS = 'sqlite:sessions.db', PORT = '8080' } = process.env

await serve(
  logger(
    sessionManager({ backend: SESSIONS })(
      crossOriginProtection(async (request) => {
        if (new URL(request.url).pathname !== '/') return new Response('There is no such page.\n', { status: 404 })
        if (request.method !== 'POST') return show(request)
        let file = ''
        const form = await readForm(request, Message, {
          async upload({ filename, stream }) {
            let bytes = 0
            for await (const chunk of stream) bytes += chunk.length
            file = `, and sent ${escapeHtml(filename)} of ${bytes} bytes`
          },
        })
        return show(request, answerTo(form, file))
      }),
    ),
  ),
  { port: Number(PORT) },
)
