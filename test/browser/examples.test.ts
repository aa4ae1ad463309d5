// The examples after the first, each started as a program and visited by a client that keeps cookies.

import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { suite, type TestContext, test } from 'node:test'
import { csrfToken, sessionManager } from 'keepsake'
import { type Browser, browser } from 'keepsake/testing'
import { follow, opened } from '../support/chromium.ts'
import { folder } from '../support/folder.ts'
import { type Served, served } from '../support/served.ts'

/** Counts the sessions, without the marks of ended ones. */
const SESSIONS = "select count(*) as count from keepsake_sessions where metadata not like 'ended.%'"

/** Starts an example on a new database. `restart` starts it again on the same database and port. */
const program = async (t: TestContext, example: string, env: Record<string, string> = {}) => {
  const path = join(folder(t), 'sessions.db')
  let running = await served(t, example, { SESSIONS: `sqlite:${path}`, ...env })
  const { url, port } = running
  return {
    url,
    port,
    path,
    rows(): number {
      const database = new DatabaseSync(path, { readOnly: true })
      try {
        return Number(database.prepare(SESSIONS).get()?.count)
      } finally {
        database.close()
      }
    },
    async restart(env: Record<string, string> = {}): Promise<Served> {
      running.child.kill('SIGTERM')
      assert.equal(await running.ended, 0, running.errors())
      running = await served(t, example, { SESSIONS: `sqlite:${path}`, PORT: port, ...env })
      return running
    },
  }
}

type Client = {
  readonly visit: Browser
  /** The text of a page. */
  readonly page: (path: string) => Promise<string>
  /** The token of the form on a page. */
  readonly token: (path: string) => Promise<string>
  /** Sends the form of a page with an Origin, like a browser. */
  readonly send: (
    page: string,
    action: string,
    fields?: Record<string, string>,
    change?: RequestInit,
  ) => Promise<Response>
}

const tokenIn = (page: string): string => /name="_csrf" type="hidden" value="([\w-]+)"/.exec(page)?.[1] ?? ''

const client = (
  url: string,
  visit = browser((request) => fetch(request, { redirect: 'manual' }), { origin: url }),
): Client => {
  const page = async (path: string) => (await visit(path)).text()
  const token = async (path: string) => tokenIn(await page(path))
  return {
    visit,
    page,
    token,
    send: async (path, action, fields = {}, change = {}) =>
      visit(action, {
        method: 'POST',
        headers: { origin: url },
        body: new URLSearchParams({ _csrf: await token(path), ...fields }),
        ...change,
      }),
  }
}

const seeOther = (response: Response, location: string): void => {
  assert.equal(response.status, 303)
  assert.equal(response.headers.get('location'), location)
}

suite('2-cookie', () => {
  const post = (visit: Browser, url: string, path: string) => visit(path, { method: 'POST', headers: { origin: url } })

  test('sets, reads and deletes a visitor’s preference, sealed, without a session, and after a restart', async (t) => {
    const { url, port, rows, restart } = await program(t, '2-cookie/cookie')
    const { visit, page } = client(url)
    const first = await visit('/')
    assert.deepEqual(first.headers.getSetCookie(), [])
    assert.match(await first.text(), /<h1>Good morning!<\/h1>/)

    const set = await post(visit, url, '/speak/de')
    seeOther(set, '/')
    const [line = ''] = set.headers.getSetCookie()
    assert.match(
      line,
      new RegExp(`^ui\\.language-${port}=[\\w-]{60,}; Max-Age=31536000; Path=/; HttpOnly; SameSite=Lax$`),
    )
    await post(visit, url, '/learn/el')
    assert.match(await page('/'), /lang="de".*<h1>Guten Morgen!<\/h1>.*<b lang="el">Καλημέρα!<\/b>/s)

    await restart()
    assert.match(await page('/'), /<h1>Guten Morgen!<\/h1>.*<b lang="el">Καλημέρα!<\/b>/s)

    const [dropped = ''] = (await post(visit, url, '/learn/nothing')).headers.getSetCookie()
    assert.match(dropped, new RegExp(`^ui\\.learning-${port}=; Max-Age=0;`))
    assert.match(await page('/'), /<h1>Guten Morgen!<\/h1>.*You learn nothing/s)
    assert.equal(rows(), 0)
  })

  test('a value opens only in its own cookie, and a value of another application does not', async (t) => {
    const { url, port } = await program(t, '2-cookie/cookie')
    const { visit } = client(url)
    await post(visit, url, '/speak/de')
    const sealed = visit.cookies.get(`ui.language-${port}`) as string
    const shown = async (cookie: string) => (await fetch(url, { headers: { cookie } })).text()
    assert.match(await shown(`ui.language-${port}=${sealed}`), /Guten Morgen!/)
    assert.match(await shown(`ui.learning-${port}=${sealed}`), /Good morning!.*You learn nothing/s)
    assert.match(await shown(`ui.language-${port}=de`), /Good morning!/)
    assert.match(
      await shown(`ui.language-${port}=${sealed.slice(0, -1)}${sealed.endsWith('A') ? 'B' : 'A'}`),
      /Good mor/,
    )
  })

  test('a page of another origin sets nothing', async (t) => {
    const { url } = await program(t, '2-cookie/cookie')
    const { visit } = client(url)
    const refused = await visit('/speak/de', { method: 'POST', headers: { origin: 'https://other.example' } })
    assert.equal(refused.status, 403)
    assert.deepEqual(refused.headers.getSetCookie(), [])
  })
})

