// The CPU time of an act relative to that of another act, which hardly depends on the machine or on other processes.

/** Milliseconds of CPU time since this process started. */
const cpuTime = (): number => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/** The CPU milliseconds of the cheapest of several runs. The other runs may include a garbage collection. */
const cheapest = async (act: () => unknown, runs: number): Promise<number> => {
  let best = Number.POSITIVE_INFINITY
  for (let i = 0; i < runs; i++) {
    const started = cpuTime()
    await act()
    best = Math.min(best, cpuTime() - started)
  }
  return best
}

/** The CPU time of `act` divided by that of `measure`, on this machine at this time. */
export const ratio = async (act: () => unknown, measure: () => unknown, runs = 6): Promise<number> => {
  const unit = await cheapest(measure, runs)
  // Below a tenth of a millisecond the result would measure the clock.
  return (await cheapest(act, runs)) / Math.max(unit, 0.1)
}

/** A function that reads each character of a text once: the measure for code that may need only one pass. */
export const onePass = (text: string) => (): number => {
  let sum = 0
  for (let i = 0; i < text.length; i++) sum += text.charCodeAt(i) & 1
  return sum
}
