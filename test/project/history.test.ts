// The judge of histories condemns each that is wrong, for what is wrong with it, and none that a failover may leave.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type Done, judged } from '../support/history.ts'

/** A visit of anna's, ten milliseconds long. */
const at = (start: number, op: Done['op'], more: Partial<Done> = {}): Done => ({
  op,
  account: 'anna',
  status: 200,
  start,
  end: start + 10,
  ...more,
})
const anna = (n = 0) => ({ account: 'anna', n })
const stranger = { account: undefined, n: 0 }
const with1 = { presented: 'one' }
const login = at(0, 'login', { given: 'one', saw: stranger })

const wrong: Record<string, readonly [rule: RegExp, history: readonly Done[]]> = {
  'a login that is gone': [/login was lost/, [login, at(20, 'read', { ...with1, saw: stranger })]],
  'a login whose session others are told has ended': [
    /login was lost/,
    [login, at(20, 'count', { ...with1, saw: anna(), status: 409 })],
  ],
  'a login that is gone, and was logged out later': [
    /login was lost/,
    [login, at(20, 'read', { ...with1, saw: stranger }), at(40, 'logout', { ...with1, saw: anna() })],
  ],
  'a login that is gone to the logout itself': [
    /login was lost/,
    [login, at(20, 'logout', { ...with1, saw: stranger })],
  ],
  'a second login that is gone': [
    /login was lost/,
    [
      login,
      at(20, 'again', { ...with1, saw: anna(), given: 'two' }),
      at(40, 'read', { presented: 'two', saw: stranger }),
    ],
  ],
  'a session that is back after a logout': [
    /came back/,
    [login, at(20, 'logout', { ...with1, saw: anna() }), at(40, 'read', { ...with1, saw: anna() })],
  ],
  'a session that is back much later, having been gone': [
    /came back/,
    [
      login,
      at(20, 'logout', { ...with1, saw: anna() }),
      at(40, 'read', { ...with1, saw: stranger }),
      at(900, 'read', { ...with1, saw: anna(), status: 503 }),
    ],
  ],
  'a session that is back after a logout that was tried twice': [
    /came back/,
    [
      login,
      at(20, 'logout', { ...with1, saw: anna(), status: 503 }),
      at(40, 'logout', { ...with1, saw: stranger }),
      at(60, 'read', { ...with1, saw: anna() }),
    ],
  ],
  'a session that is back after another login': [
    /came back/,
    [login, at(20, 'again', { ...with1, saw: anna(), given: 'two' }), at(40, 'read', { ...with1, saw: anna() })],
  ],
  'a session that is back after a revocation': [
    /came back/,
    [login, at(20, 'revoke'), at(40, 'read', { ...with1, saw: anna() })],
  ],
  'a counter that is too high': [
    /above the 1 increments/,
    [login, at(20, 'count', { ...with1, saw: anna() }), at(40, 'read', { ...with1, saw: anna(2) })],
  ],
  'a counter that counted what was refused': [
    /above the 0 increments/,
    [
      login,
      at(15, 'logout', { ...with1, saw: anna(), status: 503 }),
      at(20, 'count', { ...with1, saw: anna(), status: 409 }),
      at(40, 'read', { ...with1, saw: anna(1) }),
    ],
  ],
  'a counter that counted what was yet to come': [
    /above the 0 increments/,
    [login, at(20, 'read', { ...with1, saw: anna(1) }), at(40, 'count', { ...with1, saw: anna() })],
  ],
  'a login that lost what it took along': [
    /took along/,
    [
      login,
      at(20, 'count', { ...with1, saw: anna() }),
      at(40, 'again', { ...with1, saw: anna(1), given: 'two' }),
      at(60, 'read', { presented: 'two', saw: anna(0) }),
    ],
  ],
  'an error of ours': [/nobody expects/, [login, at(20, 'read', { ...with1, status: 500 })]],
  'a visit that took too long': [/longer than 2100 ms/, [login, at(20, 'read', { ...with1, saw: anna(), end: 2_121 })]],
}

suite('wrong histories', () => {
  for (const [name, [rule, history]] of Object.entries(wrong)) {
    test(name, () => {
      const { violations } = judged(history, () => 2_100)
      assert.equal(violations.length, 1, violations.join('\n'))
      assert.match(violations[0] as string, rule)
    })
  }
})

const right: Record<string, readonly [lost: number, history: readonly Done[]]> = {
  'nothing at all': [0, []],
  'a login that was not acknowledged, and is gone': [
    0,
    [{ ...login, status: 503 }, at(20, 'read', { ...with1, saw: stranger })],
  ],
  'a logout that was not acknowledged, and came back': [
    0,
    [
      login,
      at(20, 'logout', { ...with1, saw: anna(), status: 503 }),
      at(40, 'read', { ...with1, saw: stranger }),
      at(60, 'read', { ...with1, saw: anna() }),
    ],
  ],
  'a read that began before the logout was answered': [
    0,
    [login, at(20, 'logout', { ...with1, saw: anna() }), at(25, 'read', { ...with1, saw: anna() })],
  ],
  'a login while all were revoked, before it or after it': [
    0,
    [at(0, 'revoke'), login, at(20, 'read', { ...with1, saw: stranger }), at(40, 'read', { ...with1, saw: anna() })],
  ],
  'a revocation of another account': [
    0,
    [login, at(20, 'revoke', { account: 'ben' }), at(40, 'read', { ...with1, saw: anna() })],
  ],
  'increments that were lost, once each': [
    2,
    [
      login,
      at(20, 'count', { ...with1, saw: anna() }),
      at(40, 'count', { ...with1, saw: anna(1) }),
      at(60, 'read', { ...with1, saw: anna(0) }),
      at(80, 'read', { ...with1, saw: anna(0) }),
    ],
  ],
  'an increment of which nobody knows, done or not': [
    0,
    [
      login,
      at(20, 'count', { ...with1, saw: anna(), status: 503 }),
      at(40, 'read', { ...with1, saw: anna(1) }),
      at(60, 'read', { ...with1, saw: anna(0) }),
    ],
  ],
  'a login that took along what its old session had': [
    0,
    [
      login,
      at(20, 'count', { ...with1, saw: anna() }),
      at(40, 'again', { ...with1, saw: anna(1), given: 'two' }),
      at(60, 'count', { presented: 'two', saw: anna(1) }),
      at(80, 'read', { presented: 'two', saw: anna(2) }),
    ],
  ],
}

suite('what a failover may leave', () => {
  for (const [name, [lost, history]] of Object.entries(right)) {
    test(name, () => {
      const verdict = judged(history, () => 2_100)
      assert.deepEqual([verdict.violations, verdict.lost], [[], lost])
    })
  }
})
