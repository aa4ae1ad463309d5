// Runs a script of the tests in a process of its own, and reads its output line by line.

import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

const root = resolve(import.meta.dirname, '../..')

export type ScriptProcess = {
  readonly child: ChildProcess
  /** The lines of standard output. */
  readonly lines: AsyncIterator<string>
  /** Returns the text of standard error so far. */
  readonly errors: () => string
  readonly ended: Promise<number | null>
}

/** Starts a script with the Node that runs the tests. It is killed after the test. */
export const start = (
  t: Pick<TestContext, 'after'>,
  script: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
): ScriptProcess => {
  // The types do not cover the fourth stream, the channel for messages.
  const child = spawn(process.execPath, [join(root, script), ...args], {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  }) as ChildProcessByStdio<null, Readable, Readable>
  t.after(() => child.kill('SIGKILL'))
  let errors = ''
  child.stderr.on('data', (chunk) => {
    errors += chunk
  })
  const ended = once(child, 'close').then(([code]) => code as number | null)
  return {
    child,
    lines: createInterface({ input: child.stdout })[Symbol.asyncIterator](),
    errors: () => errors,
    ended,
  }
}

/**
 * Waits until a process that received SIGSTOP has stopped: it may run for a moment longer, and only Linux tells when it
 * stops.
 */
export const waitUntilStopped = async (pid: number): Promise<void> => {
  const state = `/proc/${pid}/stat`
  while (existsSync(state) && !/\) [Tt] /.test(readFileSync(state, 'latin1'))) await sleep(5)
}
