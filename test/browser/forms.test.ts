// Forms, flash messages and pages of other origins in Chromium, with its headers, cookies, tabs and prefetches.

import assert from 'node:assert/strict'
import { suite, type TestContext, test } from 'node:test'
import {
  addFlash,
  crossOriginProtection,
  csrfTag,
  type EventType,
  type Handler,
  readForm,
  session,
  sessionManager,
  takeFlash,
} from 'keepsake'
import { serve } from 'keepsake/serve'
import { browser } from 'keepsake/testing'
import type { BrowserContext, Page } from 'playwright-core'
import { follow, opened } from '../support/chromium.ts'

const escaped = (text: string) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
const html = (body: string, status = 200) =>
  new Response(`<!doctype html><html lang="en"><title>test</title>${body}`, {
    status,
    headers: { 'content-type': 'text/html; charset=utf-8' },
  })
const seeOther = (location: string) => new Response(null, { status: 303, headers: { location } })

const served = async (t: TestContext, handler: Handler): Promise<string> => {
  const running = await serve(handler, { port: 0 })
  t.after(() => running.close())
  return running.url
}

type Seen = { readonly method: string; readonly headers: Headers }

/** An application with notes, a form for a new one, and a login. It records its requests and events. */
const application = async (t: TestContext, guard: (next: Handler) => Handler) => {
  const seen: Seen[] = []
  const types: EventType[] = []
  const form = async (request: Request, { error = '', typed = '', status = 200 } = {}) => {
    const notes: readonly string[] = (await session(request)).get('notes') ?? []
    return html(
      `<p class="error">${escaped(error)}</p>
      <ul>${notes.map((note) => `<li>${escaped(note)}</li>`).join('')}</ul>
      <form method="post" action="/">${await csrfTag(request)}
        <input name="note" value="${escaped(typed)}"><button>Send</button>
      </form>`,
      status,
    )
  }
  const write = async (request: Request) => {
    const result = await readForm(request)
    if (!result.ok) {
      const typed = result.error === 'wrong_session' ? (result.fields.get('note') ?? '') : ''
      return form(request, { error: result.message, typed, status: result.status })
    }
    const note = result.fields.get('note') ?? ''
    ;(await session(request)).update('notes', (notes: readonly string[] = []) => [...notes, note])
    return seeOther('/')
  }
  const handle = async (request: Request) => {
    if (request.headers.has('upgrade')) return new Response('The handler was asked.\n', { status: 426 })
    switch (`${request.method} ${new URL(request.url).pathname}`) {
      case 'GET /':
        return form(request)
      case 'POST /':
        return write(request)
      case 'GET /login':
        ;(await session(request)).login('anna', { keep: ['notes'] })
        return seeOther('/')
      case 'GET /logout':
        ;(await session(request)).invalidate()
        return seeOther('/')
      default:
        return new Response(null, { status: 404 })
    }
  }
  const withSessions = sessionManager({ backend: 'memory:', onEvent: ({ type }) => void types.push(type) })
  const guarded = guard(handle)
  const url = await served(
    t,
    withSessions((request) => {
      seen.push({ method: request.method, headers: new Headers([...request.headers]) })
      return guarded(request)
    }),
  )
  return { url, seen, types }
}

const unguarded = (next: Handler) => next

const notesOf = (page: Page) => page.locator('li').allTextContents()
const write = async (page: Page, note: string) => {
  await page.fill('[name=note]', note)
  await follow(page, 'button')
}

suite('a form in Chromium', () => {
  for (const [guard, name] of [
    [crossOriginProtection, 'with crossOriginProtection'],
    [unguarded, 'without crossOriginProtection'],
  ] as const) {
    test(`${name}: a form of an own page is accepted`, async (t) => {
      const { url, types } = await application(t, (next) => guard(next))
      const page = await (await opened(t)).newPage()
      await page.goto(url)
      await write(page, 'for nobody')
      assert.deepEqual(await notesOf(page), ['for nobody'])
      await page.goto(`${url}/login`)
      await write(page, 'for anna')
      assert.deepEqual(await notesOf(page), ['for nobody', 'for anna'])
      assert.ok(!types.includes('cross_origin_rejected') && !types.includes('form_rejected'))
    })
  }

  test('two tabs of an anonymous visitor: a form sent in one leaves the form in the other valid', async (t) => {
    const { url } = await application(t, crossOriginProtection)
    const context = await (await opened(t)).newContext()
    const [one, two] = [await context.newPage(), await context.newPage()]
    await one.goto(url)
    await two.goto(url)
    await write(two, 'second tab')
    await write(one, 'first tab')
    assert.deepEqual(await notesOf(one), ['second tab', 'first tab'])
  })

  for (const [turn, before] of [
    ['login', '/'],
    ['logout', '/login'],
  ] as const) {
    test(`two tabs, a ${turn} in one: the form in the other is shown again with the typed text, and then accepted`, async (t) => {
      const { url, types } = await application(t, crossOriginProtection)
      const context = await (await opened(t)).newContext()
      const [one, two] = [await context.newPage(), await context.newPage()]
      await one.goto(url + before)
      await two.goto(`${url}/${turn}`)
      const answer = one.waitForResponse((response) => response.request().method() === 'POST')
      await write(one, 'written "before" <it>')
      assert.equal((await answer).status(), 403)
      assert.equal(
        await one.textContent('.error'),
        'You logged in or out after you opened this form. Please send it again.',
      )
      assert.equal(await one.inputValue('[name=note]'), 'written "before" <it>')
      assert.deepEqual(await notesOf(one), [])
      assert.deepEqual(
        types.filter((type) => type === 'form_rejected'),
        ['form_rejected'],
      )
      await follow(one, 'button')
      assert.deepEqual(await notesOf(one), ['written "before" <it>'])
      await write(two, 'from the other tab')
      assert.deepEqual(await notesOf(two), ['written "before" <it>', 'from the other tab'])
    })
  }
})

