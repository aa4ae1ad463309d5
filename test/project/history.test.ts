// The check of request logs reports every kind of violation, and accepts every log that a failover may cause.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { judge, type LoggedRequest } from '../support/history.ts'

/** A request of anna that takes ten milliseconds. */
const at = (start: number, op: LoggedRequest['op'], more: Partial<LoggedRequest> = {}): LoggedRequest => ({
  op,
  account: 'anna',
  status: 200,
  start,
  end: start + 10,
  ...more,
})
const anna = (n = 0) => ({ account: 'anna', n })
const anonymous = { account: undefined, n: 0 }
const withOne = { sentLabel: 'one' }
const login = at(0, 'login', { given: 'one', saw: anonymous })

const violating: Record<string, readonly [rule: RegExp, history: readonly LoggedRequest[]]> = {
  'a lost login': [/login was lost/, [login, at(20, 'read', { ...withOne, saw: anonymous })]],
  'a login whose session has ended for another request': [
    /login was lost/,
    [login, at(20, 'count', { ...withOne, saw: anna(), status: 409 })],
  ],
  'a lost login, and a later logout': [
    /login was lost/,
    [login, at(20, 'read', { ...withOne, saw: anonymous }), at(40, 'logout', { ...withOne, saw: anna() })],
  ],
  'a login that is lost for its logout': [/login was lost/, [login, at(20, 'logout', { ...withOne, saw: anonymous })]],
  'a lost second login': [
    /login was lost/,
    [
      login,
      at(20, 'relogin', { ...withOne, saw: anna(), given: 'two' }),
      at(40, 'read', { sentLabel: 'two', saw: anonymous }),
    ],
  ],
  'a session that comes back after a logout': [
    /came back/,
    [login, at(20, 'logout', { ...withOne, saw: anna() }), at(40, 'read', { ...withOne, saw: anna() })],
  ],
  'a session that was gone and comes back much later': [
    /came back/,
    [
      login,
      at(20, 'logout', { ...withOne, saw: anna() }),
      at(40, 'read', { ...withOne, saw: anonymous }),
      at(900, 'read', { ...withOne, saw: anna(), status: 503 }),
    ],
  ],
  'a session that comes back after a logout that was tried twice': [
    /came back/,
    [
      login,
      at(20, 'logout', { ...withOne, saw: anna(), status: 503 }),
      at(40, 'logout', { ...withOne, saw: anonymous }),
      at(60, 'read', { ...withOne, saw: anna() }),
    ],
  ],
  'a session that comes back after another login': [
    /came back/,
    [login, at(20, 'relogin', { ...withOne, saw: anna(), given: 'two' }), at(40, 'read', { ...withOne, saw: anna() })],
  ],
  'a session that comes back after a revocation': [
    /came back/,
    [login, at(20, 'revoke'), at(40, 'read', { ...withOne, saw: anna() })],
  ],
  'a counter above its increments': [
    /above the 1 possible increments/,
    [login, at(20, 'count', { ...withOne, saw: anna() }), at(40, 'read', { ...withOne, saw: anna(2) })],
  ],
  'a counter that includes a refused increment': [
    /above the 0 possible increments/,
    [
      login,
      at(15, 'logout', { ...withOne, saw: anna(), status: 503 }),
      at(20, 'count', { ...withOne, saw: anna(), status: 409 }),
      at(40, 'read', { ...withOne, saw: anna(1) }),
    ],
  ],
  'a counter that includes a later increment': [
    /above the 0 possible increments/,
    [login, at(20, 'read', { ...withOne, saw: anna(1) }), at(40, 'count', { ...withOne, saw: anna() })],
  ],
  'a login that lost the fields that it took along': [
    /took along/,
    [
      login,
      at(20, 'count', { ...withOne, saw: anna() }),
      at(40, 'relogin', { ...withOne, saw: anna(1), given: 'two' }),
      at(60, 'read', { sentLabel: 'two', saw: anna(0) }),
    ],
  ],
  'a status of 500': [/unexpected status/, [login, at(20, 'read', { ...withOne, status: 500 })]],
  'a request that took too long': [
    /longer than 2100 ms/,
    [login, at(20, 'read', { ...withOne, saw: anna(), end: 2_121 })],
  ],
}

suite('logs with a violation', () => {
  for (const [name, [rule, history]] of Object.entries(violating)) {
    test(name, () => {
      const { violations } = judge(history, () => 2_100)
      assert.equal(violations.length, 1, violations.join('\n'))
      assert.match(violations[0] as string, rule)
    })
  }
})

const allowed: Record<string, readonly [lost: number, history: readonly LoggedRequest[]]> = {
  'an empty log': [0, []],
  'a lost login that was not acknowledged': [
    0,
    [{ ...login, status: 503 }, at(20, 'read', { ...withOne, saw: anonymous })],
  ],
  'a session that comes back after a logout that was not acknowledged': [
    0,
    [
      login,
      at(20, 'logout', { ...withOne, saw: anna(), status: 503 }),
      at(40, 'read', { ...withOne, saw: anonymous }),
      at(60, 'read', { ...withOne, saw: anna() }),
    ],
  ],
  'a read that began before the logout was answered': [
    0,
    [login, at(20, 'logout', { ...withOne, saw: anna() }), at(25, 'read', { ...withOne, saw: anna() })],
  ],
  'a login during a revocation: it may count as before or after': [
    0,
    [
      at(0, 'revoke'),
      login,
      at(20, 'read', { ...withOne, saw: anonymous }),
      at(40, 'read', { ...withOne, saw: anna() }),
    ],
  ],
  'a revocation of another account': [
    0,
    [login, at(20, 'revoke', { account: 'ben' }), at(40, 'read', { ...withOne, saw: anna() })],
  ],
  'lost increments, each counted once': [
    2,
    [
      login,
      at(20, 'count', { ...withOne, saw: anna() }),
      at(40, 'count', { ...withOne, saw: anna(1) }),
      at(60, 'read', { ...withOne, saw: anna(0) }),
      at(80, 'read', { ...withOne, saw: anna(0) }),
    ],
  ],
  'an increment with an unknown outcome': [
    0,
    [
      login,
      at(20, 'count', { ...withOne, saw: anna(), status: 503 }),
      at(40, 'read', { ...withOne, saw: anna(1) }),
      at(60, 'read', { ...withOne, saw: anna(0) }),
    ],
  ],
  'a login that took along the fields of the previous session': [
    0,
    [
      login,
      at(20, 'count', { ...withOne, saw: anna() }),
      at(40, 'relogin', { ...withOne, saw: anna(1), given: 'two' }),
      at(60, 'count', { sentLabel: 'two', saw: anna(1) }),
      at(80, 'read', { sentLabel: 'two', saw: anna(2) }),
    ],
  ],
}

suite('logs that a failover may cause', () => {
  for (const [name, [lost, history]] of Object.entries(allowed)) {
    test(name, () => {
      const verdict = judge(history, () => 2_100)
      assert.deepEqual([verdict.violations, verdict.lost], [[], lost])
    })
  }
})
