// Waits for conditions: a test asks repeatedly until one is true.

const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

/** Waits until a condition is true. It is checked every `interval` milliseconds. If it throws, this throws its error. */
export const until = async (condition: () => unknown, interval = 10): Promise<void> => {
  while (!(await condition())) await sleep(interval)
}

/** The same for a server that may be down: an error counts as false. Only the test's timeout ends it. */
export const eventually = (condition: () => unknown): Promise<void> => {
  const holds = async () => condition()
  return until(() => holds().catch(() => false))
}