/** A page that sends a form to the application by a script. The form imitates the application's. */
const trap = (url: string, token: string): string =>
  `<form method="post" action="${url}/"><input name="_csrf" value="${token}"><input name="note" value="planted"></form>
  <script>document.forms[0].submit()</script>`

/** The ways in which a page of another origin sends the form, with the Origin and the cookies of Chromium. */
const attacks = {
  'a page on another port, with the cookies': {
    page: trap,
    at: (origin: string) => origin,
    origin: (origin: string) => origin,
    cookies: true,
  },
  'a page of another site': {
    page: trap,
    at: (origin: string) => origin.replace('127.0.0.1', 'localhost'),
    origin: (origin: string) => origin.replace('127.0.0.1', 'localhost'),
    cookies: false,
  },
  'a sandboxed frame, whose Origin is null': {
    page: (url: string, token: string) =>
      `<iframe sandbox="allow-forms allow-scripts" srcdoc="${escaped(trap(url, token))}"></iframe>`,
    at: (origin: string) => origin,
    origin: () => 'null',
    cookies: false,
  },
  'a script on another port, with the cookies': {
    page: (url: string, token: string) =>
      `<script>fetch('${url}/', { method: 'POST', mode: 'no-cors', credentials: 'include',
        body: new URLSearchParams({ _csrf: '${token}', note: 'planted' }) })</script>`,
    at: (origin: string) => origin,
    origin: (origin: string) => origin,
    cookies: true,
  },
}

suite('a form that a page of another origin sends in Chromium', () => {
  for (const [guard, by, type] of [
    [crossOriginProtection, 'crossOriginProtection', 'cross_origin_rejected'],
    [unguarded, 'its token', 'form_rejected'],
  ] as const) {
    for (const [name, attack] of Object.entries(attacks)) {
      test(`${name}: refused by ${by}, and nothing changes`, async (t) => {
        const { url, seen, types } = await application(t, (next) => guard(next))
        let body = ''
        const foreign = await served(t, () => html(body))
        const context = await (await opened(t)).newContext()
        const victim = await context.newPage()
        await victim.goto(`${url}/login`)
        await write(victim, 'mine')
        const { length } = seen

        // An attacker can get no better token than one for their own session.
        const own = await browser((request) => fetch(request), { origin: url })('/')
        const token = /name="_csrf" type="hidden" value="([\w-]+)"/.exec(await own.text())?.[1] as string
        body = attack.page(url, token)
        const page = await context.newPage()
        const answer = page.waitForResponse((response) => response.request().method() === 'POST')
        await page.goto(attack.at(foreign))
        assert.equal((await answer).status(), 403)

        const attackRequest = seen.slice(length).find(({ method }) => method === 'POST')
        assert.equal(attackRequest?.headers.get('origin'), attack.origin(foreign))
        assert.equal(
          /\bsid-\d/.test(attackRequest?.headers.get('cookie') ?? ''),
          attack.cookies,
          'the cookies that browsers send',
        )
        assert.ok(types.includes(type))
        await victim.reload()
        assert.deepEqual(await notesOf(victim), ['mine'])
        await write(victim, 'mine too')
        assert.deepEqual(await notesOf(victim), ['mine', 'mine too'], 'the session is unchanged')
      })
    }
  }
})

/** Opens a WebSocket from a page, and returns the error that the browser reports. */
const socketFrom = async (page: Page, url: string): Promise<string> => {
  const failed = new Promise<string>((resolve) => {
    page.once('websocket', (socket) => socket.once('socketerror', resolve))
  })
  await page.evaluate(
    `new Promise((closed) => { new WebSocket('${url.replace('http:', 'ws:')}/socket').onclose = closed }).then(() => {})`,
  )
  return failed
}

