// Redis over TLS, with certificates of a private authority for names but not addresses, as managed servers have them.

import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { promisify } from 'node:util'
import type { Ports } from '../support/ports.ts'
import { program, type Server, startServer } from '../support/servers.ts'
import { eventually } from '../support/until.ts'

const openssl = program('openssl', 'openssl')
const redisCli = program('redis-cli', 'redis-server')

/** Makes a folder with `ca.crt`, and a certificate of it for `localhost` and no address: `own.crt`, `own.key`. */
const createCertificates = (): string => {
  const cwd = mkdtempSync(join(tmpdir(), 'keepsake-'))
  chmodSync(cwd, 0o755)
  const run = (line: string) => execFileSync(openssl, line.split(' '), { cwd, stdio: 'ignore' })
  run('req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=ca')
  run(
    'req -newkey rsa:2048 -nodes -keyout own.key -out own.csr -subj /CN=localhost -addext subjectAltName=DNS:localhost',
  )
  run('x509 -req -in own.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out own.crt -days 2 -copy_extensions copy')
  // Redis runs as another user, and that user must be able to read the file.
  chmodSync(join(cwd, 'own.key'), 0o644)
  return cwd
}

const SCRIPT = `
import { connectRedis } from 'keepsake/redis'

const backend = await connectRedis(process.argv.at(-1), { storeTimeout: 20 })
const key = 'app.aaaaaaaaaaaa'
const entry = { value: '{}', metadata: '', version: 'version1', expiresAt: Date.now() + 60_000 }
try {
  console.log(await backend.generate(key, entry), await backend.clear(key), await backend.get(key))
} catch (error) {
  console.log(error.code, error.message)
}
await backend.close()
`

suite('Redis over TLS, with certificates for names', () => {
  let folder = ''
  before(() => {
    folder = createCertificates()
  })
  after(() => rmSync(folder, { recursive: true, force: true }))

  const tls = ({ port }: Ports) => {
    const file = (name: string) => join(folder, name)
    return [
      ...['--bind', '127.0.0.1', '--port', '0', '--tls-port', `${port}`, '--tls-auth-clients', 'no', '--save', ''],
      ...['--tls-cert-file', file('own.crt'), '--tls-key-file', file('own.key'), '--tls-ca-cert-file', file('ca.crt')],
    ]
  }
  const server = (args: (ports: Ports) => readonly string[], ready = /Ready to accept/): Promise<Server> =>
    startServer({
      program: program('redis-server', 'redis-server'),
      args: (ports, dir) => [...args(ports), '--dir', dir],
      ready,
      signal: 'SIGKILL',
    })
  const cli = async ({ port }: Server, ...command: readonly string[]) => {
    const args = ['-h', 'localhost', '-p', `${port}`, '--tls', '--cacert', join(folder, 'ca.crt'), ...command]
    return (await promisify(execFile)(redisCli, args)).stdout
  }
  /** Returns the output of a process. It trusts the private authority, or only those that Node knows. */
  const outputOf = async (url: string, trusts = true) => {
    const env = { ...process.env, ...(trusts && { NODE_EXTRA_CA_CERTS: join(folder, 'ca.crt') }) }
    const args = ['--input-type=module', '-e', SCRIPT, url]
    const cwd = join(import.meta.dirname, '../..')
    const { stdout, stderr } = await promisify(execFile)(process.execPath, args, { env, cwd })
    assert.equal(stderr, '')
    return stdout.trim()
  }
  const cluster = async (...announced: readonly string[]) => {
    const one = await server((ports) => [
      ...tls(ports),
      ...['--cluster-enabled', 'yes', '--tls-cluster', 'yes', '--cluster-port', `${ports.bus}`, ...announced],
    ])
    await cli(one, 'cluster', 'addslotsrange', '0', '16383')
    await eventually(async () => (await cli(one, 'cluster', 'info')).includes('cluster_state:ok'))
    return one
  }
  const DONE = 'undefined undefined undefined'

  test('a single server', async () => {
    const { port } = await server(tls)
    assert.equal(await outputOf(`rediss://localhost:${port}`), DONE)
  })

  test('a cluster that names its servers by name', async () => {
    const names = ['--cluster-announce-hostname', 'localhost', '--cluster-preferred-endpoint-type', 'hostname']
    const { port } = await cluster(...names)
    assert.equal(await outputOf(`rediss+cluster://localhost:${port}`), DONE)
  })

  test('a cluster that names its servers by address', async () => {
    const { port } = await cluster('--cluster-announce-ip', '127.0.0.1')
    assert.equal(await outputOf(`rediss+cluster://localhost:${port}`), DONE)
  })

  test('Sentinels that name their master by address', async () => {
    const master = await server(tls)
    const config = `sentinel monitor mymaster 127.0.0.1 ${master.port} 1`
    const sentinel = await startServer({
      program: program('redis-server', 'redis-server'),
      prepare: (dir) => ['sh', ['-c', 'printf "%s" "$1" > "$2"', 'sh', config, `${dir}/own.conf`]],
      args: (ports, dir) => [`${dir}/own.conf`, ...tls(ports), '--tls-replication', 'yes', '--sentinel'],
      ready: /Sentinel ID is/,
      signal: 'SIGKILL',
    })
    await eventually(async () => /flags\nmaster\n/.test(await cli(sentinel, 'sentinel', 'master', 'mymaster')))
    assert.equal(await outputOf(`rediss+sentinel://localhost:${sentinel.port}/mymaster`), DONE)
  })

  for (const kind of ['rediss', 'rediss+cluster']) {
    test(`${kind}: if the certificate is not for the host or its authority is not trusted, the error gives advice`, async () => {
      const { port } = kind === 'rediss' ? await server(tls) : await cluster()
      for (const [host, trusts] of [
        ['127.0.0.1', true],
        ['localhost', false],
      ] as const) {
        const output = await outputOf(`${kind}://${host}:${port}`, trusts)
        assert.match(output, /^unavailable Redis cannot be reached: .*certificate.*Name the host.*NODE_EXTRA_CA_CERTS/s)
      }
    })
  }
})
