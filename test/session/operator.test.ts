// The operator of an application counts, reads and ends all its sessions, page by page, while visitors use them.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type Backend, type SessionEvent, session, sessionManager } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { memoryBackend } from 'keepsake/memory'
import { copySessions, movingBackend } from 'keepsake/moving'
import { generate } from 'keepsake/session'
import { browser } from 'keepsake/testing'
import { labelOf, newKey } from '../../src/crypto/keys.ts'
import { newSecret } from '../../src/crypto/seal.ts'
import { encodeMetadata, newMetadata } from '../../src/session/metadata.ts'
import { code } from '../support/assert.ts'
import { clock, DAY, PATIENT } from '../support/clock.ts'
import { entryWith, freshVersion } from '../support/entries.ts'
import { stores } from '../support/stores.ts'

const secret = newSecret()
const MINUTE = 60_000

type Manager = ReturnType<typeof managerOn>
type Options = Partial<Parameters<typeof sessionManager>[0]>

const managerOn = (backend: Backend, options: Options = {}) =>
  sessionManager({ backend, secret, storeTimeout: PATIENT, ...options })

/** All pages of a scan. */
const pagesOf = async <T>(scan: AsyncIterable<T>): Promise<T[]> => {
  const pages: T[] = []
  for await (const page of scan) pages.push(page)
  return pages
}

/** The labels of all sessions that a scan returns, and how many labels each page has. */
const scanned = async (manager: Manager, options?: { batch?: number; cursor?: string }) => {
  const labels: string[] = []
  const sizes: number[] = []
  for await (const { sessions } of manager.scan(options)) {
    labels.push(...sessions.map(({ label }) => label))
    sizes.push(sessions.length)
  }
  return { labels: labels.sort(), sizes }
}

/** A visitor whose requests change a session as the path asks. The answer is the label and the owner, or a status. */
const visitorOf = (manager: Manager, now: () => number) => {
  const visit = browser(
    manager(async (request) => {
      const s = await session(request)
      const { pathname, searchParams } = new URL(request.url)
      const owner = searchParams.get('owner')
      if (owner !== null) s.login(owner)
      for (const field of ['role', 'device']) {
        const value = searchParams.get(field)
        if (value !== null) s.set(field, value)
      }
      if (pathname === '/rotate') s.rotateKey()
      if (pathname === '/logout') s.invalidate()
      return Response.json({ label: s.label ?? null, owner: s.owner ?? null })
    }),
    { now },
  )
  const send = async (path: string): Promise<{ label: string; owner: string | null } | number> => {
    const response = await visit(path)
    return response.ok ? ((await response.json()) as { label: string; owner: string | null }) : response.status
  }
  const labelAfter = async (path: string): Promise<string> => {
    const answer = await send(path)
    return typeof answer === 'number' ? assert.fail(`${path}: ${answer}`) : answer.label
  }
  return { send, labelAfter }
}

/** Puts a session of the namespace `sid` into a store. Returns its label. */
const storeSession = async (backend: Backend, fields: object, owner?: string): Promise<string> => {
  const key = newKey()
  const label = labelOf(key)
  const metadata = encodeMetadata(newMetadata(key, Date.now(), undefined, owner && label, undefined))
  const entry = entryWith({ value: JSON.stringify(fields), metadata, owner: owner && `sid:${owner}` })
  assert.equal(await backend.generate(`sid.${label}`, entry), undefined)
  return label
}