test('crossOriginProtection refuses a WebSocket of a page on another port, and passes on one of an own page', async (t) => {
  const { url, seen, types } = await application(t, crossOriginProtection)
  const foreign = await served(t, () => html('<p>Another application'))
  const context = await (await opened(t)).newContext()
  const page = await context.newPage()
  await page.goto(`${url}/login`)
  assert.match(await socketFrom(page, url), /Unexpected response code: 426/)
  assert.ok(!types.includes('cross_origin_rejected'))

  await page.goto(foreign)
  assert.match(await socketFrom(page, url), /Unexpected response code: 403/)
  assert.ok(types.includes('cross_origin_rejected'))
  const { headers } = seen.at(-1) as Seen
  assert.match(headers.get('cookie') ?? '', /\bsid-\d/, 'although the cookie was sent')
  assert.equal(headers.get('origin'), foreign)
})

/** An application that adds a message at /leave and shows it on /. `parts` is more HTML for the two pages. */
const flashing = async (t: TestContext, parts: { readonly left?: string; readonly shown?: string }) => {
  const seen: string[] = []
  let notify = () => {}
  const withSessions = sessionManager({ backend: 'memory:' })
  const url = await served(
    t,
    withSessions(async (request) => {
      const { pathname } = new URL(request.url)
      const purpose = request.headers.get('sec-purpose')
      seen.push(purpose === null ? pathname : `${pathname} ${purpose}`)
      notify()
      // A session and a token for every path, as in an application that does not treat icons differently.
      const tag = await csrfTag(request)
      switch (pathname) {
        case '/login':
          ;(await session(request)).login('anna')
          return html('<p>In')
        case '/leave':
          addFlash(request, 'info', 'Only once')
          return html(`${parts.left ?? ''}<a href="/">on</a>`)
        case '/': {
          const flashes = (await takeFlash(request)).map(({ text }) => `<p class="flash">${text}</p>`)
          return html(`${parts.shown ?? ''}${flashes.join('')}<form>${tag}</form>`)
        }
        default:
          return new Response(null, { status: 404 })
      }
    }),
  )
  return {
    url,
    /** Waits until the application got this request. */
    async requested(wanted: string): Promise<void> {
      while (!seen.includes(wanted)) {
        await new Promise<void>((resolve) => {
          notify = resolve
        })
      }
    },
  }
}

const visitors = {
  'an anonymous visitor': async (context: BrowserContext) => context.newPage(),
  'a logged-in visitor': async (context: BrowserContext, url: string) => {
    const page = await context.newPage()
    await page.goto(`${url}/login`)
    return page
  },
}

const flashesOn = (page: Page) => page.locator('.flash').allTextContents()

suite('a flash message in Chromium', () => {
  for (const [who, arrive] of Object.entries(visitors)) {
    test(`for ${who} it is shown once, also if the pages load icons and pictures`, async (t) => {
      const icon = '<link rel="icon" href="/favicon.ico"><img src="/favicon.ico" alt="">'
      const { url, requested } = await flashing(t, { left: icon, shown: `${icon}<img src="/picture.png" alt="">` })
      const page = await arrive(await (await opened(t)).newContext(), url)
      await page.goto(`${url}/leave`)
      await requested('/favicon.ico')
      await page.goto(url)
      assert.deepEqual(await flashesOn(page), ['Only once'])
      await requested('/picture.png')
      await page.reload()
      assert.deepEqual(await flashesOn(page), [])
    })

    test(`for ${who} a prefetch does not take it, and the prefetched page shows it`, async (t) => {
      const { url, requested } = await flashing(t, { left: '<link rel="prefetch" href="/">' })
      const page = await arrive(await (await opened(t)).newContext(), url)
      await page.goto(`${url}/leave`)
      await requested('/ prefetch')
      await follow(page, 'a')
      assert.deepEqual(await flashesOn(page), ['Only once'])
      await page.reload()
      assert.deepEqual(await flashesOn(page), [])
    })

    test(`for ${who} it is shown once, also if Chromium prerenders the page`, async (t) => {
      const rules = '<script type="speculationrules">{"prerender":[{"source":"list","urls":["/"]}]}</script>'
      const { url, requested } = await flashing(t, { left: rules })
      const page = await arrive(await (await opened(t)).newContext(), url)
      await page.goto(`${url}/leave`)
      await requested('/ prefetch;prerender')
      await page.click('a')
      await page.waitForURL(`${url}/`)
      // The prerendered page shows no message, but Chromium may have requested the page again.
      const first = await flashesOn(page)
      await page.reload()
      assert.deepEqual([...first, ...(await flashesOn(page))], ['Only once'])
      await page.reload()
      assert.deepEqual(await flashesOn(page), [])
    })
  }
})
