// What something costs, beside what something else does: no speed of a machine, and no other process, changes that much.

/** Milliseconds of the processor since this process began. */
const spent = (): number => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/** Milliseconds of the processor that the cheapest of so many runs takes: others meet a collection of garbage, or worse. */
const cheapest = async (act: () => unknown, runs: number): Promise<number> => {
  let best = Number.POSITIVE_INFINITY
  for (let i = 0; i < runs; i++) {
    const started = spent()
    await act()
    best = Math.min(best, spent() - started)
  }
  return best
}

/** How many times as much of the processor something takes as something else does, on this machine, at this time. */
export const ratio = async (act: () => unknown, measure: () => unknown, runs = 6): Promise<number> => {
  const unit = await cheapest(measure, runs)
  // Below a tenth of a millisecond it is the clock that is measured.
  return (await cheapest(act, runs)) / Math.max(unit, 0.1)
}

/** What is done once for each character of a text: the measure for what has to take one pass over it. */
export const onePass = (text: string) => (): number => {
  let sum = 0
  for (let i = 0; i < text.length; i++) sum += text.charCodeAt(i) & 1
  return sum
}
