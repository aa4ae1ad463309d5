// Typed sessions: a schema checks the fields, migrate converts those of an older deployment, and no visitor is locked out.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type } from 'arktype'
import fc from 'fast-check'
import {
  addFlash,
  type EventType,
  type SessionEvent,
  type SessionManager,
  type StandardSchema,
  session,
  sessionManager,
  takeFlash,
} from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import { browser } from 'keepsake/testing'
import * as v from 'valibot'
import { z } from 'zod'
import { newSecret } from '../../src/crypto/seal.ts'
import type { Fields } from '../../src/session/changes.ts'
import { fieldCodec, isMismatch, type Mismatch } from '../../src/session/codec.ts'
import { clock, PATIENT } from '../support/clock.ts'
import { runs } from '../support/quick.ts'
import { stores } from '../support/stores.ts'
import { watched } from '../support/watched.ts'

const secret = newSecret()

type Account = { user?: string | undefined; cart: readonly string[] }

const schemas = {
  zod: z.object({ user: z.string().optional(), cart: z.array(z.string()).default([]) }),
  valibot: v.object({ user: v.optional(v.string()), cart: v.optional(v.array(v.string()), []) }),
  arktype: type({ 'user?': 'string', cart: type('string[]').default(() => []) }),
}

/** A handler of the manager, and browsers whose next request runs a function of the test. */
const startSite = <F extends object>(manager: SessionManager<F>) => {
  type S = Awaited<ReturnType<typeof manager.session>>
  let act: (s: S, request: Request) => unknown = () => {}
  let result: unknown
  const handler = manager(async (request) => {
    result = await act(await manager.session(request), request)
    return new Response()
  })
  const visitFor = (jar: ReturnType<typeof browser>) => {
    const visit = async (next: typeof act) => {
      act = next
      result = undefined
      const { status } = await jar('/')
      return status === 200 ? result : status
    }
    return Object.assign(visit, { jar, copyTo: (other: typeof handler) => jar.copy(other) })
  }
  return { handler, visit: visitFor(browser(handler)), visitWith: (jar: ReturnType<typeof browser>) => visitFor(jar) }
}

for (const [name, schema] of Object.entries(schemas)) {
  suite(`a session typed by ${name}`, () => {
    const manager = () => sessionManager({ backend: 'memory:', schema: schema as StandardSchema<Account> })

    test('D2: an anonymous visitor gets the defaults without an entry, and reads back a field that was set', async () => {
      const { visit } = startSite(manager())
      assert.deepEqual(await visit((s) => ({ ...s.fields })), { cart: [] })
      assert.equal(visit.jar.cookies.size, 0)
      await visit((s) => s.set('user', 'anna'))
      await visit((s) => s.update('cart', (cart = []) => [...cart, 'tea']))
      assert.deepEqual(await visit((s) => ({ ...s.fields })), { user: 'anna', cart: ['tea'] })
    })

    test('a field that does not fit is not saved: the KeepsakeError names its place and not its value, and the entry stays', async () => {
      const events: { type: string; error?: unknown }[] = []
      const manager = sessionManager({ backend: 'memory:', schema, onEvent: (event) => events.push(event) })
      const { visit } = startSite(manager as SessionManager<{ user?: unknown }>)
      await visit((s) => s.set('user', 'anna'))
      assert.equal(await visit((s) => s.set('user', { secret: 'word' })), 500)
      const { error } = events.at(-1) as { error: Error }
      assert.match(error.message, /do not fit its schema.*user/)
      assert.ok(!error.message.includes('word'))
      assert.equal(await visit((s) => s.get('user')), 'anna')
    })
  })
}

test('D2: types are inferred, without a declaration', () => {
  const manager = sessionManager({ backend: 'memory:', schema: schemas.zod })
  async function typed(request: Request) {
    const s = await manager.session(request)
    const user: string | undefined = s.get('user')
    s.set('user', 'anna')
    s.update('cart', (cart = []) => [...cart, 'tea'])
    s.login('anna', { keep: ['cart'] })
    // @ts-expect-error no such field
    s.get('users')
    // @ts-expect-error not of this type
    s.set('cart', 5)
    // @ts-expect-error no such field
    s.login('anna', { keep: ['carts'] })
    return user
  }
  assert.equal(typed.length, 1)
})