for (const { name, opener, far } of stores) {
  suite(`the sessions of an application on ${name}`, () => {
    const start = async (t: Parameters<typeof opener>[0], options: Options = {}) => {
      const open = opener(t)
      const [one, other] = [await open(), await open()]
      const now = clock(Date.now())
      const events: SessionEvent[] = []
      const all: Options = { now, onEvent: (event) => events.push(event), ...options }
      const manager = managerOn(one, all)
      const otherProcess = managerOn(other, all)
      const visitor = () => visitorOf(manager, now)
      const revoked = () => events.filter(({ type }) => type === 'revoked')
      return { backend: one, now, events, manager, otherProcess, visitor, revoked }
    }

    test('scan returns each of them once, with its owner, its times and its fields', async (t) => {
      const h = await start(t)
      const [anna, anonymous] = [h.visitor(), h.visitor()]
      const createdAt = h.now()
      const first = await anna.labelAfter('/?owner=anna&device=phone')
      await anonymous.send('/?role=guest')
      h.now.tick(MINUTE)
      await anna.send('/?device=laptop')
      const pages = await pagesOf(h.manager.scan())
      const sessions = pages.flatMap((page) => page.sessions)
      const owned = sessions.find(({ owner }) => owner !== undefined)
      const guest = sessions.find(({ owner }) => owner === undefined)
      assert.equal(sessions.length, 2)
      assert.deepEqual(owned, { ...(await h.manager.list('anna'))[0], owner: 'anna' })
      assert.deepEqual(
        [owned?.label, owned?.createdAt, owned?.lastSeenAt, { ...owned?.fields }],
        [first, createdAt, h.now(), { device: 'laptop' }],
      )
      assert.deepEqual(
        [guest?.createdAt, guest?.lastSeenAt, guest?.expiresAt, { ...guest?.fields }],
        [createdAt, createdAt, createdAt + 14 * DAY, { role: 'guest' }],
      )
      assert.equal(pages.at(-1)?.cursor, undefined)
      assert.equal(await h.manager.count(), 2)
    })

    test('other applications, ended and expired sessions, and entries of a move do not count', async (t) => {
      const h = await start(t)
      const mine = await h.visitor().labelAfter('/?owner=anna&role=user')
      for (const namespace of ['other', 'sid-2', 'sid.2', 'si']) {
        await visitorOf(managerOn(h.backend, { now: h.now, namespace }), h.now).send('/?owner=anna')
      }
      const ended = h.visitor()
      await ended.send('/?owner=bert')
      await ended.send('/logout')
      const cookies = managerOn(cookieBackend({ secret, ends: h.backend, namespace: 'sid' }), { now: h.now })
      const inCookie = visitorOf(cookies, h.now)
      await inCookie.send('/?role=user')
      await inCookie.send('/logout')
      await generate(h.backend, { value: 1 })
      const put = (metadata: string, expiresAt = Date.now() + DAY) =>
        h.backend.generate(`sid.${labelOf(newKey())}`, entryWith({ metadata, expiresAt }))
      await put('moved.AAAAAAAA')
      await put('moving.AAAAAAAA.1.abc.abc')
      const expired = newMetadata(newKey(), Date.now() - DAY, undefined, undefined, { absoluteTimeout: 1000 })
      await put(encodeMetadata(expired))
      const pages = await pagesOf(h.manager.scan())
      assert.deepEqual(
        pages.flatMap(({ sessions }) => sessions.map(({ label }) => label)),
        [mine],
      )
      assert.deepEqual(
        pages.flatMap(({ unreadable }) => unreadable),
        [],
      )
      assert.equal(await h.manager.count(), 1)
      assert.equal((await h.manager.revokeWhere(() => true)).ended, 1)
      assert.equal(await managerOn(h.backend, { now: h.now, namespace: 'other' }).count(), 1)
    })

    test('an entry that this version cannot read is returned by its label alone, and revoke ends it', async (t) => {
      const h = await start(t)
      const label = labelOf(newKey())
      await h.backend.generate(`sid.${label}`, entryWith({ metadata: '9.of.a.newer.version' }))
      await h.visitor().send('/?owner=anna')
      const labels = async () => (await pagesOf(h.manager.scan())).flatMap((page) => page.unreadable)
      assert.deepEqual(await labels(), [label])
      const { seen, ended, unreadable } = await h.manager.revokeWhere(() => true)
      assert.deepEqual([seen, ended, unreadable], [1, 1, 1])
      await h.manager.revoke(label)
      assert.deepEqual(await labels(), [])
    })

    test('many sessions are read and ended in batches of a bounded size', async (t) => {
      const h = await start(t)
      const total = far ? 300 : 2000
      const labels: string[] = []
      for (let i = 0; i < total; i += 50) {
        labels.push(...(await Promise.all(Array.from({ length: 50 }, () => storeSession(h.backend, { n: 1 })))))
      }
      const all = await scanned(h.manager, { batch: 100 })
      assert.deepEqual(all.labels, labels.sort())
      // Redis returns about as many as it is asked for.
      assert.ok(Math.max(...all.sizes) <= (name.startsWith('redis') ? 200 : 100), `${all.sizes}`)
      assert.equal(await h.manager.count(), total)
      const reports: { seen: number; ended: number; cursor: string | undefined }[] = []
      const result = await h.manager.revokeWhere(({ label }) => label > 'M', {
        batch: 100,
        onProgress: (progress) => void reports.push(progress),
      })
      assert.deepEqual(reports.at(-1), result)
      assert.equal(result.seen, total)
      assert.equal(result.ended, labels.filter((label) => label > 'M').length)
      assert.ok(reports.length >= total / 200)
      for (const [i, { seen, ended }] of reports.entries()) {
        const before = reports[i - 1] ?? { seen: 0, ended: 0 }
        assert.ok(seen >= before.seen && ended >= before.ended && ended <= seen, 'progress never goes back')
      }
      assert.equal(await h.manager.count(), total - result.ended)
    })

    test('a scan and a revokeWhere continue at a cursor in another process', async (t) => {
      const h = await start(t)
      const labels = await Promise.all(Array.from({ length: 30 }, () => storeSession(h.backend, {})))
      const seen = new Set<string>()
      let cursor: string | undefined
      for await (const page of h.manager.scan({ batch: 8 })) {
        for (const { label } of page.sessions) seen.add(label)
        cursor = page.cursor
        break
      }
      assert.ok(seen.size < 30, 'the first page has not all of them')
      for await (const page of h.otherProcess.scan({ batch: 8, cursor })) {
        for (const { label } of page.sessions) seen.add(label)
      }
      assert.deepEqual([...seen].sort(), labels.sort())

      let stopped: string | undefined
      const stop = ({ ended, cursor }: { ended: number; cursor: string | undefined }) => {
        stopped = cursor
        // The first pages of a server that other tests use may have none of these sessions.
        if (ended > 0) throw new Error('stopped')
      }
      await assert.rejects(
        h.manager.revokeWhere(() => true, { batch: 8, onProgress: stop }),
        /stopped/,
      )
      const left = await h.manager.count()
      assert.ok(left > 0 && left < 30, `${left}`)
      assert.equal((await h.otherProcess.revokeWhere(() => true, { batch: 8, cursor: stopped })).ended, left)
      assert.equal(await h.manager.count(), 0)
    })

    test('a session that exists during a whole scan is returned once, beside logins, rotations and logouts', async (t) => {
      const h = await start(t)
      const stays = Array.from({ length: 12 }, () => h.visitor())
      const labels: string[] = []
      for (const [i, visit] of stays.entries()) labels.push(await visit.labelAfter(i % 2 ? '/?owner=anna' : '/?role=a'))
      const seen: string[] = []
      for await (const { sessions } of h.manager.scan({ batch: 3 })) {
        seen.push(...sessions.map(({ label }) => label))
        for (const visit of stays) {
          h.now.tick(1)
          await visit.send(seen.length % 2 ? '/rotate' : '/?role=b')
        }
        const comes = h.visitor()
        await comes.send('/?role=new')
        await comes.send('/?owner=bert')
        await comes.send('/logout')
      }
      assert.equal(new Set(seen).size, seen.length, 'no label is returned twice')
      for (const label of labels) assert.ok(seen.includes(label), label)
    })

    test('revokeWhere ends sessions by a field and by their owner, and reports each of them', async (t) => {
      const h = await start(t)
      const visitors = [h.visitor(), h.visitor(), h.visitor(), h.visitor()]
      const labels: string[] = []
      for (const path of ['owner=anna&role=admin', 'owner=anna&role=user', 'owner=bert&role=admin', 'role=admin']) {
        labels.push((await visitors[labels.length]?.labelAfter(`/?${path}`)) as string)
      }
      const first = await h.manager.revokeWhere(({ fields }) => fields.role === 'admin' && fields.absent === undefined)
      assert.deepEqual(first, { seen: 4, ended: 3, unreadable: 0, cursor: undefined })
      assert.deepEqual(
        h
          .revoked()
          .map(({ label, owner }) => `${label} ${owner}`)
          .sort(),
        [`${labels[0]} anna`, `${labels[2]} bert`, `${labels[3]} undefined`].sort(),
      )
      assert.deepEqual((await scanned(h.manager)).labels, [labels[1]])
      const second = await h.manager.revokeWhere(async ({ owner }) => owner === 'anna')
      assert.deepEqual([second.seen, second.ended], [1, 1])
      assert.equal(await h.manager.count(), 0)
      assert.deepEqual(await h.manager.list('anna'), [])
    })

    test('a request in progress with a session that revokeWhere ends saves nothing, and its answer is 409', async (t) => {
      const h = await start(t)
      const visit = browser(
        h.manager(async (request) => {
          const s = await session(request)
          const { pathname } = new URL(request.url)
          if (pathname === '/late') assert.equal((await h.otherProcess.revokeWhere(() => true)).ended, 1)
          s.set('page', pathname)
          return new Response()
        }),
        { now: h.now },
      )
      await visit('/')
      const tab = visit.copy()
      assert.equal((await visit('/late')).status, 409)
      assert.equal(await h.manager.count(), 0)
      h.events.length = 0
      assert.equal((await tab('/')).status, 409, 'the mark is found')
      assert.deepEqual(
        h.events.map(({ type }) => type),
        ['ended_key', 'write_after_end'],
      )
    })

    test('a session that changed since it was read is judged again', async (t) => {
      const h = await start(t)
      const [becomesUser, staysAdmin, logsOut] = [h.visitor(), h.visitor(), h.visitor()]
      const label = await becomesUser.labelAfter('/?owner=anna&role=admin')
      await staysAdmin.send('/?owner=bert&role=admin')
      await logsOut.send('/?owner=carl&role=admin')
      const judged: string[] = []
      const { seen, ended } = await h.manager.revokeWhere(async ({ owner, fields }) => {
        const isFirst = !judged.some((one) => one.startsWith(`${owner}`))
        judged.push(`${owner} ${fields.role} ${fields.device}`)
        if (isFirst && owner === 'anna') await becomesUser.send('/?role=user')
        if (isFirst && owner === 'bert') await staysAdmin.send('/?device=phone')
        if (isFirst && owner === 'carl') await logsOut.send('/logout')
        return fields.role === 'admin'
      })
      assert.deepEqual([seen, ended], [3, 1])
      assert.deepEqual(judged.sort(), [
        'anna admin undefined',
        'anna user undefined',
        'bert admin phone',
        'bert admin undefined',
        'carl admin undefined',
      ])
      assert.deepEqual((await scanned(h.manager)).labels, [label])
      assert.equal(h.revoked().length, 1)
    })
  })
}

