// Dream's c-cookie: the application sets, reads and deletes a visitor's preferences in encrypted cookies of its own.

import { crossOriginProtection, deleteCookie, getCookie, sessionManager, setCookie } from 'keepsake'
import { logger, serve } from 'keepsake/serve'

const style = `body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 3rem auto; padding: 0 1rem }
form { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem; margin: .8rem 0 }
button { font: inherit; padding: .2rem .8rem }`

const english = { code: 'en', name: 'English', greeting: 'Good morning!' }
const languages = [
  english,
  { code: 'de', name: 'Deutsch', greeting: 'Guten Morgen!' },
  { code: 'el', name: 'Ελληνικά', greeting: 'Καλημέρα!' },
]

/** Two cookies with values of the same kind. keepsake still does not accept one for the other. */
const names = { speak: 'ui.language', learn: 'ui.learning' }
const isName = (name: string): name is keyof typeof names => Object.hasOwn(names, name)
const YEAR = 365 * 86_400

const home = async (request: Request) => {
  const languageIn = async (name: string) => {
    const code = await getCookie(request, name)
    return languages.find((language) => language.code === code)
  }
  const spoken = (await languageIn(names.speak)) ?? english
  const learned = await languageIn(names.learn)
  const learns = learned
    ? `In the language that you learn: <b lang="${learned.code}">${learned.greeting}</b>`
    : 'You learn nothing.'
  const buttons = (path: string) =>
    languages.map(({ code, name }) => `<button formaction="/${path}/${code}">${name}</button>`).join(' ')
  return new Response(
    `<!doctype html><html lang="${spoken.code}"><title>2-cookie</title><style>${style}</style>
    <h1>${spoken.greeting}</h1><p>${learns}</p>
    <form method="post">I speak ${buttons('speak')}</form>
    <form method="post">I learn ${buttons('learn')} <button formaction="/learn/nothing">nothing</button></form>`,
    { headers: { 'content-type': 'text/html; charset=utf-8', vary: 'Cookie' } },
  )
}

const { SESSIONS = 'sqlite:sessions.db', PORT = '8080' } = process.env

await serve(
  logger(
    sessionManager({ backend: SESSIONS })(
      crossOriginProtection(async (request) => {
        const [name = '', code = ''] = new URL(request.url).pathname.split('/').slice(1)
        if (request.method === 'GET' && name === '') return home(request)
        if (request.method !== 'POST' || !isName(name)) return new Response('There is no such page.\n', { status: 404 })
        const response = new Response(null, { status: 303, headers: { location: '/' } })
        return languages.some((language) => language.code === code)
          ? setCookie(response, request, names[name], code, { maxAge: YEAR })
          : deleteCookie(response, request, names[name])
      }),
    ),
  ),
  { port: Number(PORT) },
)
