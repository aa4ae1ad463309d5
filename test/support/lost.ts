// Measures how long the machine kept processes from running, so that tests with a clock can subtract that time.

import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'

/** Milliseconds since 1970. They never go back, and all processes of a machine agree on them. */
export const now = (): number => performance.timeOrigin + performance.now()

/*
 * There are two measures. One is how late the timers of this process are: then its event loop was blocked, or the process
 * or the whole machine was suspended. The other is Linux's count of the time in which any process waited for a processor,
 * the disk or memory (/proc/pressure), because that also covers the servers. The count is an average over the processors,
 * so it is multiplied by their number. The result is an upper bound, and it is near 0 if the machine has enough time.
 */
/** Milliseconds between two ticks of the timer. */
const TICK = 10
const TICKS_PER_SAMPLE = 5
const PRESSURE_FILES = ['cpu', 'io', 'memory'].map((resource) => `/proc/pressure/${resource}`)

/** Milliseconds of waiting since the machine started. 0 if the system does not count them. */
const readPressure = (): number => {
  let sum = 0
  for (const path of PRESSURE_FILES) {
    try {
      sum += Number(/^some .* total=(\d+)/.exec(readFileSync(path, 'utf8'))?.[1] ?? 0) / 1000
    } catch {
      // Not Linux, or a kernel without this count.
    }
  }
  return sum * availableParallelism()
}

type Sample = { readonly at: number; readonly late: number; readonly waited: number }
let lastTick = now()
let late = 0
const samples: Sample[] = [{ at: lastTick, late, waited: readPressure() }]
const addSample = () => samples.push({ at: now(), late, waited: readPressure() })
let ticks = 0

setInterval(() => {
  const at = now()
  late += Math.max(0, at - lastTick - TICK)
  lastTick = at
  if (++ticks % TICKS_PER_SAMPLE === 0) addSample()
}, TICK).unref()

/** The difference between the last sample before `from` and the first sample after `to`. */
const difference = (from: number, to: number) => {
  if (to > (samples.at(-1) as Sample).at) {
    const at = now()
    late += Math.max(0, at - lastTick - TICK)
    lastTick = Math.max(lastTick, at - TICK)
    addSample()
  }
  const first = samples.findLast(({ at }) => at <= from) ?? (samples[0] as Sample)
  const last = samples.find(({ at }) => at >= to) ?? (samples.at(-1) as Sample)
  return { late: last.late - first.late, waited: Math.min(last.at - first.at, last.waited - first.waited) }
}

/** Milliseconds that this process was late between two times. It counts from the import of this file until now. */
export const lateness = (from: number, to: number = now()): number => difference(from, to).late

/** Milliseconds that this process, or a process that it waits for, may have lost between two times. */
export const lostTime = (from: number, to: number = now()): number => {
  const { late, waited } = difference(from, to)
  return late + waited
}

/** Milliseconds that the machine must have lost before a test accepts a timeout. */
const STALL = 250
const MAX_RETRIES = 20

/** Whether the machine has stalled since then for so long that a client with a timeout may have given up. */
export const hasStalled = (since: number): boolean => lostTime(since) >= STALL

/**
 * Calls `act`, which has a timeout of its own, for example for a connection. Calls it again if it failed while the
 * machine stalled.
 */
export const retryIfStalled = async <T>(act: () => Promise<T> | T): Promise<T> => {
  for (let left = MAX_RETRIES; ; left--) {
    const started = now()
    try {
      return await act()
    } catch (error) {
      if (left === 0 || !hasStalled(started)) throw error
    }
  }
}