test('several typed sessions in one request, each with its own cookie and schema', async () => {
  const backend = memoryBackend()
  const account = sessionManager({ backend, schema: z.object({ user: z.string() }), cookie: { name: 'account' } })
  const shop = sessionManager({ backend, schema: z.object({ cart: z.array(z.string()) }), cookie: { name: 'shop' } })
  const page = account(
    shop(async (request) => {
      const [a, s] = [await account.session(request), await shop.session(request)]
      a.set('user', 'anna')
      s.update('cart', (cart = []) => [...cart, 'tea'])
      return Response.json([a.fields, s.fields])
    }),
  )
  const visit = browser(page)
  await visit('/')
  assert.deepEqual(await (await visit('/')).json(), [{ user: 'anna' }, { cart: ['tea', 'tea'] }])
  assert.deepEqual([...visit.cookies.keys()].sort(), ['__Host-Http-account', '__Host-Http-shop'])
})

/** The schemas of two deployments on one backend: the older has one field for a name, and the newer has two. */
const older = z.object({ name: z.string() })
const newer = z.object({ first: z.string(), last: z.string() })
const split = (old: unknown) => {
  const [first = '', last = ''] = (old as { name: string }).name.split(' ')
  return { first, last }
}

suite('a session of an older deployment', () => {
  const deployments = (migrate?: (old: unknown) => unknown) => {
    const watch = watched(memoryBackend())
    const types: EventType[] = []
    const onEvent = ({ type }: { type: EventType }) => types.push(type)
    const old = startSite(sessionManager({ backend: watch.backend, schema: older, onEvent }))
    const fresh = startSite(
      sessionManager({ backend: watch.backend, schema: newer, onEvent, ...(migrate && { migrate }) }),
    )
    return { watch, types, old, fresh }
  }

  test('is migrated when it is read, and the next write saves the result; a read writes nothing', async () => {
    const { watch, old, fresh, types } = deployments(split)
    await old.visit((s) => s.set('name', 'Anna Blume'))
    const visit = fresh.visitWith(old.visit.copyTo(fresh.handler))
    assert.deepEqual(await visit((s) => ({ ...s.fields })), { first: 'Anna', last: 'Blume' })
    assert.equal(watch.calls.set, 0)
    await visit((s) => s.set('first', 'Anne'))
    assert.deepEqual(await visit((s) => ({ ...s.fields })), { first: 'Anne', last: 'Blume' })
    assert.deepEqual(types, ['created'])
  })

  test('is left alone if neither the schema nor migrate accepts it: the request is anonymous, and a write creates another session', async () => {
    for (const migrate of [
      undefined,
      () => ({ first: 5 }),
      () => assert.fail('a migration that throws'),
      async () => null,
    ]) {
      const { watch, old, fresh, types } = deployments(migrate)
      await old.visit((s) => s.set('name', 'Anna Blume'))
      const visit = fresh.visitWith(old.visit.copyTo(fresh.handler))
      assert.deepEqual(await visit((s) => ({ ...s.fields })), {})
      assert.deepEqual(types, ['created', 'schema_mismatch'])
      await visit((s) => {
        s.set('first', 'Bert')
        s.set('last', 'Brecht')
      })
      assert.deepEqual(await visit((s) => ({ ...s.fields })), { first: 'Bert', last: 'Brecht' })
      assert.deepEqual(
        await old.visit((s) => ({ ...s.fields })),
        { name: 'Anna Blume' },
        'the older deployment still reads it',
      )
      assert.equal(watch.calls.set + watch.calls.clear, 0)
    }
  })

  test('never causes a 500, with any fields', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 4 }),
        fc.boolean(),
        async (fields, migrates) => {
          const backend = memoryBackend()
          const untyped = startSite(sessionManager({ backend }))
          await untyped.visit((s) => {
            for (const [field, value] of Object.entries(fields)) s.set(field, value)
          })
          const migrate = migrates ? { migrate: () => ({ first: 'a', last: 'b' }) } : {}
          const typed = startSite(sessionManager({ backend, schema: newer, ...migrate }))
          const visit = typed.visitWith(untyped.visit.copyTo(typed.handler))
          const seen = (await visit((s) => ({ ...s.fields }))) as Record<string, unknown>
          assert.ok(typeof seen === 'object', `${seen}`)
          if (Object.keys(fields).length > 0 && migrates) assert.equal(Object.keys(seen).length, 2)
        },
      ),
      { numRuns: runs(100) },
    )
  })
})

