// Starts a private server program for a test, on its own port and in its own folder. It ends with the process of the tests.

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
  /** The id of its process, for example to suspend it by a signal. */
  pid(): number
  /** Ends it in good order, and removes its folder. */
  stop(): Promise<void>
  /** Ends it at once, as a crash would. */
  kill(): Promise<void>
  /** Kills it if it runs, and starts it again on the same port with the same data, with more arguments if given. */
  restart(...more: readonly string[]): Promise<void>
}

/** How to run a program. */
export type Recipe = {
  readonly program: string
  /** The command that creates its data before the first start. */
  readonly prepare?: (folder: string) => readonly [program: string, args: readonly string[]]
  readonly args: (ports: Ports, folder: string) => readonly string[]
  /** The line of its output after which it accepts connections. */
  readonly ready: RegExp
  /** The signal that ends it in good order. */
  readonly signal: NodeJS.Signals
  /** The signal that ends it at once, with all of its processes. Default SIGKILL. */
  readonly crash?: NodeJS.Signals
}

/** Finds the path of a program in these folders or on the PATH. @throws Error with the package to install */
export const program = (name: string, debianPackage: string, folders: readonly string[] = []): string => {
  const places = [...folders, ...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']
  const path = places.map((place) => join(place, name)).find((file) => existsSync(file))
  if (path !== undefined) return path
  throw new Error(
    `The tests need ${name} of the Debian package ${debianPackage}. Run node scripts/bootstrap.cjs --services`,
  )
}

/** Servers refuse to run as root, so the user root runs them as the user nobody. */
const user = ((): { readonly uid: number; readonly gid: number } | undefined => {
  if (process.getuid?.() !== 0) return undefined
  const [, uid = '65534', gid = '65534'] = /^nobody:[^:]*:(\d+):(\d+):/m.exec(readFileSync('/etc/passwd', 'utf8')) ?? []
  return { uid: Number(uid), gid: Number(gid) }
})()

/** Milliseconds that a server may take to end in good order. */
const STOP_LIMIT = 5_000

/** All of these servers print this if another process has their port. */
const PORT_TAKEN = /Address already in use/

/** How many times a start is tried: with other ports, or on the same ports until a killed server has released them. */
const MAX_TRIES = 20

const running = new Set<Server>()
/** Processes that must be killed if this process exits. */
const children = new Map<ChildProcess, { readonly folder: string; readonly crash: NodeJS.Signals }>()

/** Removes a folder. It tries many times, because a server that is ending still writes files. */
const removeFolder = (folder: string): void => {
  for (let tries = 100; tries > 0 && existsSync(folder); tries--) {
    try {
      rmSync(folder, { recursive: true, force: true })
    } catch {
      // The server created or removed a file in the meantime.
    }
    if (existsSync(folder)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
  }
}

// In good order after the tests. If the process exits earlier, by force.
after(() => Promise.all([...running].map((server) => server.stop())))
process.on('exit', () => {
  for (const [child, { crash }] of children) child.kill(crash)
  for (const { folder } of children.values()) removeFolder(folder)
})
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.once(signal, () => process.exit(1))

/** Starts a program, and waits until it accepts connections. */
export const startServer = async (recipe: Recipe): Promise<Server> => {
  const { program, prepare, args, ready, signal, crash = 'SIGKILL' } = recipe
  let reserved = await ports()
  const folder = mkdtempSync(join(tmpdir(), 'keepsake-server-'))
  if (user) chownSync(folder, user.uid, user.gid)
  const options = { ...user, cwd: folder, env: { PATH: process.env.PATH, LC_ALL: 'C', HOME: folder, TMPDIR: folder } }
  let child: ChildProcess | undefined
  let moreArgs: readonly string[] = []

  /** Returns false if another process has one of its ports. @throws Error if it ended for another reason */
  const start = async (): Promise<boolean> => {
    const spawned = spawn(program, [...args(reserved, folder), ...moreArgs], {
      ...options,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    children.set(spawned, { folder, crash })
    child = spawned
    const output: string[] = []
    const onClose = (resolve: (isServing: boolean) => void, reject: (error: Error) => void) => {
      if (output.some((line) => PORT_TAKEN.test(line))) return resolve(false)
      reject(new Error(`${program} ended at once. Its output:\n${output.slice(-20).join('\n')}`))
    }
    const isServing = await new Promise<boolean>((resolve, reject) => {
      spawned.on('error', reject)
      // Not on 'exit', because the last output may come later.
      spawned.on('close', () => onClose(resolve, reject))
      for (const input of [spawned.stdout, spawned.stderr]) {
        createInterface({ input }).on('line', (line) => {
          if (output.length < 200) output.push(line)
          if (ready.test(line)) resolve(true)
        })
      }
    })
    if (!isServing) {
      children.delete(spawned)
      child = undefined
      return false
    }
    // A running server keeps no test process alive.
    spawned.unref()
    for (const stream of [spawned.stdout, spawned.stderr]) (stream as unknown as { unref(): void }).unref()
    return true
  }
  /** Tries until the server has its ports. */
  const startWithRetries = async (beforeRetry: () => Promise<unknown>) => {
    for (let tries = MAX_TRIES; tries > 0; tries--) {
      if (await start()) return
      await beforeRetry()
    }
    throw new Error(
      `${program} found its ports taken ${MAX_TRIES} times, at last ${reserved.port} and ${reserved.bus}.`,
    )
  }
  const end = async (endSignal: NodeJS.Signals) => {
    const dying = child
    child = undefined
    if (dying === undefined) return
    if (dying.exitCode === null && dying.signalCode === null) {
      dying.ref()
      dying.kill(endSignal)
      const timer = setTimeout(() => dying.kill('SIGKILL'), STOP_LIMIT)
      await once(dying, 'exit')
      clearTimeout(timer)
    }
    children.delete(dying)
  }

  if (prepare) await promisify(execFile)(...(prepare(folder) as [string, string[]]), options)
  await startWithRetries(async () => {
    reserved = await ports()
  })
  const server: Server = {
    port: reserved.port,
    bus: reserved.bus,
    folder,
    pid: () => child?.pid as number,
    async stop() {
      running.delete(server)
      await end(signal)
      removeFolder(folder)
    },
    kill: () => end(crash),
    async restart(...more) {
      await end(crash)
      moreArgs = more
      await startWithRetries(() => sleep(100))
    },
  }
  running.add(server)
  return server
}
