// The object that s.fields returns is a plain frozen object, with any field names.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import type { Session } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { z } from 'zod'
import { newSecret } from '../../src/crypto/seal.ts'
import { setup } from '../support/visits.ts'

const secret = newSecret()

const isPlain = (value: unknown): boolean =>
  typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype

/** Checks the fields with the strict equality of node:assert, which also compares prototypes. */
const assertFields = (s: Session, expected: Record<string, unknown>) => {
  const { fields } = s
  assert.deepEqual(fields, expected)
  assert.ok(isPlain(fields))
  assert.ok(Object.isFrozen(fields))
  for (const [name, value] of Object.entries(expected)) assert.deepEqual(s.get(name), value)
}

const settings = {
  'a backend that stores entries': {},
  'the cookie backend': { backend: cookieBackend({ secret, namespace: 'sid' }), secret },
  'a schema': { schema: z.looseObject({}) },
  'a migration': {
    schema: z.object({ stock: z.number(), cart: z.looseObject({ tea: z.number() }), list: z.array(z.looseObject({})) }),
    migrate: (old: unknown) => ({ stock: 1, ...(old as object) }),
  },
}

suite('s.fields is a plain frozen object', () => {
  for (const [name, options] of Object.entries(settings)) {
    test(`with ${name}: in the request that sets the fields, and in the next one`, async () => {
      const visit = (await setup(options)).visitor()
      const expected = { stock: 1, cart: { tea: 2 }, list: [{ a: 1 }] }
      await visit((s) => {
        s.set('stock', 1)
        s.set('cart', { tea: 2 })
        s.update('list', () => [{ a: 1 }])
        assertFields(s, expected)
      })
      await visit((s) => {
        assertFields(s, expected)
        assert.ok(isPlain(s.get('cart')) && isPlain(s.get('list')[0]))
        s.update('cart', (cart) => {
          assert.deepEqual(cart, { tea: 2 })
          return { ...cart, milk: 1 }
        })
        assertFields(s, { ...expected, cart: { tea: 2, milk: 1 } })
      })
    })
  }

  test('for an anonymous visitor it is empty', async () => {
    await (await setup()).visitor()((s) => assertFields(s, {}))
  })

  test('for an anonymous visitor it has the defaults of the schema', async () => {
    const schema = z.object({ stock: z.number().default(1), cart: z.object({}).default({}) })
    await (await setup({ schema })).visitor()((s) => assertFields(s, { stock: 1, cart: {} }))
  })

  test('after a login and after an invalidate', async () => {
    const visit = (await setup()).visitor()
    await visit((s) => {
      s.set('stock', 1)
      s.set('cart', { tea: 2 })
      s.login('anna', { keep: ['stock'] })
      assertFields(s, { stock: 1 })
    })
    await visit((s) => {
      assertFields(s, { stock: 1 })
      s.invalidate()
      assertFields(s, {})
    })
  })

  test('a field named __proto__ is an ordinary field, and changes no prototype', async () => {
    const visit = (await setup()).visitor()
    const expected = JSON.parse('{"__proto__":{"admin":true},"constructor":{"prototype":1}}')
    await visit((s) => {
      s.set('__proto__', { admin: true })
      s.set('constructor', { prototype: 1 })
      assertFields(s, expected)
    })
    await visit((s) => {
      assertFields(s, expected)
      assert.equal((s.fields as { admin?: unknown }).admin, undefined)
      s.login('anna', { keep: ['__proto__'] })
    })
    await visit((s) => assertFields(s, JSON.parse('{"__proto__":{"admin":true}}')))
  })
})
