// What a Redis user has to be allowed, feature by feature, as docs/backends/redis.md lists it; and that nothing is printed.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { suite, test } from 'node:test'
import { promisify } from 'node:util'
import {
  type RedisServer,
  redisCluster,
  redisReplicated,
  redisSentinel,
  redisServer,
  until,
} from '../support/redis-server.ts'

const root = join(import.meta.dirname, '../..')

/** The rights of a feature, by the first words of its line in the documentation. */
const rights = (feature: string): string[] => {
  const docs = readFileSync(join(root, 'docs/backends/redis.md'), 'utf8')
  const line = docs.split('\n').find((one) => one.startsWith(`| ${feature}`))
  const list = /`([^`]*)` \|$/.exec(line ?? '')?.[1] ?? assert.fail(`there is no line on ${feature}`)
  // A table has to escape what parts its columns.
  return list.replaceAll('\\|', '|').split(' ')
}

const allow = ({ cli }: RedisServer, ...features: readonly string[]) =>
  cli('acl', 'setuser', 'app', 'reset', 'on', '>x', ...features.flatMap(rights))

/** What a process says that does all that there is to do, and moves what it has to memory. */
const said = async (url: string, options: object = {}, moves = false) => {
  const script = `
    import { backendFromUrl } from 'keepsake'
import { copySessions } from 'keepsake/moving'
    import { connectRedis } from 'keepsake/redis'
    import { backendCases } from 'keepsake/testing'
    const open = () => backend
    const backend = await connectRedis(${JSON.stringify(url)}, ${JSON.stringify(options)})
    try {
      for (const one of backendCases) {
        if (one.name.startsWith('scan')) continue
        if (one.exempt(backend) === undefined) await one.run(open)
      }
      if (${moves}) await copySessions(backend, await connect('memory:'))
      console.log('done')
    } catch (error) {
      console.log(error.code, error.message)
    }
    await backend.close()`
  const { stdout, stderr } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], {
    cwd: root,
  })
  assert.equal(stderr, '')
  return stdout.trim()
}

suite('the rights of a Redis user', () => {
  test('sessions, and no more: everything but a move is done, and nothing is printed', async () => {
    const server = await redisServer()
    await allow(server, 'sessions')
    const url = `redis://app:x@127.0.0.1:${server.port}`
    assert.equal(await said(url), 'done')
    assert.match(await said(url, {}, true), /^unavailable NOPERM .*'(info|scan)' command.*databases\.md/s)
    await allow(server, 'sessions', 'a move')
    assert.equal(await said(url, {}, true), 'done')
  })

  test('replicas that are waited for', async () => {
    const { master } = await redisReplicated()
    await allow(master, 'sessions', '`waitReplicas`')
    assert.equal(await said(`redis://app:x@127.0.0.1:${master.port}`, { waitReplicas: 1, waitTimeout: 30 }), 'done')
  })

  test('a cluster', async () => {
    const { nodes } = await redisCluster()
    for (const node of nodes) await allow(node, 'sessions', '`waitReplicas`', 'a cluster', 'a move')
    const url = `redis+cluster://app:x@127.0.0.1:${nodes[0]?.port}`
    assert.equal(await said(url, { waitReplicas: 1, waitTimeout: 30 }, true), 'done')
  })

  test('behind Sentinels', async () => {
    const { master, sentinels, name } = await redisSentinel()
    await until(async () => (await allow(master, 'sessions')) === 'OK')
    const url = `redis+sentinel://app:x@127.0.0.1:${sentinels[0]?.port}/${name}`
    assert.equal(await said(url), 'done')
  })

  test('each of them is needed: without it something is refused', async () => {
    const server = await redisServer()
    const all = rights('sessions')
    // PTTL is used once a session has expired that its owner's list still has, which takes longer than a test.
    const commands = all.filter((right) => right.startsWith('+') && right !== '+pttl')
    for (const right of commands) {
      await allow(server, 'sessions')
      await server.cli('acl', 'setuser', 'app', right.replace('+', '-'))
      const words = await said(`redis://app:x@127.0.0.1:${server.port}`)
      assert.notEqual(words, 'done', `${right} is not needed`)
    }
  })
})
