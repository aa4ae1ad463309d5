// Checks of a Fetch application on one backend: sessions, accounts, forms, uploads, flash messages, sealed texts.

import { addFlash, csrfToken, readForm, seal, session, sessionManager, takeFlash, unseal } from 'keepsake'
import { browser } from 'keepsake/testing'

const WRITES = 50

const assertEqual = (actual, expected, what) => {
  const [one, other] = [actual, expected].map((value) => JSON.stringify(value))
  if (one !== other) throw new Error(`${what}: ${one}. Expected: ${other}.`)
}

const handlers = {
  '/count': async (request) => {
    const s = await session(request)
    s.update('n', (n = 0) => n + 1)
    return Response.json(s.get('n'))
  },
  '/read': async (request) => {
    const s = await session(request)
    return Response.json([s.owner ?? null, s.get('n') ?? null])
  },
  '/login': async (request) => {
    ;(await session(request)).login('anna')
    return new Response(null, { status: 303, headers: { location: '/read' } })
  },
  '/logout': async (request) => {
    ;(await session(request)).invalidate()
    return new Response('bye')
  },
  '/form': async (request) => {
    if (request.method !== 'POST') return new Response(await csrfToken(request))
    const form = await readForm(request)
    if (!form.ok) return new Response(form.message, { status: form.status })
    const files = await Promise.all(form.files.map(async ([name, file]) => [name, file.name, await file.text()]))
    return Response.json([[...form.fields], files])
  },
  '/flash': async (request) => {
    if (request.method === 'POST') addFlash(request, 'info', 'saved')
    return Response.json((await takeFlash(request)).map(({ text }) => text))
  },
  '/seal': async (request) => {
    const sealed = await seal(request, 'a text', 'checks')
    return Response.json([sealed.includes('a text'), await unseal(request, sealed, 'checks')])
  },
}

/** The application as a Fetch handler. */
export const applicationOn = (manager) =>
  manager(
    (request) =>
      handlers[new URL(request.url).pathname]?.(request) ?? new Response('There is no such page.', { status: 404 }),
  )

const answer = async (visit, path, init) => (await visit(path, init)).json()

/** Each check gets the application, a new visitor, and whether the sessions are in the cookie itself. */
const checks = {
  async 'a session'(visit) {
    assertEqual([await answer(visit, '/count'), await answer(visit, '/count')], [1, 2], 'two visits counted')
  },
  async 'login and logout'(visit, inCookie) {
    await visit('/login')
    assertEqual(await answer(visit, '/read'), ['anna', null], 'the visitor after the login')
    const thief = visit.copy()
    await visit('/logout')
    assertEqual(await answer(visit, '/read'), [null, null], 'the visitor after the logout')
    // Without a list of ends, a session in a cookie ends only in the browser that logged out.
    if (!inCookie) assertEqual(await answer(thief, '/read'), [null, null], 'a copy of the cookie after the logout')
  },
  async '50 writes'(visit, inCookie) {
    await visit('/login')
    // Each response of a session in a cookie replaces the whole session, so parallel requests cannot be merged.
    if (inCookie) for (let i = 0; i < WRITES; i++) await visit('/count')
    else await Promise.all(Array.from({ length: WRITES }, () => visit('/count')))
    assertEqual(await answer(visit, '/read'), ['anna', WRITES], 'the session after the writes')
  },
  async forms(visit) {
    const _csrf = await (await visit('/form')).text()
    const body = new URLSearchParams({ _csrf, user: 'zoë' })
    assertEqual(
      await answer(visit, '/form', { method: 'POST', body }),
      [[['user', 'zoë']], []],
      'the fields of the form',
    )
    const forged = await visit('/form', { method: 'POST', body: new URLSearchParams({ user: 'x' }) })
    assertEqual(forged.status, 403, 'the status without a token')
  },
  async uploads(visit) {
    const body = new FormData()
    body.append('_csrf', await (await visit('/form')).text())
    body.append('file', new File(['leaves'], 'tea.txt'))
    const expected = [[], [['file', 'tea.txt', 'leaves']]]
    assertEqual(await answer(visit, '/form', { method: 'POST', body }), expected, 'the files of the form')
  },
  async 'flash messages'(visit) {
    await visit('/flash', { method: 'POST' })
    assertEqual([await answer(visit, '/flash'), await answer(visit, '/flash')], [['saved'], []], 'the messages shown')
  },
  async 'sealed texts'(visit) {
    assertEqual(await answer(visit, '/seal'), [false, 'a text'], 'the sealed text')
  },
}

/** Runs all checks. Returns an object with the message of each check that failed. */
export const checkApplication = async (application, inCookie) => {
  const failed = {}
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check(browser(application), inCookie)
    } catch (error) {
      failed[name] = String(error?.message ?? error)
    }
  }
  return { total: Object.keys(checks).length, failed }
}

/** Runs all checks on the backend of a URL, or on a backend. */
export const checkBackend = async (backend) => {
  const secret = crypto.getRandomValues(new Uint8Array(32))
  const manager = sessionManager({ backend, secret })
  try {
    await manager.ready()
    return await checkApplication(applicationOn(manager), backend === 'cookie:')
  } finally {
    await manager.close()
  }
}
