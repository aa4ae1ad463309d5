// Reads values of a database driver whose types are unknown, and keeps its error events from ending the process.

/** A property of a value that may be anything, for example of an error that a driver threw. */
export const property = (value: unknown, name: string): unknown =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined

export const hasMethod = (value: unknown, name: string): boolean => typeof property(value, name) === 'function'

/**
 * Calls the listener with each connection that a pool creates.
 *
 * @param event the name of the driver's event
 * @returns false if the pool emits no events
 */
export const listenToConnections = <C>(pool: object, event: string, listener: (connection: C) => void): boolean => {
  if (!hasMethod(pool, 'on')) return false
  ;(pool as { on(event: string, listener: (connection: C) => void): unknown }).on(event, listener)
  return true
}

const ignored = new WeakSet<object>()
const ignore = () => {}

/**
 * Listens to the error events of a client, and of the connections that its pool makes, because Node ends the process if an
 * emitter has no listener for an error. Nothing is lost: a call that fails throws its own error.
 */
export const ignoreErrorEvents = (client: object): void => {
  const { on } = client as { on?: unknown }
  if (typeof on !== 'function' || ignored.has(client)) return
  ignored.add(client)
  on.call(client, 'error', ignore)
  on.call(client, 'connection', ignoreErrorEvents)
}
