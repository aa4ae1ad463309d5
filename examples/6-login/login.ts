// A complete login: hashed passwords, forms that only this visitor can send, a new key, and a logout that ends all.

import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'
import { addFlash, crossOriginProtection, csrfTag, readForm, session, sessionManager, takeFlash } from 'keepsake'
import { logger, serve } from 'keepsake/serve'
import { z } from 'zod'

const deriveKey = promisify<string, Buffer, number, object, Buffer>(scrypt)
/** OWASP's parameters of scrypt for 16 MiB of memory. */
const hashOf = (password: string, salt: Buffer) => deriveKey(password, salt, 32, { N: 2 ** 14, r: 8, p: 5 })
const storedPassword = async (password: string) => {
  const salt = randomBytes(16)
  return { salt, hash: await hashOf(password, salt) }
}

/** Yours are in a table, and no program contains their passwords. You can try these two. */
const users = new Map([
  ['anna', await storedPassword('tea at four')],
  ['ben', await storedPassword('coffee at nine')],
])
/** Compared for an unknown name, so that it takes as long as a wrong password. */
const unknownUser = await storedPassword(randomBytes(32).toString('hex'))

const isRight = async (name: string, password: string) => {
  const { salt, hash } = users.get(name) ?? unknownUser
  return timingSafeEqual(await hashOf(password, salt), hash) && users.has(name)
}

const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)

const style = `body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 3rem auto; padding: 0 1rem }
form { display: grid; gap: .8rem; justify-items: start; margin: 1rem 0 } label { display: grid }
input, button { font: inherit; padding: .3rem .6rem }
.info, .error { padding: .5rem .8rem; border-left: .3rem solid #083; background: #efe; margin: 0 }
.error { border-color: #a00; background: #fee }`

/** A page for this visitor alone. No cache keeps it, so “back” after a logout shows nothing. No other page may frame it. */
const page = async (request: Request, title: string, body: string, status = 200) => {
  const flashes = await takeFlash(request)
  const shown = flashes.map(({ category, text }) => `<p class="${category}" role="status">${escapeHtml(text)}</p>`)
  return new Response(
    `<!doctype html><html lang="en"><title>6-login</title><style>${style}</style>
    <h1>${escapeHtml(title)}</h1>${shown.join('')}${body}`,
    {
      status,
      headers: {
        'content-type': 'text/html; charset=utf-8',
        'cache-control': 'no-store',
        'content-security-policy': "frame-ancestors 'none'",
      },
    },
  )
}

const seeOther = (location: string) => new Response(null, { status: 303, headers: { location } })

const loginForm = async (request: Request, { name = '', error = '', status = 200 } = {}) =>
  page(
    request,
    'Log in',
    `<form method="post" action="/login">${await csrfTag(request)}
      ${error && `<p class="error" role="alert">${escapeHtml(error)}</p>`}
      <label>Name <input name="name" value="${escapeHtml(name)}" autocomplete="username" required autofocus></label>
      <label>Password <input name="password" type="password" autocomplete="current-password" required></label>
      <button>Log in</button>
    </form>`,
    status,
  )

const Login = z.object({ name: z.string().trim().min(1).max(100), password: z.string().min(1).max(1000) })

const login = async (request: Request) => {
  const form = await readForm(request, Login)
  if (!form.ok) {
    const mayShow = form.error === 'expired' || form.error === 'wrong_session' || form.error === 'invalid_fields'
    const name = mayShow ? (form.fields.get('name') ?? '') : ''
    return loginForm(request, { name, error: form.message, status: form.status })
  }
  const { name, password } = form.fields
  const s = await session(request)
  if (!(await isRight(name, password))) {
    return loginForm(request, { name, error: 'The name or the password is wrong.', status: 422 })
  }
  s.login(name, { keep: [] })
  s.set('device', request.headers.get('user-agent')?.slice(0, 200) ?? 'unknown')
  addFlash(request, 'info', `Welcome, ${name}!`)
  return seeOther('/')
}

const logout = async (request: Request) => {
  const form = await readForm(request)
  if (form.ok) {
    const s = await session(request)
    s.invalidate()
    addFlash(request, 'info', 'Goodbye!')
  } else addFlash(request, 'error', form.message)
  return seeOther('/')
}

const button = async (request: Request, action: string, text: string) =>
  `<form method="post" action="${action}">${await csrfTag(request)}<button>${text}</button></form>`

/** Ends the owner's sessions on other devices, and keeps the session of this request. */
const logoutOthers = async (request: Request) => {
  const form = await readForm(request)
  const { owner, label } = await session(request)
  if (!form.ok) addFlash(request, 'error', form.message)
  else if (owner !== undefined) {
    const ended = await manager.revokeAll(owner, { except: label })
    addFlash(request, 'info', `${ended} other ${ended === 1 ? 'device was' : 'devices were'} logged out.`)
  }
  return seeOther('/')
}

const account = async (request: Request) => {
  const { owner, label } = await session(request)
  if (owner === undefined) return seeOther('/login')
  const devices = await manager.list(owner)
  const lines = devices.map(
    (device) =>
      `<li>${escapeHtml(device.fields.device ?? 'unknown')}, since ${new Date(device.createdAt).toUTCString()}${device.label === label ? ' (this one)' : ''}</li>`,
  )
  return page(
    request,
    `The desk of ${owner}`,
    `<p>You are logged in on:</p><ul>${lines.join('')}</ul>
    ${devices.length > 1 ? await button(request, '/logout-others', 'Log out my other devices') : ''}
    ${await button(request, '/logout', 'Log out')}`,
  )
}

const handle = (request: Request) => {
  switch (`${request.method} ${new URL(request.url).pathname}`) {
    case 'GET /':
      return account(request)
    case 'GET /login':
      return loginForm(request)
    case 'POST /login':
      return login(request)
    case 'POST /logout':
      return logout(request)
    case 'POST /logout-others':
      return logoutOthers(request)
    default:
      return new Response('There is no such page.\n', { status: 404 })
  }
}

const { SESSIONS = 'sqlite:sessions.db', PORT = '8080' } = process.env

const manager = sessionManager({ backend: SESSIONS })

await serve(logger(manager(crossOriginProtection(handle))), { port: Number(PORT) })
