// A script of ours in a process of its own, its lines one by one, and a sudden end or a pause for it.

import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

const root = resolve(import.meta.dirname, '../..')

export type Started = {
  readonly child: ChildProcess
  /** Standard output, line by line. */
  readonly lines: AsyncIterator<string>
  /** Standard error so far. */
  readonly errors: () => string
  readonly ended: Promise<number | null>
}

/** Starts a script under the Node that runs the tests. It is killed when the test is over, if it still runs. */
export const start = (
  t: Pick<TestContext, 'after'>,
  script: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
): Started => {
  // The types know of no channel beside the three streams.
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

/** Waits until a process that was told to stand still does: it may go on for a moment, and Linux says when it does not. */
export const stopped = async (pid: number): Promise<void> => {
  const state = `/proc/${pid}/stat`
  while (existsSync(state) && !/\) [Tt] /.test(readFileSync(state, 'latin1'))) await sleep(5)
}
