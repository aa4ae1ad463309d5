// A server program of a test's own: on a free port, in a folder that goes with it, dead when the tests' process is.

import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { createInterface } from 'node:readline'
import { after } from 'node:test'
import { promisify } from 'node:util'

export type Server = {
  readonly port: number
  readonly folder: string
  /** Of its process, where it runs: a signal may make it stand still. */
  pid(): number
  /** Ends it as its operator would, and its folder with it. */
  stop(): Promise<void>
  /** Ends it at once, without a word to it. */
  kill(): Promise<void>
  /** Starts it again on the same port and the same data, having killed it if it runs. */
  restart(): Promise<void>
}

/** How a program is run. */
export type Recipe = {
  readonly program: string
  /** What makes its data, before the first start. */
  readonly prepare?: (folder: string) => readonly [program: string, args: readonly string[]]
  readonly args: (port: number, folder: string) => readonly string[]
  /** The line of its output that says that it takes connections. */
  readonly ready: RegExp
  /** The signal that ends it in good order, soon. */
  readonly signal: NodeJS.Signals
  /** The signal that ends it at once, with all of its processes. Default SIGKILL. */
  readonly crash?: NodeJS.Signals
}

/** The path of a program, in these folders or on the PATH. @throws where it is not installed: what to install */
export const program = (name: string, debianPackage: string, folders: readonly string[] = []): string => {
  const places = [...folders, ...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']
  const path = places.map((place) => join(place, name)).find((file) => existsSync(file))
  if (path !== undefined) return path
  throw new Error(
    `The tests need ${name}, of the Debian package ${debianPackage}: run node scripts/bootstrap.cjs --services`,
  )
}

export const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

/** Servers refuse to run as root: as root, they run as nobody. */
const user = ((): { readonly uid: number; readonly gid: number } | undefined => {
  if (process.getuid?.() !== 0) return undefined
  const [, uid = '65534', gid = '65534'] = /^nobody:[^:]*:(\d+):(\d+):/m.exec(readFileSync('/etc/passwd', 'utf8')) ?? []
  return { uid: Number(uid), gid: Number(gid) }
})()

/** Milliseconds that a server may take to end in good order. */
const PATIENCE = 5_000

const running = new Set<Server>()
const abandoned = new Map<ChildProcess, { readonly folder: string; readonly crash: NodeJS.Signals }>()

/** Again and again, because a server that is being ended still writes. */
const remove = (folder: string): void => {
  for (let tries = 100; tries > 0 && existsSync(folder); tries--) {
    try {
      rmSync(folder, { recursive: true, force: true })
    } catch {
      // What was there when it looked had gone, or what had gone was there again.
    }
    if (existsSync(folder)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
  }
}

// In good order where there is time for it, and else by force.
after(() => Promise.all([...running].map((server) => server.stop())))
process.on('exit', () => {
  for (const [child, { crash }] of abandoned) child.kill(crash)
  for (const { folder } of abandoned.values()) remove(folder)
})
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.once(signal, () => process.exit(1))

/** Starts a program, on this port or a free one, and waits until it takes connections. */
export const started = async (recipe: Recipe, wanted?: number): Promise<Server> => {
  const { program, prepare, args, ready, signal, crash = 'SIGKILL' } = recipe
  const port = wanted ?? (await freePort())
  const folder = mkdtempSync(join(tmpdir(), 'keepsake-server-'))
  if (user) chownSync(folder, user.uid, user.gid)
  const options = { ...user, cwd: folder, env: { PATH: process.env.PATH, LC_ALL: 'C', HOME: folder, TMPDIR: folder } }
  let child: ChildProcess | undefined

  const start = async () => {
    const fresh = spawn(program, args(port, folder), { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
    abandoned.set(fresh, { folder, crash })
    child = fresh
    const said: string[] = []
    await new Promise<void>((resolve, reject) => {
      fresh.on('error', reject)
      fresh.on('exit', () => reject(new Error(`${program} ended at once. It said:\n${said.slice(-20).join('\n')}`)))
      for (const output of [fresh.stdout, fresh.stderr]) {
        createInterface({ input: output }).on('line', (line) => {
          if (said.length < 200) said.push(line)
          if (ready.test(line)) resolve()
        })
      }
    })
    // So that a server that runs keeps no test process alive.
    fresh.unref()
    for (const output of [fresh.stdout, fresh.stderr]) (output as unknown as { unref(): void }).unref()
  }
  const end = async (by: NodeJS.Signals) => {
    const dying = child
    child = undefined
    if (dying === undefined) return
    if (dying.exitCode === null && dying.signalCode === null) {
      dying.ref()
      dying.kill(by)
      const late = setTimeout(() => dying.kill('SIGKILL'), PATIENCE)
      await once(dying, 'exit')
      clearTimeout(late)
    }
    abandoned.delete(dying)
  }

  if (prepare) await promisify(execFile)(...(prepare(folder) as [string, string[]]), options)
  await start()
  const server: Server = {
    port,
    folder,
    pid: () => child?.pid as number,
    async stop() {
      running.delete(server)
      await end(signal)
      remove(folder)
    },
    kill: () => end(crash),
    async restart() {
      await end(crash)
      await start()
    },
  }
  running.add(server)
  return server
}