suite('a condition of revokeWhere', () => {
  const withThree = async () => {
    const backend = memoryBackend()
    for (let i = 0; i < 3; i++) await storeSession(backend, { i })
    return managerOn(backend)
  }

  test('that throws stops the call with its own error, and sessions that have ended stay ended', async () => {
    const manager = await withThree()
    const broken = new Error('broken')
    const condition = ({ fields }: { fields: { i?: unknown } }) => {
      if (fields.i === 2) throw broken
      return true
    }
    await assert.rejects(manager.revokeWhere(condition), (error) => error === broken)
    assert.equal(await manager.count(), 1)
    await assert.rejects(
      manager.revokeWhere(async () => Promise.reject(broken)),
      (error) => error === broken,
    )
  })

  test('must return true or false, so that a misspelt field ends nothing', async () => {
    const manager = await withThree()
    for (const answer of [undefined, 1, 'yes', null, {}]) {
      await assert.rejects(
        manager.revokeWhere(() => answer as unknown as boolean),
        code('invalid_option'),
      )
    }
    await assert.rejects(manager.revokeWhere('all' as never), code('invalid_option'))
    assert.equal(await manager.count(), 3)
  })

  test('ends a session although other requests change it each time', async () => {
    const backend = memoryBackend()
    const label = await storeSession(backend, { n: 0 })
    const manager = managerOn(backend)
    let calls = 0
    const { ended } = await manager.revokeWhere(async () => {
      calls++
      const entry = (await backend.get(`sid.${label}`)) ?? assert.fail('the session is there')
      await backend.set(`sid.${label}`, { ...entry, version: freshVersion() } as never, entry.version)
      return true
    })
    assert.equal(ended, 1)
    assert.ok(calls > 1 && calls < 50, `${calls}`)
    assert.equal(await manager.count(), 0)
  })
})

