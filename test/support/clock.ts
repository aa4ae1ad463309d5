// A clock that a test moves, and that does not move by itself.

export type Clock = { (): number; tick(milliseconds: number): void }

export const clock = (start = Date.UTC(2026, 10, 24)): Clock => {
  let now = start
  return Object.assign(() => now, {
    tick: (milliseconds: number) => {
      now += milliseconds
    },
  })
}

export const SECOND = 1_000
export const DAY = 86_400_000

/** Seconds: a storeTimeout for tests that do not test it, because a busy machine may suspend them. */
export const PATIENT = 3_600
