// A clock that stands still until a test moves it.

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

/** Seconds that a visit may wait for its backend in a test that is not about that: its machine may stand still. */
export const PATIENT = 3_600