suite('3-form', () => {
  test('shows a message, escaped, and the size of a file, and stores nothing for an anonymous visitor', async (t) => {
    const { url, rows } = await program(t, '3-form/form')
    const { visit, send, token } = client(url)
    const plain = await send('/', '/', { message: '<b>"Tea" & milk</b>' })
    assert.equal(plain.status, 200)
    const wrote = '<p>You wrote: <b>&#60;b&#62;&#34;Tea&#34; &#38; milk&#60;/b&#62;</b>'
    assert.ok((await plain.text()).includes(`${wrote}</p>`))

    const body = new FormData()
    body.append('_csrf', await token('/'))
    body.append('message', 'Here it is')
    body.append('file', new File([new Uint8Array(3_000_000)], '<i>.bin'))
    const uploaded = await visit('/', { method: 'POST', headers: { origin: url }, body })
    assert.equal(uploaded.status, 200)
    assert.match(await uploaded.text(), /You wrote: <b>Here it is<\/b>, and sent &#60;i&#62;.bin of 3000000 bytes/)
    assert.equal(rows(), 0)
  })

  test('the token of a page is valid after a restart, and different on every render', async (t) => {
    const { url, restart } = await program(t, '3-form/form')
    const { visit, token } = client(url)
    const [one, two] = [await token('/'), await token('/')]
    assert.notEqual(one, two)
    await restart()
    for (const _csrf of [one, two]) {
      const body = new URLSearchParams({ _csrf, message: 'Still here' })
      assert.equal((await visit('/', { method: 'POST', headers: { origin: url }, body })).status, 200)
    }
  })

  test('each outcome has its status and its message, and the typed text stays if that is safe', async (t) => {
    const { url, path } = await program(t, '3-form/form')
    const { visit, token } = client(url)
    const otherVisitor = client(url)
    const post = async (body: BodyInit) => {
      const response = await visit('/', { method: 'POST', headers: { origin: url }, body })
      const page = await response.text()
      return {
        status: response.status,
        error: /class="error" role="alert">([^<]*)</.exec(page)?.[1],
        typed: /name="message" value="([^"]*)"/.exec(page)?.[1],
      }
    }
    const _csrf = await token('/')
    const message = 'typed'

    assert.deepEqual(await post(new URLSearchParams({ _csrf, message: '  ' })), {
      status: 422,
      error: 'Please write something.',
      typed: '  ',
    })
    assert.deepEqual(await post(new URLSearchParams({ _csrf: await otherVisitor.token('/'), message })), {
      status: 403,
      error: 'You logged in or out after you opened this form. Please send it again.',
      typed: message,
    })

    const beside = sessionManager({ backend: `sqlite:${path}` })
    t.after(() => beside.close())
    const tab = visit.copy(
      beside(async (request) => new Response(await csrfToken(request, { validFor: Number.MIN_VALUE }))),
    )
    assert.deepEqual(await post(new URLSearchParams({ _csrf: await (await tab('/')).text(), message })), {
      status: 403,
      error: 'This form was open for too long. Please send it again.',
      typed: message,
    })

    const unsafe = { status: 403, typed: '' }
    const unchecked = 'This form could not be checked. Please open the page again.'
    assert.deepEqual(await post(new URLSearchParams({ message })), {
      ...unsafe,
      error: 'This form is incomplete. Please open the page again.',
    })
    assert.deepEqual(await post(new URLSearchParams({ _csrf: 'made up', message })), { ...unsafe, error: unchecked })
    assert.deepEqual(await post(new URLSearchParams(`_csrf=${_csrf}&_csrf=${_csrf}&message=${message}`)), {
      ...unsafe,
      error: unchecked,
    })

    assert.deepEqual(await post('{"message":"typed"}'), {
      status: 415,
      error: 'This form did not arrive completely. Please send it again.',
      typed: '',
    })
    assert.deepEqual(await post(new URLSearchParams({ _csrf, message: 'x'.repeat(2 ** 20) })), {
      status: 413,
      error: 'Your entries or files are too large. Please shorten them and try again.',
      typed: '',
    })
    assert.equal((await post(new URLSearchParams({ _csrf, message }))).status, 200)
  })

  test('a file before a valid token is not read', async (t) => {
    const { url } = await program(t, '3-form/form')
    const { visit, token } = client(url)
    const body = new FormData()
    body.append('file', new File([new Uint8Array(100)], 'early.bin'))
    body.append('_csrf', await token('/'))
    const early = await visit('/', { method: 'POST', headers: { origin: url }, body })
    assert.equal(early.status, 403)
    assert.doesNotMatch(await early.text(), /early\.bin/)
  })

  test('in Chromium: a large file is accepted, and one with an invalid token still gets the response', async (t) => {
    const { url } = await program(t, '3-form/form')
    const page = await (await opened(t)).newPage()
    const large = join(folder(t), 'large.bin')
    writeFileSync(large, Buffer.alloc(9_000_000))
    const send = async () => {
      await page.setInputFiles('[name=file]', large)
      await follow(page, 'button')
    }
    await page.goto(url)
    await page.fill('[name=message]', 'Here it is')
    await send()
    assert.equal(await page.textContent('p'), 'You wrote: Here it is, and sent large.bin of 9000000 bytes')
    await page.fill('[name=message]', 'And again')
    await page.context().clearCookies()
    await send()
    assert.match((await page.textContent('.error')) ?? '', /^You logged in or out after you opened this form/)
    assert.equal(await page.inputValue('[name=message]'), 'And again')
    await send()
    assert.equal(await page.textContent('p'), 'You wrote: And again, and sent large.bin of 9000000 bytes')
  })
})