suite('a merged value', () => {
  const sumOfAtMostOne = z
    .object({ a: z.number().default(0), b: z.number().default(0) })
    .refine(({ a, b }) => a + b <= 1, 'a + b ≤ 1')

  for (const { name, opener } of stores) {
    test(`that the schema refuses is not saved on ${name}: 409, the event write_conflict, and the entry stays`, async (t) => {
      const backend = await opener(t)()
      const watch = watched(backend)
      const types: EventType[] = []
      const onEvent = ({ type }: { type: EventType }) => types.push(type)
      const options = { schema: sumOfAtMostOne, secret, storeTimeout: PATIENT }
      const processes = [1, 2].map(() => startSite(sessionManager({ ...options, backend: watch.backend, onEvent })))
      const [one, two] = processes as [(typeof processes)[0], (typeof processes)[0]]
      await one.visit((s) => s.set('a', 0))
      const other = two.visitWith(one.visit.copyTo(two.handler))
      const { arrived, go } = watch.hold('set')
      const slow = one.visit((s) => s.set('a', 1))
      await arrived
      assert.equal(await other((s) => s.set('b', 1)), undefined)
      go()
      assert.equal(await slow, 409)
      assert.deepEqual(await other((s) => ({ ...s.fields })), { a: 0, b: 1 })
      assert.ok(types.includes('write_conflict'))
      const opened = await sessionManager({ ...options, backend }).open({ headers: new Headers() })
      opened.set('a', 2)
      await assert.rejects(opened.commit(), { code: 'schema_mismatch' })
    })
  }

  test('of a login that another request overtook is checked too: if the schema refuses it, the login fails and leaves no session behind', async () => {
    const inner = memoryBackend()
    const keys: string[] = []
    const watch = watched({
      ...inner,
      generate(key, entry) {
        keys.push(key)
        return inner.generate(key, entry)
      },
    })
    const processes = [1, 2].map(() => startSite(sessionManager({ backend: watch.backend, schema: sumOfAtMostOne })))
    const [one, two] = processes as [(typeof processes)[0], (typeof processes)[0]]
    await one.visit((s) => s.set('a', 0))
    const other = two.visitWith(one.visit.copyTo(two.handler))
    const { arrived, go } = watch.hold('clear')
    const slow = one.visit((s) => {
      s.login('anna', { keep: ['a', 'b'] })
      s.set('a', 1)
    })
    await arrived
    await other((s) => s.set('b', 1))
    go()
    assert.equal(await slow, 409)
    assert.deepEqual(await other((s) => [s.owner, { ...s.fields }]), [undefined, { a: 0, b: 1 }])
    assert.equal(keys.length, 2)
    assert.equal(inner.get(keys[1] as string), undefined, 'the session of the failed login is deleted')
  })

  test('that the schema refuses makes commit return the error conflict, outside a middleware', async () => {
    const watch = watched(memoryBackend())
    const [one, two] = [1, 2].map(() => sessionManager({ backend: watch.backend, schema: sumOfAtMostOne })) as [
      SessionManager<{ a: number; b: number }>,
      SessionManager<{ a: number; b: number }>,
    ]
    const created = await one.open({ headers: new Headers() })
    created.set('a', 0)
    const result = await created.commit()
    assert.ok(result.ok)
    const cookie = result.headers.getSetCookie()[0]?.split(';')[0] as string
    const headers = new Headers({ cookie })
    const [slow, fast] = [await one.open({ headers }), await two.open({ headers })]
    slow.set('a', 1)
    fast.set('b', 1)
    assert.ok((await fast.commit()).ok)
    assert.deepEqual(await slow.commit(), { ok: false, error: 'conflict' })
  })
})

