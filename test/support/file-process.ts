// What a process of its own does to a folder of sessions: its first argument says which, each line that it prints is done.

import { randomBytes } from 'node:crypto'
import { chmodSync, closeSync, openSync, readdirSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import type { Entry, KeepsakeError } from 'keepsake'
import { fileBackend } from '../../src/backends/file/backend.ts'
import { openLocks } from '../../src/backends/file/locks.ts'

const [deed = '', directory = '', key = '', more = ''] = process.argv.slice(2)
const say = (line: unknown) => writeSync(1, `${line}\n`)
const freshVersion = () => randomBytes(6).toString('base64url')
const codeOf = async (act: () => unknown): Promise<unknown> => {
  try {
    await act()
    return 'done'
  } catch (error) {
    return (error as { code?: unknown }).code ?? String(error)
  }
}

/** Having waited for its turn for two seconds in vain, a call has changed nothing, and may be made again. */
const insisted = async <T>(act: () => T | Promise<T>): Promise<T> => {
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

const deeds: Record<string, () => Promise<void>> = {
  /** Counts `more` times. */
  async count() {
    const backend = fileBackend(directory)
    for (let done = 0; done < Number(more); ) {
      if ((await insisted(() => increment(backend))) !== undefined) done++
    }
  },
  /** Counts until it is killed, and says what is saved. */
  async write() {
    const backend = fileBackend(directory)
    for (;;) say(await insisted(() => increment(backend)))
  },
  /** Takes the turn of a slot, says so, and never gives it back. */
  async hold() {
    await openLocks(directory).write(key, () => {
      say('held')
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number.POSITIVE_INFINITY)
    })
  },
  /** Stands still in its turn, after it has decided what to write or remove and before it does. */
  async stand() {
    const turns = openLocks(directory)
    const file = Buffer.from(key, 'base64url').toString('hex')
    const path = join(directory, file)
    let times = 0
    const once = (act: () => void) => {
      times++
      if (times > 1) return
      process.kill(process.pid, 'SIGSTOP')
      act()
    }
    if (more === 'write') await turns.write(file.slice(0, 2), (put) => once(() => put(path, 'late', false)))
    else await turns.remove(file.slice(0, 2), (remove) => once(() => remove(path, false)))
    say(times)
  },
  /** Begins sessions that are over, and touches them: what it then finds has to stay there while others sweep. */
  async revive() {
    const backend = fileBackend(directory)
    let lost = 0
    for (let i = 0; i < Number(more); i++) {
      const entry = { value: '0', metadata: '', version: freshVersion(), expiresAt: 1 }
      await insisted(() => backend.generate(key, entry))
      await insisted(() => backend.touch(key, 9e15))
      if ((await backend.get(key)) === undefined) continue
      for (let again = 0; again < 20; again++) {
        if ((await backend.get(key)) !== undefined) continue
        lost++
        break
      }
      await insisted(() => backend.clear(key))
    }
    say(lost)
  },
  /** Generates sessions of one owner until it is killed, so long as they are few, and says their keys, and how it went. */
  async own() {
    const backend = fileBackend(directory)
    for (;;) {
      while (readdirSync(directory).length > 100) await setImmediate()
      const born = randomBytes(32).toString('base64url')
      const entry = { value: '{}', metadata: '', version: freshVersion(), expiresAt: 9e15, owner: key }
      const answer = await insisted(() => backend.generate(born, entry))
      say(`${born} ${answer ?? 'done'}`)
      // A save that comes with a clear brings nothing back.
      const change = { value: '{"n":2}', metadata: '', version: freshVersion() }
      if (answer !== undefined) continue
      if ((await insisted(() => backend.set(born, change, entry.version))) === 'stale') say('stale')
    }
  },
  /** Clears an owner until it is killed, and says how many it was. */
  async disown() {
    const backend = fileBackend(directory)
    for (;;) say(await insisted(() => backend.byOwner?.clear(key)))
  },
  /** Opens the folder, and says how many sessions an owner has. */
  async list() {
    say((await fileBackend(directory).byOwner?.list(key))?.length)
  },
  /** Lists an owner, and sweeps as if each mark were old, until it is killed. */
  async tidy() {
    const backend = fileBackend(directory)
    for (;;) {
      await insisted(() => backend.byOwner?.list(key))
      await insisted(() => backend.sweep?.(Date.now() + 700_000, 100))
    }
  },
  /** Changes one session with a flush, and says how that went. */
  async flush() {
    const backend = fileBackend(directory, { durability: 'power' })
    say(await codeOf(() => increment(backend)))
  },
  /** Begins a session of an owner with a flush. */
  async 'flush-owned'() {
    const backend = fileBackend(directory, { durability: 'power' })
    const entry = { value: '1', metadata: '', version: freshVersion(), expiresAt: 9e15, owner: 'anna' }
    say(await codeOf(() => backend.generate(key, entry)))
  },
  /** Uses the backend while no more files can be opened. */
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
    ]
    for (const file of files) closeSync(file)
    const value = (await backend.get(key))?.value
    say(JSON.stringify([...answers, value, await backend.set(key, change, entry.version)]))
  },
  /** Uses the backend, as a user without privileges, when it may no longer write to its directory. */
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
    say(JSON.stringify([...answers, await codeOf(() => backend.get(key))]))
  },
}

await deeds[deed]?.()
