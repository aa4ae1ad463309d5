// Requests of two processes with their backend calls in many orders: no change is lost, and no ended session returns.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import fc from 'fast-check'
import { type Backend, type Session, session, sessionManager } from 'keepsake'
import { type Browser, browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'
import { clock, PATIENT } from '../support/clock.ts'
import { runs } from '../support/quick.ts'
import { everyStore } from '../support/stores.ts'

/** The runs of each test. A backend in another process is slower, so it gets a tenth. */
const RUNS = 150
const FEWER = 10

const secret = newSecret()

/** The acts of a request. The number of the request is in the name of its field. */
const acts = {
  read: (s: Session) => void s.get('n'),
  set: (s: Session, i: number) => s.set(`field${i}`, i),
  add: (s: Session) => s.update('n', (n = 0) => n + 1),
  rotate: (s: Session) => s.rotateKey(),
  'rotate and set': (s: Session, i: number) => {
    s.rotateKey()
    s.set(`field${i}`, i)
  },
  login: (s: Session) => s.login('bert', { keep: ['n'] }),
  'login again': (s: Session) => s.login('anna'),
  invalidate: (s: Session) => s.invalidate(),
} as const
type Name = keyof typeof acts

/** A backend whose calls wait for the scheduler twice: before the call, and before its answer. */
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

type RequestResult = {
  readonly name: Name
  readonly i: number
  readonly status: number
  readonly tab: Browser
  /** Whether the session was alive for this request. If not, the request was anonymous, and wrote to a session of its own. */
  readonly wasOwned: boolean
}

const quiet = (handler: ReturnType<typeof sessionManager>, act: (s: Session) => void) =>
  handler(async (request) => {
    act(await session(request))
    return new Response()
  })

for (const { name: storeName, opener, far } of everyStore) {
  const times = (all: number): number => runs(far ? Math.ceil(all / FEWER) : all)
  suite(`interleavings on ${storeName}`, () => {
    /** Sends concurrent requests of one browser to two processes in turn. Returns the results. */
    const race = async (open: () => Promise<Backend>, s: fc.Scheduler, names: readonly Name[]) => {
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
      const going = names.map(async (name, i): Promise<RequestResult> => {
        let wasOwned = false
        const act = (s: Session) => {
          wasOwned = s.owner !== undefined
          acts[name](s, i)
        }
        const tab = first.copy(quiet(processes[i % 2] as ReturnType<typeof sessionManager>, act))
        const { status } = await tab('/')
        return { name, i, status, tab, wasOwned }
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

    const kept = ['read', 'set', 'add', 'rotate', 'rotate and set'] as const
    const ended = ['login', 'login again', 'invalidate'] as const

    test('concurrent fields, increments and rotations are all kept, and every browser stays logged in', async (t) => {
      const open = opener(t)
      await fc.assert(
        fc.asyncProperty(
          fc.scheduler(),
          fc.array(fc.constantFrom(...kept), { minLength: 2, maxLength: 4 }),
          async (s, names) => {
            const { before, visits, seen } = await race(open, s, names)
            const { fields } = await seen(before)
            for (const { name, i, status } of visits) {
              assert.equal(status, 200)
              if (name.includes('set')) assert.equal(fields[`field${i}`], i, `field${i} is kept`)
            }
            assert.equal(fields.n ?? 0, names.filter((name) => name === 'add').length, 'every increment counts')
            for (const { tab } of visits)
              assert.equal((await seen(tab)).owner, 'anna', 'the new key of each response opens the session')
          },
        ),
        { numRuns: times(RUNS) },
      )
    })

    test('after a concurrent login or logout the previous key opens nothing, and no lost save is acknowledged', async (t) => {
      const open = opener(t)
      await fc.assert(
        fc.asyncProperty(
          fc.scheduler(),
          fc.constantFrom(...ended),
          fc.array(fc.constantFrom(...kept, ...ended), { minLength: 1, maxLength: 3 }),
          async (s, end, others) => {
            const { before, visits, seen } = await race(open, s, [end, ...others])
            assert.deepEqual(await seen(before), { fields: {}, owner: undefined }, 'the ended session stays ended')
            for (const { name, status, tab } of visits) {
              assert.ok([200, 409].includes(status))
              if (status === 409 && !name.startsWith('login')) assert.deepEqual((await seen(tab)).owner, undefined)
              if (name === 'login' && status === 200) {
                const { fields, owner } = await seen(tab)
                assert.equal(owner, 'bert')
                assert.ok(Number(fields.n ?? 0) <= visits.filter((visit) => visit.name === 'add').length)
              }
            }
            const logins = visits.filter(
              ({ name, status, wasOwned }) => name === 'login again' && wasOwned && status === 200,
            )
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

    test('twenty concurrent fields survive a rotation', async (t) => {
      const open = opener(t)
      await fc.assert(
        fc.asyncProperty(fc.scheduler(), async (s) => {
          const names: Name[] = ['rotate', ...Array<Name>(20).fill('set')]
          const { before, seen } = await race(open, s, names)
          assert.equal(Object.keys((await seen(before)).fields).length, 20)
        }),
        { numRuns: times(15) },
      )
    })

    test('a login keeps all increments that were acknowledged before it, in every order', async (t) => {
      const open = opener(t)
      await fc.assert(
        fc.asyncProperty(fc.scheduler(), async (s) => {
          const { visits, seen } = await race(open, s, ['login', 'add', 'add', 'add'])
          const acknowledged = visits.filter(
            ({ name, status, wasOwned }) => name === 'add' && wasOwned && status === 200,
          ).length
          const login = visits.find(({ name }) => name === 'login') as RequestResult
          assert.equal((await seen(login.tab)).fields.n ?? 0, acknowledged)
        }),
        { numRuns: times(RUNS) },
      )
    })
  })
}
