// A process that works on a folder of sessions: the first argument names the task, and each printed line is one step.

import { chmodSync, closeSync, openSync, readdirSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import type { Entry, KeepsakeError } from 'keepsake'
import { fileBackend } from '../../src/backends/file/backend.ts'
import { fileOf, slotOf } from '../../src/backends/file/file-name.ts'
import { openLocks } from '../../src/backends/file/locks.ts'
import { freshKey, freshVersion } from './entries.ts'

const [task = '', directory = '', key = '', more = ''] = process.argv.slice(2)
const print = (line: unknown) => writeSync(1, `${line}\n`)
const codeOf = async (act: () => unknown): Promise<unknown> => {
  try {
    await act()
    return 'done'
  } catch (error) {
    return (error as { code?: unknown }).code ?? String(error)
  }
}

/** Calls `act` again if it waited two seconds for a lock in vain: then it has changed nothing. */
const retry = async <T>(act: () => T | Promise<T>): Promise<T> => {
  for (;;) {
    try {
      return await act()
    } catch (error) {
      if ((error as KeepsakeError).code !== 'unavailable') throw error
    }
  }
}

const increment = async (backend: ReturnType<typeof fileBackend>): Promise<number | undefined> => {
  const entry = (await backend.get(key)) as Entry
  const n = Number(entry.value) + 1
  const change = { value: String(n), metadata: 'x'.repeat(300), version: freshVersion() }
  return (await backend.set(key, change, entry.version)) === undefined ? n : undefined
}

const tasks: Record<string, () => Promise<void>> = {
  /** Increments `more` times. */
  async count() {
    const backend = fileBackend(directory)
    for (let done = 0; done < Number(more); ) {
      if ((await retry(() => increment(backend))) !== undefined) done++
    }
  },
  /** Increments until it is killed. Prints each number that was saved. */
  async write() {
    const backend = fileBackend(directory)
    for (;;) print(await retry(() => increment(backend)))
  },
  /** Takes a lock, prints a line, and never gives the lock back. */
  async hold() {
    await openLocks(directory).write(key, () => {
      print('held')
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number.POSITIVE_INFINITY)
    })
  },
  /** Takes all locks, prints a line, and never gives them back. */
  async 'hold-all'() {
    await openLocks(directory).underEach(() => {
      print('held')
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number.POSITIVE_INFINITY)
    })
  },
  /** Stops while it holds the lock of a session, immediately before it writes or removes. Prints how often it tried. */
  async stop() {
    const locks = openLocks(directory)
    const file = fileOf(key)
    const path = join(directory, file)
    let times = 0
    const stopAtFirst = (act: () => void) => {
      times++
      if (times > 1) return
      process.kill(process.pid, 'SIGSTOP')
      act()
    }
    if (more === 'write') await locks.write(slotOf(file), (put) => stopAtFirst(() => put(path, 'late', false)))
    else await locks.remove(slotOf(file), (remove) => stopAtFirst(() => remove(path, false)))
    print(times)
  },
  /** Generates expired sessions and touches them. Prints how many disappeared after the touch, while others sweep. */
  async revive() {
    const backend = fileBackend(directory)
    let lost = 0
    for (let i = 0; i < Number(more); i++) {
      const entry = { value: '0', metadata: '', version: freshVersion(), expiresAt: 1 }
      await retry(() => backend.generate(key, entry))
      await retry(() => backend.touch(key, 9e15))
      if ((await backend.get(key)) === undefined) continue
      for (let again = 0; again < 20; again++) {
        if ((await backend.get(key)) !== undefined) continue
        lost++
        break
      }
      await retry(() => backend.clear(key))
    }
    print(lost)
  },
  /** Generates sessions of one owner until it is killed, while the folder has few. Prints the key of each. */
  async own() {
    const backend = fileBackend(directory)
    for (;;) {
      while (readdirSync(directory).length > 100) await setImmediate()
      const newKey = freshKey()
      const entry = { value: '{}', metadata: '', version: freshVersion(), expiresAt: 9e15, owner: key }
      await retry(() => backend.generate(newKey, entry))
      print(newKey)
      // A save at the same time as a clear must not bring the session back.
      await retry(() => backend.set(newKey, { value: '{"n":2}', metadata: '', version: freshVersion() }, entry.version))
    }
  },
  /** Clears an owner until it is killed. Prints how many sessions each clear ended. */
  async disown() {
    const backend = fileBackend(directory)
    for (;;) print(await retry(() => backend.byOwner?.clear(key)))
  },
  /** Lists an owner and sweeps until it is killed. */
  async 'list-and-sweep'() {
    const backend = fileBackend(directory)
    for (;;) {
      await retry(() => backend.byOwner?.list(key))
      await retry(() => backend.sweep?.(Date.now() + 700_000, 100))
    }
  },
  /** Changes one session with a flush. Prints the outcome. */
  async flush() {
    const backend = fileBackend(directory, { durability: 'power' })
    print(await codeOf(() => increment(backend)))
  },
  /** Uses the backend while no more files can be opened. Prints the outcomes. */
  async starve() {
    const backend = fileBackend(directory)
    const entry = (await backend.get(key)) as Entry
    const files: number[] = []
    const full = await codeOf(() => {
      for (;;) files.push(openSync('/dev/null', 'r'))
    })
    const change = { value: '2', metadata: '', version: freshVersion() }
    const answers = [
      full,
      await codeOf(() => backend.get(key)),
      await codeOf(() => backend.set(key, change, entry.version)),
      await codeOf(() => backend.touch(key, entry.expiresAt + 1)),
      await codeOf(() => backend.sweep?.(0, 1)),
      await codeOf(() => backend.byOwner?.list('anna')),
    ]
    for (const file of files) closeSync(file)
    const value = (await backend.get(key))?.value
    print(JSON.stringify([...answers, value, await backend.set(key, change, entry.version)]))
  },
  /** Uses the backend, as a user without privileges, after the directory has become read-only. Prints the outcomes. */
  async deny() {
    const backend = fileBackend(directory)
    const entry = { value: '1', metadata: '', version: 'one', expiresAt: 9e15 }
    await backend.generate(key, entry)
    chmodSync(directory, 0o500)
    const answers = [
      await codeOf(() => backend.set(key, { value: '2', metadata: '', version: 'two' }, 'one')),
      await codeOf(() => backend.clear(key)),
      (await backend.get(key))?.value,
    ]
    chmodSync(directory, 0o700)
    chmodSync(join(directory, 'locks'), 0o500)
    answers.push(await codeOf(() => backend.clear(key)))
    chmodSync(more, 0)
    print(JSON.stringify([...answers, await codeOf(() => backend.get(key))]))
  },
}

await tasks[task]?.()
