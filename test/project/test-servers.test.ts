// Test servers never share a port, even if other processes take ports at the same time.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type TestContext, test } from 'node:test'
import { type Ports, ports } from '../support/ports.ts'
import { program, startServer } from '../support/servers.ts'

const portsOf = ({ port, bus }: Ports) => [port, bus]

/** Starts another process that reserves so many pairs of ports, and keeps them. */
const reserveElsewhere = async (t: TestContext, count: number): Promise<number[]> => {
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
  return (JSON.parse(line) as Ports[]).flatMap(portsOf)
}

/** Listens on a port until the end of the test. */
const occupy = async (t: TestContext, port: number) => {
  const server = createServer().listen({ port, host: '127.0.0.1' })
  t.after(() => server.close())
  await once(server, 'listening')
}

test('three processes that reserve ports concurrently have none in common', async (t) => {
  const own = Promise.all(Array.from({ length: 100 }, ports))
  const all = [
    ...(await own).flatMap(portsOf),
    ...(await Promise.all([reserveElsewhere(t, 100), reserveElsewhere(t, 100)])).flat(),
  ]
  assert.equal(new Set(all).size, 600)
})

test('a port on which another process listens is skipped', async (t) => {
  const { port } = await ports()
  // A port of the next group, unless it is taken already.
  await occupy(t, port + 4).catch(() => {})
  const next = await ports()
  assert.ok(!portsOf(next).includes(port + 4))
})

test('a server whose port is taken when it starts gets other ports, but a server that ends for another reason is an error', async (t) => {
  const { port: foreign } = await ports()
  await occupy(t, foreign)
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
  const server = await startServer({ ...recipe, args })
  assert.deepEqual(tried, [foreign, foreign, server.port])
  await assert.rejects(startServer({ ...recipe, args: () => ['--no-such-option', 'x'] }), /ended at once/)
})