suite('the methods of an operator refuse', () => {
  test('a backend that stores nothing, and one without scan', async () => {
    const { scan: _, ...unscanned } = memoryBackend()
    for (const [backend, text] of [
      [cookieBackend({ secret }), /secret/],
      [cookieBackend({ secret, ends: memoryBackend() }), /secret/],
      [unscanned, /scan/],
    ] as const) {
      const manager = managerOn(backend as Backend)
      const refused = (error: Error) => code('invalid_option')(error) && text.test(error.message)
      await assert.rejects(manager.count(), refused)
      await assert.rejects(pagesOf(manager.scan()), refused)
      await assert.rejects(
        manager.revokeWhere(() => true),
        refused,
      )
    }
  })

  test('options that they do not know, and batches and cursors that cannot be', async () => {
    const manager = managerOn(memoryBackend())
    for (const options of [
      { limit: 5 },
      { batch: 0 },
      { batch: 1.5 },
      { batch: 10_001 },
      { batch: '5' },
      { cursor: '' },
      { cursor: 5 },
    ]) {
      await assert.rejects(pagesOf(manager.scan(options as never)), code('invalid_option'))
      await assert.rejects(
        manager.revokeWhere(() => true, options as never),
        code('invalid_option'),
      )
    }
    await assert.rejects(
      manager.revokeWhere(() => true, { onProgress: 5 } as never),
      code('invalid_option'),
    )
  })
})

