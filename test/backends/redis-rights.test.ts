// The permissions of a Redis user in docs/backends/redis.md are sufficient and necessary, and keepsake prints nothing.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { suite, test } from 'node:test'
import { promisify } from 'node:util'
import { type RedisServer, redisCluster, redisReplicated, redisSentinel, redisServer } from '../support/redis-server.ts'
import { eventually } from '../support/until.ts'

const root = join(import.meta.dirname, '../..')

/** The permissions of a feature, from the line of docs/backends/redis.md that begins with these words. */
const permissionsFor = (feature: string): string[] => {
  const docs = readFileSync(join(root, 'docs/backends/redis.md'), 'utf8')
  const line = docs.split('\n').find((one) => one.startsWith(`| ${feature}`))
  const list = /`([^`]*)` \|$/.exec(line ?? '')?.[1] ?? assert.fail(`docs/backends/redis.md has no line for ${feature}`)
  // In a table, the character | is escaped.
  return list.replaceAll('\\|', '|').split(' ')
}

const allow = ({ cli }: RedisServer, ...features: readonly string[]) =>
  cli('acl', 'setuser', 'app', 'reset', 'on', '>x', ...features.flatMap(permissionsFor))

/** Runs all contract cases in a process, and a move to memory if `moves` is true. Returns the output. */
const outputOf = async (url: string, options: object = {}, moves = false) => {
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
      if (${moves}) await copySessions(backend, await backendFromUrl('memory:'))
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

suite('the permissions of a Redis user', () => {
  test('permissions for sessions: everything but a move works, and nothing is printed', async () => {
    const server = await redisServer()
    await allow(server, 'sessions')
    const url = `redis://app:x@127.0.0.1:${server.port}`
    assert.equal(await outputOf(url), 'done')
    assert.match(await outputOf(url, {}, true), /^unavailable NOPERM .*'(info|scan)' command.*redis\.md/s)
    await allow(server, 'sessions', 'a move')
    assert.equal(await outputOf(url, {}, true), 'done')
  })

  test('permissions for waitReplicas', async () => {
    const { master } = await redisReplicated()
    await allow(master, 'sessions', '`waitReplicas`')
    assert.equal(await outputOf(`redis://app:x@127.0.0.1:${master.port}`, { waitReplicas: 1, waitTimeout: 30 }), 'done')
  })

  test('permissions for a cluster', async () => {
    const { nodes } = await redisCluster()
    for (const node of nodes) await allow(node, 'sessions', '`waitReplicas`', 'a cluster', 'a move')
    const url = `redis+cluster://app:x@127.0.0.1:${nodes[0]?.port}`
    assert.equal(await outputOf(url, { waitReplicas: 1, waitTimeout: 30 }, true), 'done')
  })

  test('permissions behind Sentinels', async () => {
    const { master, sentinels, name } = await redisSentinel()
    await eventually(async () => (await allow(master, 'sessions')) === 'OK')
    const url = `redis+sentinel://app:x@127.0.0.1:${sentinels[0]?.port}/${name}`
    assert.equal(await outputOf(url), 'done')
  })

  test('each permission is necessary: without it, an operation is refused', async () => {
    const server = await redisServer()
    const all = permissionsFor('sessions')
    // PTTL is used only after a listed session has expired, which takes longer than a test.
    const commands = all.filter((permission) => permission.startsWith('+') && permission !== '+pttl')
    for (const permission of commands) {
      await allow(server, 'sessions')
      await server.cli('acl', 'setuser', 'app', permission.replace('+', '-'))
      const output = await outputOf(`redis://app:x@127.0.0.1:${server.port}`)
      assert.notEqual(output, 'done', `${permission} is not necessary`)
    }
  })
})
