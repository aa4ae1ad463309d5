// A server program of a test's own: on a port that nobody else takes, in a folder that goes with it, dead when the tests' process is.

import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { createInterface } from 'node:readline'
import { after } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { type Ports, ports } from './ports.ts'

export type Server = {
  readonly port: number
  readonly bus: number
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
  readonly args: (ports: Ports, folder: string) => readonly string[]
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

/** Servers refuse to run as root: as root, they run as nobody. */
const user = ((): { readonly uid: number; readonly gid: number } | undefined => {
  if (process.getuid?.() !== 0) return undefined
  const [, uid = '65534', gid = '65534'] = /^nobody:[^:]*:(\d+):(\d+):/m.exec(readFileSync('/etc/passwd', 'utf8')) ?? []
  return { uid: Number(uid), gid: Number(gid) }
})()

/** Milliseconds that a server may take to end in good order. */
const PATIENCE = 5_000

/** What every one of these servers says of a port that somebody else has. */
const TAKEN = /Address already in use/

/** How often a start is tried again: with other ports, or on the same ones until what was killed has let go of them. */
const TRIES = 20

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

/** Starts a program, and waits until it takes connections. */
export const started = async (recipe: Recipe): Promise<Server> => {
  const { program, prepare, args, ready, signal, crash = 'SIGKILL' } = recipe
  let own = await ports()
  const folder = mkdtempSync(join(tmpdir(), 'keepsake-server-'))
  if (user) chownSync(folder, user.uid, user.gid)
  const options = { ...user, cwd: folder, env: { PATH: process.env.PATH, LC_ALL: 'C', HOME: folder, TMPDIR: folder } }
  let child: ChildProcess | undefined

  /** @returns false where somebody else has one of its ports. @throws where it ended for another reason */
  const start = async (): Promise<boolean> => {
    const fresh = spawn(program, args(own, folder), { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
    abandoned.set(fresh, { folder, crash })
    child = fresh
    const said: string[] = []
    const ended = (resolve: (is: boolean) => void, reject: (error: Error) => void) => {
      if (said.some((line) => TAKEN.test(line))) return resolve(false)
      reject(new Error(`${program} ended at once. It said:\n${said.slice(-20).join('\n')}`))
    }
    const serves = await new Promise<boolean>((resolve, reject) => {
      fresh.on('error', reject)
      // Not at its exit: what it said last may come after that.
      fresh.on('close', () => ended(resolve, reject))
      for (const output of [fresh.stdout, fresh.stderr]) {
        createInterface({ input: output }).on('line', (line) => {
          if (said.length < 200) said.push(line)
          if (ready.test(line)) resolve(true)
        })
      }
    })
    if (!serves) {
      abandoned.delete(fresh)
      child = undefined
      return false
    }
    // So that a server that runs keeps no test process alive.
    fresh.unref()
    for (const output of [fresh.stdout, fresh.stderr]) (output as unknown as { unref(): void }).unref()
    return true
  }
  /** Tries until its ports are its own. */
  const insist = async (before: () => Promise<unknown>) => {
    for (let tries = TRIES; tries > 0; tries--) {
      if (await start()) return
      await before()
    }
    throw new Error(`${program} found its ports taken ${TRIES} times, at last ${own.port} and ${own.bus}.`)
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
  await insist(async () => {
    own = await ports()
  })
  const server: Server = {
    port: own.port,
    bus: own.bus,
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
      await insist(() => sleep(100))
    },
  }
  running.add(server)
  return server
}