suite('4-flash', () => {
  test('a message is shown once, on the next page, without a session and after a restart', async (t) => {
    const { url, rows, restart } = await program(t, '4-flash/flash')
    const { page, send } = client(url)
    seeOther(await send('/', '/', { text: 'Water <the> plants' }), '/')
    await restart()
    assert.match(await page('/'), /<p class="flash info" role="status">You left: Water &#60;the&#62; plants<\/p>/)
    assert.doesNotMatch(await page('/'), /class="flash /)
    seeOther(await send('/', '/', { text: ' ' }), '/')
    assert.match(await page('/'), /<p class="flash error" role="status">Please write something.<\/p>/)
    assert.equal(rows(), 0)
  })

  test('the reason of a refused form is shown as a message', async (t) => {
    const { url } = await program(t, '4-flash/flash')
    const { page, send } = client(url)
    seeOther(await send('/', '/', { _csrf: 'made up', text: 'Not this' }), '/')
    const shown = await page('/')
    assert.match(shown, /<p class="flash error" role="status">This form could not be checked/)
    assert.doesNotMatch(shown, /Not this/)
  })

  test('in Chromium: a message is shown after the form was sent, and a reload shows and sends nothing', async (t) => {
    const { url } = await program(t, '4-flash/flash')
    const page = await (await opened(t)).newPage()
    await page.goto(url)
    await page.fill('[name=text]', 'Water <b>the</b> plants')
    await follow(page, 'button')
    assert.equal(await page.textContent('.flash'), 'You left: Water <b>the</b> plants')
    await page.reload()
    assert.equal(await page.locator('.flash').count(), 0)
  })
})

suite('5-typed', () => {
  const linesOf = (page: string) => [...page.matchAll(/<li>([^<]*)<\/li>/g)].map(([, line]) => line)

  test('version 2 migrates the session of version 1, changes it, and has it after a restart', async (t) => {
    const { url, restart, rows } = await program(t, '5-typed/typed', { VERSION: '1' })
    const { page, send } = client(url)
    assert.deepEqual(linesOf(await page('/')), ['Nothing yet.'])
    for (const item of ['tea', 'milk', 'tea']) seeOther(await send('/', '/', { item }), '/')
    assert.deepEqual(linesOf(await page('/')), ['tea', 'milk', 'tea'])

    await restart()
    assert.deepEqual(linesOf(await page('/')), ['2 × tea', '1 × milk'])
    seeOther(await send('/', '/', { item: 'tea' }), '/')
    await restart()
    assert.deepEqual(linesOf(await page('/')), ['3 × tea', '1 × milk'])
    assert.equal(rows(), 1, 'in the session that it was')
  })

  test('version 1 leaves the session of version 2 unchanged, and a change creates another session', async (t) => {
    const { url, restart, rows } = await program(t, '5-typed/typed')
    const { page, send } = client(url)
    await send('/', '/', { item: 'tea' })
    await restart({ VERSION: '1' })
    assert.deepEqual(linesOf(await page('/')), ['Nothing yet.'])
    await restart()
    assert.deepEqual(linesOf(await page('/')), ['1 × tea'])
    await restart({ VERSION: '1' })
    await send('/', '/', { item: 'milk' })
    assert.deepEqual(linesOf(await page('/')), ['milk'])
    await restart()
    assert.deepEqual(linesOf(await page('/')), ['1 × milk'])
    assert.equal(rows(), 2)
  })

  test('an unknown product is refused, and no session is created', async (t) => {
    const { url, rows } = await program(t, '5-typed/typed')
    const { send } = client(url)
    assert.equal((await send('/', '/', { item: 'coffee' })).status, 422)
    assert.equal(rows(), 0)
  })

  test('in Chromium: version 2 shows a cart that version 1 filled', async (t) => {
    const { url, restart } = await program(t, '5-typed/typed', { VERSION: '1' })
    const page = await (await opened(t)).newPage()
    await page.goto(url)
    await follow(page, 'text=Add sugar')
    await follow(page, 'text=Add sugar')
    assert.deepEqual(await page.locator('li').allTextContents(), ['sugar', 'sugar'])
    await restart()
    await page.reload()
    assert.deepEqual(await page.locator('li').allTextContents(), ['2 × sugar'])
    await follow(page, 'text=Add tea')
    assert.deepEqual(await page.locator('li').allTextContents(), ['2 × sugar', '1 × tea'])
  })
})

suite('6-login', () => {
  const anna = { name: 'anna', password: 'tea at four' }
  const ben = { name: 'ben', password: 'coffee at nine' }
  const desk = async ({ visit, page }: Client) => {
    const response = await visit('/')
    return response.status === 303
      ? `sent to ${response.headers.get('location')}`
      : /<h1>([^<]*)/.exec(await page('/'))?.[1]
  }

  test('an anonymous visitor is sent to the form, and the right password opens the desk, also after a restart', async (t) => {
    const { url, rows, restart } = await program(t, '6-login/login')
    const one = client(url)
    assert.equal(await desk(one), 'sent to /login')
    seeOther(await one.send('/login', '/login', anna), '/')
    assert.match(await one.page('/'), /<h1>The desk of anna<\/h1><p class="info" role="status">Welcome, anna!<\/p>/)
    assert.doesNotMatch(await one.page('/'), /Welcome/)
    assert.equal((await one.visit('/')).headers.get('cache-control'), 'no-store')
    assert.equal(rows(), 1)
    await restart()
    assert.equal(await desk(one), 'The desk of anna')
  })

  test('a wrong password and an unknown name give the same response, and store nothing', async (t) => {
    const { url, rows } = await program(t, '6-login/login')
    const one = client(url)
    const answers: string[] = []
    for (const name of ['anna', 'nobody', '__proto__']) {
      const response = await one.send('/login', '/login', { name, password: 'coffee at nine' })
      assert.equal(response.status, 422)
      assert.deepEqual(response.headers.getSetCookie(), [])
      const page = await response.text()
      assert.match(page, /role="alert">The name or the password is wrong\.</)
      assert.ok(page.includes(`name="name" value="${name}"`), 'the name stays')
      assert.doesNotMatch(page, /coffee/)
      answers.push(page.replace(tokenIn(page), '').replace(`value="${name}"`, ''))
    }
    assert.equal(new Set(answers).size, 1)
    assert.equal(await desk(one), 'sent to /login')
    assert.equal(rows(), 0)
  })

  test('a login makes a new key, and the previous key opens nothing', async (t) => {
    const { url, port } = await program(t, '6-login/login')
    const one = client(url)
    await one.send('/login', '/login', anna)
    const thief = client(url, one.visit.copy())
    assert.equal(await desk(thief), 'The desk of anna')
    await one.send('/login', '/login', ben)
    assert.notEqual(one.visit.cookies.get(`sid-${port}`), thief.visit.cookies.get(`sid-${port}`))
    assert.equal(await desk(one), 'The desk of ben')
    assert.equal(await desk(thief), 'sent to /login')
  })

  test('a logout shows its message once, deletes the cookie, and ends every copy of it', async (t) => {
    const { url, port, rows } = await program(t, '6-login/login')
    const one = client(url)
    await one.send('/login', '/login', anna)
    const copy = client(url, one.visit.copy())
    seeOther(await one.send('/', '/logout'), '/')
    assert.equal(one.visit.cookies.has(`sid-${port}`), false)
    assert.equal(await desk(one), 'sent to /login')
    assert.match(await one.page('/login'), /<p class="info" role="status">Goodbye!<\/p>/)
    assert.doesNotMatch(await one.page('/login'), /Goodbye/)
    assert.equal(await desk(copy), 'sent to /login')
    assert.equal(rows(), 0)
  })

  test('the desk lists the devices, and logs out all others but not this one', async (t) => {
    const { url, rows } = await program(t, '6-login/login')
    const [phone, laptop, ben_] = [client(url), client(url), client(url)]
    await phone.send('/login', '/login', anna, { headers: { 'user-agent': 'A <phone>' } })
    assert.doesNotMatch(await phone.page('/'), /Log out my other devices/)
    await laptop.send('/login', '/login', anna, { headers: { 'user-agent': 'A laptop' } })
    await ben_.send('/login', '/login', ben)
    const devices = [...(await laptop.page('/')).matchAll(/<li>([^,]+), since [^<(]+(\(this one\))?<\/li>/g)]
    assert.deepEqual(devices.map(([, name, own]) => [name, own !== undefined]).sort(), [
      ['A &#60;phone&#62;', false],
      ['A laptop', true],
    ])
    seeOther(await laptop.send('/', '/logout-others'), '/')
    assert.match(await laptop.page('/'), /1 other device was logged out\./)
    assert.equal(await desk(phone), 'sent to /login')
    assert.equal(await desk(laptop), 'The desk of anna')
    assert.equal(await desk(ben_), 'The desk of ben')
    assert.equal(rows(), 2)
    const forged = await laptop.send('/', '/logout-others', { _csrf: await ben_.token('/') })
    assert.equal(forged.status, 303)
    assert.match(await laptop.page('/'), /role="status">You logged in or out/)
  })

  test('a form of another visitor or origin logs nobody in or out', async (t) => {
    const { url } = await program(t, '6-login/login')
    const [one, other] = [client(url), client(url)]
    const _csrf = await other.token('/login')
    await one.token('/login')
    const login = await one.send('/login', '/login', { ...anna, _csrf })
    assert.equal(login.status, 403)
    assert.equal(await desk(one), 'sent to /login')
    await one.send('/login', '/login', anna)
    await one.send('/', '/logout', { _csrf })
    assert.equal(await desk(one), 'The desk of anna')
    const foreign = await one.send('/', '/logout', {}, { headers: { origin: 'https://other.example' } })
    assert.equal(foreign.status, 403)
    assert.equal(await desk(one), 'The desk of anna')
  })

  test('a login form from before a login is shown again with the name and the reason, and then accepted', async (t) => {
    const { url } = await program(t, '6-login/login')
    const one = client(url)
    const _csrf = await one.token('/login')
    await one.send('/login', '/login', anna)
    const old = await one.send('/login', '/login', { ...ben, _csrf })
    assert.equal(old.status, 403)
    const shown = await old.text()
    assert.match(shown, /role="alert">You logged in or out after you opened this form\. Please send it again\.</)
    assert.match(shown, /name="name" value="ben"/)
    assert.doesNotMatch(shown, /coffee/)
    assert.equal(await desk(one), 'The desk of anna')
    seeOther(await one.send('/login', '/login', { ...ben, _csrf: tokenIn(shown) }), '/')
    assert.equal(await desk(one), 'The desk of ben')
  })

  test('in Chromium: an error in the form, a login, a logout, and the back button shows nothing of the desk', async (t) => {
    const { url } = await program(t, '6-login/login')
    const page = await (await opened(t)).newPage()
    await page.goto(url)
    assert.equal(new URL(page.url()).pathname, '/login')
    await page.fill('[name=name]', 'anna')
    await page.fill('[name=password]', 'coffee at nine')
    await follow(page, 'button')
    assert.equal(await page.textContent('.error'), 'The name or the password is wrong.')
    assert.equal(await page.inputValue('[name=name]'), 'anna')
    assert.equal(await page.inputValue('[name=password]'), '')
    await page.fill('[name=password]', 'tea at four')
    await follow(page, 'button')
    assert.equal(await page.textContent('h1'), 'The desk of anna')
    assert.equal(await page.textContent('.info'), 'Welcome, anna!')
    await follow(page, 'text=Log out')
    assert.equal(await page.textContent('.info'), 'Goodbye!')
    await page.goBack()
    assert.equal(await page.textContent('h1'), 'Log in')
  })
})