suite('no message and no event contains a value of a session', () => {
  const VALUE = 'sk_live_51H8secretOfAVisitor'
  const schemaOf = (validate: (value: unknown) => unknown): StandardSchema<Record<string, unknown>> =>
    ({ '~standard': { version: 1, vendor: 'test', validate } }) as StandardSchema<Record<string, unknown>>
  const quoting = (value: unknown) => {
    throw Object.assign(new TypeError(`cannot read ${JSON.stringify(value)}`), { value })
  }
  /** Schemas that refuse a text, or an object with one. Most quote it in a message of their own. `message` is the event's. */
  const refusing: Record<string, { schema: unknown; message: RegExp }> = {
    'valibot, a type': { schema: v.object({ token: v.optional(v.number()) }), message: /: look at token\.$/ },
    'valibot, a choice': { schema: v.object({ token: v.optional(v.picklist(['a'])) }), message: /: look at token\.$/ },
    'valibot, the whole': {
      schema: v.pipe(
        v.looseObject({}),
        v.check(
          (o) => !('token' in o),
          ({ input }) => JSON.stringify(input),
        ),
      ),
      message: /: look at the whole\.$/,
    },
    'arktype, a length': { schema: type({ 'token?': 'string < 5' }), message: /: look at token\.$/ },
    'zod, a refinement': {
      schema: z.object({ token: z.string().refine(() => false, { error: ({ input }) => `not ${input}` }) }),
      message: /: look at token\.$/,
    },
    'one that throws': { schema: schemaOf(quoting), message: /: the schema threw TypeError\.$/ },
    'one whose promise rejects': {
      schema: schemaOf(async (value) => quoting(value)),
      message: /: the schema threw TypeError\.$/,
    },
    'one that throws a value that is not an Error': {
      schema: schemaOf((value) => {
        throw value
      }),
      message: /: the schema threw an error without a name\.$/,
    },
    'one whose path has an object and a name with a space': {
      schema: schemaOf((value) => ({ issues: [{ message: JSON.stringify(value), path: [{ key: value }, 'b c', 0] }] })),
      message: /: look at \[a object\]\["b c"\]\[0\]\.$/,
    },
    'one whose issues cannot be read': {
      schema: schemaOf((value) => ({ issues: [{ message: JSON.stringify(value), path: 5 }] })),
      message: /: the schema threw TypeError\.$/,
    },
  }
  /** All text of an error and of its causes, also of properties that are not enumerable. */
  const textOf = (error: unknown): string =>
    typeof error === 'object' && error !== null
      ? Object.getOwnPropertyNames(error)
          .map((name) => textOf(Reflect.get(error, name)))
          .join('\n')
      : String(error)

  for (const [name, { schema, message }] of Object.entries(refusing)) {
    test(`${name}: neither when the session is saved nor when it is read`, async () => {
      const events: SessionEvent[] = []
      const backend = memoryBackend()
      const onEvent = (event: SessionEvent) => events.push(event)
      const typed = sessionManager({ backend, schema: schema as StandardSchema<{ token?: unknown }>, onEvent })
      const opened = await typed.open({ headers: new Headers() })
      opened.set('token', VALUE)
      const error = await opened.commit().then(
        () => assert.fail('the schema accepted it'),
        (refusal: unknown) => refusal,
      )
      assert.match((error as Error).message, message)
      const { visit } = startSite(sessionManager({ backend }))
      await visit((s) => s.set('token', VALUE))
      const read = startSite(typed)
      await read.visitWith(visit.copyTo(read.handler))((s) => s.get('token'))
      assert.match(events.at(-1)?.message ?? '', message)
      assert.equal(events.at(-1)?.type, 'schema_mismatch')
      for (const text of [textOf(error), ...events.map(textOf)]) assert.ok(!text.includes(VALUE), text)
    })
  }

  test('a migration that throws: the message has only the name of the error', async () => {
    const events: SessionEvent[] = []
    const backend = memoryBackend()
    const { visit } = startSite(sessionManager({ backend }))
    await visit((s) => s.set('token', VALUE))
    const fresh = startSite(
      sessionManager({ backend, schema: newer, migrate: quoting, onEvent: (event) => events.push(event) }),
    )
    await fresh.visitWith(visit.copyTo(fresh.handler))((s) => s.fields)
    assert.match(textOf(events.at(-1)), /: the migration threw TypeError\.$/m)
    assert.ok(!textOf(events.at(-1)).includes(VALUE))
  })

  test('of many places the message names ten, each once', async () => {
    const places = Array.from({ length: 30 }, (_, i) => ({ message: '', path: ['list', i >> 1] }))
    const { write } = fieldCodec(schemaOf(() => ({ issues: [...places, { message: '', path: ['x'.repeat(500)] }] })))
    const { why } = (await write({ a: 1 })) as Mismatch
    assert.equal(why, `look at ${Array.from({ length: 10 }, (_, i) => `list[${i}]`).join(', ')} and 6 more`)
  })
})