suite('if the store fails', () => {
  test('a revokeWhere that ended nothing is unavailable, and later its outcome is unknown', async () => {
    const backend = memoryBackend()
    for (let i = 0; i < 40; i++) await storeSession(backend, { i })
    let pages = 0
    const down = new Error('down')
    const failing: Backend = {
      ...backend,
      scan(cursor, limit) {
        if (pages-- <= 0) throw down
        return backend.scan?.(cursor, limit) ?? assert.fail('memory has a scan')
      },
    }
    const manager = managerOn(failing)
    await assert.rejects(manager.count(), code('unavailable'))
    await assert.rejects(
      manager.revokeWhere(() => true),
      code('unavailable'),
    )
    pages = 1
    await assert.rejects(
      manager.revokeWhere(() => true, { batch: 10 }),
      code('unknown_outcome'),
    )
    pages = 100
    assert.equal(await manager.count(), 30)
    assert.equal((await manager.revokeWhere(() => true)).ended, 30, 'it can be called again')
  })

  test('every call of the store has its own time, so a long job does not use it up', async () => {
    const backend = memoryBackend()
    for (let i = 0; i < 40; i++) await storeSession(backend, { i })
    const wait = () => new Promise((resolve) => setTimeout(resolve, 30))
    const slow: Backend = {
      ...backend,
      scan: (cursor, limit) => wait().then(() => backend.scan?.(cursor, limit) ?? assert.fail('memory has a scan')),
      clear: (key, version, mark) => wait().then(() => backend.clear(key, version, mark)),
    }
    const manager = managerOn(slow, { storeTimeout: 0.25 })
    assert.equal((await manager.revokeWhere(() => true, { batch: 2 })).ended, 40)
    const stuck = managerOn({ ...backend, scan: () => new Promise(() => {}) }, { storeTimeout: 0.1 })
    await assert.rejects(stuck.count(), code('unavailable'))
  })
})

suite('during a move', () => {
  test('each session is found once, in the old store, in the new one, and between them', async () => {
    const [from, to] = [memoryBackend(), memoryBackend()]
    const labels: string[] = []
    for (let i = 0; i < 20; i++) labels.push(await storeSession(from, { i }, i % 2 ? 'anna' : undefined))
    const moving = movingBackend(from, to)
    const manager = managerOn(moving)
    for (const label of labels.slice(0, 8)) await moving.get(`sid.${label}`)
    // Step 3 of this one is missing, because its process was killed.
    const interrupted = movingBackend(from, { ...to, set: () => Promise.reject(new Error('killed')) })
    await assert.rejects(Promise.resolve(interrupted.get(`sid.${labels[8]}`)))
    const seen: string[] = []
    for await (const { sessions } of manager.scan({ batch: 3 })) {
      seen.push(...sessions.map(({ label }) => label))
      await moving.get(`sid.${labels[labels.length - 1 - seen.length]}`)
    }
    assert.deepEqual(seen.sort(), labels.sort())
    assert.equal((await manager.revokeWhere(({ owner }) => owner === 'anna')).ended, 10)
    assert.equal(await manager.count(), 10)
    assert.deepEqual(await manager.list('anna'), [])
  })

  test('copySessions refuses a backend that is moving sessions already', async () => {
    const moving = movingBackend(memoryBackend(), memoryBackend())
    await assert.rejects(copySessions(moving, memoryBackend()), code('invalid_option'))
  })
})

test('count and scan apply the schema only to fields that the caller reads', async () => {
  const backend = memoryBackend()
  const label = await storeSession(backend, { n: 'no number' })
  const schema = {
    '~standard': {
      version: 1 as const,
      vendor: 'test',
      validate: (value: unknown) =>
        typeof (value as { n?: unknown }).n === 'number' ? { value } : { issues: [{ message: 'n is no number' }] },
    },
  }
  const manager = managerOn(backend, { schema })
  assert.equal(await manager.count(), 1)
  const [page] = await pagesOf(manager.scan())
  assert.deepEqual([page?.sessions[0]?.label, { ...page?.sessions[0]?.fields }], [label, {}])
})
