// The processor's time that this process has spent: what other processes do at the same time does not count.

/** Milliseconds since the process began. */
export const spent = (): number => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}
