// Typed sessions: fields that a schema took, migrated where an older deployment kept them, and never a locked-out visitor.

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

/** A manager and what its next visit does. */
const stage = <F extends object>(manager: SessionManager<F>) => {
  type S = Awaited<ReturnType<typeof manager.session>>
  let act: (s: S, request: Request) => unknown = () => {}
  let result: unknown
  const handler = manager(async (request) => {
    result = await act(await manager.session(request), request)
    return new Response()
  })
  const visitOf = (jar: ReturnType<typeof browser>) => {
    const visit = async (next: typeof act) => {
      act = next
      result = undefined
      const { status } = await jar('/')
      return status === 200 ? result : status
    }
    return Object.assign(visit, { jar, to: (other: typeof handler) => jar.copy(other) })
  }
  return { handler, visit: visitOf(browser(handler)), with: (jar: ReturnType<typeof browser>) => visitOf(jar) }
}

for (const [name, schema] of Object.entries(schemas)) {
  suite(`a session typed by ${name}`, () => {
    const manager = () => sessionManager({ backend: 'memory:', schema: schema as StandardSchema<Account> })

    test('D2: a stranger has its defaults, which cost no entry; what is set is read back', async () => {
      const { visit } = stage(manager())
      assert.deepEqual(await visit((s) => ({ ...s.fields })), { cart: [] })
      assert.equal(visit.jar.cookies.size, 0)
      await visit((s) => s.set('user', 'anna'))
      await visit((s) => s.update('cart', (cart = []) => [...cart, 'tea']))
      assert.deepEqual(await visit((s) => ({ ...s.fields })), { user: 'anna', cart: ['tea'] })
    })

    test('what does not fit is not saved: a KeepsakeError that names the place and not the value, and the entry stays', async () => {
      const events: { type: string; error?: unknown }[] = []
      const manager = sessionManager({ backend: 'memory:', schema, onEvent: (event) => events.push(event) })
      const { visit } = stage(manager as SessionManager<{ user?: unknown }>)
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

test('several typed sessions side by side, each with a cookie and a shape of its own', async () => {
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

/** Two deployments on one store: the older keeps a name, the newer two. */
const older = z.object({ name: z.string() })
const newer = z.object({ first: z.string(), last: z.string() })
const split = (old: unknown) => {
  const [first = '', last = ''] = (old as { name: string }).name.split(' ')
  return { first, last }
}

suite('a session that an older deployment kept', () => {
  const deployments = (migrate?: (old: unknown) => unknown) => {
    const watch = watched(memoryBackend())
    const types: EventType[] = []
    const onEvent = ({ type }: { type: EventType }) => types.push(type)
    const old = stage(sessionManager({ backend: watch.backend, schema: older, onEvent }))
    const fresh = stage(sessionManager({ backend: watch.backend, schema: newer, onEvent, ...(migrate && { migrate }) }))
    return { watch, types, old, fresh }
  }

  test('is migrated when read, and kept so at the next write; a read writes nothing', async () => {
    const { watch, old, fresh, types } = deployments(split)
    await old.visit((s) => s.set('name', 'Anna Blume'))
    const visit = fresh.with(old.visit.to(fresh.handler))
    assert.deepEqual(await visit((s) => ({ ...s.fields })), { first: 'Anna', last: 'Blume' })
    assert.equal(watch.calls.set, 0)
    await visit((s) => s.set('first', 'Anne'))
    assert.deepEqual(await visit((s) => ({ ...s.fields })), { first: 'Anne', last: 'Blume' })
    assert.deepEqual(types, ['created'])
  })

  test('that neither schema nor migration takes is a stranger’s, and is left alone also when he writes', async () => {
    for (const migrate of [
      undefined,
      () => ({ first: 5 }),
      () => assert.fail('a migration that throws'),
      async () => null,
    ]) {
      const { watch, old, fresh, types } = deployments(migrate)
      await old.visit((s) => s.set('name', 'Anna Blume'))
      const visit = fresh.with(old.visit.to(fresh.handler))
      assert.deepEqual(await visit((s) => ({ ...s.fields })), {})
      assert.deepEqual(types, ['created', 'schema_mismatch'])
      await visit((s) => {
        s.set('first', 'Bert')
        s.set('last', 'Brecht')
      })
      assert.deepEqual(await visit((s) => ({ ...s.fields })), { first: 'Bert', last: 'Brecht' })
      assert.deepEqual(await old.visit((s) => ({ ...s.fields })), { name: 'Anna Blume' }, 'an old node goes on')
      assert.equal(watch.calls.set + watch.calls.clear, 0)
    }
  })

  test('is never a 500, whatever was kept', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 4 }),
        fc.boolean(),
        async (kept, migrates) => {
          const backend = memoryBackend()
          const any = stage(sessionManager({ backend }))
          await any.visit((s) => {
            for (const [field, value] of Object.entries(kept)) s.set(field, value)
          })
          const migrate = migrates ? { migrate: () => ({ first: 'a', last: 'b' }) } : {}
          const typed = stage(sessionManager({ backend, schema: newer, ...migrate }))
          const visit = typed.with(any.visit.to(typed.handler))
          const seen = (await visit((s) => ({ ...s.fields }))) as Record<string, unknown>
          assert.ok(typeof seen === 'object', `${seen}`)
          if (Object.keys(kept).length > 0 && migrates) assert.equal(Object.keys(seen).length, 2)
        },
      ),
      { numRuns: runs(100) },
    )
  })
})

suite('a merged value', () => {
  const most = z
    .object({ a: z.number().default(0), b: z.number().default(0) })
    .refine(({ a, b }) => a + b <= 1, 'a + b ≤ 1')

  for (const { name, opener } of stores) {
    test(`that the schema refuses is not saved: 409, conflict, and the entry stays, on ${name}`, async (t) => {
      const backend = await opener(t)()
      const watch = watched(backend)
      const types: EventType[] = []
      const onEvent = ({ type }: { type: EventType }) => types.push(type)
      const options = { schema: most, secret, storeTimeout: PATIENT }
      const processes = [1, 2].map(() => stage(sessionManager({ ...options, backend: watch.backend, onEvent })))
      const [one, two] = processes as [(typeof processes)[0], (typeof processes)[0]]
      await one.visit((s) => s.set('a', 0))
      const other = two.with(one.visit.to(two.handler))
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

  test('is what the schema makes of it, also of a login that was overtaken, which goes under where it does not fit', async () => {
    const inner = memoryBackend()
    const keys: string[] = []
    const watch = watched({
      ...inner,
      generate(key, entry) {
        keys.push(key)
        return inner.generate(key, entry)
      },
    })
    const processes = [1, 2].map(() => stage(sessionManager({ backend: watch.backend, schema: most })))
    const [one, two] = processes as [(typeof processes)[0], (typeof processes)[0]]
    await one.visit((s) => s.set('a', 0))
    const other = two.with(one.visit.to(two.handler))
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
    assert.equal(inner.get(keys[1] as string), undefined, 'the session that was begun in vain is not left behind')
  })

  test('by open and commit outside a middleware: conflict is a value', async () => {
    const watch = watched(memoryBackend())
    const [one, two] = [1, 2].map(() => sessionManager({ backend: watch.backend, schema: most })) as [
      SessionManager<{ a: number; b: number }>,
      SessionManager<{ a: number; b: number }>,
    ]
    const born = await one.open({ headers: new Headers() })
    born.set('a', 0)
    const done = await born.commit()
    assert.ok(done.ok)
    const cookie = done.headers.getSetCookie()[0]?.split(';')[0] as string
    const headers = new Headers({ cookie })
    const [slow, fast] = [await one.open({ headers }), await two.open({ headers })]
    slow.set('a', 1)
    fast.set('b', 1)
    assert.ok((await fast.commit()).ok)
    assert.deepEqual(await slow.commit(), { ok: false, error: 'conflict' })
  })
})

suite('no message and no event has a value of a session in it', () => {
  const VALUE = 'sk_live_51H8secretOfAVisitor'
  const standard = (validate: (value: unknown) => unknown): StandardSchema<Record<string, unknown>> =>
    ({ '~standard': { version: 1, vendor: 'test', validate } }) as StandardSchema<Record<string, unknown>>
  const quoting = (value: unknown) => {
    throw Object.assign(new TypeError(`cannot read ${JSON.stringify(value)}`), { value })
  }
  /** Schemas that refuse a text, or an object with one, in their own words: most quote it. */
  const refusing: Record<string, { schema: unknown; says: RegExp }> = {
    'valibot, a type': { schema: v.object({ token: v.optional(v.number()) }), says: /: look at token\.$/ },
    'valibot, a choice': { schema: v.object({ token: v.optional(v.picklist(['a'])) }), says: /: look at token\.$/ },
    'valibot, the whole': {
      schema: v.pipe(
        v.looseObject({}),
        v.check(
          (o) => !('token' in o),
          ({ input }) => JSON.stringify(input),
        ),
      ),
      says: /: look at the whole\.$/,
    },
    'arktype, a length': { schema: type({ 'token?': 'string < 5' }), says: /: look at token\.$/ },
    'zod, a refinement': {
      schema: z.object({ token: z.string().refine(() => false, { error: ({ input }) => `not ${input}` }) }),
      says: /: look at token\.$/,
    },
    'one that throws': { schema: standard(quoting), says: /: the schema threw TypeError\.$/ },
    'one whose promise is rejected': {
      schema: standard(async (value) => quoting(value)),
      says: /: the schema threw TypeError\.$/,
    },
    'one that throws what is no error': {
      schema: standard((value) => {
        throw value
      }),
      says: /: the schema threw an error without a name\.$/,
    },
    'one that names no place that is one': {
      schema: standard((value) => ({ issues: [{ message: JSON.stringify(value), path: [{ key: value }, 'b c', 0] }] })),
      says: /: look at \[a object\]\["b c"\]\[0\]\.$/,
    },
    'one whose issues cannot be read': {
      schema: standard((value) => ({ issues: [{ message: JSON.stringify(value), path: 5 }] })),
      says: /: the schema threw TypeError\.$/,
    },
  }
  /** All that an error says of itself and of its causes, with what is not enumerable. */
  const said = (error: unknown): string =>
    typeof error === 'object' && error !== null
      ? Object.getOwnPropertyNames(error)
          .map((name) => said(Reflect.get(error, name)))
          .join('\n')
      : String(error)

  for (const [name, { schema, says }] of Object.entries(refusing)) {
    test(`${name}: neither when it is saved nor when it is read`, async () => {
      const events: SessionEvent[] = []
      const backend = memoryBackend()
      const onEvent = (event: SessionEvent) => events.push(event)
      const typed = sessionManager({ backend, schema: schema as StandardSchema<{ token?: unknown }>, onEvent })
      const opened = await typed.open({ headers: new Headers() })
      opened.set('token', VALUE)
      const fault = await opened.commit().then(
        () => assert.fail('is refused'),
        (error: unknown) => error,
      )
      assert.match((fault as Error).message, says)
      const { visit } = stage(sessionManager({ backend }))
      await visit((s) => s.set('token', VALUE))
      const read = stage(typed)
      await read.with(visit.to(read.handler))((s) => s.get('token'))
      assert.match(events.at(-1)?.message ?? '', says)
      assert.equal(events.at(-1)?.type, 'schema_mismatch')
      for (const text of [said(fault), ...events.map(said)]) assert.ok(!text.includes(VALUE), text)
    })
  }

  test('a migration that throws: its kind of error alone', async () => {
    const events: SessionEvent[] = []
    const backend = memoryBackend()
    const { visit } = stage(sessionManager({ backend }))
    await visit((s) => s.set('token', VALUE))
    const fresh = stage(
      sessionManager({ backend, schema: newer, migrate: quoting, onEvent: (event) => events.push(event) }),
    )
    await fresh.with(visit.to(fresh.handler))((s) => s.fields)
    assert.match(said(events.at(-1)), /: the migration threw TypeError\.$/m)
    assert.ok(!said(events.at(-1)).includes(VALUE))
  })

  test('of many places ten are named, each once', async () => {
    const places = Array.from({ length: 30 }, (_, i) => ({ message: '', path: ['list', i >> 1] }))
    const { write } = fieldCodec(standard(() => ({ issues: [...places, { message: '', path: ['x'.repeat(500)] }] })))
    const { why } = (await write({ a: 1 })) as Mismatch
    assert.equal(why, `look at ${Array.from({ length: 10 }, (_, i) => `list[${i}]`).join(', ')} and 6 more`)
  })
})

test('a misfit of one copy of the package is one for another, and fields of any names are none', async () => {
  const copy = (await import(`${'../../src/session/codec.ts'}?copy`)) as typeof import('../../src/session/codec.ts')
  assert.notEqual(copy.isMismatch, isMismatch)
  const refusal = await copy.fieldCodec(newer).write({ first: 5 })
  assert.ok(isMismatch(refusal) && copy.isMismatch(refusal))
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
    const { visit } = stage(sessionManager({ backend: 'memory:', schema }))
    await visit((s) => {
      const before = runs
      s.set('n', 1)
      s.update('n', (n = 0) => n + 1)
      assert.equal(runs, before)
    })
    assert.equal(await visit((s) => s.get('n')), 2)
  })

  test('whose output JSON cannot keep is refused with the path to it', async () => {
    const events: { error?: unknown }[] = []
    const schema = z.object({ at: z.coerce.date() })
    const manager = sessionManager({ backend: 'memory:', schema, onEvent: (event) => events.push(event) })
    const { visit } = stage(manager as unknown as SessionManager<{ at: string }>)
    assert.equal(await visit((s) => s.set('at', '2026-01-01')), 500)
    assert.match(String((events.at(-1) as { error: Error }).error), /session\.at is a Date, which JSON cannot keep/)
  })

  test('has to be one, and a migration needs one', () => {
    for (const options of [
      { schema: {} },
      { schema: 5 },
      { migrate: () => ({}) },
      { schema: schemas.zod, migrate: 5 },
    ]) {
      assert.throws(() => sessionManager({ backend: 'memory:', ...options } as never), { code: 'invalid_option' })
    }
  })

  test('no fields at all always fit: a login of nobody known yet, and a flash for him', async () => {
    const schema = z.object({ user: z.string(), cart: z.array(z.string()) })
    const { visit } = stage(sessionManager({ backend: 'memory:', schema }))
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

  test('sees no flash messages beside the fields, and does not lose them', async () => {
    const schema = z.strictObject({ n: z.number() })
    const { visit } = stage(sessionManager({ backend: 'memory:', schema, now: clock() }))
    await visit((s) => s.set('n', 1))
    await visit((_, request) => addFlash(request, 'info', 'hello'))
    await visit((s) => s.set('n', 2))
    assert.deepEqual(await visit(async (s, request) => [s.get('n'), (await takeFlash(request)).length]), [2, 1])
  })

  test('the way by session(request) is the same session, without types', async () => {
    const { visit } = stage(sessionManager({ backend: 'memory:', schema: schemas.zod }))
    await visit((s) => s.set('user', 'anna'))
    assert.equal(await visit(async (_, request) => (await session(request)).get('user')), 'anna')
  })
})
