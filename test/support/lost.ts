// How much of a time the machine kept processes from running: what is judged by a clock is judged without that.

import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'

/** Milliseconds since 1970 that do not go back, the same in all processes of a machine. */
export const now = (): number => performance.timeOrigin + performance.now()

/*
 * Two measures. How late the timers of this process are: then its loop was blocked, or the process or the whole machine
 * stood still. And Linux's own count of the time in which any process had to wait for a processor, the disk or memory
 * (/proc/pressure), which says how servers fared. That count is an average of the processors, so one process may have
 * waited for as many times more: it is an upper bound, and next to nothing on a machine that has time for its tests.
 */
const BEAT = 10
const EACH = 5
const PRESSURES = ['cpu', 'io', 'memory'].map((what) => `/proc/pressure/${what}`)

/** Milliseconds since the machine began; 0 where the system does not count them. */
const waited = (): number => {
  let sum = 0
  for (const path of PRESSURES) {
    try {
      sum += Number(/^some .* total=(\d+)/.exec(readFileSync(path, 'utf8'))?.[1] ?? 0) / 1000
    } catch {
      // Not Linux, or a kernel that does not count.
    }
  }
  return sum * availableParallelism()
}

type Sample = { readonly at: number; readonly late: number; readonly waited: number }
let beat = now()
let late = 0
const samples: Sample[] = [{ at: beat, late, waited: waited() }]
const sample = () => samples.push({ at: now(), late, waited: waited() })
let beats = 0

setInterval(() => {
  const at = now()
  late += Math.max(0, at - beat - BEAT)
  beat = at
  if (++beats % EACH === 0) sample()
}, BEAT).unref()

/** What was counted between the last sample before a time and the first one after it. */
const between = (from: number, to: number) => {
  if (to > (samples.at(-1) as Sample).at) {
    const at = now()
    late += Math.max(0, at - beat - BEAT)
    beat = Math.max(beat, at - BEAT)
    sample()
  }
  const first = samples.findLast(({ at }) => at <= from) ?? (samples[0] as Sample)
  const last = samples.find(({ at }) => at >= to) ?? (samples.at(-1) as Sample)
  return { late: last.late - first.late, waited: Math.min(last.at - first.at, last.waited - first.waited) }
}

/** Milliseconds that this process was late between two moments, until now at most, since this file was imported. */
export const lateness = (from: number, to: number = now()): number => between(from, to).late

/** Milliseconds that any process of the machine may have lost, this one and those that it waits for. */
export const lost = (from: number, to: number = now()): number => {
  const { late, waited } = between(from, to)
  return late + waited
}

/** Milliseconds that the machine has to have lost before anything is forgiven that is not in time. */
const FORGIVEN = 250
const TRIES = 20

/** Whether the machine has stood still since then, for long enough to keep a client with a clock from what it did. */
export const stoodStill = (since: number): boolean => lost(since) >= FORGIVEN

/**
 * Does what gives up by a clock of its own (a turn that does not come, a connection that is not made), and does it again
 * where it failed while the machine stood still.
 */
export const allowing = async <T>(act: () => Promise<T> | T): Promise<T> => {
  for (let left = TRIES; ; left--) {
    const started = now()
    try {
      return await act()
    } catch (error) {
      if (left === 0 || !stoodStill(started)) throw error
    }
  }
}