test('another copy of the package recognises a Mismatch, and no fields look like one', async () => {
  const copy = (await import(`${'../../src/session/codec.ts'}?copy`)) as typeof import('../../src/session/codec.ts')
  assert.notEqual(copy.isMismatch, isMismatch)
  const mismatch = await copy.fieldCodec(newer).write({ first: 5 })
  assert.ok(isMismatch(mismatch) && copy.isMismatch(mismatch))
  const any = z.record(z.string(), z.any())
  await fc.assert(
    fc.asyncProperty(
      fc.dictionary(
        fc.oneof(fc.string(), fc.constantFrom('why', 'error', 'Symbol(keepsake.Mismatch)', '__proto__')),
        fc.jsonValue(),
      ),
      async (fields) => {
        assert.ok(!isMismatch(await fieldCodec(any).read(fields as Fields)))
      },
    ),
  )
})

suite('a schema', () => {
  test('may be asynchronous: it runs when the session is opened and at commit, and never in set', async () => {
    let runs = 0
    const schema = z.object({ n: z.number() }).refine(async () => {
      runs++
      return true
    })
    const { visit } = startSite(sessionManager({ backend: 'memory:', schema }))
    await visit((s) => {
      const before = runs
      s.set('n', 1)
      s.update('n', (n = 0) => n + 1)
      assert.equal(runs, before)
    })
    assert.equal(await visit((s) => s.get('n')), 2)
  })

  test('has an output that JSON must be able to keep: the error names the path of the value', async () => {
    const events: { error?: unknown }[] = []
    const schema = z.object({ at: z.coerce.date() })
    const manager = sessionManager({ backend: 'memory:', schema, onEvent: (event) => events.push(event) })
    const { visit } = startSite(manager as unknown as SessionManager<{ at: string }>)
    assert.equal(await visit((s) => s.set('at', '2026-01-01')), 500)
    assert.match(String((events.at(-1) as { error: Error }).error), /session\.at is a Date, which JSON cannot keep/)
  })

  test('must be a Standard Schema, and migrate needs one', () => {
    for (const options of [
      { schema: {} },
      { schema: 5 },
      { migrate: () => ({}) },
      { schema: schemas.zod, migrate: 5 },
    ]) {
      assert.throws(() => sessionManager({ backend: 'memory:', ...options } as never), { code: 'invalid_option' })
    }
  })

  test('does not apply to a session without fields, for example after a first login with a flash message', async () => {
    const schema = z.object({ user: z.string(), cart: z.array(z.string()) })
    const { visit } = startSite(sessionManager({ backend: 'memory:', schema }))
    await visit((s, request) => {
      s.login('anna')
      addFlash(request, 'info', 'welcome')
    })
    assert.deepEqual(await visit((s) => [s.owner, { ...s.fields }]), ['anna', {}])
    assert.deepEqual(await visit(async (_, request) => (await takeFlash(request)).length), 1)
    await visit((s) => {
      s.set('user', 'anna')
      s.set('cart', [])
    })
    assert.deepEqual(await visit((s) => s.get('user')), 'anna')
  })

  test('does not get the flash messages, which stay beside the fields', async () => {
    const schema = z.strictObject({ n: z.number() })
    const { visit } = startSite(sessionManager({ backend: 'memory:', schema, now: clock() }))
    await visit((s) => s.set('n', 1))
    await visit((_, request) => addFlash(request, 'info', 'hello'))
    await visit((s) => s.set('n', 2))
    assert.deepEqual(await visit(async (s, request) => [s.get('n'), (await takeFlash(request)).length]), [2, 1])
  })

  test('leaves session(request) as it is: the same session, without types', async () => {
    const { visit } = startSite(sessionManager({ backend: 'memory:', schema: schemas.zod }))
    await visit((s) => s.set('user', 'anna'))
    assert.equal(await visit(async (_, request) => (await session(request)).get('user')), 'anna')
  })
})
