// Visits of two processes, their store calls let through in every order that fast-check draws: nothing is lost or back.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import fc from 'fast-check'
import { type Backend, type Session, session, sessionManager } from 'keepsake'
import { type Browser, browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { clock, PATIENT } from '../support/clock.ts'
import { runs } from '../support/quick.ts'
import { everyStore } from '../support/stores.ts'

/** Of each test; and how much fewer on a store of another process. */
const RUNS = 150
const FEWER = 10

const secret = newSecret()

/** What a visit does; `i` makes its field its own. */
const acts = {
  read: (s: Session) => void s.get('n'),
  set: (s: Session, i: number) => s.set(`field${i}`, i),
  add: (s: Session) => s.update('n', (n = 0) => n + 1),
  renew: (s: Session) => s.rotateKey(),
  'renew and set': (s: Session, i: number) => {
    s.rotateKey()
    s.set(`field${i}`, i)
  },
  login: (s: Session) => s.login('bert', { keep: ['n'] }),
  'login again': (s: Session) => s.login('anna'),
  invalidate: (s: Session) => s.invalidate(),
} as const
type Name = keyof typeof acts

/** A backend whose calls wait until the scheduler lets them through, and their answers once more. */
const scheduled = (inner: Backend, s: fc.Scheduler): Backend => {
  const held =
    <A extends unknown[], R>(call: (...args: A) => R) =>
    async (...args: A): Promise<Awaited<R>> => {
      await s.schedule(Promise.resolve())
      return s.schedule((async () => call(...args))()) as Promise<Awaited<R>>
    }
  return {
    ...inner,
    get: held(inner.get),
    generate: held(inner.generate),
    set: held(inner.set),
    clear: held(inner.clear),
    touch: held(inner.touch),
  }
}

type Visited = {
  readonly name: Name
  readonly i: number
  readonly status: number
  readonly tab: Browser
  /** Whether it met the session. Else it came too late, as a stranger, and what it did is of a session of its own. */
  readonly met: boolean
}

const quiet = (handler: ReturnType<typeof sessionManager>, act: (s: Session) => void) =>
  handler(async (request) => {
    act(await session(request))
    return new Response()
  })

for (const { name: storeName, opener, far } of everyStore) {
  const times = (all: number): number => runs(far ? Math.ceil(all / FEWER) : all)
  suite(`interleavings on ${storeName}`, () => {
    /** Runs visits of one browser at once, each answered by one of two processes; gives what became of them. */
    const raced = async (open: () => Promise<Backend>, s: fc.Scheduler, names: readonly Name[]) => {
      const now = clock()
      const [one, two] = [await open(), await open()]
      const processes = [one, two].map((backend) =>
        sessionManager({ backend: scheduled(backend, s), storeTimeout: PATIENT, secret, now }),
      )
      const direct = sessionManager({ backend: one, storeTimeout: PATIENT, secret, now })
      const first = browser(
        quiet(direct, (s) => s.login('anna')),
        { now },
      )
      await first('/')
      const before = first.copy()
      const going = names.map(async (name, i): Promise<Visited> => {
        let met = false
        const act = (s: Session) => {
          met = s.owner !== undefined
          acts[name](s, i)
        }
        const tab = first.copy(quiet(processes[i % 2] as ReturnType<typeof sessionManager>, act))
        const { status } = await tab('/')
        return { name, i, status, tab, met }
      })
      await s.waitFor(Promise.all(going))
      const seen = async (tab: Browser) => {
        let fields: Record<string, unknown> = {}
        let owner: string | undefined
        await tab.copy(
          quiet(direct, (s) => {
            fields = s.fields
            owner = s.owner
          }),
        )('/')
        return { fields, owner }
      }
      return { before, visits: await Promise.all(going), seen }
    }

    const kept = ['read', 'set', 'add', 'renew', 'renew and set'] as const
    const ended = ['login', 'login again', 'invalidate'] as const

    test('fields, increments and renewals of visits at once: all are kept, and every browser is still logged in', async (t) => {
      const open = opener(t)
      await fc.assert(
        fc.asyncProperty(
          fc.scheduler(),
          fc.array(fc.constantFrom(...kept), { minLength: 2, maxLength: 4 }),
          async (s, names) => {
            const { before, visits, seen } = await raced(open, s, names)
            const { fields } = await seen(before)
            for (const { name, i, status } of visits) {
              assert.equal(status, 200)
              if (name.includes('set')) assert.equal(fields[`field${i}`], i, `field${i} is kept`)
            }
            assert.equal(fields.n ?? 0, names.filter((name) => name === 'add').length, 'every increment counts')
            for (const { tab } of visits)
              assert.equal((await seen(tab)).owner, 'anna', 'the new key of each answer opens')
          },
        ),
        { numRuns: times(RUNS) },
      )
    })

    test('an end among them: the old key opens nothing, and nobody is told of a save that was not', async (t) => {
      const open = opener(t)
      await fc.assert(
        fc.asyncProperty(
          fc.scheduler(),
          fc.constantFrom(...ended),
          fc.array(fc.constantFrom(...kept, ...ended), { minLength: 1, maxLength: 3 }),
          async (s, end, others) => {
            const { before, visits, seen } = await raced(open, s, [end, ...others])
            assert.deepEqual(await seen(before), { fields: {}, owner: undefined }, 'what ended stays ended')
            for (const { name, status, tab } of visits) {
              assert.ok([200, 409].includes(status))
              if (status === 409 && !name.startsWith('login')) assert.deepEqual((await seen(tab)).owner, undefined)
              if (name === 'login' && status === 200) {
                const { fields, owner } = await seen(tab)
                assert.equal(owner, 'bert')
                assert.ok(Number(fields.n ?? 0) <= visits.filter((visit) => visit.name === 'add').length)
              }
            }
            const logins = visits.filter(({ name, status, met }) => name === 'login again' && met && status === 200)
            const alive = await Promise.all(logins.map(async ({ tab }) => (await seen(tab)).owner))
            assert.ok(
              alive.filter((owner) => owner === 'anna').length <= 1,
              'a session has one successor for its owner',
            )
          },
        ),
        { numRuns: times(RUNS) },
      )
    })

    test('twenty fields in flight survive a renewal', async (t) => {
      const open = opener(t)
      await fc.assert(
        fc.asyncProperty(fc.scheduler(), async (s) => {
          const names: Name[] = ['renew', ...Array<Name>(20).fill('set')]
          const { before, seen } = await raced(open, s, names)
          assert.equal(Object.keys((await seen(before)).fields).length, 20)
        }),
        { numRuns: times(15) },
      )
    })

    test('increments acknowledged before a login come along, whatever the order', async (t) => {
      const open = opener(t)
      await fc.assert(
        fc.asyncProperty(fc.scheduler(), async (s) => {
          const { visits, seen } = await raced(open, s, ['login', 'add', 'add', 'add'])
          const acknowledged = visits.filter(({ name, status, met }) => name === 'add' && met && status === 200).length
          const login = visits.find(({ name }) => name === 'login') as Visited
          assert.equal((await seen(login.tab)).fields.n ?? 0, acknowledged)
        }),
        { numRuns: times(RUNS) },
      )
    })
  })
}
