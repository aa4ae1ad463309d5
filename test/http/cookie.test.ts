// Cookies on the wire: the values that a Cookie header gives, and the names and attributes that are allowed.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { session, sessionManager } from 'keepsake'
import { browser } from 'keepsake/testing'
import { cookieValues, formatAttributes, formatSetCookie } from '../../src/http/cookie.ts'
import { code } from '../support/assert.ts'

const acceptAll = () => true

suite('reading a Cookie header', () => {
  test('a value may contain an equals sign, and the values stay in their order', () => {
    assert.deepEqual(cookieValues('a=1; sid=x==; sid=y', 'sid', acceptAll), ['x==', 'y'])
  })
  test('at most four different accepted values are returned', () => {
    const header = Array.from({ length: 20 }, (_, i) => `sid=${i % 10}`).join('; ')
    assert.deepEqual(
      cookieValues(header, 'sid', (value) => Number(value) % 2 === 0),
      ['0', '2', '4', '6'],
    )
  })
  test('names are compared whole and exactly', () => {
    assert.deepEqual(cookieValues('xsid=1; sidx=2; SID=3; =sid=4; a=sid=5; a=1, sid=6; sid', 'sid', acceptAll), [])
    assert.deepEqual(cookieValues(' \tsid\t=\t"7" ; b=1', 'sid', acceptAll), ['"7"'])
  })
  test('a value ends at a comma, unless another program wrote it', () => {
    assert.deepEqual(cookieValues('a=1 , b=2; sid=x ,y; sid=z,', 'sid', acceptAll), ['x', 'z'])
    assert.deepEqual(cookieValues('a=1 , b=2; sid=x ,y; sid=z,', 'sid', acceptAll, ';'), ['x ,y', 'z,'])
  })
  test('reading ends for every name and every header', () => {
    for (const header of ['', ';', ';;=;', 'a', 'a=b', '=', '= ; =x', ' '.repeat(100)]) {
      for (const name of ['', 'a', ';', '=', ' ']) assert.ok(cookieValues(header, name, acceptAll).length <= 4)
    }
  })
})

suite('writing a Set-Cookie', () => {
  test('the prefix follows from domain and path', async () => {
    const name = async (cookie: object) => {
      const visit = browser(
        sessionManager({ backend: 'memory:', cookie })(async (request) => {
          ;(await session(request)).set('a', 1)
          return new Response()
        }),
        { origin: 'https://app.example.test' },
      )
      return (await visit('/app/')).headers.getSetCookie()[0]?.replace(/=.{43};/, '=…;')
    }
    assert.equal(await name({}), '__Host-Http-sid=…; Max-Age=2592000; Path=/; Secure; HttpOnly; SameSite=Lax')
    assert.equal(
      await name({ path: '/app' }),
      '__Secure-sid=…; Max-Age=2592000; Path=/app; Secure; HttpOnly; SameSite=Lax',
    )
    assert.equal(
      await name({ domain: 'example.test', sameSite: 'none', partitioned: true, priority: 'high', name: 'x' }),
      '__Secure-x=…; Max-Age=2592000; Path=/; Domain=example.test; Secure; HttpOnly; SameSite=None; Partitioned; Priority=High',
    )
  })
  test('attributes that could add another attribute or header are refused', () => {
    for (const bad of [
      { path: '/; HttpOnly=0' },
      { path: 'app' },
      { path: '/\r\nX: y' },
      { domain: 'a.test\r\nX: y' },
      { domain: 'localhost' },
      { domain: `${'a.'.repeat(127)}aa` },
      { sameSite: 'Lax; Domain=evil.test' },
      { priority: 'urgent' },
      { sameSite: 'none', secure: false },
      { partitioned: true, secure: false },
    ]) {
      assert.throws(() => formatAttributes(bad as object), code('invalid_option'), JSON.stringify(bad))
    }
  })
  test('an age is whole seconds, at least 0 and at most 400 days', () => {
    const age = (seconds: number) => /Max-Age=(.*);/.exec(formatSetCookie('a', '', '; Path=/', seconds))?.[1]
    assert.deepEqual([0.2, -5, 1e12, 60].map(age), ['1', '0', '34560000', '60'])
  })
})
