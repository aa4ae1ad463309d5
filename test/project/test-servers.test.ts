// The servers of tests have their ports to themselves, whoever else takes ports at the same time.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type TestContext, test } from 'node:test'
import { type Ports, ports } from '../support/ports.ts'
import { program, started } from '../support/servers.ts'

const both = ({ port, bus }: Ports) => [port, bus]

/** Another process that takes so many, and keeps them. */
const taken = async (t: TestContext, count: number): Promise<number[]> => {
  const script = `
    import { ports } from './test/support/ports.ts'
    console.log(JSON.stringify(await Promise.all(Array.from({ length: ${count} }, ports))))
    setInterval(() => {}, 1e6)`
  const cwd = join(import.meta.dirname, '../..')
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    cwd,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.after(() => child.kill())
  const [line] = await once(createInterface({ input: child.stdout }), 'line')
  return (JSON.parse(line) as Ports[]).flatMap(both)
}

/** Somebody who listens on a port. */
const squatter = async (t: TestContext, port: number) => {
  const server = createServer().listen({ port, host: '127.0.0.1' })
  t.after(() => server.close())
  await once(server, 'listening')
}

test('three processes that take ports at once have none in common', async (t) => {
  const here = Promise.all(Array.from({ length: 100 }, ports))
  const all = [...(await here).flatMap(both), ...(await Promise.all([taken(t, 100), taken(t, 100)])).flat()]
  assert.equal(new Set(all).size, 600)
})

test('a port on which somebody listens is passed over', async (t) => {
  const { port } = await ports()
  // The next three, unless they are taken already.
  await squatter(t, port + 4).catch(() => {})
  const next = await ports()
  assert.ok(!both(next).includes(port + 4))
})

test('a server whose port is taken when it starts gets others; and one that ends for another reason is an error', async (t) => {
  const { port: foreign } = await ports()
  await squatter(t, foreign)
  const recipe = {
    program: program('redis-server', 'redis-server'),
    ready: /Ready to accept/,
    signal: 'SIGKILL',
  } as const
  const tried: number[] = []
  const args = ({ port }: Ports) => {
    tried.push(tried.length < 2 ? foreign : port)
    return ['--bind', '127.0.0.1', '--save', '', '--port', String(tried.at(-1))]
  }
  const server = await started({ ...recipe, args })
  assert.deepEqual(tried, [foreign, foreign, server.port])
  await assert.rejects(started({ ...recipe, args: () => ['--no-such-option', 'x'] }), /ended at once/)
})
