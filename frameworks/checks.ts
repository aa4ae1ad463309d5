// Prints one line for each check of an application, and starts its server and the installed Chromium for them.

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { TestContext } from 'node:test'
import { promisify } from 'node:util'
import { opened } from '../test/support/chromium.ts'

type Cleanup = () => unknown

const cleanups: Cleanup[] = []

/** Calls `work` when all checks are done. */
export const after = (work: Cleanup): void => {
  cleanups.unshift(work)
}

let failures = 0

/** Prints `ok` and the rule, or `not ok`, the rule and the error. */
export const check = async (rule: string, work: () => Promise<unknown>): Promise<void> => {
  try {
    await work()
    console.log(`ok ${rule}`)
  } catch (error) {
    failures += 1
    console.log(`not ok ${rule}`)
    console.error(error)
  }
}

/** Runs all checks of a folder, and closes what they have opened. */
export const checks = async (work: () => Promise<void>): Promise<void> => {
  try {
    await work()
  } finally {
    for (const cleanup of cleanups) await cleanup()
  }
  process.exitCode = failures === 0 ? 0 : 1
}

export const chromium = () => opened({ after } as unknown as TestContext)

const execute = promisify(execFile)

/** Runs a command to its end. @throws an error with its output */
export const call = async (cwd: string, command: string, ...args: string[]): Promise<void> => {
  await execute(command, args, { cwd, env: quiet(), timeout: 600_000 }).catch((error) => {
    throw new Error(`${error.message}\n${error.stdout}`)
  })
}

const quiet = (env: Readonly<Record<string, string>> = {}) => ({ ...process.env, NEXT_TELEMETRY_DISABLED: '1', ...env })

/** A free port. */
export const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

export type RunningServer = {
  /** The lines that the server has printed. */
  readonly output: () => string
  /** Ends the server, and waits for its end. */
  readonly stop: () => Promise<void>
}

/** Starts a server, and waits until it prints a text. It is killed when all checks are done. */
export const startServer = async (
  cwd: string,
  ready: string,
  env: Readonly<Record<string, string>>,
  command: string,
  ...args: string[]
): Promise<RunningServer> => {
  // A group of its own: a development server starts another process.
  const child = spawn(command, args, { cwd, env: quiet(env), stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  const ended = once(child, 'close')
  let output = ''
  const started = new Promise<void>((resolve, reject) => {
    const onData = (chunk: Buffer) => {
      output += chunk
      if (output.includes(ready)) resolve()
    }
    child.stdout.on('data', onData)
    child.stderr.on('data', onData)
    ended.then(([code]) => reject(new Error(`The server ended with ${code}.\n${output}`)))
  })
  started.catch(() => {})
  const stop = async () => {
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null)
      process.kill(-child.pid, 'SIGKILL')
    await ended
  }
  after(stop)
  await started
  return { output: () => output, stop }
}
